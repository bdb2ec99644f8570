"""A training step whose memory stays with the process, in huge pages, beside one as it is.

glibc hands a program's memory back after every step; the next one then faults it in again, page
by page. Set in the environment of a process, `SETTING` keeps it. CIFAR-10 reference setting,
"checkpointed" beside PyTorch's direct backpropagation, all four in turn.
"""

import dataclasses
import statistics

from rich.table import Table

from benchmarks.speed.setting import Setting
from benchmarks.speed.sides import for_peer
from benchmarks.speed.worker import Worker
from homoode_jax.experiments.console import console

PAIRS = 5
SETTING = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967296"
KINDS = {"as it is": {}, "huge pages": {"GLIBC_TUNABLES": SETTING}}


def measure() -> dict[str, dict[str, float]]:
    """Milliseconds and memory of both sides, with and without the setting."""
    ours, theirs = Setting(), dataclasses.replace(Setting(), adjoint="direct")
    workers = {
        f"{side}, {kind}": Worker(make, environment, **arguments)
        for side, make, arguments in (
            ("ours", "benchmarks.speed.sides:ours", {"setting": ours}),
            ("PyTorch", "benchmarks.speed.peer:make_side", for_peer(theirs)),
        )
        for kind, environment in KINDS.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(PAIRS):
        for name, worker in workers.items():
            seconds[name].append(worker.repeat())
    return {
        name: {"ms": 1e3 * statistics.median(seconds[name]), "peak_mib": worker.stop()["peak_mib"]}
        for name, worker in workers.items()
    }


def show(rows: dict[str, dict[str, float]]) -> None:
    """Prints the table."""
    table = Table(title="a training step and the pages of its memory")
    for name in ("side", "ms", "MiB"):
        table.add_column(name, justify="left" if name == "side" else "right")
    for name, row in rows.items():
        table.add_row(name, f"{row['ms']:.0f}", f"{row['peak_mib']:.0f}")
    console.print(table)
