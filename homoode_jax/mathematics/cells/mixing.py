"""Anderson mixing: the next iterate towards z = f(z), by the last ones.

    z' = z + beta r - (dZ + beta dR) g,     g = argmin |r - dR g|,     r = f(z) - z

dZ and dR hold the last differences of z and r (Anderson 1965; Walker & Ni 2011). The norm of the
least-squares problem is Euclidean; singular directions of dR are damped.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from homoode_jax.mathematics.cells.vectors import Vector, dot, weighted_sum
from homoode_jax.mathematics.common.trees import all_finite

SHIFT = 4  # times the rounding of the diagonal


class History(NamedTuple):
    """The last differences, oldest overwritten first.

    Attributes:
        dr: of residuals.
        dg: of z + beta r.
        gram: inner products of the rows of dr.
        turn: differences seen.
    """

    dr: Float[Array, "memory n"]
    dg: Float[Array, "memory n"]
    gram: Float[Array, "memory memory"]
    turn: Int[Array, ""]


def empty_history(like: Vector, memory: int) -> History:
    """Returns a history without differences, and room for `memory` of them."""
    zeros = jnp.zeros((memory, like.size), like.dtype)
    gram = jnp.zeros((memory, memory), like.dtype)
    return History(dr=zeros, dg=zeros, gram=gram, turn=jnp.zeros((), jnp.int32))


def mix(history: History, z: Vector, f: Vector, damping: Float[Array, ""]) -> Vector:
    """Returns the iterate after z."""
    r = f - z
    weights = _least_squares(history.gram, dot(history.dr, r))
    return z + damping * r - weighted_sum(weights, history.dg)


def remember(
    history: History,
    z: Vector,
    f: Vector,
    z_new: Vector,
    f_new: Vector,
    damping: Float[Array, ""],
) -> History:
    """Adds the difference of two iterates, if its inner products are finite.

    Of the Gram matrix only the new row is computed: all of it would cost several evaluations.
    """
    dr = f_new - z_new - (f - z)
    dg = z_new - z + damping * dr
    row = history.turn % len(history.dr)
    products = dot(history.dr, dr).at[row].set(dot(dr, dr))
    kept = all_finite(products)
    gram = history.gram.at[row].set(products).at[:, row].set(products)
    return History(
        dr=history.dr.at[row].set(jnp.where(kept, dr, history.dr[row])),
        dg=history.dg.at[row].set(jnp.where(kept, dg, history.dg[row])),
        gram=jnp.where(kept, gram, history.gram),
        turn=jnp.where(kept, history.turn + 1, history.turn),
    )


def _least_squares(
    gram: Float[Array, "memory memory"], b: Float[Array, " memory"]
) -> Float[Array, " memory"]:
    """Returns argmin_g |r - g dr| by its normal equations gram g = b; 0 if not finite.

    The rows of dr are taken at unit length, and a little more than rounding is added to the
    diagonal: singular directions get no weight then. By Cholesky's factors: a GPU takes longer for
    the singular values of a matrix as small as this than for a cell.
    """
    squares = jnp.diagonal(gram)
    empty = squares <= 0
    scale = jnp.where(empty, 0, 1 / jnp.sqrt(jnp.where(empty, 1, squares)))
    shift = SHIFT * len(b) * jnp.finfo(b.dtype).eps
    unit = scale[:, None] * gram * scale[None] + jnp.diag(jnp.where(empty, 1, shift))
    # Not by Lineax: under `pmap` its operators lose the mesh of a vector, and then refuse it.
    shares = lax.custom_linear_solve(
        lambda v: dot(unit, v), scale * b, partial(_by_factors, unit), symmetric=True
    )
    weights = shares * scale
    return jnp.where(all_finite(weights), weights, 0)


def _by_factors(matrix: Float[Array, "memory memory"], _, b: Vector) -> Vector:
    """Solves with a symmetric positive definite matrix."""
    factor = jnp.linalg.cholesky(lax.stop_gradient(matrix), symmetrize_input=False)
    return jax.scipy.linalg.cho_solve((factor, True), b)
