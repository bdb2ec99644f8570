"""Each route's gradient beside the cost of its field evaluations, in one process.

    floor = NFE forward x (time of F) + NFE backward x (time of one vjp of F, F included)

What is above it is the solver's own: stages, error norms, loops, checkpoints. F and vjp are timed
in loops of ten, as a solve has them, each on what the one before gave. Beside it each gradient's
relative error, against backpropagation at a tolerance of 1e-6.
"""

import functools
import statistics

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import PyTree

from benchmarks.shared import milliseconds
from benchmarks.speed.setting import Setting, draw_images
from homoode_jax.experiments.model import make_adjoint, make_classifier
from homoode_jax.mathematics.ode.integrate import integrate
from homoode_jax.networks.classifier import as_field
from homoode_jax.networks.field import Condition

TITLE = "overhead of the solver over its evaluations"
COLUMNS = {
    "ms": "{ms:.0f}",
    "floor ms": "{floor_ms:.0f}",
    "ratio": "{overhead:.2f}",
    "range": "{overhead_range[0]:.2f} to {overhead_range[1]:.2f}",
    "NFE": "{nfe_forward} + {nfe_backward}",
    "error": "{error_params:.1e}",
}
REPEATS = 9
LOOP = 10
ROUTES = ("direct", "checkpointed", "backsolve", "reversible")


def problem():
    """Returns the field of the reference network in training, its parameters, z0 and condition."""
    setting = Setting()
    classifier = make_classifier(setting.config)
    weights = jax.jit(classifier.init)(jax.random.key(0))
    features = jax.jit(classifier)(weights, draw_images(setting).normalised).features
    z0 = jnp.broadcast_to(classifier.initial_point(weights.initial_point, features), features.shape)
    function, params = classifier.function(weights)
    return as_field(lambda p, z, x: function(p, z, Condition(x, None))), params, z0, features


def measure() -> dict:
    """Returns milliseconds and evaluations by route, interleaved with those of F and its vjp."""
    field, params, z0, x = problem()
    derive = functools.partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    runs = {
        "field": functools.partial(jax.jit(_fields, static_argnums=0), field, params, z0, x),
        "vjp": functools.partial(jax.jit(_vjps, static_argnums=0), field, params, z0, x),
    }
    for route in ROUTES:
        gradient = jax.jit(derive(functools.partial(_loss, field, route)))
        runs[route] = functools.partial(gradient, params, x, 0.0, z0)
    told = {name: jax.block_until_ready(run()) for name, run in runs.items()}
    fine = jax.jit(derive(functools.partial(_loss, field, "checkpointed", tol=1e-6)))
    exact = fine(params, x, 0.0, z0)[0][0]
    rounds = [{name: milliseconds(run) for name, run in runs.items()} for _ in range(REPEATS)]
    return {route: _row(told[route], exact, rounds, route) for route in ROUTES}


def _row(told: tuple, exact: PyTree, rounds: list[dict[str, float]], route: str) -> dict:
    """Returns one route, each of its times beside the floor of the same round."""
    (gradient, _, backward), solution = told
    forward = int(solution.stats.nfe)
    backward = int(backward)
    floors = [(forward * ms["field"] + backward * ms["vjp"]) / LOOP for ms in rounds]
    ratios = [ms[route] / floor for ms, floor in zip(rounds, floors, strict=True)]
    return {
        "ms": statistics.median(ms[route] for ms in rounds),
        "floor_ms": statistics.median(floors),
        "overhead": statistics.median(ratios),
        "overhead_range": [min(ratios), max(ratios)],
        "nfe_forward": forward,
        "nfe_backward": backward,
        "error_params": _apart(gradient, exact),
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
    options = {"adjoint": make_adjoint(solver), "max_steps": solver.max_steps}
    options |= {"rtol": tol, "atol": tol, "backward_probe": probe}
    solution = integrate(field, params, z0, x, **options)
    return jnp.sum(jnp.square(solution.z)), solution


def _apart(gradient, exact) -> float:
    """Returns the norm of the difference over that of the second."""
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, gradient, exact))
    return float(difference / optax.tree.norm(exact))
