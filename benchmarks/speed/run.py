"""Ours beside PyTorch with torchdiffeq, case by case: `make bench`.

Both sides of a case have processes of their own, the same initial weights, images and tolerances,
and work in turn; a ratio is the median over pairs. Then the time to the first step (`first`), each
route beside the cost of its field evaluations (`floor`), joint solves beside per-example ones
(`batching`), and both sides on a GPU where one is at hand (`gpu`); all else is on the CPU. Writes
results/speed.json, case by case: `--only NAME` runs those whose name begins so, and keeps the
others.
"""

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from rich import box
from rich.table import Table

from benchmarks.speed import batching, first, floor, gpu
from benchmarks.speed.setting import Setting
from benchmarks.speed.sides import for_peer
from benchmarks.speed.worker import Worker
from homoode_jax.experiments.console import console
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.workdir import write_json

PAIRS = 5
OURS = "benchmarks.speed.sides:ours"
PEER = "benchmarks.speed.peer:make_side"
RESULT = Path(__file__).parents[2] / "results" / "speed.json"
CIFAR = Setting()
MNIST = Setting(dataset="mnist")
ROUTES = {
    "direct": "direct",
    "checkpointed": "direct",
    "backsolve": "adjoint",
    "reversible": "adjoint",
}
CASES = {
    f"train {route}": (replace(CIFAR, adjoint=route), replace(CIFAR, adjoint=theirs))
    for route, theirs in ROUTES.items()
}
CASES["train mnist"] = MNIST, replace(MNIST, adjoint="direct")
for size in (1, 64, 400):
    infer = replace(CIFAR, batch=size, train=False)
    CASES[f"infer {size}"] = infer, replace(infer, adjoint="direct")
PARTS = {"first": first, "floor": floor, "batching": batching, "gpu": gpu}


def compare(setting: Setting, theirs: Setting) -> dict:
    """Runs a case."""
    a = Worker(OURS, setting=setting)
    b = Worker(PEER, **for_peer(theirs))
    pairs = [(a.repeat(), b.repeat()) for _ in range(PAIRS)]
    told = a.stop()
    told_b = b.stop()
    ratios = [x / y for x, y in pairs]
    row = {
        "ours_ms": 1e3 * statistics.median(x for x, _ in pairs),
        "torch_ms": 1e3 * statistics.median(y for _, y in pairs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "torch_route": theirs.adjoint,
        "first_s": a.seconds_to_first,
        "torch_first_s": b.seconds_to_first,
        "memory_ratio": told["peak_mib"] / told_b["peak_mib"],
    }
    logits = told.pop("logits", None)
    logits_b = told_b.pop("logits", None)
    if logits is not None:
        row["logits_apart"] = float(np.max(np.abs(logits - logits_b)))
    return {**row, **told, **{f"torch_{name}": value for name, value in told_b.items()}}


def show(rows: dict) -> None:
    """Prints the table of comparisons."""
    title = "ours beside PyTorch, CIFAR-10 reference network"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)  # 80 columns
    columns = (
        "case",
        "ours\nms",
        "torch\nms",
        "ratio",
        "ours\nNFE",
        "torch\nNFE",
        "ours\nMiB",
        "torch\nMiB",
        "first\ns",
    )
    for name in columns:
        table.add_column(name, justify="left" if name == "case" else "right", no_wrap=True)
    for name, row in rows.items():
        nfe = f"{row['nfe_forward']:.0f} {row.get('nfe_backward', 0):+.0f}"
        table.add_row(
            name,
            f"{row['ours_ms']:.0f}",
            f"{row['torch_ms']:.0f}",
            f"{row['ratio']:.2f}",
            nfe,
            f"{row['torch_nfe_forward']:.0f}",
            f"{row['peak_mib']:.0f}",
            f"{row['torch_peak_mib']:.0f}",
            f"{row['first_s']:.1f}",
        )
    console.print(table)


def _asked() -> str:
    """How the names of the cases and parts to run begin."""
    parser = argparse.ArgumentParser("benchmarks.speed.run", description="ours beside PyTorch")
    parser.add_argument("--only", default="", metavar="NAME", help="those whose name begins so")
    only = parser.parse_args().only
    if not any(name.startswith(only) for name in (*CASES, *PARTS)):
        parser.error(f"--only takes the beginning of {', '.join((*CASES, *PARTS))}; got {only!r}.")
    return only


def main() -> int:
    """Runs the cases asked for; returns the exit code."""
    only = _asked()
    try:
        versions = {name: version(name) for name in ("torch", "torchdiffeq")}
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed: pip install -e '.[compare]'", file=sys.stderr)
        return 2
    os.environ["JAX_PLATFORMS"] = "cpu"  # of the sides; the GPU's have their own
    jax.config.update("jax_platforms", "cpu")
    record = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    described = environment()  # before the record changes, which is a file of the commit
    described["versions"] |= versions
    record |= {**described, "pairs": PAIRS}
    told = {name: described[name] for name in ("commit", "processor")}
    rows = record.setdefault("cases", {})
    wanted = [name for name in CASES if name.startswith(only)]
    began = time.perf_counter()
    for count, name in enumerate(wanted, start=1):
        try:
            rows[name] = {**told, **compare(*CASES[name])}
        except EOFError:  # its process has printed why, if it was not killed for its memory
            console.print(f"{name}: one side ended early, so its row is left out")
            continue
        left = (time.perf_counter() - began) / count * (len(wanted) - count)
        console.print(f"{name}: {rows[name]['ratio']:.2f} x PyTorch · ETA {left / 60:.0f} min")
        write_json(RESULT, record)
    for name, part in PARTS.items():
        if name.startswith(only) and (found := part.measure()):
            record[name] = {**told, "rows": found}
            write_json(RESULT, record)
    show(record["cases"])
    for name, part in PARTS.items():
        if name in record:
            part.show(record[name]["rows"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
