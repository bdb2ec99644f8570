"""Killed again and again: `python -m benchmarks.kills [KILLS]` (100), writes results/kills.json.

Trains on digits, kills the run by SIGKILL at random moments (of start, compilation, steps, saves
and evaluations alike) and starts it again, until it was killed so many times; then lets it end. Its
final state must have the bits of a run that was left alone, each start must go on from the newest
checkpoint that was there, and no step may be lost but those since that one.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.compare.trained import open_trained
from homoode_jax.experiments.console import say
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.workdir import read_json, read_metrics, write_json

ROOT = Path(__file__).parents[1]
EVERY = 10  # steps between checkpoints
EPOCHS = 250  # enough steps for a hundred lives
FEW, MANY = EVERY, 4 * EVERY  # steps of a life; the longest life is fitted to them
FLAGS = (
    "--config=configs/digits.py",
    "--config.model.channels=8",
    "--config.model.width=16",
    f"--config.train.checkpoint_every={EVERY}",
    f"--config.train.epochs={EPOCHS}",
)
SAVED = re.compile(r"resuming after step (\d+)")


def launch(workdir: Path) -> subprocess.Popen:
    """Starts train.py."""
    return subprocess.Popen(
        [sys.executable, "train.py", *FLAGS, f"--workdir={workdir}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start(workdir: Path, seconds: float | None) -> tuple[int, str]:
    """Runs train.py, for at most some seconds; returns its exit code and output."""
    process = launch(workdir)
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate()
    return process.returncode, out


def newest(workdir: Path) -> int:
    """Returns the step of the newest whole checkpoint."""
    folders = (workdir / "checkpoints" / "latest").glob("*")
    return max((int(folder.name) for folder in folders if folder.name.isdigit()), default=0)


def time_to_checkpoint(workdir: Path) -> float:
    """Seconds from the start of a run to its first checkpoint, its programs being compiled."""
    began = time.monotonic()
    process = launch(workdir)
    while not newest(workdir):
        if process.poll() is not None:
            raise SystemExit(process.communicate()[0])
        time.sleep(0.02)
    process.kill()
    process.communicate()
    return time.monotonic() - began


def kill_often(workdir: Path, kills: int, longest: float) -> dict[str, Any]:
    """Kills and starts again; returns what the lives were like."""
    random = np.random.default_rng(0)
    lives = []
    while len(lives) < kills:
        before = newest(workdir)
        life = float(random.uniform(0.2, longest))
        code, out = start(workdir, life)
        if code == 0:
            raise SystemExit(f"the run ended after {len(lives)} kills; give it more epochs.")
        if code != -signal.SIGKILL:
            raise SystemExit(f"life {len(lives) + 1} ended by itself with code {code}: {out}")
        found = SAVED.search(out)
        if found and int(found[1]) != before:
            raise SystemExit(f"{before} was saved, and the run went on from {found[1]}.")
        lives.append({"seconds": life, "from": before, "to": newest(workdir)})
        gained = lives[-1]["to"] - before
        longest *= 1.05 if gained < FEW else 0.8 if gained > MANY else 1
        say(f"kill {len(lives)}/{kills} after {life:.1f} s: step {before} to {lives[-1]['to']}")
    return {
        "kills": len(lives),
        "kills that no save came before": sum(one["from"] == one["to"] for one in lives),
        "steps reached": lives[-1]["to"],
        "damaged": len(list((workdir / "checkpoints" / "damaged").glob("*"))),
    }


def same(one: Path, other: Path) -> bool:
    """Returns True if both runs ended with the same bits, and the same metrics."""
    states = [jax.device_get(open_trained(folder).state) for folder in (one, other)]
    equal = jax.tree.all(jax.tree.map(np.array_equal, *states))
    rows = [[{**row, "seconds": 0} for row in read_metrics(folder)] for folder in (one, other)]
    tests = [read_json(folder / "summary.json")["test_accuracy"] for folder in (one, other)]
    return equal and rows[0] == rows[1] and tests[0] == tests[1]


def main() -> int:
    """Kills, compares and writes."""
    parser = argparse.ArgumentParser("benchmarks.kills")
    parser.add_argument("kills", nargs="?", type=int, default=100, help="lives to end")
    kills = parser.parse_args().kills
    told = environment()
    with tempfile.TemporaryDirectory() as folder:
        straight = Path(folder) / "straight"
        broken = Path(folder) / "broken"
        began = time.monotonic()
        code, out = start(straight, None)
        if code:
            raise SystemExit(out)
        whole = time.monotonic() - began
        longest = 1.5 * time_to_checkpoint(Path(folder) / "first")
        found = kill_often(broken, kills, longest)
        start(broken, None)
        found |= {"seconds undisturbed": whole, "same bits": same(straight, broken)}
    say(str(found))
    if not found["same bits"]:
        return 1
    write_json(ROOT / "results" / "kills.json", {**told, "flags": FLAGS, **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
