"""The stages of a step of an explicit Runge-Kutta method, in a scan.

    k_i = h f(t0 + c_i h, y_i),    y_i = y0 + sum_{j < i} a_ij k_j,    y = y0 + sum_j b_j k_j

The next state is made at the end of a stage, of all stages in their place. Made at its start, XLA
makes it anew for each use in f, and copies all stages beside the one that is written.
"""

from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree


class Stages(NamedTuple):
    """The stages of a step so far.

    Attributes:
        slopes: h f of each, zeros for those to come.
        y: the state at which the next one is taken, or the step's answer after the last.
        of_ys: zeros, whose cotangents are those of the states: see `_extended`.
    """

    slopes: PyTree[Float[Array, "stages ..."]]
    y: PyTree[Array]
    of_ys: PyTree[Float[Array, "stages ..."]]


class Place(NamedTuple):
    """Which stage it is, all stages' weights in the state after it, and its own in all states."""

    i: ArrayLike
    row: Float[ArrayLike, " stages"]
    column: Float[ArrayLike, " stages"]


def run_stages(
    tableau: diffrax.ButcherTableau, count: int, terms, t0, t1, y0: PyTree[Array], args: PyTree,
    first: PyTree[Array] | None = None,
) -> tuple[PyTree[Array], PyTree[Float[Array, "stages ..."]], PyTree[Array] | None]:  # fmt: skip
    """Returns a step's answer from its first `count` stages, and those stages, h f each.

    `first` is f(t0, y0), where it is known; f at the last stage is then returned too.
    """
    control, rows = terms.contr(t0, t1), _rows(tableau, count)
    nodes = np.append(0, tableau.c)[:count].astype(jnp.result_type(t0))
    places = nodes, Place(np.arange(count), rows, rows.T)

    def stage(carry, at):
        node, place = at
        slope = terms.vf(t0 + node * (t1 - t0), carry[0].y, args)
        stages = _extend(y0, carry[0], terms.prod(slope, control), place)
        return (stages, None if first is None else slope), None

    stages = _room(y0, count)
    if first is not None:
        stages = _extend(y0, stages, terms.prod(first, control), Place(0, rows[0], rows.T[0]))
        places = jax.tree.map(lambda leaf: leaf[1:], places)
    (stages, last), _ = lax.scan(stage, (stages, first), places)
    return stages.y, stages.slopes, last


def _rows(tableau: diffrax.ButcherTableau, count: int) -> np.ndarray:
    """Row i: the weights of the stages in the state of stage i + 1; the last row: in the answer."""
    rows = np.zeros((count, count))
    rows[-1] = tableau.b_sol[:count]
    for row, weights in zip(rows, tableau.a_lower[: count - 1], strict=False):
        row[: len(weights)] = weights
    return rows


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


def _extended(y0: PyTree[Array], stages: Stages, slope: PyTree[Array], place: Place) -> Stages:
    """One stage more, and the state that the next one is taken at.

    The cotangent of a slope is the weighted sum of those of the states after it. Autodiff would
    add up all slopes' cotangents at every stage; kept by state instead, as the cotangents of
    `of_ys`, they are read once for each stage.
    """
    slopes = _put(slope, stages.slopes, place.i)
    # Where slopes have a batch axis (`vmap`), so must these: cotangents are summed over one that
    # is not there.
    of_ys = jax.tree.map(lambda a, like: jnp.where(False, like, a), stages.of_ys, slopes)
    return Stages(slopes, combine(y0, place.row, slopes), of_ys)


def _remembered(y0, stages: Stages, slope, place: Place) -> tuple[Stages, Place]:
    return _extended(y0, stages, slope, place), place


def _pull_back_extended(place: Place, cotangents: Stages) -> tuple:
    of_slopes, of_y, of_ys = cotangents
    of_ys = _put(of_y, of_ys, place.i)
    own = jax.tree.map(lambda all: lax.dynamic_index_in_dim(all, place.i, 0, False), of_slopes)
    # Of `of_slopes` only those of earlier stages are read after this: its own need not be zeroed.
    return of_y, Stages(of_slopes, None, of_ys), combine(own, place.column, of_ys), None


_extend = jax.custom_vjp(_extended)
_extend.defvjp(_remembered, _pull_back_extended)


@jax.custom_vjp
def _combined(weights: Float[Array, " stages"], slopes: Array) -> Array:
    """The weighted sum; the gradient of all slopes is one product, not a sum of padded ones."""
    return sum((w * k for w, k in zip(weights, slopes, strict=True)), jnp.zeros((), slopes.dtype))


def _pull_back(weights: Array, cotangent: Array) -> tuple[None, Array]:
    return None, weights.reshape(-1, *(1,) * cotangent.ndim) * cotangent


_combined.defvjp(lambda weights, slopes: (_combined(weights, slopes), weights), _pull_back)
