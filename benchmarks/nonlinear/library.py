"""The 23 problems of NonlinearProblemLibrary, by ours, SciPy's and Optimistix's: `make nonlinear`.

From the standard start alone. What counts as solved, and tolerances, are those of README.md beside
this file; SciPy and Optimistix are given g itself, and hybr and lm its Jacobian. A claim is false
if a method says that it has a root, and the rule says that it has not. Writes
results/nonlinear_library.json.
"""

import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import scipy.optimize

from benchmarks.nonlinear.problem import Problem
from benchmarks.nonlinear.problems import library
from benchmarks.nonlinear.run import BUDGET, CODE, solver_of
from benchmarks.shared import RESULTS, run_main, show, write_record
from homoode_jax.experiments.console import say

OURS = "robust", "newton", "anderson", "broyden"
SCIPY = "hybr", "lm", "krylov"
OPTIMISTIX = {
    "optx.Newton": optx.Newton,
    "optx.Dogleg": optx.Dogleg,
    "optx.LevenbergMarquardt": optx.LevenbergMarquardt,
}


def by_ours(name: str, problem: Problem) -> tuple[Any, bool, int]:
    """Returns the point, whether it is said to be a root, and evaluations and products."""
    solution = solver_of(name, problem)(jnp.asarray(problem.start())[None])
    stats = solution.stats
    cost = int(stats.nfe + stats.num_jvp + stats.num_vjp)
    return solution.z[0], bool(solution.success) and cost <= BUDGET, cost


def by_scipy(name: str, problem: Problem) -> tuple[Any, bool, int]:
    """Returns the same; a Jacobian costs as many products as it has columns."""
    g = jax.jit(problem.g)
    options: dict[str, Any] = {"tol": problem.tol}
    if name != "krylov":
        jacobian = jax.jit(jax.jacfwd(problem.g))
        options["jac"] = lambda z: np.asarray(jacobian(z))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            found = scipy.optimize.root(
                lambda z: np.asarray(g(z)), problem.start(), method=name, **options
            )
        except ValueError:  # krylov, of what is not finite
            return problem.start(), False, 0
    return found.x, bool(found.success), int(found.nfev + problem.n * found.get("njev", 0))


def by_optimistix(name: str, problem: Problem) -> tuple[Any, bool, None]:
    """Returns the same; Optimistix counts steps alone."""
    solver = OPTIMISTIX[name](rtol=problem.tol, atol=problem.tol)
    start = jnp.asarray(problem.start())
    found = optx.root_find(lambda z, _: problem.g(z), solver, start, max_steps=BUDGET, throw=False)
    return found.value, bool(found.result == optx.RESULTS.successful), None


METHODS = {
    **dict.fromkeys(OURS, by_ours),
    **dict.fromkeys(SCIPY, by_scipy),
    **dict.fromkeys(OPTIMISTIX, by_optimistix),
}


def measure(name: str, problem: Problem) -> dict[str, Any]:
    """Returns how a method fared, its answer checked anew."""
    z, claims, cost = METHODS[name](name, problem)
    residual = problem.residual(z)
    right = bool(residual <= problem.tol)
    return {
        "solved": claims and right,
        "false": claims and not right,
        "residual": residual,
        "cost": cost,
    }


def main() -> None:
    """Runs all methods on all problems, and prints who solved how many."""
    rows = {}
    for problem in library():
        rows[f"{problem.name}/{problem.n}"] = found = {m: measure(m, problem) for m in METHODS}
        say(f"{problem.name}: {', '.join(m for m, row in found.items() if row['solved'])}")
        write_record(RESULTS / "nonlinear_library.json", CODE, problems=rows)
    counts = {
        method: {
            "solved": sum(found[method]["solved"] for found in rows.values()),
            "false": sum(found[method]["false"] for found in rows.values()),
            "cost": None
            if method in OPTIMISTIX
            else sum(found[method]["cost"] for found in rows.values() if found[method]["solved"]),
        }
        for method in METHODS
    }
    columns = {f"of {len(rows)}": "{solved}", "false": "{false}", "cost of those": "{cost:,}"}
    show("NonlinearProblemLibrary", counts, columns)


if __name__ == "__main__":
    sys.exit(run_main(main, x64=True))
