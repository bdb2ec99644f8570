"""Being asked to stop: SIGTERM and Ctrl-C let the step under way end, and its state be saved."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

from jax.experimental import multihost_utils

from homoode_jax.experiments.processes import are_many

Pause = Callable[[], None]


class Stopped(Exception):  # noqa: N818 (like StopIteration, not an error)
    """Raised by `pause` once the run is asked to stop; holds the signal."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def stoppable() -> Iterator[Pause]:
    """Yields `pause`, to be called between steps: it raises `Stopped` where a signal has come.

    The signals end the process as usual once one of them has come, or the run is over. Many
    processes stop at the same call of `pause`, soon after one of them got a SIGTERM.
    """
    if are_many():
        yield _pause_together()
        return
    asked: list[int] = []

    def ask(number: int, _frame) -> None:
        asked.append(number)
        restore()

    def pause() -> None:
        if asked:
            raise Stopped(asked[0])

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield pause
    finally:
        restore()


def _pause_together() -> Pause:
    calls = count()

    def pause() -> None:
        if multihost_utils.reached_preemption_sync_point(next(calls)):
            raise Stopped(signal.SIGTERM)

    return pause
