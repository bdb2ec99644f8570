"""Being asked to stop: the step under way ends, and its state is saved.

SIGTERM, SIGHUP, Ctrl-C and a reader of standard output that goes away ask for it. Of many
processes, any one that is asked makes all stop after the same step.
"""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from homoode_jax.experiments.console import console
from homoode_jax.experiments.processes import are_many, maximum_over_processes

Pause = Callable[[], None]
ASK_SECONDS = 1.0  # between the calls at which many processes ask each other
MOST_CALLS = 5  # between them; steps may be far slower than the batches of an evaluation
STOPPING = "stopping after this step; again to quit now\n"
QUITTING = "quitting now; the run goes on from its last checkpoint\n"


class Stopped(Exception):  # noqa: N818 (like StopIteration, not an error)
    """Raised by `pause` once the run is asked to stop; holds the signal."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def stoppable() -> Iterator[Pause]:
    """Yields `pause`, to be called between steps: it raises `Stopped` where a signal has come.

    Signals that come again change nothing, so that none can cut short the save that the first one
    asked for; only a second Ctrl-C ends the process, at once. On leaving, all are as they were; but
    where a run has stopped, they can no longer change how its process ends.
    """
    asked: list[int] = []

    def ask(number: int, _frame) -> None:
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in _handled()}
    after = before
    try:
        with _interrupts_answered():
            yield _pause_together(asked) if are_many() else _pause_alone(asked)
    except Stopped:
        after = dict.fromkeys(before, signal.SIG_IGN) | {signal.SIGINT: signal.SIG_DFL}
        raise
    finally:
        for number, handler in after.items():
            signal.signal(number, handler)


def _handled() -> list[signal.Signals]:
    """Returns the signals that ask for a stop; `nohup` leaves SIGHUP ignored, and so do we."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT] + ([] if ignored else [signal.SIGHUP])


def _asking_signal(asked: list[int]) -> int:
    """Returns the signal that asks for a stop, or 0."""
    if asked:
        return asked[0]
    return signal.SIGPIPE if console.is_broken else 0


def _pause_alone(asked: list[int]) -> Pause:
    def pause() -> None:
        if number := _asking_signal(asked):
            raise Stopped(number)

    return pause


def _pause_together(asked: list[int]) -> Pause:
    """Returns a `pause` that asks all processes, each of which must call it as often.

    They ask each other once a second or so: each says by which signal it was asked to stop and how
    long its calls take, and all conclude the same from what all said.
    """
    left = 1
    since = time.monotonic()
    taken = 1

    def pause() -> None:
        nonlocal left, since, taken
        left -= 1
        if left:
            return
        milliseconds = 1000 * (time.monotonic() - since) / taken
        number, slowest = maximum_over_processes(
            np.array([_asking_signal(asked), math.ceil(milliseconds)])
        )
        if number:
            raise Stopped(int(number))
        left = taken = max(1, min(MOST_CALLS, int(ASK_SECONDS * 1000 / max(slowest, 1))))
        since = time.monotonic()

    return pause


@contextmanager
def _interrupts_answered() -> Iterator[None]:
    """Answers the first Ctrl-C with a line and the second one by ending the process.

    A thread does, because the main one may be compiling for a minute, and Python runs handlers of
    signals in the main one only. Python writes the numbers of signals into the pipe as they come.
    """
    receiving, sending = os.pipe()
    os.set_blocking(sending, False)
    before = signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
    thread = threading.Thread(target=_answer, args=(receiving,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(sending)
        thread.join()
        os.close(receiving)


def _answer(receiving: int) -> None:
    interrupts = 0
    while number := os.read(receiving, 1):
        if number[0] != signal.SIGINT:
            continue
        interrupts += 1
        if interrupts == 1:
            _write_line(STOPPING)
            continue
        _write_line(QUITTING)
        os._exit(128 + signal.SIGINT)


def _write_line(line: str) -> None:
    """Writes on standard error, on a line of its own even beside a moving progress bar."""
    start = "\n" if sys.stderr.isatty() else ""
    try:
        os.write(2, (start + line).encode())
    except OSError:  # nobody reads it
        return
