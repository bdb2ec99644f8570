"""Where people read: lines and tables on standard output."""

import textwrap

from rich.console import Console

console = Console(highlight=False)


def say(text: str) -> None:
    """Prints a line: whole into a file, broken between words on a terminal."""
    if console.is_terminal:
        text = "\n".join(map(_broken, text.split("\n")))
    console.print(text, markup=False, soft_wrap=True)


def _broken(line: str) -> str:
    """Breaks a line between words; a longer word, a path say, is left in one piece."""
    return textwrap.fill(line, width=console.width, break_long_words=False, break_on_hyphens=False)
