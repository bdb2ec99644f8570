"""A scan whose length is known only when it runs, with reverse-mode gradients of every order.

    carry, y_i, term_i = body(consts, carry, xs_i),    i = start ... stop - 1, or backwards

`lax.scan` runs over all of its xs, and `lax.fori_loop` has no gradient in reverse mode where its
bounds are traced. The gradient of this one is another of its kind, run the other way over the
carries that it met; terms are only added up, and so need not be kept for it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import PyTree

from homoode_jax.mathematics.common.trees import cast_like, wide_zeros


class Swept(NamedTuple):
    """What a scan gives: the last carry, ys (zero where the body was not run), sum of the terms."""

    carry: Any
    ys: Any
    total: Any


Body = Callable[[PyTree, PyTree, PyTree], Swept]


def scan(
    body: Body,
    consts: PyTree,
    carry: PyTree,
    xs: PyTree,
    start: ArrayLike,
    stop: ArrayLike,
    reverse: bool = False,
) -> Swept:
    """Runs the body, which gives its carry, y and term as a `Swept`; totals are float32 or better.

    It closes over no traced arrays. Carries, ys and terms are float or complex arrays.
    """
    return _scan((consts, carry, xs), body, (start, stop), reverse)


@eqx.filter_custom_vjp
def _scan(inputs: PyTree, body: Body, bounds: tuple, reverse: bool) -> Swept:
    consts, carry, xs = inputs
    start, stop = bounds
    room = len(jax.tree.leaves(xs)[0])

    def at(i):
        return jax.tree.map(lambda leaf: leaf[i], xs)

    def step(i, state: Swept) -> Swept:
        i = start + stop - 1 - i if reverse else i
        carry, y, term = body(consts, state.carry, at(i))
        ys = jax.tree.map(lambda all, one: all.at[i].set(one), state.ys, y)
        total = jax.tree.map(lambda a, b: a + b.astype(a.dtype), state.total, term)
        return Swept(carry, ys, total)

    _, y, term = jax.eval_shape(lambda: body(consts, carry, at(0)))
    ys = jax.tree.map(lambda y: jnp.zeros((room, *y.shape), y.dtype), y)
    return lax.fori_loop(start, stop, step, Swept(carry, ys, wide_zeros(term)))


@_scan.def_fwd
def _forward(perturbed, inputs: PyTree, body: Body, bounds: tuple, reverse: bool):
    del perturbed
    # Itself again, so that carries have gradients too.
    carry, (ys, carries), total = _scan(inputs, partial(_recording, body), bounds, reverse)
    out = Swept(carry, ys, total)
    return out, (out, carries)


@_scan.def_bwd
def _backward(residuals, cotangents, perturbed, inputs, body: Body, bounds: tuple, reverse: bool):
    del perturbed
    (consts, _, xs), (out, carries) = inputs, residuals
    of_carry, of_ys, of_total = _filled(cotangents, out)
    g_carry, g_xs, g_consts = _scan(
        ((consts, of_total), of_carry, (carries, xs, of_ys)),
        partial(_pulling, body),
        bounds,
        not reverse,
    )
    return cast_like(g_consts, eqx.filter(consts, eqx.is_inexact_array)), g_carry, g_xs


def _recording(body: Body, consts, carry, x) -> Swept:
    """Returns the body, with the carry that it met beside its y."""
    after, y, term = body(consts, carry, x)
    return Swept(after, (y, carry), term)


def _pulling(body: Body, consts, of_carry, x) -> Swept:
    """One pass of the body pulled back."""
    (consts, of_total), (carry, x, of_y) = consts, x
    out, pull = eqx.filter_vjp(body, consts, carry, x)
    g_consts, g_carry, g_x = pull(Swept(of_carry, of_y, cast_like(of_total, out.total)))
    return Swept(g_carry, g_x, g_consts)


def _filled(cotangents: PyTree, like: PyTree) -> PyTree:
    """Zeros where None stands for the cotangent of an array."""

    def fill(leaf, ct):
        return jnp.zeros_like(leaf) if ct is None and leaf is not None else ct

    return jax.tree.map(fill, like, cotangents, is_leaf=lambda leaf: leaf is None)
