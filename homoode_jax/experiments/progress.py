"""Progress: a bar that moves on a terminal, a line a minute elsewhere; both with an ETA."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from homoode_jax.experiments import compilation
from homoode_jax.experiments.console import console, say

Advance = Callable[[int, str], None]
LINE_SECONDS = 60
NARROW = 120  # columns; below, the bar is short, so that figures have room
SHORT_BAR = 8
LONG_BAR = 30


class Clock:
    """Estimates the time left from the pace so far, without the time in which JAX compiled.

    Args:
        total: steps at the end.
        done: steps taken before the clock starts.
    """

    def __init__(self, total: int, done: int):
        self.total = total
        self.done = done
        self.started = time.monotonic()
        self.compiled = compilation.seconds_spent()

    def left(self, step: int) -> str:
        """Returns the time left at a step, as H:MM:SS."""
        if step <= self.done:
            return "-:--:--"
        compiled = compilation.seconds_spent() - self.compiled
        worked = time.monotonic() - self.started - compiled
        seconds = worked / (step - self.done) * (self.total - step)
        return str(timedelta(seconds=round(max(seconds, 0.0))))


class Figures(ProgressColumn):
    """The text at the end of a line, which alone is cut where the terminal is too narrow."""

    def render(self, task: Task) -> Text:
        """Returns the text of a task."""
        return Text(task.description, no_wrap=True, overflow="ellipsis")


@contextmanager
def progress_bar(
    total: int, done: int, doing: str = "compiling", unit: str = "steps"
) -> Iterator[Advance]:
    """Yields `advance(step, text)`: a bar with ETA on a terminal, a line a minute elsewhere.

    `doing` is shown until the first call. A bar within another has its own line below.
    """
    clock = Clock(total, done)
    with _bar() as progress:
        number = progress.add_task(doing, total=total, completed=done, left=clock.left(done))
        task = progress.tasks[number]

        def advance(step: int, text: str) -> None:
            progress.update(number, completed=step, description=text, left=clock.left(step))

        def line() -> str:
            step = int(task.completed)
            return f"{unit} {step}/{total} · {task.description} · ETA {clock.left(step)}"

        with _said_each_minute(line):
            yield advance


def _bar() -> Progress:
    """Returns a display that moves by itself, also while a program is compiled."""
    return Progress(
        SpinnerColumn(),
        BarColumn(SHORT_BAR if console.width < NARROW else LONG_BAR),
        TextColumn("{task.completed}/{task.total} · ETA {task.fields[left]}"),
        Figures(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def _said_each_minute(line: Callable[[], str]) -> Iterator[None]:
    """Says a line every minute where there is no terminal, also while a program is compiled."""
    if console.is_terminal:
        yield
        return
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(LINE_SECONDS):
            say(line())

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
