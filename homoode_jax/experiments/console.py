"""Where people read: lines and tables on standard output, errors on standard error."""

import io
import sys
import traceback
import types

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


def pass_over_closed_loops(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    """Prints an error that nobody caught, as Python does, but for those of closed event loops.

    Where a save fails, TensorStore's threads print one for each of its writes under way.
    """
    frames = traceback.extract_tb(trace)
    if kind is RuntimeError and any(frame.name == "call_soon_threadsafe" for frame in frames):
        return
    sys.__excepthook__(kind, error, trace)
