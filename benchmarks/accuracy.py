"""How accurate answers and gradients are, and what they cost: `make accuracy`.

Gradients of each route, by tolerance, against central finite differences of SciPy's DOP853 at
1e-13; answers and NFE beside torchdiffeq's dopri5, where it is installed (the `compare` extra).
Prints two tables and writes results/accuracy.json.
"""

from pathlib import Path

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from rich.table import Table
from scipy.integrate import solve_ivp

import homoode_jax
from homoode_jax.experiments.console import console
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.workdir import write_json

ROUTES = ("checkpointed", "direct", "backsolve")
TOLERANCES = (1e-3, 1e-5, 1e-8, 1e-10)
RESULT = Path(__file__).parents[1] / "results" / "accuracy.json"


def field(params, t, z, x):
    """Returns a small smooth network with a condition and explicit time."""
    return jnp.tanh(z @ params["w"] + x + jnp.cos(t)) @ params["v"] - 0.5 * z


def problem():
    """Returns params, z0 and x of a batch of 4 in 5 dimensions, float64."""
    rng = np.random.default_rng(0)
    params = {name: jnp.array(rng.normal(size=(5, 5))) for name in ("w", "v")}
    return params, jnp.array(rng.normal(size=(4, 5))), jnp.array(rng.normal(size=(4, 5)))


def loss_of(z):
    """Returns the scalar whose gradient is measured."""
    return (z**2).mean()


def scipy_loss(params, z0, x):
    """Returns the loss by SciPy, sharing no code with ours but NumPy."""

    def rhs(t, z):
        z = z.reshape(z0.shape)
        dz = np.tanh(z @ params["w"] + x + np.cos(t)) @ params["v"] - 0.5 * z
        return dz.ravel()

    end = solve_ivp(rhs, (0, 1), z0.ravel(), method="DOP853", rtol=1e-13, atol=1e-13).y[:, -1]
    return float(loss_of(end))


def finite_differences(inputs, step=1e-5):
    """Central differences of `scipy_loss` in every entry of every input."""
    flat, unravel = jax.flatten_util.ravel_pytree(inputs)
    flat = np.array(flat)

    def at(i, change):
        moved = flat.copy()
        moved[i] += change
        return scipy_loss(*jax.tree.map(np.asarray, unravel(jnp.array(moved))))

    return np.array([(at(i, step) - at(i, -step)) / (2 * step) for i in range(len(flat))])


def gradient(inputs, route, tolerance, batching):
    """Our gradient, flat, and the NFE of both passes."""

    def loss(inputs, probe):
        solution = homoode_jax.integrate(
            field,
            *inputs,
            adjoint=route,
            rtol=tolerance,
            atol=tolerance,
            batching=batching,
            backward_probe=probe,
        )
        return loss_of(solution.z), solution.stats.nfe

    grads, nfe = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(inputs, 0.0)
    return jax.flatten_util.ravel_pytree(grads[0])[0], int(jnp.sum(nfe)), int(grads[1])


def measure_gradients():
    """Relative errors of all routes at all tolerances."""
    inputs = problem()
    reference = finite_differences(inputs)
    rows = []
    for batching in ("joint", "per_example"):
        for route in ROUTES:
            for tolerance in TOLERANCES:
                ours, forward, backward = gradient(inputs, route, tolerance, batching)
                error = float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))
                rows.append(
                    {
                        "batching": batching,
                        "route": route,
                        "tolerance": tolerance,
                        "relative_error": error,
                        "nfe_forward": forward,
                        "nfe_backward": backward,
                    }
                )
    return rows


def measure_torchdiffeq():
    """Answers and NFE beside torchdiffeq, with the same tolerances."""
    try:
        import torch  # pyright: ignore
        from torchdiffeq import odeint  # pyright: ignore
    except ImportError:
        return []
    params, z0, x = problem()
    w, v, c = (torch.tensor(np.asarray(a)) for a in (params["w"], params["v"], x))
    exact_at = {"z0 normal": z0, "z0 zero": jnp.zeros_like(z0)}
    rows = []
    for name, start in exact_at.items():
        for tolerance in (1e-3, 1e-6):
            calls = 0

            def rhs(t, z):
                nonlocal calls
                calls += 1
                return torch.tanh(z @ w + c + torch.cos(t)) @ v - 0.5 * z

            ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
            first = torch.tensor(np.asarray(start))
            theirs = odeint(rhs, first, ends, method="dopri5", rtol=tolerance, atol=tolerance)[-1]
            tight, ours = (
                homoode_jax.integrate(field, params, start, x, rtol=tol, atol=tol)
                for tol in (1e-12, tolerance)
            )
            rows.append(
                {
                    "problem": name,
                    "tolerance": tolerance,
                    "error": float(jnp.abs(ours.z - tight.z).max()),
                    "nfe": int(ours.stats.nfe),
                    "torchdiffeq_error": float(np.abs(np.asarray(theirs) - tight.z).max()),
                    "torchdiffeq_nfe": calls,
                }
            )
    return rows


def show(title, rows):
    """Prints rows as a table."""
    if not rows:
        console.print(f"{title}: not measured, torchdiffeq is not installed")
        return
    table = Table(title=title)
    for key in rows[0]:
        table.add_column(key.replace("_", " "))
    for row in rows:
        table.add_row(*(f"{v:.1e}" if isinstance(v, float) else str(v) for v in row.values()))
    console.print(table)


def main():
    """Measures, prints and records."""
    jax.config.update("jax_enable_x64", True)
    gradients = measure_gradients()
    answers = measure_torchdiffeq()
    show("Gradients against finite differences of SciPy's DOP853", gradients)
    show("Answers beside torchdiffeq's dopri5", answers)
    write_json(
        RESULT, {"environment": environment(), "gradients": gradients, "torchdiffeq": answers}
    )


if __name__ == "__main__":
    main()
