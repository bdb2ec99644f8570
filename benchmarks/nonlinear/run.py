"""Solver x problem x start: who finds a root, and what it costs: `make nonlinear`.

Rules in README.md beside this file. Writes results/nonlinear.json, problem by problem: a run that
was stopped goes on where it was, and a solver that the record lacks is added to it; every row says
at which commit it was taken. Then prints the table and writes results/nonlinear.md.
"""

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp

import homoode_jax
from benchmarks.nonlinear.problem import Problem
from benchmarks.nonlinear.problems import every
from benchmarks.nonlinear.table import summary, write_table
from benchmarks.shared import RESULTS, described, in_processes, run_main, write_record
from homoode_jax.experiments.console import say
from homoode_jax.experiments.files import read_json

CODE = ("benchmarks/nonlinear", "homoode_jax/mathematics")
BUDGET = 20_000
FACTORS = (1, 10, 100)
RESULT = RESULTS / "nonlinear.json"
LINEAR = homoode_jax.GMRES(rtol=1e-3, restart=50, max_products=1_000)
BOUNDS: dict[str, Any] = {"max_steps": BUDGET, "max_evaluations": BUDGET}
PATHS = {
    f"{path} {homotopy}": {"path": path, "homotopy": homotopy}
    for path in ("natural", "arclength")
    for homotopy in ("fixed_point", "newton")
}
ITERATIONS = {
    "newton": homoode_jax.NewtonKrylov(linear_solver=LINEAR),
    **{name: name for name in ("robust", "anderson", "picard", "broyden", "ode")},
}
NAMES = (*PATHS, *ITERATIONS)


def solve(name: str, cell, tol: float, z0):
    """Solves by a path or an iteration; a path adds an absolute and a relative tolerance."""
    if name in ITERATIONS:
        options = {"solver": ITERATIONS[name], "tol": tol, **BOUNDS}
        return homoode_jax.equilibrium(cell, None, z0, None, **options)
    options = {"rtol": tol / 2, "atol": tol / 2e3, "linear_solver": LINEAR, **BOUNDS}
    return homoode_jax.continuation(cell, None, z0, None, **PATHS[name], **options)


def solver_of(name: str, problem: Problem):
    """Returns the jitted solve of a problem as a function of z0, with a batch axis."""

    def cell(params, z, x):
        del params, x
        return jax.vmap(problem.f)(z)

    return jax.jit(functools.partial(solve, name, cell, problem.tol))


def measure(problem: Problem, solver, z0) -> dict:
    """Solves once from a start, and checks the answer anew."""
    solution = solver(jnp.asarray(z0)[None])
    z = solution.z[0]
    stats = solution.stats
    residual = problem.residual(z)
    cost = int(stats.nfe + stats.num_jvp + stats.num_vjp)
    known = problem.solution
    return {
        "solved": bool(solution.success and residual <= problem.tol and cost <= BUDGET),
        "result": homoode_jax.Result(int(solution.result)).name,
        "residual": residual,
        "max_g": float(jnp.max(jnp.abs(problem.g(z)))),
        "lam": float(stats.lam),
        "folds": int(stats.num_folds),
        "cost": cost,
        "distance": None if known is None else float(jnp.max(jnp.abs(z - known))),
    }


def run_index(index: int, names: list[str]) -> dict:
    """Runs some solvers on one problem of the list from all starts, in a process of its own."""
    jax.config.update("jax_enable_x64", True)
    problem = every()[index]
    rows = {}
    for name in names:
        solver = solver_of(name, problem)
        rows[name] = {str(k): measure(problem, solver, problem.start(k)) for k in FACTORS}
    return rows


def recorded() -> dict[str, dict]:
    """Returns the problems of the record, each with the commits at which its rows were taken."""
    if not RESULT.exists():
        return {}
    record = read_json(RESULT)
    for row in record["problems"].values():
        row.setdefault("taken", {name: {"commit": record["commit"]} for name in row["solvers"]})
    return record["problems"]


def main(anew: bool) -> None:
    """Runs what is not in the record yet, a problem to a process."""
    taken = {"commit": described()["commit"]}
    done = {} if anew else recorded()
    problems = {f"{problem.name}/{problem.n}": problem for problem in every()}
    rows = {
        key: done.get(key, {"n": problem.n, "tol": problem.tol, "solvers": {}, "taken": {}})
        for key, problem in problems.items()
    }
    missing = {key: [n for n in NAMES if n not in row["solvers"]] for key, row in rows.items()}
    asked = {key: (i, missing[key]) for i, key in enumerate(rows) if missing[key]}
    for key, found, left in in_processes(run_index, asked):
        row = rows[key]
        row["solvers"] |= found
        row["taken"] |= dict.fromkeys(found, taken)
        begun = {key: row for key, row in rows.items() if row["solvers"]}
        write_record(RESULT, CODE, budget=BUDGET, problems=begun)
        say(f"{key} · {summary(row)} · ETA {left:.0f} min")
    write_table(read_json(RESULT), RESULTS / "nonlinear.md")


if __name__ == "__main__":
    again = {"action": "store_true", "help": "run what is in the record too"}
    sys.exit(run_main(main, ("--anew", again)))
