"""Broyden's "good" method: the next iterate towards z = f(z), by a matrix that learns as it goes.

    z' = z - B^-1 (z - f(z)),     B = I + sum_i r_i s_i^T

B takes every step s to the change of the residual over it, by the least change of what it was
(Broyden 1965). Its inverse is that of a small matrix (Woodbury), which grows by a row and a column
with every step, and is inverted so:

    B^-1 v = v - R^T K S v,     K = (I + S R^T)^-1,     the s_i and r_i being the rows of S and R

No factorisation is taken: a step costs no more than passes over S and R. What K loses to rounding
as it grows is made good by refinement with the matrix itself, which is kept beside it: where a
state has fewer entries than B has terms, that matrix is near a singular one.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from homoode_jax.mathematics.cells.vectors import Vector, dot, weighted_sum
from homoode_jax.mathematics.common.trees import all_finite, root


class LowRank(NamedTuple):
    """B = I + sum_i r_i s_i^T, of which the first `rank` terms are in use.

    Attributes:
        s: steps at unit norm.
        r: the residual after each step, over the length of the step.
        inner: I + S R^T, the identity in rows and columns that are not in use.
        inverse: K, the identity in rows and columns that are not in use.
        projected: inner products of s with the residual of the last iterate; 0 if not in use.
        rank: terms in use.
    """

    s: Float[Array, "memory n"]
    r: Float[Array, "memory n"]
    inner: Float[Array, "memory memory"]
    inverse: Float[Array, "memory memory"]
    projected: Float[Array, " memory"]
    rank: Int[Array, ""]


def identity(like: Vector, memory: int) -> LowRank:
    """Returns B = I, and room for `memory` terms."""
    zeros = jnp.zeros((memory, like.size), like.dtype)
    unit = jnp.eye(memory, dtype=like.dtype)
    return LowRank(
        s=zeros,
        r=zeros,
        inner=unit,
        inverse=unit,
        projected=jnp.zeros(memory, like.dtype),
        rank=jnp.zeros((), jnp.int32),
    )


def step_from(memory: LowRank, z: Vector, f: Vector) -> Vector:
    """Returns the step from the last iterate, z: -B^-1 v with v = z - f(z)."""
    shares = _solve(memory.inner, memory.inverse, memory.projected)
    return f - z + weighted_sum(shares, memory.r)


def learn(memory: LowRank, step: Vector, v: Vector) -> LowRank:
    """Adds the term that makes B step = v - v', for the residuals v' before the step and v after.

    B step = -v' already, so that the term is v step^T / |step|^2. The memory is left behind when it
    is full, and after a term that is not finite or makes B singular: the iterate is then drawn
    back, or did not move.
    """
    size = len(memory.projected)
    used = jnp.arange(size, dtype=jnp.int32) < memory.rank
    square = dot(step, step)
    length = root(square)
    safe = jnp.where(length > 0, length, 1)
    s = step / safe
    r = v / safe
    projected = jnp.where(used, dot(memory.s, v), 0)
    row = jnp.minimum(memory.rank, size - 1)
    inner, inverse, regular = _border(
        memory,
        column=projected / safe,
        line=jnp.where(used, dot(memory.r, s), 0),
        own=dot(s, r),
        row=row,
    )
    unit = jnp.eye(size, dtype=inverse.dtype)
    fine = all_finite((projected, inverse, dot(r, r))) & (square > 0) & regular
    kept = fine & (memory.rank < size)
    return LowRank(
        s=memory.s.at[row].set(jnp.where(kept, s, memory.s[row])),
        r=memory.r.at[row].set(jnp.where(kept, r, memory.r[row])),
        inner=jnp.where(kept, inner, unit),
        inverse=jnp.where(kept, inverse, unit),
        projected=jnp.where(kept, projected.at[row].set(dot(s, v)), 0),
        rank=jnp.where(kept, memory.rank + 1, 0),
    )


def _solve(
    inner: Float[Array, "memory memory"],
    inverse: Float[Array, "memory memory"],
    b: Float[Array, " memory"],
) -> Float[Array, " memory"]:
    """Returns the solution of inner x = b by an inverse with an error, refined once."""
    x = dot(inverse, b)
    return x + dot(inverse, b - dot(inner, x))


def _border(
    memory: LowRank,
    column: Float[Array, " memory"],
    line: Float[Array, " memory"],
    own: Float[Array, ""],
    row: Int[Array, ""],
) -> tuple[Float[Array, "memory memory"], Float[Array, "memory memory"], Bool[Array, ""]]:
    """Returns I + S R^T with one more row and column, its inverse, and whether it has one.

    By Schur's complement. Column and line must be 0 in their place, `row`.
    """
    right = _solve(memory.inner, memory.inverse, column)
    left = _solve(memory.inner.T, memory.inverse.T, line)
    more = dot(line, right)
    complement = 1 + own - more
    rounding = 10 * jnp.finfo(own.dtype).eps * (1 + jnp.abs(own) + jnp.abs(more))
    regular = jnp.abs(complement) > rounding
    one = jnp.zeros_like(right).at[row].set(1)
    cleared = memory.inverse - jnp.outer(one, one)
    inverse = cleared + jnp.outer(one - right, one - left) / jnp.where(regular, complement, 1)
    inner = memory.inner.at[:, row].set(column).at[row].set(line).at[row, row].set(1 + own)
    return inner, inverse, regular
