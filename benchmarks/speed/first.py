"""Seconds to the end of the first training step: nothing compiled yet, then with the cache.

Imports, initial weights, tracing, compilation (or the cache), and the step itself; beside it the
step once it is warm. CIFAR-10 reference setting, checkpointed.
"""

import tempfile

from benchmarks.speed.setting import Setting
from benchmarks.speed.sides import OURS
from benchmarks.speed.worker import Worker

TITLE = "first training step, to its end"
COLUMNS = {"first s": "{first_s:.1f}", "later s": "{step_s:.1f}", "MiB": "{peak_mib:.0f}"}


def measure() -> dict[str, dict[str, float]]:
    """Runs two fresh processes, the second of which finds the programs of the first."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cold", "cached"):
            worker = Worker(OURS, {"JAX_COMPILATION_CACHE_DIR": folder}, setting=Setting())
            step = min(worker.repeat() for _ in range(3))
            rows[name] = {"first_s": worker.seconds_to_first, "step_s": step, **worker.stop()}
    return rows
