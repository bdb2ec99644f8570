"""Seconds to the end of the first training step: nothing compiled yet, then with the cache.

Imports, initial weights, tracing, compilation (or the cache), and the step itself; beside it the
step once it is warm. CIFAR-10 reference setting, checkpointed.
"""

import tempfile

from rich.table import Table

from benchmarks.speed.setting import Setting
from benchmarks.speed.worker import Worker
from homoode_jax.experiments.console import console

OURS = "benchmarks.speed.sides:ours"


def measure() -> dict[str, dict[str, float]]:
    """Runs two fresh processes, the second of which finds the programs of the first."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cold", "cached"):
            worker = Worker(OURS, {"JAX_COMPILATION_CACHE_DIR": folder}, setting=Setting())
            step = min(worker.repeat() for _ in range(3))
            told = worker.stop()
            rows[name] = {
                "first_s": worker.seconds_to_first,
                "step_s": step,
                "peak_mib": told["peak_mib"],
            }
    return rows


def show(rows: dict[str, dict[str, float]]) -> None:
    """Prints the table."""
    table = Table(title="seconds to the end of the first training step")
    for name in ("programs", "first s", "later s", "MiB"):
        table.add_column(name, justify="left" if name == "programs" else "right")
    for name, row in rows.items():
        told = f"{row['first_s']:.1f}", f"{row['step_s']:.1f}", f"{row['peak_mib']:.0f}"
        table.add_row(name, *told)
    console.print(table)
