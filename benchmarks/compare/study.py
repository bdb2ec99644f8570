"""A study: cases of one configuration file, trained for several seeds, and where the runs lie.

Each run is `train.py` in a process of its own, in runs/compare/DATASET/CASE-SEED.
A `measured.json` beside it has what `measure` found.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.shared import ROOT
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.files import read_json
from homoode_jax.experiments.workdir import read_metrics
from homoode_jax.networks.family import LAYERS

# Where evaluations are compared: the reference's solver, which selects its first step.
FREE = "--config.solver.method=dopri5", "--config.solver.dt0=0", "--config.regularise.kinetic=0"
HUBER = *FREE, "--config.initial_point.kind=huber"
ALTERNATING = *FREE, "--config.initial_point.kind=alternating"
# A configuration may regularise paths, which not every layer has.
PLAIN = "--config.regularise.kinetic=0"
DEQ = "--config.model.layer=deq", PLAIN
ROBUST = *DEQ, "--config.equilibrium.solver=robust"
JACOBIAN_FREE = "--config.schedule.epochs=10", "--config.schedule.adjoint=jacobian_free"
# What has the same name in two studies is the same case, and trained once.
CASES: dict[str, dict[str, tuple[str, ...]]] = {
    "layers": {layer: (f"--config.model.layer={layer}", PLAIN) for layer in LAYERS},
    "initial_point": {
        "dopri5, alternating": ALTERNATING,
        "dopri5, learned": FREE,
        "dopri5, huber": (*HUBER, "--config.initial_point.every=1"),
        "dopri5, huber, slower": HUBER,
        "dopri5, predicted": (*FREE, "--config.initial_point.kind=predicted"),
    },
    "evaluations": {
        "dopri5, alternating": ALTERNATING,
        "dopri5, learned": FREE,
        "as configured": (),
        "as configured, bfloat16": ("--config.model.field_dtype=bfloat16",),
    },
    "regularise": {
        "dopri5, learned": FREE,
        "dopri5, kinetic 0.1": (*FREE, "--config.regularise.kinetic=0.1"),
        "dopri5, kinetic 1": (*FREE, "--config.regularise.kinetic=1.0"),
        "dopri5, scale 1": (*FREE, "--config.regularise.scale=1.0"),
        "deq": DEQ,
        "deq, jacobian 1": (*DEQ, "--config.regularise.jacobian=1.0"),
        "deq, jacobian-free first": (*DEQ, *JACOBIAN_FREE),
    },
    "equilibria": {
        "deq": DEQ,
        "deq, robust": ROBUST,
        "deq, jacobian 1": (*DEQ, "--config.regularise.jacobian=1.0"),
        "deq, robust, jacobian 1": (*ROBUST, "--config.regularise.jacobian=1.0"),
    },
}


class Study(NamedTuple):
    """What to train."""

    name: str  # a key of `CASES`
    dataset: str  # a file of configs/, without its ending
    data_dir: str  # where the data is; "": its usual place
    seeds: int
    flags: tuple[str, ...]  # of every run
    cases: dict[str, tuple[str, ...]]  # those of `CASES[name]` to train, with their flags

    def workdir(self, case: str, seed: int) -> Path:
        """Returns the folder of one run."""
        name = f"{case.replace(', ', '-').replace(' ', '-')}-{seed}"
        return ROOT / "runs" / "compare" / self.dataset / name


class RunResult(NamedTuple):
    """What one run left behind."""

    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    measured: dict[str, Any]
    environment: dict[str, Any]


def read_study(name: str) -> Study:
    """Reads DATASET, DATA_DIR, SEEDS, ONLY and FLAGS from the environment."""
    if name not in CASES:
        raise UserError(f"study {name!r} is not one of {', '.join(CASES)}.")
    dataset = os.environ.get("DATASET") or "digits"
    seeds = os.environ.get("SEEDS") or "3"
    if not (ROOT / "configs" / f"{dataset}.py").exists():
        there = ", ".join(sorted(file.stem for file in (ROOT / "configs").glob("*.py")))
        raise UserError(f"DATASET={dataset!r} has no file in configs/; there are {there}.")
    if not seeds.isdigit() or int(seeds) < 1:
        raise UserError(f"SEEDS={seeds!r} must be the number of seeds, 1 or more.")
    return Study(
        name=name,
        dataset=dataset,
        data_dir=os.environ.get("DATA_DIR", ""),
        seeds=int(seeds),
        flags=tuple(os.environ.get("FLAGS", "").split()),
        cases=_chosen(name, os.environ.get("ONLY", "")),
    )


def _chosen(name: str, only: str) -> dict[str, tuple[str, ...]]:
    """Returns the cases that a list, with ";" between them, names; all for an empty one."""
    wanted = [case.strip() for case in only.split(";") if case.strip()]
    for case in wanted:
        if case not in CASES[name]:
            raise UserError(f"ONLY: {case!r} is not one of {'; '.join(CASES[name])}.")
    return {case: CASES[name][case] for case in wanted or CASES[name]}


def run_one(study: Study, case: str, seed: int) -> RunResult:
    """Trains and measures one run, or reads what is there."""
    workdir = study.workdir(case, seed)
    place = (f"--workdir={workdir}", f"--config.data.data_dir={study.data_dir}")
    flags = (f"--config.train.seed={seed}", *study.cases[case], *study.flags)
    _start("train.py", f"--config=configs/{study.dataset}.py", *place, *flags)
    if not (workdir / "measured.json").exists():
        _start("-m", "benchmarks.compare.measure", str(workdir))
    parts = ("summary", "measured", "environment")
    found = {name: read_json(workdir / f"{name}.json") for name in parts}
    return RunResult(metrics=read_metrics(workdir), **found)


def _start(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        told = done.stderr.strip().splitlines() or ["it said nothing"]
        raise UserError(f"{' '.join(arguments)} failed: {told[-1].removeprefix('error: ')}")
