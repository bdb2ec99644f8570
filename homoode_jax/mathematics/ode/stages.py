"""The stages of a step of an explicit Runge-Kutta method, in a scan.

    k_i = h f(t0 + c_i h, y_i),    y_i = y0 + sum_{j < i} a_ij k_j,    y = y0 + sum_j b_j k_j

The next state is made at the end of a stage, of the stages in their place. Made at its start, XLA
makes it anew for each use in f, and copies all stages beside the one that is written. Which stages
it is made of follows from a switch: a sum over all of them would read those that have no weight.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, PyTree

Rows = tuple[tuple[float, ...], ...]


class Stages(NamedTuple):
    """The stages of a step so far.

    Attributes:
        slopes: h f of each, and room for those to come.
        y: the state at which the next one is taken, or the step's answer after the last.
        of_ys: zeros, whose cotangents are those of the states: see `_extended`.
    """

    slopes: PyTree[Float[Array, "stages ..."]]
    y: PyTree[Array]
    of_ys: PyTree[Float[Array, "stages ..."]]


def run_stages(
    tableau: diffrax.ButcherTableau,
    count: int,
    terms,
    t0,
    t1,
    y0: PyTree[Array],
    args: PyTree,
    first: PyTree[Array] | None = None,
) -> tuple[PyTree[Array], PyTree[Float[Array, "stages ..."]], PyTree[Array] | None]:
    """Returns a step's answer from its first `count` stages, and those stages, h f each.

    `first` is f(t0, y0), where it is known; f at the last stage is then returned too.
    """
    control = terms.contr(t0, t1)
    rows = _rows(tableau, count)
    nodes = np.append(0, tableau.c)[:count].astype(jnp.result_type(t0))

    def stage(carry, at):
        i, node = at
        slope = terms.vf(t0 + node * (t1 - t0), carry[0].y, args)
        stages = _extend(rows, y0, carry[0], terms.prod(slope, control), i)
        return (stages, None if first is None else slope), None

    stages = _room(y0, count)
    begun = 0
    if first is not None:
        stages = _extend(rows, y0, stages, terms.prod(first, control), 0)
        begun = 1
    at = np.arange(begun, count), nodes[begun:]
    (stages, last), _ = lax.scan(stage, (stages, first), at)
    return stages.y, stages.slopes, last


def _rows(tableau: diffrax.ButcherTableau, count: int) -> Rows:
    """Row i: the weights of stages 0 ... i in the state after stage i; the last: in the answer."""
    rows = [*tableau.a_lower[: count - 1], tableau.b_sol[:count]]
    return tuple(tuple(float(weight) for weight in row) for row in rows)


def _room(y: PyTree[Array], count: int) -> Stages:
    """No stages yet."""
    nothing = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), y)
    return Stages(nothing, y, nothing)


def _put(one: PyTree[Array], into: PyTree[Array], i: ArrayLike) -> PyTree[Array]:
    return jax.tree.map(lambda a, all: lax.dynamic_update_index_in_dim(all, a, i, 0), one, into)


def combine(y: PyTree[Array], weights: ArrayLike, stages: PyTree[Array]) -> PyTree[Array]:
    """Returns y and the weighted sum of the stages."""

    def total(leaf: Array, slopes: Array) -> Array:
        real = jnp.finfo(leaf.dtype).dtype
        return leaf + _combined(jnp.asarray(weights, real), slopes)

    return jax.tree.map(total, y, stages)


def _extended(rows: Rows, y0: PyTree[Array], stages: Stages, slope: PyTree[Array], i) -> Stages:
    """One stage more, and the state that the next one is taken at.

    The cotangent of a slope is the weighted sum of those of the states after it. Autodiff would
    add up all slopes' cotangents at every stage; kept by state instead, as the cotangents of
    `of_ys`, they are read once for each stage.
    """
    slopes = _put(slope, stages.slopes, i)
    # Where slopes have a batch axis (`vmap`), so must these: cotangents are summed over one that
    # is not there.
    of_ys = jax.tree.map(lambda a, like: jnp.where(False, like, a), stages.of_ys, slopes)
    of_earlier = [_of_some(range(len(row)), row) for row in rows]
    return Stages(slopes, lax.switch(i, of_earlier, y0, slopes), of_ys)


def _of_some(places: Iterable[int], weights: Sequence[float]) -> Callable:
    """`combine` of a few of all stages; XLA reads no others."""
    some = [(i, w) for i, w in zip(places, weights, strict=True) if w]

    def total(y: PyTree[Array], stages: PyTree[Array]) -> PyTree[Array]:
        return jax.tree.map(lambda a, all: a + sum(w * all[i] for i, w in some), y, stages)

    return total


def _remembered(rows: Rows, y0, stages: Stages, slope, i) -> tuple[Stages, ArrayLike]:
    return _extended(rows, y0, stages, slope, i), i


def _pull_back_extended(rows: Rows, i: ArrayLike, cotangents: Stages) -> tuple:
    of_slopes, of_y, of_ys = cotangents
    of_ys = _put(of_y, of_ys, i)
    count = len(rows)
    own = jax.tree.map(lambda all: lax.dynamic_index_in_dim(all, i, 0, False), of_slopes)
    of_later = [_of_some(range(j, count), [row[j] for row in rows[j:]]) for j in range(count)]
    # Of `of_slopes` only those of earlier stages are read after this: its own need not be zeroed.
    return of_y, Stages(of_slopes, None, of_ys), lax.switch(i, of_later, own, of_ys), None


_extend = jax.custom_vjp(_extended, nondiff_argnums=(0,))
_extend.defvjp(_remembered, _pull_back_extended)


@jax.custom_vjp
def _combined(weights: Float[Array, " stages"], slopes: Array) -> Array:
    """The weighted sum; the gradient of all slopes is one product, not a sum of padded ones."""
    return sum((w * k for w, k in zip(weights, slopes, strict=True)), jnp.zeros((), slopes.dtype))


def _pull_back(weights: Array, cotangent: Array) -> tuple[None, Array]:
    return None, weights.reshape(-1, *(1,) * cotangent.ndim) * cotangent[None]


_combined.defvjp(lambda weights, slopes: (_combined(weights, slopes), weights), _pull_back)
