"""A side in a process of its own: it waits, works when told to, and says how long it took."""

import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.speed.sides import Side


def _serve(pipe: Connection, make: Callable[..., Side], args: tuple) -> None:
    began = time.perf_counter()
    side = make(*args)
    side.repeat()
    pipe.send(time.perf_counter() - began)
    while pipe.recv() == "repeat":
        began = time.perf_counter()
        side.repeat()
        pipe.send(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    pipe.send({"peak_mib": peak, **side.tell()})


class Worker:
    """One side, as its parent sees it.

    Attributes:
        seconds_to_first: from imports to the end of the first repetition, compilation included.
    """

    def __init__(self, make: Callable[..., Side], *args: Any):
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, make, args), daemon=True)
        self._process.start()
        child.close()
        self.seconds_to_first: float = self._pipe.recv()

    def repeat(self) -> float:
        """Seconds of one repetition."""
        self._pipe.send("repeat")
        return self._pipe.recv()

    def stop(self) -> dict[str, Any]:
        """What the side has to tell; its process ends."""
        self._pipe.send("stop")
        told = self._pipe.recv()
        self._process.join()
        return told
