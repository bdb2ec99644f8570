"""The one error that a user is meant to see: a line of text, exit code 2, no traceback."""

import difflib
import errno
import unicodedata
from collections.abc import Iterable
from typing import Any

LONGEST_VALUE = 80  # characters of a value that an error shows


class UserError(Exception):
    """Something that the user can put right; the message says what and how."""


def nearest(got: str, options: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the option nearest to `got`, or nothing."""
    near = difflib.get_close_matches(got, list(options), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def shown(value: Any) -> str:
    """Returns a value as code has it, cut short where it is long."""
    try:
        text = repr(value)
    except ValueError:  # of whole numbers with thousands of digits
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def printable(text: str) -> str:
    """Returns a text with escapes in place of what a terminal would act on, line ends included.

    Names of files may hold such characters, and move the cursor or rewrite what was printed.
    """
    return "".join(
        repr(c)[1:-1] if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029" else c
        for c in text
    )


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, or its type where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def explain_os_error(error: OSError) -> str:
    """Returns one line for an error of the file system."""
    if is_out_of_room(error):
        return no_room(str(error.filename or ""))
    at = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or first_line(error)}{at}."


def is_out_of_room(error: BaseException) -> bool:
    """Returns True for a full disk, also as libraries that write in C++ report it."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)


def no_room(where: str) -> str:
    """Returns one line for a full disk."""
    at = f": {where}" if where else ""
    return f"no room on disk{at}; earlier checkpoints are intact. Free some and run again."
