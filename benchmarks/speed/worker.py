"""A side in a process of its own: it waits, works when told to, and says how long it took.

Imports no JAX: PyTorch's process is to hold nothing of ours.
"""

import importlib
import os
import pickle
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

STATUS = Path("/proc/self/status")


class Side(NamedTuple):
    """One side of a comparison."""

    repeat: Callable[[], Any]  # the work, waited for
    tell: Callable[[], dict[str, Any]]  # of the last repetition: NFE, memory, logits of inference


class Worker:
    """One side, as its parent sees it.

    `make` is "module:function", imported by its process, which has `environment` added to ours.
    `seconds_to_first` are from imports to the end of the first repetition, compilation included.
    """

    def __init__(self, make: str, environment: dict[str, str] | None = None, **arguments: Any):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.speed.worker"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )
        self.seconds_to_first: float = self._ask((make, arguments))

    def repeat(self) -> float:
        """Returns the seconds of one repetition."""
        return self._ask("repeat")

    def stop(self) -> dict[str, Any]:
        """Ends the process; returns what the side has to tell."""
        told = self._ask("stop")
        self._process.wait()
        return told

    def _ask(self, what: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump(what, self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)


def _serve() -> None:
    """The process's own part: answers on what was its standard output, and prints to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def answer(what: Any) -> None:
        pickle.dump(what, answers)
        answers.flush()

    make, arguments = pickle.load(sys.stdin.buffer)
    began = time.perf_counter()
    module, name = make.split(":")
    side: Side = getattr(importlib.import_module(module), name)(**arguments)
    side.repeat()
    answer(time.perf_counter() - began)
    while pickle.load(sys.stdin.buffer) == "repeat":
        began = time.perf_counter()
        side.repeat()
        answer(time.perf_counter() - began)
    answer({"peak_mib": _peak_mib(), **side.tell()})


def _peak_mib() -> float:
    """Returns the most memory that this process has held.

    Not by `getrusage`: there a child begins with what its parent held when it forked.
    """
    if not STATUS.exists():  # no Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    return int(kib) / 2**10


if __name__ == "__main__":
    _serve()
