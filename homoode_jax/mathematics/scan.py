"""A scan whose length is known only when it runs, with reverse-mode gradients of every order.

    carry, y_i = body(consts, carry, xs_i),    i = start ... stop - 1, or backwards

`lax.scan` runs over all of its xs, and `lax.fori_loop` has no gradient in reverse mode where its
bounds are traced. The gradient of this one is another of its kind, run the other way over the
carries that it met.
"""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import PyTree

Body = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


def scan(
    body: Body, consts: PyTree, carry: PyTree, xs: PyTree, start: ArrayLike, stop: ArrayLike,
    reverse: bool = False,
) -> tuple[PyTree, PyTree]:  # fmt: skip
    """Returns the last carry, and ys as long as xs: zero where the body was not run.

    `body` closes over no traced arrays; carries and ys are float or complex arrays.
    """
    return _scan((consts, carry, xs), body, (start, stop), reverse)


@eqx.filter_custom_vjp
def _scan(inputs: PyTree, body: Body, bounds: tuple, reverse: bool) -> tuple[PyTree, PyTree]:
    consts, carry, xs = inputs
    start, stop = bounds
    room = len(jax.tree.leaves(xs)[0])

    def at(i):
        return jax.tree.map(lambda leaf: leaf[i], xs)

    def step(i, state):
        i = start + stop - 1 - i if reverse else i
        carry, y = body(consts, state[0], at(i))
        return carry, jax.tree.map(lambda all, one: all.at[i].set(one), state[1], y)

    like = jax.eval_shape(lambda: body(consts, carry, at(0))[1])
    ys = jax.tree.map(lambda y: jnp.zeros((room, *y.shape), y.dtype), like)
    return lax.fori_loop(start, stop, step, (carry, ys))


@_scan.def_fwd
def _forward(perturbed, inputs: PyTree, body: Body, bounds: tuple, reverse: bool):
    del perturbed
    # Itself again, so that carries have gradients too.
    last, (ys, carries) = _scan(inputs, partial(_recording, body), bounds, reverse)
    return (last, ys), (ys, carries)


@_scan.def_bwd
def _backward(residuals, cotangents, perturbed, inputs, body: Body, bounds: tuple, reverse: bool):
    del perturbed
    (consts, carry, xs), (ys, carries) = inputs, residuals
    last, of_ys = cotangents
    begun = _filled(last, carry), _zeros(consts)
    (g_carry, g_consts), g_xs = _scan(
        (consts, begun, (carries, xs, _filled(of_ys, ys))),
        partial(_pulling, body), bounds, not reverse,
    )  # fmt: skip
    return g_consts, g_carry, g_xs


def _recording(body: Body, consts, carry, x):
    """The body, with the carry that it met beside its y."""
    after, y = body(consts, carry, x)
    return after, (y, carry)


def _pulling(body: Body, consts, cotangents, x):
    """One pass of the body pulled back."""
    (after, sums), (carry, x, of_y) = cotangents, x
    _, pull = eqx.filter_vjp(body, consts, carry, x)
    g_consts, before, g_x = pull((after, of_y))
    return (before, jax.tree.map(jnp.add, sums, g_consts)), g_x


def _zeros(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.zeros_like, eqx.filter(tree, eqx.is_inexact_array))


def _filled(cotangents: PyTree, like: PyTree) -> PyTree:
    """Zeros where None stands for the cotangent of an array."""

    def fill(leaf, ct):
        return jnp.zeros_like(leaf) if ct is None and leaf is not None else ct

    return jax.tree.map(fill, like, cotangents, is_leaf=lambda leaf: leaf is None)
