"""Where equilibria are found: cells with a planted root, by radius and dimension: `make map`.

Solvers start from z0 = 0 in float32, and have the same budget of evaluations and products. A cell
counts as solved if the solver says so, and its residual, taken anew, agrees; any root counts.
Writes results/map.json, group by group: a run that was stopped goes on where it was; and
results/map.md.
"""

import functools
import math
import sys
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import homoode_jax
from benchmarks.nonlinear.map_table import write_map
from benchmarks.nonlinear.planted import ACTIVATIONS, KINDS, Planted, cell_of, plant
from benchmarks.shared import RESULTS, described, in_processes, run_main, write_record
from homoode_jax.experiments.console import say
from homoode_jax.experiments.files import read_json

CODE = (
    "benchmarks/nonlinear/map.py",
    "benchmarks/nonlinear/planted.py",
    "homoode_jax/mathematics",
    "homoode_jax/networks/convolution.py",
    "homoode_jax/networks/normalisation.py",
)
RESULT = RESULTS / "map.json"
SOLVERS = ("robust", "anderson", "broyden", "newton")
RADII = (0.2, 0.6, 0.9, 1.2, 1.7, 2.5, 3.5, 5.0)
# Evaluations and products, by the most entries of a state; 10,000 is what "robust" has by default.
BUDGETS = {512: 10_000, 16384: 2_000}
TOL = 1e-5
# Cells of each kind, activation and radius, by the most entries of a state.
CELLS = {64: 24, 512: 10, 4096: 4, 16384: 2}
Group = tuple[str, str, tuple[int, ...]]  # kind, activation, shape of a state


def groups() -> dict[str, Group]:
    """Returns the groups of cells that share a program, small ones first."""
    every = [
        (kind, activation, shape)
        for kind, made in KINDS.items()
        for activation in ACTIVATIONS
        for shape in made.shapes
    ]
    every.sort(key=lambda group: math.prod(group[2]))
    return {f"{kind}, {a}, {math.prod(shape)}": (kind, a, shape) for kind, a, shape in every}


def cells_of(entries: int) -> int:
    """Returns how many cells are drawn of such states."""
    return next(count for most, count in CELLS.items() if entries <= most)


def budget_of(entries: int) -> int:
    """Returns the most evaluations and products that a solve of such a state may take."""
    return next(budget for most, budget in BUDGETS.items() if entries <= most)


def solve(group: Group, name: str, z0, planted: Planted):
    """Solves, and takes the residual anew; returns both, and evaluations and products."""
    cell = cell_of(*group[:2])
    budget = budget_of(math.prod(group[2]))
    options = {"tol": TOL, "max_steps": budget, "max_evaluations": budget}
    solution = homoode_jax.equilibrium(cell, None, z0, planted, solver=name, **options)
    f = cell(None, solution.z, planted)
    least = jnp.maximum(jnp.linalg.norm(f), 1e-3 * math.sqrt(f.size))
    residual = jnp.linalg.norm(f - solution.z) / least
    return solution.result, residual, solution.stats.evaluations


def run_group(name: str) -> dict[str, Any]:
    """Runs all solvers on the cells of a group, in a process of its own; rows by radius."""
    group = groups()[name]
    planted, unscaled = _planted(group, cells_of(math.prod(group[2])))
    z0 = jnp.zeros_like(planted.root)
    solvers = {
        solver: jax.jit(jax.vmap(functools.partial(solve, group, solver))) for solver in SOLVERS
    }
    rows = {}
    for radius in RADII:
        scaled = planted._replace(gain=planted.gain * (radius / unscaled)[:, None])
        ends = {solver: told_all(*run(z0, scaled)) for solver, run in solvers.items()}
        cells = [dict(zip(ends, each, strict=True)) for each in zip(*ends.values(), strict=True)]
        rows[str(radius)] = counted(cells)
    return rows


def _planted(group: Group, count: int) -> tuple[Planted, Float[Array, " cells"]]:
    """Draws the cells of a group, stacked, and their spectral radii."""
    drawn = [plant(*group, jax.random.key(seed)) for seed in range(count)]
    cells = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(cell for cell, _ in drawn))
    return cells, jnp.asarray([unscaled for _, unscaled in drawn])


def told_all(*ends) -> list[dict[str, Any]]:
    """Returns, of each cell, whether it was solved, and what that took."""
    return [_told(*end) for end in zip(*map(np.asarray, ends), strict=True)]


def _told(result, residual, cost) -> dict[str, Any]:
    claims = int(result) == homoode_jax.Result.ok
    right = float(residual) <= 1.01 * TOL  # the promise is kept to the rounding of f
    return {
        "solved": claims and right,
        "false": claims and not right,
        "result": homoode_jax.Result(int(result)).name,
        "cost": int(cost),
    }


def counted(ends: list[dict]) -> dict[str, Any]:
    """Returns, of the cells of one radius, who solved how many; costs where Anderson solved."""
    easy = [each for each in ends if each["anderson"]["solved"]]
    return {
        "cells": len(ends),
        "easy": len(easy),
        **{
            solver: {
                "solved": sum(each[solver]["solved"] for each in ends),
                "false": sum(each[solver]["false"] for each in ends),
                "cost": sum(each[solver]["cost"] for each in ends),
                "easy_cost": sum(each[solver]["cost"] for each in easy),
                "results": dict(Counter(each[solver]["result"] for each in ends)),
            }
            for solver in SOLVERS
        },
    }


def main(anew: bool) -> None:
    """Runs the groups that are not in the record yet, one to a process."""
    told = {name: described()[name] for name in ("commit", "processor")}
    rows = {} if anew or not RESULT.exists() else read_json(RESULT)["rows"]
    asked = {name: (name,) for name in groups() if name not in rows}
    for name, radii, left in in_processes(run_group, asked):
        rows[name] = {**told, "radii": radii}
        write_record(RESULT, CODE, budgets=BUDGETS, tol=TOL, rows=rows)
        say(f"{name} · ETA at least {left:.0f} min")
    write_map(read_json(RESULT), RESULTS / "map.md")


if __name__ == "__main__":
    again = {"action": "store_true", "help": "run what is in the record too"}
    sys.exit(run_main(main, ("--anew", again)))
