"""The stages of a step of an explicit Runge-Kutta method, in a scan.

A method has s stages, numbered from 0. Its tableau a, b, c is stored by what each stage leads to:
row i of `rows` has the weights w_ij, j <= i, of the state that is known after stage i. That is
a_(i+1)j, and b_j for the last stage. With Y_(-1) = y0 a step is then

    1.  k_i = h f(t0 + c_i h, Y_(i-1)),
    2.  Y_i = y0 + sum_(j <= i) w_ij k_j,        and its answer is Y_(s-1).

Step 2 comes at the end of stage i. At the start of stage i + 1, XLA would compute Y_i anew for
each use in f, and copy all slopes beside the one that is written. A switch over i picks the few
slopes that have a weight; a sum over all of them would read the others too.

The way back runs from stage s - 1 to stage 0. A bar marks the cotangent of a value, and g_j the
part of that of k_j that comes from outside the step (from its error and its interpolation):

    3.  bar y0      = sum_(i >= -1) bar Y_i,      since Y_(-1) is y0,
    4.  bar k_j     = g_j + sum_(i >= j) w_ij bar Y_i,
    5.  bar Y_(j-1) = the pullback of bar k_j through step 1.

Autodiff would add w_ij bar Y_i to every bar k_j with j <= i as soon as bar Y_i is known: it reads
and writes all slopes' cotangents at every stage. Here bar Y_i is stored in row i of an array
instead. When stage j is reached all rows i >= j are there, and the sum of 4 is taken once.

That array has to travel from stage to stage on the way back, where only cotangents travel. So the
forward pass carries `of_ys`, an array of zeros that nothing reads, and its cotangent is the array.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Inexact, PyTree

Rows = tuple[tuple[float, ...], ...]


class Stages(NamedTuple):
    """The stages of a step so far.

    Attributes:
        slopes: h f of each, and room for those to come.
        y: the state at which the next one is taken, or the step's answer after the last.
        of_ys: zeros, whose cotangent stores those of the states Y_i (see the module).
    """

    slopes: PyTree[Inexact[Array, "stages ..."]]
    y: PyTree[Array]
    of_ys: PyTree[Inexact[Array, "stages ..."]]


def run_stages(
    tableau: diffrax.ButcherTableau,
    count: int,
    terms,
    t0,
    t1,
    y0: PyTree[Array],
    args: PyTree,
    first: PyTree[Array] | None = None,
) -> tuple[PyTree[Array], PyTree[Inexact[Array, "stages ..."]], PyTree[Array] | None]:
    """Returns a step's answer from its first `count` stages, and those stages, h f each.

    `first` is f(t0, y0), where it is known; f at the last stage is then returned too.
    """
    control = terms.contr(t0, t1)
    rows = _rows(tableau, count)
    nodes = np.append(0, tableau.c)[:count].astype(jnp.result_type(t0))

    def stage(carry, at):
        i, node = at
        slope = _evaluate(terms, t0 + node * (t1 - t0), carry[0].y, args)
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


def _evaluate(*call: PyTree) -> PyTree[Array]:
    """Returns terms.vf(t, y, args) of (terms, t, y, args), whose pullback of zero is zero.

    A step that leaves the field's domain is refused, and its cotangents are zero. Autodiff would
    multiply them by the field's derivative there, and 0 NaN = NaN.
    """
    arrays, static = eqx.partition(call, eqx.is_array)
    return _evaluated(static, *eqx.partition(arrays, eqx.is_inexact_array))


def _called(static: PyTree, moving: PyTree[Array], fixed: PyTree[Array]) -> PyTree[Array]:
    terms, *at = eqx.combine(static, moving, fixed)
    return terms.vf(*at)


def _recorded(static: PyTree, moving: PyTree[Array], fixed: PyTree[Array]) -> tuple:
    return jax.vjp(lambda moving: _called(static, moving, fixed), moving)


def _pull_back_evaluated(static: PyTree, pull: Callable, cotangent: PyTree[Array]) -> tuple:
    del static
    moves = jnp.any(jnp.stack([jnp.any(leaf != 0) for leaf in jax.tree.leaves(cotangent)]))
    return jax.tree.map(lambda g: jnp.where(moves, g, 0), pull(cotangent)[0]), None


_evaluated = jax.custom_vjp(_called, nondiff_argnums=(0,))
_evaluated.defvjp(_recorded, _pull_back_evaluated)


def _rows(tableau: diffrax.ButcherTableau, count: int) -> Rows:
    """Returns the weights w_ij; row i has those of the state that is known after stage i."""
    rows = [*tableau.a_lower[: count - 1], tableau.b_sol[:count]]
    return tuple(tuple(float(weight) for weight in row) for row in rows)


def _room(y: PyTree[Array], count: int) -> Stages:
    """Returns room for `count` stages, none of which is taken yet."""
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
    """Adds stage i, and computes the state Y_i of step 2."""
    slopes = _put(slope, stages.slopes, i)
    # Under `vmap` the zeros need the batch axis of the slopes. JAX sums the cotangent of an input
    # without that axis over the batch, and the stored bar Y_i of all examples would be mixed.
    of_ys = jax.tree.map(lambda a, like: jnp.where(False, like, a), stages.of_ys, slopes)
    of_earlier = [_of_some(range(len(row)), row) for row in rows]
    return Stages(slopes, lax.switch(i, of_earlier, y0, slopes), of_ys)


def _of_some(places: Iterable[int], weights: Sequence[float]) -> Callable:
    """Returns `combine` for the stages at `places` alone, without those of weight 0."""
    some = [(i, w) for i, w in zip(places, weights, strict=True) if w]

    def total(y: PyTree[Array], stages: PyTree[Array]) -> PyTree[Array]:
        return jax.tree.map(lambda a, all: a + sum(w * all[i] for i, w in some), y, stages)

    return total


def _remembered(rows: Rows, y0, stages: Stages, slope, i) -> tuple[Stages, ArrayLike]:
    return _extended(rows, y0, stages, slope, i), i


def _pull_back_extended(rows: Rows, i: ArrayLike, cotangents: Stages) -> tuple:
    """Returns the cotangents of y0, the stages so far and the slope k_i."""
    of_slopes, of_y, of_ys = cotangents
    of_ys = _put(of_y, of_ys, i)  # bar Y_i joins those of the later states
    count = len(rows)
    # Step 4: column i of the weights, with g_i as what the sum is added to.
    own = jax.tree.map(lambda all: lax.dynamic_index_in_dim(all, i, 0, False), of_slopes)
    of_later = [_of_some(range(j, count), [row[j] for row in rows[j:]]) for j in range(count)]
    # Step 3 is the first entry: the scan sums it over the stages. Y_(i-1) is no argument of step 2,
    # hence None. `_put` overwrote slope i, whose cotangent should now be zero; but the stages that
    # follow on the way back read only those of their own, so it is left as it is.
    return of_y, Stages(of_slopes, None, of_ys), lax.switch(i, of_later, own, of_ys), None


_extend = jax.custom_vjp(_extended, nondiff_argnums=(0,))
_extend.defvjp(_remembered, _pull_back_extended)


@jax.custom_vjp
def _combined(weights: Float[Array, " stages"], slopes: Array) -> Array:
    """Returns the weighted sum of the slopes; its gradient is one product for all of them.

    Autodiff would make a padded array of all slopes for each term, and add these up.
    """
    return sum((w * k for w, k in zip(weights, slopes, strict=True)), jnp.zeros((), slopes.dtype))


def _pull_back(weights: Array, cotangent: Array) -> tuple[None, Array]:
    return None, weights.reshape(-1, *(1,) * cotangent.ndim) * cotangent[None]


_combined.defvjp(lambda weights, slopes: (_combined(weights, slopes), weights), _pull_back)
