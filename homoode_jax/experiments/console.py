"""Where people read: lines and tables on standard output, errors on standard error."""

import errno
import io
import os
import sys
import textwrap
import traceback
import types

from rich.console import Console

from homoode_jax.experiments.errors import printable

NOTEBOOK = "JPY_PARENT_PID"  # what Jupyter sets for the commands of a cell


class StandardOutput(Console):
    """Standard output, whose reader may go away: what is printed then is dropped.

    Attributes:
        is_broken: True once the reader has gone; a run then saves and stops.
    """

    is_broken = False

    @property
    def is_terminal(self) -> bool:
        """Whether lines can be drawn over: not in a notebook, nor in a pipe with FORCE_COLOR."""
        return NOTEBOOK not in os.environ and not self.file.closed and self.file.isatty()

    def on_broken_pipe(self) -> None:
        """Drops what is printed from here on, where Rich would end the program."""
        self.is_broken = True
        self.quiet = True
        # What Python still holds is written at its exit; into a broken pipe that is an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# Names of folders and files are shown as they are: "[/b]" and ":x:" mean nothing in them.
console = StandardOutput(highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """Prints a line: whole into a file, broken between words on a terminal."""
    lines = [printable(line) for line in text.split("\n")]
    if console.is_terminal:
        lines = [_broken(line) for line in lines]
    try:
        console.print("\n".join(lines), soft_wrap=True)
    except OSError as error:
        if error.errno != errno.EIO:  # of a terminal that was closed
            raise
        console.on_broken_pipe()


def _broken(line: str) -> str:
    """Breaks a line between words; a longer word, a path say, is left in one piece."""
    return textwrap.fill(line, width=console.width, break_long_words=False, break_on_hyphens=False)


def complain(text: object) -> None:
    """Prints the one line of an error."""
    tell(f"error: {printable(str(text))}")


def tell(line: str) -> None:
    """Prints a line on standard error, if somebody is still there to read it."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def accept_any_encoding() -> None:
    """Prints a question mark for what the encoding of the output has not, rather than failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def pass_over_closed_loops() -> None:
    """Leaves errors of closed event loops out of those that nobody caught; others are printed.

    Where a save fails, TensorStore's threads report one for each of its writes under way: some as
    uncaught, some as unraisable.
    """

    def uncaught(kind, error: BaseException, trace: types.TracebackType | None) -> None:
        if not _is_of_closed_loop(kind, trace):
            sys.__excepthook__(kind, error, trace)

    def unraisable(report: "sys.UnraisableHookArgs") -> None:
        if not _is_of_closed_loop(report.exc_type, report.exc_traceback):
            sys.__unraisablehook__(report)

    sys.excepthook = uncaught
    sys.unraisablehook = unraisable


def _is_of_closed_loop(kind: type[BaseException], trace: types.TracebackType | None) -> bool:
    frames = traceback.extract_tb(trace)
    return kind is RuntimeError and any(frame.name == "call_soon_threadsafe" for frame in frames)
