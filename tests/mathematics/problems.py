"""Problems, references and measures shared by the tests of the mathematics floor.

Compilation dominates these tests: what several of them need is jitted once (`functools.cache`)
with every number that varies traced.
"""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import homoode_jax


def smooth_field(params, t, z, x):
    """Nonlinear and not stiff, with a condition and with time."""
    rate = 1 + 0.5 * jnp.sin(3 * t + params["phase"])
    return jnp.tanh(z @ params["weight"] + x) * rate - 0.3 * z


def smooth_problem(batch=4):
    """Parameters, initial state and condition of `smooth_field`, in this order."""
    rng = np.random.default_rng(0)
    params = {"weight": rng.normal(size=(2, 2)), "phase": rng.normal(size=2)}
    z0, x = rng.normal(size=(2, 64, 2))[:, :batch]
    return params, z0, x


def smooth_weights(batch=4):
    """Weights of the final state in `smooth_loss`."""
    return np.random.default_rng(1).normal(size=(64, 2))[:batch]


def smooth_loss(inputs, weights, tol, probe=0.0, **options):
    """A loss of the final and, where `save_at` is given, of the saved states; and the solution."""
    solution = homoode_jax.integrate(
        smooth_field, *inputs, rtol=tol, atol=tol, backward_probe=probe, **options
    )
    loss = jnp.sum(weights * solution.z**2)
    if solution.zs is not None:
        loss = loss + jnp.sum(weights * jnp.sin(solution.zs))
    return loss, solution


MAX_STEPS = 64


@functools.cache
def _smooth_gradient(adjoint, batching):
    loss = functools.partial(smooth_loss, adjoint=adjoint, batching=batching, max_steps=MAX_STEPS)
    return jax.jit(jax.grad(loss, argnums=(0, 3), has_aux=True))


def smooth_gradient(adjoint, batching, inputs=None, weights=None, tol=1e-10, mask=None):
    """Gradients of the inputs, backward NFE, and the solution; compiled once a route."""
    inputs = smooth_problem() if inputs is None else inputs
    weights = smooth_weights() if weights is None else weights
    probe = np.zeros(len(weights) if batching == "per_example" else ())
    (gradients, vjps), solution = _smooth_gradient(adjoint, batching)(
        inputs, weights, np.float64(tol), probe, mask=mask
    )
    return gradients, vjps, solution


@functools.cache
def smooth_finite_differences(batch=4):
    """Central differences of the adaptive solve at a tolerance of 1e-10."""
    return finite_differences(
        lambda inputs: smooth_loss(inputs, smooth_weights(batch), 1e-10)[0], smooth_problem(batch)
    )


def finite_differences(loss, inputs, step=1e-3):
    """Central differences of fourth order with respect to every entry of every leaf."""
    flat, rebuild = ravel_pytree(inputs)
    offsets = step * np.eye(flat.size) * np.array([-2, -1, 1, 2])[:, None, None]
    points = np.reshape(flat + offsets, (-1, flat.size))
    losses = jax.jit(lambda points: jax.lax.map(lambda point: loss(rebuild(point)), points))
    far_below, below, above, far_above = np.reshape(losses(points), (4, -1))
    return rebuild(jnp.asarray((8 * (above - below) - (far_above - far_below)) / (12 * step)))


def relative_error(got, want):
    """Largest error of any leaf, relative to the largest entry of that leaf."""

    def error(a, b):
        a = np.asarray(a)
        b = np.asarray(b)
        return np.max(np.abs(a - b)) / np.max(np.abs(b))

    return max(jax.tree.leaves(jax.tree.map(error, got, want)))


def all_zero(tree):
    """True if every entry of every leaf is exactly zero (NaN is not)."""
    return all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(tree))


def recorded_steps(field, params, z0, x, tol, dt0):
    """The accepted steps of an adaptive solve, as Diffrax itself takes them."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, z, args: field(params, t, z, x)),
        diffrax.Dopri5(),
        0.0,
        1.0,
        dt0,
        jnp.asarray(z0),
        saveat=diffrax.SaveAt(t0=True, steps=True),
        stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol),
    )
    steps = np.asarray(solution.ts)
    return steps[np.isfinite(steps)]


def counted(field):
    """The field with host callbacks in its evaluation and in its backward rule.

    Returns the field and a function that reads off `(evaluations, vjps)` and starts anew.
    """
    counts = {"evaluations": 0, "vjps": 0}

    def tick(name, t):
        """Counts once, also for a batch of times; without t, `scan` moves it out of its loop."""

        def bump(t):
            counts[name] += 1

        @jax.custom_batching.custom_vmap
        def count(t):
            jax.debug.callback(bump, t)
            return t

        count.def_vmap(lambda size, batched, t: (count(t), True))
        count(t)

    @jax.custom_vjp
    def evaluate(params, t, z, x):
        tick("evaluations", t)
        return field(params, t, z, x)

    def forward(*args):
        return evaluate(*args), args

    def backward(args, cotangent):
        tick("vjps", args[1])
        return jax.vjp(field, *args)[1](cotangent)

    def read():
        jax.effects_barrier()
        got = counts["evaluations"], counts["vjps"]
        counts.update(evaluations=0, vjps=0)
        return got

    evaluate.defvjp(forward, backward)
    return evaluate, read
