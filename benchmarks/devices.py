"""The same accuracy on any devices: `python -m benchmarks.devices [SEEDS]` (3).

Trains on digits, in float32, on one CPU device, on eight, and in two processes of four, for each
seed, and writes results/devices.json. In float64 the losses themselves are equal
(tests/experiments/test_devices.py); in float32 rounding drives runs apart, and what can be
compared is where they end.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from homoode_jax.experiments.console import say
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.workdir import read_json, read_metrics, write_json

ROOT = Path(__file__).parents[1]
LAYOUTS = {"1 device": (1, 1), "8 devices": (1, 8), "2 processes of 4": (2, 4)}


def free_address() -> str:
    """Returns an address on this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def train(workdir: Path, seed: int, processes: int, devices: int) -> dict[str, float]:
    """Trains one run; returns its test accuracy and its first epoch's loss."""
    flags = [f"--config.train.seed={seed}", f"--workdir={workdir}"]
    many = [f"--coordinator={free_address()}", f"--processes={processes}"] if processes > 1 else []
    variables = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "train.py",
                "--config=configs/digits.py",
                *flags,
                *many,
                *([f"--process={i}"] if many else []),
            ],
            cwd=ROOT,
            env=variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    for process in started:
        told = process.communicate()[1]
        if process.returncode:
            raise SystemExit(told)
    summary = read_json(workdir / "summary.json")
    return {
        "test accuracy": summary["test_accuracy"],
        "loss of the first epoch": read_metrics(workdir)[0]["train_loss"],
    }


def main() -> int:
    """Trains all, compares and writes."""
    parser = argparse.ArgumentParser("benchmarks.devices")
    parser.add_argument("seeds", nargs="?", type=int, default=3, help="seeds of each layout")
    seeds = parser.parse_args().seeds
    told = environment()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in LAYOUTS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            for i, (name, layout) in enumerate(LAYOUTS.items()):
                found[name].append(train(Path(folder) / f"{seed}-{i}", seed, *layout))
                say(f"seed {seed}, {name}: {found[name][-1]}")
    means = {
        name: statistics.mean(run["test accuracy"] for run in runs) for name, runs in found.items()
    }
    alone = [run["test accuracy"] for run in found["1 device"]]
    spread = statistics.stdev(alone) if seeds > 1 else None
    say(f"mean test accuracy {means}; sd over seeds on one device {spread}")
    write_json(
        ROOT / "results" / "devices.json",
        {**told, "seeds": seeds, "runs": found, "means": means, "sd over seeds": spread},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
