"""Each route's gradient beside the cost of its field evaluations, in one process.

    floor = NFE forward x (time of F) + NFE backward x (time of one vjp of F, F included)

What is above it is the solver's own: stages, error norms, loops, checkpoints. All routes evaluate
again on the way back; that is in their vjps. F and vjp are timed in loops of ten, as a solve has
them, each on what the one before gave. Beside it each gradient's relative error, against
backpropagation at a tolerance of 1e-6.
"""

import functools
import statistics
import time

import jax
import jax.numpy as jnp
import optax
from jax import lax
from rich.table import Table

from benchmarks.speed.setting import Setting, draw_images
from homoode_jax.experiments.console import console
from homoode_jax.experiments.model import make_adjoint, make_classifier
from homoode_jax.mathematics.ode.integrate import integrate
from homoode_jax.networks.classifier import as_field
from homoode_jax.networks.field import Condition

REPEATS = 9
LOOP = 10
ROUTES = ("direct", "checkpointed", "backsolve", "reversible")


def problem():
    """The reference network's field as training has it, its parameters, z0 and condition."""
    setting = Setting()
    classifier = make_classifier(setting.config)
    weights = jax.jit(classifier.init)(jax.random.key(0))
    features = jax.jit(classifier)(weights, draw_images(setting).normalised).features
    z0 = jnp.broadcast_to(classifier.initial_point(weights.initial_point, features), features.shape)
    function, params = classifier.function(weights)
    return as_field(lambda p, z, x: function(p, z, Condition(x, None))), params, z0, features


def measure() -> dict:
    """Milliseconds and evaluations by route, interleaved with those of F and its vjp."""
    field, params, z0, x = problem()
    runs = {"field": functools.partial(jax.jit(_fields, static_argnums=0), field, params, z0, x)}
    runs["vjp"] = functools.partial(jax.jit(_vjps, static_argnums=0), field, params, z0, x)
    for route in ROUTES:
        gradient = jax.jit(
            jax.grad(functools.partial(_loss, field, route), (0, 1, 2), has_aux=True)
        )
        runs[route] = functools.partial(gradient, params, x, 0.0, z0)
    told = {name: jax.block_until_ready(run()) for name, run in runs.items()}
    fine = functools.partial(_loss, field, "checkpointed", tol=1e-6)
    exact, _ = jax.block_until_ready(
        jax.jit(jax.grad(fine, (0, 1), has_aux=True))(params, x, 0.0, z0)
    )
    times = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, run in runs.items():
            times[name].append(_milliseconds(run))
    for name in ("field", "vjp"):
        times[name] = [each / LOOP for each in times[name]]
    rows: dict = {f"{name}_ms": statistics.median(times[name]) for name in ("field", "vjp")}
    return rows | {route: _row(told[route], exact, times, route) for route in ROUTES}


def _row(told: tuple, exact: tuple, times: dict[str, list[float]], route: str) -> dict:
    """One route, each of its times beside the floor of the same round."""
    (g_params, g_x, backward), solution = told
    forward = int(solution.stats.nfe)
    backward = int(backward)
    rounds = zip(times[route], times["field"], times["vjp"], strict=True)
    floors = [forward * f + backward * v for _, f, v in rounds]
    ratios = [ms / floor for ms, floor in zip(times[route], floors, strict=True)]
    return {
        "ms": statistics.median(times[route]),
        "floor_ms": statistics.median(floors),
        "overhead": statistics.median(ratios),
        "overhead_range": [min(ratios), max(ratios)],
        "nfe_forward": forward,
        "nfe_backward": backward,
        "error_params": _apart(g_params, exact[0]),
        "error_x": _apart(g_x, exact[1]),
    }


def _fields(field, params, z, x):
    return lax.fori_loop(0, LOOP, lambda _, z: z + 0.1 * field(params, 0.0, z, x), z)


def _vjps(field, params, z, x):
    """Accumulates gradients as a backward pass does."""

    def body(_, state):
        z, a, *sums = state
        _, pull = jax.vjp(lambda *args: field(args[0], 0.0, *args[1:]), params, z, x)
        g_params, da, g_x = pull(a)
        return z + 0.1 * da, a + 0.1 * da, *jax.tree.map(jnp.add, sums, [g_params, g_x])

    zeros = jax.tree.map(jnp.zeros_like, (params, x))
    return lax.fori_loop(0, LOOP, body, (z, z, *zeros))


def _loss(field, route, params, x, probe, z0, tol=1e-3):
    solver = Setting(adjoint=route).config.solver
    solution = integrate(
        field,
        params,
        z0,
        x,
        adjoint=make_adjoint(solver),
        rtol=tol,
        atol=tol,
        max_steps=solver.max_steps,
        backward_probe=probe,
    )
    return jnp.sum(jnp.square(solution.z)), solution


def _apart(gradient, exact) -> float:
    """Norm of the difference over that of the second."""
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, gradient, exact))
    return float(difference / optax.tree.norm(exact))


def _milliseconds(run) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run())
    return 1e3 * (time.perf_counter() - began)


def show(rows: dict) -> None:
    """Prints the table of overheads."""
    title = f"overhead of the solver; F {rows['field_ms']:.1f} ms, vjp {rows['vjp_ms']:.1f} ms"
    table = Table(title=title)
    columns = "route", "ms", "floor ms", "ratio", "range", "NFE forward", "backward", "error"
    for name in columns:
        table.add_column(name, justify="left" if name == "route" else "right")
    for route in ROUTES:
        row = rows[route]
        ms = (f"{row[name]:.0f}" for name in ("ms", "floor_ms"))
        spread = "{:.2f} to {:.2f}".format(*row["overhead_range"])
        nfe = (str(row[name]) for name in ("nfe_forward", "nfe_backward"))
        error = f"{row['error_params']:.1e}"
        table.add_row(route, *ms, f"{row['overhead']:.2f}", spread, *nfe, error)
    console.print(table)


if __name__ == "__main__":
    show(measure())
