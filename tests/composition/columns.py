"""How they are composed: each column is a check of a subject against its plain call."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax

from tests.composition.subjects import HAS_NO_TIME, Z0, X

NEAR = {"rtol": 2e-3, "atol": 2e-4}


def loss(subject):
    return lambda params, z0, x: jnp.sum(jnp.sin(subject.solve(params, z0, x)))


def plain(subject, scale=1.0):
    return jax.jit(subject.solve)(scale * subject.params, Z0, X)


def gradient(subject):
    return jax.jit(jax.grad(loss(subject), argnums=(0, 2)))(subject.params, Z0, X)


def same(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **NEAR), got, want)


def jit(subject):
    same(jax.jit(subject.solve)(subject.params, Z0, X), subject.solve(subject.params, Z0, X))


def both(subject, argnums=(0, 2)):
    """The gradient of a loss of the states, and the states, of one solve."""

    def loss(params, z0, x):
        states = subject.solve(params, z0, x)
        return jnp.sum(jnp.sin(states)), states

    return jax.grad(loss, argnums, has_aux=True)


def one_by_one(subject, calls):
    """The gradients and states of some calls, stacked."""
    call = jax.jit(both(subject))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(call(*args) for args in calls))


def vmap_params(subject):
    """An ensemble, with the gradients of its members."""
    many = jnp.stack([subject.params, 0.5 * subject.params])
    got = jax.jit(jax.vmap(both(subject), in_axes=(0, None, None)))(many, Z0, X)
    same(got, one_by_one(subject, [(params, Z0, X) for params in many]))


def vmap_inputs(subject):
    """Each input by itself, with the gradients of its own loss."""
    z0, xs = jnp.stack([Z0, Z0]), jnp.stack([X, -X])
    got = jax.jit(jax.vmap(both(subject), in_axes=(None, 0, 0)))(subject.params, z0, xs)
    same(got, one_by_one(subject, [(subject.params, Z0, x) for x in xs]))


def vmap_time(subject):
    ends = jnp.array([0.5, 1.0])
    got = jax.jit(jax.vmap(subject.of_time, in_axes=(None, None, None, 0)))(
        subject.params, Z0, X, ends
    )
    want = [jax.jit(subject.of_time)(subject.params, Z0, X, end) for end in ends]
    same(got, jnp.stack(want))


def grad(subject):
    """Against central differences along one direction."""
    along = jnp.cos(jnp.arange(subject.params.size)).reshape(subject.params.shape)
    value = jax.jit(loss(subject))
    up, down = (value(subject.params + step * along, Z0, X) for step in (0.02, -0.02))
    slope = jnp.sum(gradient(subject)[0] * along)
    np.testing.assert_allclose(slope, (up - down) / 0.04, rtol=3e-2, atol=1e-2)


def _pushed(subject):
    """The tangent along `params`, by central differences."""
    up, down = (plain(subject, 1 + step) for step in (0.02, -0.02))
    return (up - down) / 0.04


def jvp(subject):
    call = lambda params: subject.solve(params, Z0, X)  # noqa: E731
    _, tangent = jax.jvp(call, (subject.params,), (subject.params,))
    np.testing.assert_allclose(tangent, _pushed(subject), rtol=3e-2, atol=3e-3)


def jacfwd(subject):
    jacobian = jax.jacfwd(lambda scale: subject.solve(scale * subject.params, Z0, X))(1.0)
    np.testing.assert_allclose(jacobian, _pushed(subject), rtol=3e-2, atol=3e-3)


def linearize(subject):
    _, push = jax.linearize(lambda params: subject.solve(params, Z0, X), subject.params)
    np.testing.assert_allclose(push(subject.params), _pushed(subject), rtol=3e-2, atol=3e-3)


def hessian(subject):
    value = lambda scale: loss(subject)(scale * subject.params, Z0, X)  # noqa: E731
    slope = jax.jit(jax.grad(value))
    want = (slope(1.05) - slope(0.95)) / 0.1
    np.testing.assert_allclose(jax.hessian(value)(1.0), want, rtol=5e-2, atol=1e-2)


def scan(subject):
    """Against two calls in a row of one compiled solve."""

    def after(solve, params, z0, x):
        return solve(params, z0, x)[:, : x.shape[1]]

    def twice(params, z0, x):
        step = lambda x, _: (after(subject.solve, params, z0, x), None)  # noqa: E731
        return jnp.sum(jnp.sin(lax.scan(step, x, length=2)[0]))

    def by_hand(params, z0, x):
        solve = jax.jit(subject.solve)
        return jnp.sum(jnp.sin(after(solve, params, z0, after(solve, params, z0, x))))

    args = subject.params, Z0, X
    same(jax.jit(jax.value_and_grad(twice))(*args), jax.value_and_grad(by_hand)(*args))


def checkpoint(subject):
    again = jax.checkpoint(loss(subject))
    same(jax.jit(jax.grad(again, argnums=(0, 2)))(subject.params, Z0, X), gradient(subject))


def export_round_trip(subject):
    call = jax.jit(subject.solve)
    args = subject.params, Z0, X
    exported = export.deserialize(export.export(call)(*map(jax.typeof, args)).serialize())
    same(exported.call(*args), call(*args))


def donated(subject):
    want = plain(subject)
    call = jax.jit(subject.solve, donate_argnums=1)
    same(call(subject.params, jnp.array(Z0), X), want)


@contextlib.contextmanager
def config(**values):
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def debug_nans(subject):
    with config(jax_debug_nans=True):
        subject.solve(subject.params, Z0, X)
        gradient(subject)


def rank_promotion(subject):
    with config(jax_numpy_rank_promotion="raise"):
        jax.jit(jax.grad(loss(subject))).lower(subject.params, Z0, X)


def dtype_promotion(subject):
    with config(jax_numpy_dtype_promotion="strict"):
        jax.jit(jax.grad(loss(subject))).lower(subject.params, Z0, X)


def tracer_leaks(subject):
    with jax.checking_leaks():
        jax.jit(jax.grad(loss(subject))).lower(subject.params, Z0, X)


def x64(subject):
    want = plain(subject)
    with jax.enable_x64(True):
        got = plain(subject)
        slope = gradient(subject)
    assert {leaf.dtype for leaf in jax.tree.leaves((got, slope))} == {np.dtype("float32")}
    same(got, want)


COLUMNS = {
    "jit": jit,
    "vmap, parameters": vmap_params,
    "vmap, inputs": vmap_inputs,
    "vmap, t1": vmap_time,
    "grad": grad,
    "jvp": jvp,
    "jacfwd": jacfwd,
    "linearize": linearize,
    "hessian": hessian,
    "scan": scan,
    "checkpoint": checkpoint,
    "export": export_round_trip,
    "donated": donated,
    "debug_nans": debug_nans,
    "rank promotion": rank_promotion,
    "dtype promotion": dtype_promotion,
    "tracer leaks": tracer_leaks,
    "x64": x64,
}
OF_DEVICES = ("shard_map", "sharded inputs")


def refusal(subject, column):
    """Returns what a subject's error says that it does in place of a column, or None."""
    if column == "vmap, t1" and subject.of_time is None:
        return HAS_NO_TIME
    return subject.refuses.get(column)
