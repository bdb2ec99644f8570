"""Where equilibria of trained cells are found: `make map`.

The cells are those of the zoo's classifiers that learned z = F(z; x): each test image is a cell,
solved by itself from z0 = 0 in float32. The budget, and what counts as solved, are those of the
map of random cells. Writes results/trained.json.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

import homoode_jax
from benchmarks.nonlinear.map import SOLVERS, TOL, budget_of, counted, told_all
from benchmarks.shared import RESULTS, in_processes, run_main, show, write_record
from homoode_jax import zoo
from homoode_jax.experiments.batches import normalise
from homoode_jax.experiments.console import say
from homoode_jax.experiments.dataset import load
from homoode_jax.networks.field import Condition

CODE = (
    "benchmarks/nonlinear/map.py",
    "benchmarks/nonlinear/trained.py",
    "homoode_jax/mathematics",
    "homoode_jax/networks",
    "homoode_jax/zoo",
)
RESULT = RESULTS / "trained.json"
SHARED = Path(__file__).parents[3] / "shared" / "tfds"
LAYERS = ("deq", "continuous_deq", "continuation")
Function = Callable[..., Float[Array, "n h w c"]]  # F(params, z, x)
KRYLOV = 64  # products for a spectral radius
COLUMNS = {
    "entries": "{entries:,}",
    "radius": "{radius:.2f} to {largest:.2f}",
    "cells": "{cells}",
    **{name: f"{{{name}[solved]}} ({{{name}[cost]:,}})" for name in SOLVERS},
}


class Cells(NamedTuple):
    """What the cells of a classifier are called with, one for each image.

    Attributes:
        params: of F.
        x: the condition.
        z0: zeros.
    """

    params: PyTree[Array]
    x: Condition
    z0: Float[Array, "n h w c"]


def cells_of(name: str, data_dir: str, images: int) -> tuple[Function, Cells]:
    """Returns F(params, z, x) of a trained classifier, and the cells of its first test images."""
    model = zoo.load(name)
    data = replace(model.config.data, data_dir=data_dir)
    shown = jnp.asarray(load(data).test.images[:images])
    output = model.classifier(model.weights, normalise(shown, data.mean, data.std, "float32"))
    function, params = model.classifier.function(model.weights)
    z0 = jnp.zeros_like(output.features)
    return function, Cells(params, Condition(output.features, None), z0)


def solve(function: Function, solver: str, cells: Cells):
    """Solves each cell by itself; returns result, residual, and evaluations and products."""
    entries = cells.z0[0].size
    budget = budget_of(entries)
    options = {"tol": TOL, "max_steps": budget, "max_evaluations": budget}
    solution = homoode_jax.equilibrium(
        function,
        cells.params,
        cells.z0,
        cells.x,
        solver=solver,
        batching="per_example",
        **options,
    )
    f = function(cells.params, solution.z, cells.x)
    sizes = _norms(f)
    residual = _norms(f - solution.z) / jnp.maximum(sizes, 1e-3 * entries**0.5)
    return solution, (solution.result, residual, solution.stats.evaluations)


def run_classifier(name: str, data_dir: str, images: int) -> dict[str, Any]:
    """Runs all solvers on the cells of a classifier, in a process of its own."""
    function, cells = cells_of(name, data_dir, images)
    ends = {}
    solutions = {}
    for solver in SOLVERS:
        solutions[solver], end = jax.jit(functools.partial(solve, function, solver))(cells)
        ends[solver] = told_all(*end)
    roots = solutions["robust"]
    radii = homoode_jax.audit.spectral_radius(
        function, cells.params, roots.z, cells.x, dimension=KRYLOV
    )
    found = np.asarray(radii.value)[np.asarray(roots.success)]
    told = [dict(zip(ends, each, strict=True)) for each in zip(*ends.values(), strict=True)]
    return {
        "entries": int(cells.z0[0].size),
        "radius": float(np.min(found)),
        "largest": float(np.max(found)),
        **counted(told),
    }


def _norms(batch: Float[Array, "n h w c"]) -> Float[Array, " n"]:
    return jnp.linalg.norm(batch.reshape(len(batch), -1), axis=1)


def main(data_dir: str, images: int) -> None:
    """Solves the cells of trained classifiers; one classifier to a process."""
    names = [name for name in zoo.names() if name.partition("-")[2] in LAYERS]
    asked = {name: (name, data_dir, images) for name in names}
    rows = {}
    for name, row, left in in_processes(run_classifier, asked):
        rows[name] = row
        say(f"{name} · ETA at least {left:.0f} min")
    rows = {name: rows[name] for name in names}
    write_record(RESULT, CODE, tol=TOL, images=images, rows=rows)
    show("trained cells: how many are solved, and for how many evaluations", rows, COLUMNS)


if __name__ == "__main__":
    OPTIONS = (
        ("--data_dir", {"default": str(SHARED), "help": "where MNIST is prepared"}),
        ("--images", {"type": int, "default": 24, "help": "test images of each classifier"}),
    )
    sys.exit(run_main(main, *OPTIONS))
