"""Where `adjoint="reversible"` can be trusted: `make reversible`.

The field is a small network with a decay rate r, tanh(z W + x) - r z, over t from 0 to 1.
1. Constant steps, by number, rate and coupling: the float32 gradient against float64
   backpropagation of the same solve, and the float64 answer against dopri5 at 1e-12.
2. Adaptive steps in float32, by tolerance, rate and coupling: outcome, evaluations, answer and
   gradient, against dopri5 at 1e-12, and beside dopri5 at the same tolerance.
Writes results/reversible.json and docs/images/reversible.png.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

from homoode_jax import Result, Reversible, integrate
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.workdir import write_json

ROOT = Path(__file__).parents[1]
STEPS = (10, 30, 100, 300, 1000)
RATES = (0, 1, 3, 10, 30)
COUPLINGS = (0.5, 0.9, 0.99, 0.999)
ADAPTIVE_COUPLINGS = (0.3, 0.5, 0.7, 0.9, 0.999)
ADAPTIVE_RATES = (0, 1, 2, 3, 4, 5, 10)
MAX_STEPS = 1000


def field(params, t, z, x):
    """Returns a small network and a linear decay."""
    return jnp.tanh(z @ params["w"] + x) - params["rate"] * z


def problem(rate, dtype):
    """Returns params, z0 and x of a batch of 8 in 16 dimensions."""
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(16, 16)) / 8, "rate": rate}
    inputs = params, rng.normal(size=(8, 16)), rng.normal(size=(8, 16))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), inputs)


@functools.partial(jax.jit, static_argnames=("solver", "adjoint", "controller"))
def solve(inputs, solver, adjoint, controller="pid", dt0=None, tol=None):
    """Gradient, final state and outcome."""

    def loss(inputs):
        solution = integrate(
            field,
            *inputs,
            solver=solver,
            adjoint=adjoint,
            controller=controller,
            dt0=dt0,
            rtol=tol,
            atol=tol,
            max_steps=MAX_STEPS,
        )
        return jnp.mean(solution.z**2), solution

    gradient, solution = jax.grad(loss, has_aux=True)(inputs)
    return ravel_pytree(gradient)[0], solution.z, solution.result, solution.stats


def error(got, want):
    """Relative error in the norm; None for a gradient refused as zero."""
    got = np.asarray(got, np.float64)
    want = np.asarray(want, np.float64)
    value = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    return value if np.any(got) else None


@functools.cache
def exact(rate):
    """Gradient and answer of dopri5 at 1e-12, float64."""
    return solve(problem(rate, jnp.float64), "dopri5", "checkpointed", tol=1e-12)[:2]


def measure_constant(coupling, rate, steps):
    """One number of constant steps."""
    solver = Reversible("dopri5", coupling)
    options = {"controller": "constant"}
    wide, narrow = (problem(rate, dtype) for dtype in (jnp.float64, jnp.float32))
    want, z, *_ = solve(wide, solver, "checkpointed", dt0=jnp.float64(1 / steps), **options)
    got, *_ = solve(narrow, solver, "reversible", dt0=jnp.float32(1 / steps), **options)
    return {
        "coupling": coupling,
        "rate": rate,
        "steps": steps,
        "gradient_error": error(got, want),
        "answer_error": error(z, exact(rate)[1]),
    }


def measure_adaptive(coupling, rate, tol):
    """One tolerance; a coupling of None is dopri5 itself, checkpointed."""
    plain = coupling is None
    solver = "dopri5" if plain else Reversible("dopri5", coupling)
    adjoint = "reversible"
    got, z, result, stats = solve(
        problem(rate, jnp.float32),
        solver,
        "checkpointed" if plain else adjoint,
        tol=jnp.float32(tol),
    )
    want, answer = exact(rate)
    return {
        "coupling": coupling,
        "rate": rate,
        "tolerance": tol,
        "steps": int(stats.num_steps),
        "nfe": int(stats.nfe),
        "result": Result(int(result)).name,
        "gradient_error": error(got, want),
        "answer_error": error(z, answer),
    }


def draw(rows, file):
    """Errors of gradient and answer by number of steps: a column each coupling, a line a rate.

    Gradients refused have no point.
    """
    figure = Figure(figsize=(14, 6.5), layout="constrained")
    panels = figure.subplots(2, len(COUPLINGS), sharex=True, sharey="row")
    titles = {"gradient_error": "float32 gradient error", "answer_error": "float64 answer error"}
    for (key, title), line in zip(titles.items(), panels, strict=True):
        for coupling, axes in zip(COUPLINGS, line, strict=True):
            for rate in RATES:
                of = [r for r in rows if (r["coupling"], r["rate"]) == (coupling, rate)]
                of = [r for r in of if r[key] is not None]
                points = [r["steps"] for r in of], [r[key] for r in of]
                axes.loglog(*points, marker=".", label=f"rate {rate}")
            low = 1e-8 if key == "gradient_error" else 1e-13
            axes.set(
                ylim=(low, 1e2), title=f"coupling {coupling}" if key == "gradient_error" else ""
            )
            axes.grid(alpha=0.3)
        line[0].set_ylabel(f"relative {title}")
    for axes in panels[-1]:
        axes.set_xlabel("number of steps")
    panels[0, -1].legend(loc="upper left", ncols=2)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def main():
    """Measures, draws and records."""
    jax.config.update("jax_enable_x64", True)
    constant = [measure_constant(c, r, n) for c in COUPLINGS for r in RATES for n in STEPS]
    adaptive = [
        measure_adaptive(c, r, tol)
        for c in (None, *ADAPTIVE_COUPLINGS)
        for tol in (1e-3, 1e-6)
        for r in ADAPTIVE_RATES
    ]
    adaptive.sort(key=lambda row: (row["rate"], -row["tolerance"]))
    for row in constant + adaptive:
        print(
            *(
                f"{v:.1e}" if isinstance(v, float) and k.endswith("error") else v
                for k, v in row.items()
            ),
            sep="\t",
        )
    record = {"environment": environment(), "constant": constant, "adaptive": adaptive}
    write_json(ROOT / "results" / "reversible.json", record)
    draw(constant, ROOT / "docs" / "images" / "reversible.png")


if __name__ == "__main__":
    main()
