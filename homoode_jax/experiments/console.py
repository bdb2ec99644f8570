"""Where people read: lines and tables on standard output."""

import errno
import os
import sys

from rich.console import Console


class Output(Console):
    """Standard output, whose reader may go away: what is printed then is dropped.

    Attributes:
        is_broken: True once the reader has gone; a run then saves and stops.
    """

    is_broken = False

    def on_broken_pipe(self) -> None:
        """Drops what is printed from here on, where Rich would end the program."""
        self.is_broken = True
        self.quiet = True
        # What Python still holds is written at its exit; into a broken pipe that is an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


console = Output(highlight=False)


def say(text: str) -> None:
    """Prints a line."""
    try:
        console.print(text, markup=False, soft_wrap=True)
    except OSError as error:
        if error.errno != errno.EIO:  # of a terminal that was closed
            raise
        console.on_broken_pipe()
