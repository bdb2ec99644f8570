"""The gradient matrix: every route x every function on one model: `make gradients`.

One cell f(z; x) = tanh(z W + x), contractive, float32. `equilibrium` and `continuation` find
z = f(z); `integrate` follows dz/dt = f(z) - z from t = 0 to 1. Gradients of the same loss by W, x
(and z0, where it has one) are held against float64: the implicit gradient at an equilibrium
found to 1e-13, and backpropagation through DOP853 steps at 1e-13.

"integrate, long" is 500 steps of Heun's method from t = 0 to 50 along a field that turns and does
not contract, held against float64 backpropagation through the same steps: there memory, and whether
a gradient is that of the steps that were taken, tell the routes apart.
"""

import functools
import statistics
import sys

import jax
import jax.numpy as jnp
import numpy as np
from diffrax import RecursiveCheckpointAdjoint

import homoode_jax
from benchmarks.shared import RESULTS, milliseconds, program_bytes, run_main, show, write_record
from homoode_jax.experiments.console import say

CODE = ("benchmarks/gradients.py", "homoode_jax/mathematics")
COLUMNS = {
    "relative error": "{error:.1e}",
    "memory / state": "{memory_states:,.0f}",
    "ms": "{ms:,.1f}",
    "f": "{evaluations}",
    "JVP": "{jvps}",
    "VJP": "{vjps}",  # -1: not counted
}
BATCH = 32
WIDTH = 256  # a quarter of it in long solves
RADIUS = 0.9
LONG = "integrate, long"
STEPS = 500
REVERSIBLE = homoode_jax.Reversible("heun", 1 - 1 / STEPS)
OPTIONS = {
    "equilibrium": {"tol": 1e-5, "max_steps": 50},
    "continuation": {"rtol": 1e-5, "max_steps": 20},
    "integrate": {"max_steps": 64},
    LONG: {"t1": 50.0, "controller": "constant", "dt0": 50 / STEPS, "max_steps": STEPS + 1},
}
CELLS = {r: {"adjoint": r} for r in ("implicit", "jacobian_free", "phantom", "unrolled")}
ODES = {r: {"adjoint": r} for r in ("direct", "checkpointed", "backsolve", "reversible")}
ROUTES = {
    "equilibrium": CELLS,
    "continuation": CELLS,
    "integrate": ODES,
    LONG: {
        "checkpointed": {"solver": "heun", "adjoint": "checkpointed"},
        "checkpointed, 5 states": {"solver": "heun", "adjoint": RecursiveCheckpointAdjoint(5)},
        "backsolve": {"solver": "heun", "adjoint": "backsolve"},
        "reversible": {"solver": REVERSIBLE, "adjoint": "reversible"},
    },
}


def cell(params, z, x):
    """Returns the explicit cell."""
    return jnp.tanh(z @ params["w"] + x)


def field(params, t, z, x):
    """Relaxes towards the cell's fixed point, or only turns where it does not decay."""
    del t
    return cell(params, z, x) - params["decay"] * z


def problem(dtype, function):
    """Returns parameters, z0, x and the loss's weights."""
    rng = np.random.default_rng(0)
    turns = function == LONG
    width = WIDTH // 4 if turns else WIDTH
    w = rng.normal(size=(width, width))
    w = w - w.T if turns else w
    params = {"w": w * RADIUS / max(abs(np.linalg.eigvals(w))), "decay": 1 - turns}
    x, weights = rng.normal(size=(2, BATCH, width))
    inputs = (params, np.zeros((BATCH, width)), x, weights)
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), inputs)


def loss(inputs, weights, probe, function, **options):
    """Returns a weighted sum of squares of the state, and the solution."""
    solve = getattr(homoode_jax, function.split(",")[0])
    model = field if solve is homoode_jax.integrate else cell
    solution = solve(model, *inputs, backward_probe=probe, **options)
    return jnp.sum(weights * solution.z**2), solution


def compiled(function, dtype, **options):
    """Returns the gradient by inputs and probe as a function of nothing, and its program."""
    *inputs, weights = problem(dtype, function)
    call = functools.partial(loss, function=function, **options)
    gradient = jax.jit(jax.grad(call, argnums=(0, 2), has_aux=True))
    arguments = (tuple(inputs), weights, jnp.zeros((), dtype))
    program = gradient.lower(*arguments).compile()
    return functools.partial(program, *arguments), program


@functools.cache
def reference(function, route=""):
    """Returns the float64 gradient that a function, or one of its routes, is held against."""
    exact = homoode_jax.Implicit(tol=1e-13)
    tight = {
        "equilibrium": {"tol": 1e-13, "solver": "newton", "adjoint": exact},
        "continuation": {"rtol": 1e-13, "atol": 0.0, "adjoint": exact},
        "integrate": {"rtol": 1e-13, "atol": 1e-13, "solver": "dopri8", "max_steps": 512},
        LONG: {**OPTIONS[LONG], "solver": ROUTES[LONG].get(route, {}).get("solver", "heun")},
    }
    with jax.enable_x64(True):
        run, _ = compiled(function, jnp.float64, **tight[function])
        return jax.device_get(run()[0][0])


def error(got, want, function) -> float:
    """Returns the largest relative error by W and x (and z0 where the loss depends on it)."""
    leaves = [(got[0]["w"], want[0]["w"]), (got[2], want[2])]
    if function.startswith("integrate"):
        leaves.append((got[1], want[1]))
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in leaves)


def measure(function, route) -> dict:
    """Returns error, memory, time and cost of one route."""
    run, program = compiled(function, jnp.float32, **OPTIONS[function], **ROUTES[function][route])
    (gradients, backward), solution = jax.block_until_ready(run())
    stats = solution.stats
    want = reference(function, route if function == LONG else "")
    repeats = 5 if function == LONG else 15
    return {
        "function": function,
        "route": route,
        "error": error(gradients, want, function),
        "success": bool(solution.success),
        "memory_states": program_bytes(program) / solution.z.nbytes,
        "ms": statistics.median(milliseconds(run) for _ in range(repeats)),
        "evaluations": int(stats.nfe),
        "jvps": int(stats.num_jvp or 0),
        "vjps": int(backward),
    }


def main() -> None:
    """Measures all routes, prints the table, writes the record."""
    rows = {}
    for function, routes in ROUTES.items():
        for route in routes:
            rows[f"{function}, {route}"] = measure(function, route)
            say(f"{function}, {route}: done")
    show("gradients on one cell, float32", rows, COLUMNS)
    model = {"batch": BATCH, "width": WIDTH, "spectral_radius_of_w": RADIUS, "long": STEPS}
    write_record(RESULTS / "gradients.json", CODE, model=model, rows=list(rows.values()))


if __name__ == "__main__":
    sys.exit(run_main(main))
