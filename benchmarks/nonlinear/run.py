"""Solver x problem x start: who finds a root, and what it costs: `make nonlinear`.

Rules in README.md beside this file. Writes results/nonlinear.json, problem by problem: a run
that was stopped goes on where it was. Then prints the table and writes results/nonlinear.md.
"""

import argparse
import functools
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import homoode_jax
from benchmarks.nonlinear.problem import Problem
from benchmarks.nonlinear.problems import every
from benchmarks.nonlinear.table import summary, write_table
from homoode_jax.experiments.console import console
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.workdir import write_json

BUDGET = 20_000
FACTORS = (1, 10, 100)
RESULTS = Path(__file__).parents[2] / "results"
RESULT = RESULTS / "nonlinear.json"
LINEAR = homoode_jax.GMRES(rtol=1e-3, restart=50, max_products=1_000)
BOUNDS: dict[str, Any] = {"max_steps": BUDGET, "max_evaluations": BUDGET}


def continuation(cell, z0, tol, **options):
    """Returns a path; half of the tolerance, as it adds an absolute and a relative part."""
    return homoode_jax.continuation(
        cell,
        None,
        z0,
        None,
        rtol=tol / 2,
        atol=tol / 2e3,
        **{"linear_solver": LINEAR, **BOUNDS, **options},
    )


def equilibrium(cell, z0, tol, solver):
    """Returns an iteration."""
    return homoode_jax.equilibrium(cell, None, z0, None, solver=solver, tol=tol, **BOUNDS)


SOLVERS = {
    f"{path} {homotopy}": functools.partial(continuation, path=path, homotopy=homotopy)
    for path in ("natural", "arclength")
    for homotopy in ("fixed_point", "newton")
} | {
    name: functools.partial(equilibrium, solver=solver)
    for name, solver in {
        "newton": homoode_jax.NewtonKrylov(linear_solver=LINEAR),
        **{name: name for name in ("anderson", "picard", "broyden", "ode")},
    }.items()
}


def measure(problem: Problem, solver, z0) -> dict:
    """Solves once from a start, and checks the answer anew."""
    solution = solver(jnp.asarray(z0)[None])
    z = solution.z[0]
    stats = solution.stats
    r = problem.s * problem.g(z)
    f = problem.f(z)
    residual = jnp.linalg.norm(r) / jnp.maximum(jnp.linalg.norm(f), 1e-3 * np.sqrt(problem.n))
    cost = int(stats.nfe + stats.num_jvp + stats.num_vjp)
    ok = bool(solution.success)
    distance = None
    if problem.solution is not None:
        distance = float(jnp.max(jnp.abs(z - problem.solution)))
    return {
        "solved": ok and bool(residual <= problem.tol) and cost <= BUDGET,
        "result": homoode_jax.Result(int(solution.result)).name,
        "residual": float(residual),
        "max_g": float(jnp.max(jnp.abs(problem.g(z)))),
        "lam": float(stats.lam),
        "folds": int(stats.num_folds),
        "cost": cost,
        "distance": distance,
    }


def run_problem(problem: Problem) -> dict:
    """All solvers from all starts."""

    def cell(params, z, x):
        del params, x
        return jax.vmap(problem.f)(z)

    rows = {}
    for name, solve in SOLVERS.items():
        solver = jax.jit(functools.partial(solve, cell, tol=problem.tol))
        rows[name] = {str(k): measure(problem, solver, problem.start(k)) for k in FACTORS}
    return {"n": problem.n, "tol": problem.tol, "reference": problem.reference, "solvers": rows}


def run_index(index: int) -> dict:
    """What a worker process does: one problem of the list."""
    jax.config.update("jax_enable_x64", True)
    return run_problem(every()[index])


def main() -> None:
    """Runs what is not in the record yet, a problem to a process."""
    parser = argparse.ArgumentParser("benchmarks.nonlinear.run")
    parser.add_argument("--anew", action="store_true", help="run what is in the record too")
    anew = parser.parse_args().anew
    done = {} if anew or not RESULT.exists() else json.loads(RESULT.read_text())["problems"]
    keys = [f"{problem.name}/{problem.n}" for problem in every()]
    missing = [index for index, key in enumerate(keys) if key not in done]
    began = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(run_index, index): keys[index] for index in missing}
        for count, future in enumerate(as_completed(running), start=1):
            done[running[future]] = future.result()
            in_order = {key: done[key] for key in keys if key in done}
            write_json(RESULT, {**environment(), "budget": BUDGET, "problems": in_order})
            left = (time.perf_counter() - began) / count * (len(missing) - count)
            told = summary(done[running[future]])
            console.print(f"{running[future]} · {told} · ETA {left / 60:.0f} min")
    write_table(json.loads(RESULT.read_text()), RESULTS / "nonlinear.md")


if __name__ == "__main__":
    main()
