"""The gradient matrix: every route x every function on one model: `make gradients`.

One cell f(z; x) = tanh(z W + x), contractive, float32. `equilibrium` and `continuation` find
z = f(z); `integrate` follows dz/dt = f(z) - z from t = 0 to 1. Gradients of the same loss by W, x
(and z0, where it has one) are held against float64: the implicit gradient at an equilibrium
found to 1e-13, and backpropagation through DOP853 steps at 1e-13. Prints a table and writes
results/gradients.json.
"""

import functools
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

import homoode_jax
from benchmarks.held import held
from homoode_jax.experiments.console import console
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.workdir import write_json

BATCH = 32
WIDTH = 256
RADIUS = 0.9
RESULT = Path(__file__).parents[1] / "results" / "gradients.json"
FUNCTIONS = {"equilibrium": {"tol": 1e-5}, "continuation": {"rtol": 1e-5}, "integrate": {}}
ROUTES = {
    "equilibrium": ("implicit", "jacobian_free", "phantom", "unrolled"),
    "continuation": ("implicit", "jacobian_free", "phantom", "unrolled"),
    "integrate": ("direct", "checkpointed", "backsolve", "reversible"),
}
STEPS = {"equilibrium": 50, "continuation": 20, "integrate": 64}


def cell(params, z, x):
    """Returns the explicit cell."""
    return jnp.tanh(z @ params["w"] + x)


def field(params, t, z, x):
    """Relaxation towards the cell's fixed point."""
    del t
    return cell(params, z, x) - z


def problem(dtype):
    """Parameters, z0, x and the loss's weights."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(WIDTH, WIDTH))
    w *= RADIUS / max(abs(np.linalg.eigvals(w)))
    x, weights = rng.normal(size=(2, BATCH, WIDTH))
    zeros = np.zeros((BATCH, WIDTH))
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), ({"w": w}, zeros, x, weights))


def loss(inputs, weights, probe, function, **options):
    """Returns a weighted sum of squares of the state, and the solution."""
    solve = getattr(homoode_jax, function)
    model = field if function == "integrate" else cell
    solution = solve(model, *inputs, backward_probe=probe, **options)
    return jnp.sum(weights * solution.z**2), solution


def compiled(function, inputs, weights, **options):
    """Gradient by inputs and probe, compiled for these arguments."""
    call = functools.partial(loss, function=function, **options)
    gradient = jax.jit(jax.grad(call, argnums=(0, 2), has_aux=True))
    probe = jnp.zeros((), weights.dtype)
    program = gradient.lower(inputs, weights, probe).compile()
    return functools.partial(program, inputs, weights, probe), program


def reference(function):
    """Returns the float64 gradient."""
    *inputs, weights = problem(jnp.float64)
    tight = {
        "equilibrium": {"tol": 1e-13, "solver": "newton"},
        "continuation": {"rtol": 1e-13, "atol": 0.0},
        "integrate": {"rtol": 1e-13, "atol": 1e-13, "solver": "dopri8", "max_steps": 512},
    }[function]
    if function != "integrate":
        tight["adjoint"] = homoode_jax.Implicit(tol=1e-13)
    run, _ = compiled(function, tuple(inputs), weights, **tight)
    return run()[0][0]


def error(got, want, function) -> float:
    """Largest relative error of the gradients by W and x (and z0 where the loss depends on it)."""
    leaves = [(got[0]["w"], want[0]["w"]), (got[2], want[2])]
    if function == "integrate":
        leaves.append((got[1], want[1]))
    return max(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in leaves)


def measure(function, adjoint, want) -> dict:
    """Error, memory, time and cost of one route."""
    *inputs, weights = problem(jnp.float32)
    options = {**FUNCTIONS[function], "adjoint": adjoint, "max_steps": STEPS[function]}
    run, program = compiled(function, tuple(inputs), weights, **options)
    (gradients, backward), solution = jax.block_until_ready(run())
    stats = solution.stats
    state = 4 * BATCH * WIDTH
    return {
        "error": error(gradients, want, function),
        "success": bool(solution.success),
        "memory_states": held(program) / state,
        "ms": 1e3 * statistics.median(_seconds(run) for _ in range(15)),
        "evaluations": int(stats.nfe),
        "jvps": int(stats.num_jvp or 0),
        "vjps": int(backward),
    }


def _seconds(run) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def show(rows) -> None:
    """Prints the matrix."""
    table = Table(title="gradients on one cell, float32")
    for name in ("function", "route", "relative error", "memory / state", "ms", "f", "JVP", "VJP"):
        words = name in ("function", "route")
        table.add_column(name, justify="left" if words else "right", no_wrap=words)
    for row in rows:
        vjps = str(row["vjps"]) if row["vjps"] >= 0 else "?"
        table.add_row(
            row["function"],
            row["route"],
            f"{row['error']:.1e}",
            f"{row['memory_states']:.0f}",
            f"{row['ms']:.1f}",
            str(row["evaluations"]),
            str(row["jvps"]),
            vjps,
        )
    console.print(table)


def main() -> None:
    """Measures all routes, prints the table, writes the record."""
    jax.config.update("jax_enable_x64", True)
    rows = []
    for function, routes in ROUTES.items():
        want = reference(function)
        for route in routes:
            rows.append({"function": function, "route": route, **measure(function, route, want)})
            console.print(f"{function} {route} done")
    show(rows)
    shape = {"batch": BATCH, "width": WIDTH, "spectral_radius_of_w": RADIUS}
    write_json(RESULT, {**environment(), "model": shape, "max_steps": STEPS, "rows": rows})


if __name__ == "__main__":
    main()
