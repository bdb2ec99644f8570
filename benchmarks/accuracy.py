"""How accurate gradients are, and what they cost: `make accuracy`.

Gradients of each route, by tolerance, against central finite differences of SciPy's DOP853 at
1e-13. Prints a table and writes results/accuracy.json.
"""

import itertools
import sys

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

import homoode_jax
from benchmarks.shared import RESULTS, run_main, show, write_record

CODE = ("benchmarks/accuracy.py", "homoode_jax/mathematics/common", "homoode_jax/mathematics/ode")
BATCHINGS = ("joint", "per_example")
ROUTES = ("checkpointed", "direct", "backsolve")
COLUMNS = {"error": "{relative_error:.1e}", "NFE": "{nfe_forward}", "back": "{nfe_backward}"}
TOLERANCES = (1e-3, 1e-5, 1e-8, 1e-10)


def field(params, t, z, x, np=jnp):
    """Returns a small smooth network with a condition and explicit time, by JAX or by NumPy."""
    return np.tanh(z @ params["w"] + x + np.cos(t)) @ params["v"] - 0.5 * z


def problem():
    """Returns params, z0 and x of a batch of 4 in 5 dimensions, float64."""
    rng = np.random.default_rng(0)
    params = {name: jnp.array(rng.normal(size=(5, 5))) for name in ("w", "v")}
    return params, *(jnp.array(rng.normal(size=(4, 5))) for _ in range(2))


def scipy_loss(params, z0, x):
    """Returns the loss, the mean square of z(1), by SciPy."""

    def rhs(t, z):
        return field(params, t, z.reshape(z0.shape), x, np).ravel()

    end = solve_ivp(rhs, (0, 1), z0.ravel(), method="DOP853", rtol=1e-13, atol=1e-13).y[:, -1]
    return float(np.mean(end**2))


def finite_differences(inputs, step=1e-5):
    """Returns central differences of `scipy_loss` in every entry of every input."""
    flat, unravel = jax.flatten_util.ravel_pytree(inputs)
    flat = np.array(flat)

    def at(i, change):
        moved = flat.copy()
        moved[i] += change
        return scipy_loss(*jax.tree.map(np.asarray, unravel(jnp.array(moved))))

    return np.array([(at(i, step) - at(i, -step)) / (2 * step) for i in range(len(flat))])


def gradient(inputs, route, tolerance, batching):
    """Returns our gradient, flat, and the NFE of both passes."""

    def loss(inputs, probe):
        options = {"adjoint": route, "batching": batching, "backward_probe": probe}
        tolerances = {"rtol": tolerance, "atol": tolerance}
        solution = homoode_jax.integrate(field, *inputs, **tolerances, **options)
        return jnp.mean(solution.z**2), solution.stats.nfe

    grads, nfe = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(inputs, 0.0)
    return jax.flatten_util.ravel_pytree(grads[0])[0], int(jnp.sum(nfe)), int(grads[1])


def measure():
    """Returns relative errors and costs of all routes at all tolerances."""
    inputs = problem()
    reference = finite_differences(inputs)
    rows = []
    for batching, route, tolerance in itertools.product(BATCHINGS, ROUTES, TOLERANCES):
        ours, forward, backward = gradient(inputs, route, tolerance, batching)
        error = float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))
        row = {"batching": batching, "route": route, "tolerance": tolerance}
        row |= {"relative_error": error, "nfe_forward": forward, "nfe_backward": backward}
        rows.append(row)
    return rows


def main() -> None:
    """Measures, prints and records."""
    rows = measure()
    named = {f"{row['batching']}, {row['route']}, {row['tolerance']:g}": row for row in rows}
    show("gradients against finite differences of SciPy's DOP853", named, COLUMNS)
    write_record(RESULTS / "accuracy.json", CODE, gradients=rows)


if __name__ == "__main__":
    sys.exit(run_main(main, x64=True))
