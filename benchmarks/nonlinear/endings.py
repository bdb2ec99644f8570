"""Why arc length ends where it does: `python -m benchmarks.nonlinear.endings`, a few minutes.

Of the runs of results/nonlinear.json that natural paths call folds, those that the arc length ends
as `stagnated` or `linear_solve`: the point where it ends, |f| there, and the singular values of
[dH/dz, dH/dlam]. Also with linear solves to 1e-12. Writes results/nonlinear_endings.json.
"""

import json
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

import homoode_jax
from benchmarks.nonlinear.problem import Problem
from benchmarks.nonlinear.problems import every
from benchmarks.nonlinear.run import LINEAR, RESULT, RESULTS, continuation
from homoode_jax.experiments.console import console
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.workdir import write_json

LINEAR_SOLVERS = {"1e-3": LINEAR, "1e-12": replace(LINEAR, rtol=1e-12)}


def singular_values(problem: Problem, homotopy: str, z0, z, lam: float) -> list[float | None]:
    """Returns the largest and the smallest of [dH/dz, dH/dlam]; None where it is not finite."""
    jacobian = jax.jacfwd(problem.f)(z)
    if homotopy == "newton":
        dz = jnp.eye(problem.n) - jacobian
        dlam = z0 - problem.f(z0)
    else:
        dz = jnp.eye(problem.n) - lam * jacobian
        dlam = z0 - problem.f(z)
    matrix = np.column_stack([dz, dlam])
    if not np.all(np.isfinite(matrix)):
        return [None, None]
    values = np.linalg.svd(matrix, compute_uv=False)
    return [float(values[0]), float(values[-1])]


def ending(problem: Problem, homotopy: str, factor: float, linear_solver) -> dict:
    """Follows the path once and looks at the point where it ends."""

    def cell(params, z, x):
        del params, x
        return jax.vmap(problem.f)(z)

    z0 = jnp.asarray(problem.start(factor))
    options = {"path": "arclength", "homotopy": homotopy, "linear_solver": linear_solver}
    solution = continuation(cell, z0[None], problem.tol, **options)
    stats = solution.stats
    z = solution.z[0]
    assert stats.lam is not None and stats.num_folds is not None
    lam = float(stats.lam)
    return {
        "result": homoode_jax.Result(int(solution.result)).name,
        "lam": lam,
        "folds": int(stats.num_folds),
        "max_z": float(jnp.max(jnp.abs(z))),
        "max_f": float(jnp.max(jnp.abs(problem.f(z)))),
        "max_z_minus_f": float(jnp.max(jnp.abs(z - problem.f(z)))),
        "singular_values": singular_values(problem, homotopy, z0, z, lam),
    }


def unexplained(solvers: dict) -> list[tuple[str, str]]:
    """Returns the homotopy and start of each such run of a problem of the record."""
    return [
        (homotopy, start)
        for homotopy in ("fixed_point", "newton")
        for start, natural in solvers[f"natural {homotopy}"].items()
        if natural["result"] == "fold"
        and solvers[f"arclength {homotopy}"][start]["result"] in ("stagnated", "linear_solve")
    ]


def main() -> int:
    """Follows them all and writes the record."""
    jax.config.update("jax_enable_x64", True)
    rows = {}
    problems = json.loads(RESULT.read_text())["problems"]
    for problem in every():
        name = f"{problem.name}/{problem.n}"
        for homotopy, start in unexplained(problems[name]["solvers"]):
            key = f"{name} {homotopy} x{start}"
            rows[key] = {
                rtol: ending(problem, homotopy, float(start), linear_solver)
                for rtol, linear_solver in LINEAR_SOLVERS.items()
            }
            console.print(key, rows[key])
            write_json(RESULTS / "nonlinear_endings.json", {**environment(), "runs": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
