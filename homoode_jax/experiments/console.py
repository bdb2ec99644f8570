"""Where people read: lines and tables on standard output, errors on standard error."""

import io
import sys

from rich.console import Console

from homoode_jax.experiments.errors import printable

# Names of folders and files are shown as they are: "[/b]" and ":x:" mean nothing in them.
console = Console(highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """Prints a line."""
    shown = "\n".join(printable(line) for line in text.split("\n"))
    console.print(shown, soft_wrap=True)


def complain(text: object) -> None:
    """Prints the one line of an error."""
    print(f"error: {printable(str(text))}", file=sys.stderr)


def accept_any_encoding() -> None:
    """Prints a question mark for what the encoding of the output has not, rather than failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
