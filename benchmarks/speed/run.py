"""Ours beside PyTorch with torchdiffeq, case by case: `make bench`.

Both sides of a case have processes of their own, the same initial weights, images and tolerances,
and work in turn; a ratio is the median over pairs. They run on the CPU, and training steps on a
GPU too where one is at hand. Then the time to the first step (`first`), each route beside the cost
of its field evaluations (`floor`), each solver of equilibria beside the cost of its evaluations
(`equilibria`), and a DEQ's step beside TorchDEQ's (`deq`). Writes results/speed.json, case by case:
`--only NAME` runs those whose name begins so, and keeps the others.
"""

import os
import shutil
import sys
import time
from dataclasses import replace
from importlib.metadata import version

import jax

from benchmarks.shared import RESULTS, described, run_main, show, write_record
from benchmarks.speed import deq, equilibria, first, floor
from benchmarks.speed.setting import Setting
from benchmarks.speed.sides import PAIRS, compare
from homoode_jax.experiments.console import say
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.files import read_json

CODE = (
    "benchmarks/speed",
    "homoode_jax/experiments/model.py",
    "homoode_jax/experiments/step.py",
    "homoode_jax/mathematics",
    "homoode_jax/networks",
)
RESULT = RESULTS / "speed.json"
COLUMNS = {  # 80 characters wide
    "ours\nms": "{ours_ms:.0f}",
    "torch\nms": "{torch_ms:.0f}",
    "ratio": "{ratio:.2f}",
    "ours\nNFE": "{nfe_forward:.0f}",
    "back": "{nfe_backward:.0f}",
    "torch\nNFE": "{torch_nfe_forward:.0f}",
    "ours\nMiB": "{peak_mib:.0f}",
    "torch\nMiB": "{torch_peak_mib:.0f}",
    "first\ns": "{first_s:.1f}",
}
REFERENCE = Setting()
CASES = {}  # ours, theirs, and where both run
for adjoint in ("direct", "checkpointed", "backsolve", "reversible"):
    exact = adjoint in ("direct", "checkpointed")
    theirs = replace(REFERENCE, adjoint="direct" if exact else "adjoint")
    CASES[f"train {adjoint}"] = replace(REFERENCE, adjoint=adjoint), theirs, "cpu"
MNIST = Setting(dataset="mnist")
CASES["train mnist"] = MNIST, replace(MNIST, adjoint="direct"), "cpu"
for size in (1, 64, 400):
    infer = replace(REFERENCE, batch=size, train=False)
    CASES[f"infer {size}"] = infer, replace(infer, adjoint="direct"), "cpu"
for size in (64, 256, 1024):
    step = replace(REFERENCE, batch=size, adjoint="direct")
    CASES[f"gpu {size}"] = step, step, "cuda"
PARTS = {"first": first, "floor": floor, "equilibria": equilibria, "deq": deq}


def chosen(only: str) -> list[str]:
    """Returns the cases and parts of such names; none on a GPU where there is none."""
    names = [name for name in (*CASES, *PARTS) if name.startswith(only)]
    if not names:
        beginnings = ", ".join((*CASES, *PARTS))
        raise UserError(f"--only takes the beginning of {beginnings}; got {only!r}.")
    if shutil.which("nvidia-smi") is None:
        say("no GPU here (nvidia-smi is not found), so its rows are left out")
        return [name for name in names if not name.startswith("gpu")]
    return names


def peer_versions() -> dict[str, str]:
    """Returns the versions of what is compared with."""
    try:
        return {name: version(name) for name in ("torch", "torchdiffeq", "torchdeq")}
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed: pip install -e '.[compare]'"
        raise UserError(message) from error


def main(only: str) -> None:
    """Runs the cases and parts whose name begins as asked for."""
    names = chosen(only)
    wanted = [name for name in names if name in CASES]
    peers = peer_versions()
    os.environ["JAX_PLATFORMS"] = "cpu"  # of the parts; the sides of a case have their own
    jax.config.update("jax_platforms", "cpu")
    record = read_json(RESULT) if RESULT.exists() else {}
    record = {name: record[name] for name in ("cases", *PARTS) if name in record}
    record |= {"versions": described()["versions"] | peers, "pairs": PAIRS}
    told = {name: described()[name] for name in ("commit", "processor")}
    rows = record.setdefault("cases", {})
    began = time.perf_counter()
    for count, name in enumerate(wanted, start=1):
        try:
            rows[name] = {**told, **compare(*CASES[name])}
        except EOFError:  # its process has printed why, if it was not killed for its memory
            say(f"{name}: one side ended early, so its row is left out")
            continue
        left = (time.perf_counter() - began) / count * (len(wanted) - count)
        say(f"{name}: {rows[name]['ratio']:.2f} x PyTorch · ETA {left / 60:.0f} min")
        write_record(RESULT, CODE, **record)
    for name in names[len(wanted) :]:
        record[name] = {**told, "rows": PARTS[name].measure()}
        write_record(RESULT, CODE, **record)
    show("ours beside PyTorch, CIFAR-10 reference network", rows, COLUMNS)
    for name in record.keys() & PARTS.keys():
        show(PARTS[name].TITLE, record[name]["rows"], PARTS[name].COLUMNS)


if __name__ == "__main__":
    begins = {"default": "", "metavar": "NAME", "help": "those whose name begins so"}
    sys.exit(run_main(main, ("--only", begins)))
