"""What checkpoints cost: `python -m benchmarks.saves`, writes results/saves.json.

The reference network of CIFAR-10 (weights and Adam's moments) is saved as `train.py` does: how
long the run waits, and how long the disk is busy behind its back. Then digits are trained, whose
epochs of a second are the worst case, with the time in all saves taken. Last, such a run is asked
to stop (SIGTERM) at random moments: how long until its state is saved and it has ended.
"""

import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.kills import launch, newest
from configs import cifar10, digits
from homoode_jax.experiments import checkpoint
from homoode_jax.experiments.config import from_dict
from homoode_jax.experiments.console import say
from homoode_jax.experiments.hyperparameters import make_hyperparameters
from homoode_jax.experiments.model import make_classifier
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.state import draw_state
from homoode_jax.experiments.training import train
from homoode_jax.experiments.workdir import read_json, write_json

ROOT = Path(__file__).parents[1]
SAVES = 12
STOPS = 10


def reference(folder: Path) -> dict[str, float]:
    """Seconds that a save of the reference network's state takes, before and behind."""
    config = from_dict(cifar10.get_config().to_dict())
    state = draw_state(make_classifier(config), "float32", make_hyperparameters(config, 1000))
    checkpoints = checkpoint.open_checkpoints(folder)
    waits = []
    ends = []
    for step in range(1, SAVES + 1):
        began = time.perf_counter()
        checkpoint.save_latest(checkpoints, step, state, {})
        waits.append(time.perf_counter() - began)
        checkpoint.finish(checkpoints)
        ends.append(time.perf_counter() - began)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    return {
        "state MiB": size / 2**20,
        "seconds waited": statistics.median(waits[2:]),
        "seconds until on disk": statistics.median(ends[2:]),
    }


def timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """Returns the function, which notes its seconds."""

    def run(*args, **kwargs):
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent.append(time.perf_counter() - began)

    return run


def whole_run(folder: Path) -> dict[str, float]:
    """Returns the share of a whole run on digits that its saves take."""
    spent: list[float] = []
    for name in ("save_latest", "save_best", "finish"):
        setattr(checkpoint, name, timed(getattr(checkpoint, name), spent))
    train(from_dict(digits.get_config().to_dict()), str(folder))
    seconds = read_json(folder / "summary.json")["seconds"]
    return {"seconds": seconds, "in saves": sum(spent), "share": sum(spent) / seconds}


def stops(workdir: Path) -> dict[str, Any]:
    """Seconds from SIGTERM, some time after a first checkpoint, to the end of the process."""
    random = np.random.default_rng(0)
    seconds = []
    for _ in range(STOPS):
        before = newest(workdir)
        process = launch(workdir)
        while newest(workdir) == before and process.poll() is None:
            time.sleep(0.02)
        time.sleep(random.uniform(0, 2))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate()
        seconds.append(time.monotonic() - began)
        saved = re.search(r"saved after step (\d+)", out)
        if process.returncode != 128 + signal.SIGTERM or not saved:
            raise SystemExit(f"SIGTERM ended in code {process.returncode}: {out}")
        if newest(workdir) != int(saved[1]):
            raise SystemExit(f"SIGTERM ended in code {process.returncode}: {out}")
    return {"stops": STOPS, "seconds": seconds, "longest": max(seconds)}


def main() -> int:
    """Measures and writes."""
    told = environment()
    with tempfile.TemporaryDirectory() as folder:
        found = {"reference": reference(Path(folder) / "reference")}
        found["digits"] = whole_run(Path(folder) / "digits")
        found["SIGTERM to exit"] = stops(Path(folder) / "stopped")
    say(str(found))
    write_json(ROOT / "results" / "saves.json", {**told, **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
