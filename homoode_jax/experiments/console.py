"""Where people read: lines and tables on standard output."""

from rich.console import Console

console = Console(highlight=False)


def say(text: str) -> None:
    """Prints a line."""
    console.print(text, markup=False, soft_wrap=True)
