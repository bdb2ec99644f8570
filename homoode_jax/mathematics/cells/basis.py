"""An orthonormal basis in the making, in blocks of vectors, of which only those in use are read.

A Krylov method has room for more vectors than most solves need, and each pass over all of them
costs as much as the product that it follows. So a block without a vector yet is passed over: by a
loop of no turn, which under `vmap` costs nothing either where no example needs it.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from homoode_jax.mathematics.cells.vectors import Vector, dot, weighted_sum

BLOCK = 8  # vectors
AGAIN = 0.1  # part of a vector outside the basis below which it is orthogonalised once more


class Basis(NamedTuple):
    """Orthonormal vectors, zeros where there is none yet.

    Attributes:
        blocks: of vectors.
        last: the newest vector.
        count: how many there are.
    """

    blocks: tuple[Float[Array, "vectors n"], ...]
    last: Vector
    count: Int[Array, ""]


class Split(NamedTuple):
    """A vector, v = size * unit + shares @ basis.

    Attributes:
        unit: orthogonal to the basis; 0 where v lies in the basis.
        size: 0 where v lies in the basis.
        shares: one for each place of the basis.
    """

    unit: Vector
    size: Float[Array, ""]
    shares: Float[Array, " places"]


def empty_basis(like: Vector, places: int) -> Basis:
    """Returns a basis without a vector, and room for `places` of them."""
    sizes = [min(BLOCK, places - start) for start in range(0, places, BLOCK)]
    blocks = [jnp.zeros((size, like.size), like.dtype) for size in sizes]
    return Basis(tuple(blocks), jnp.zeros_like(like), jnp.zeros((), jnp.int32))


def add_vector(basis: Basis, unit: Vector) -> Basis:
    """Returns the basis with one more vector."""
    blocks = []
    for start, block in zip(_starts(basis), basis.blocks, strict=True):
        row = basis.count - start
        here = (row >= 0) & (row < len(block))

        def put(state, row=row):
            block, _ = state
            return lax.dynamic_update_index_in_dim(block, unit, row, 0), jnp.asarray(False)

        blocks.append(lax.while_loop(lambda state: state[1], put, (block, here))[0])
    return Basis(tuple(blocks), unit, basis.count + 1)


def orthogonalise(v: Vector, basis: Basis, again: float = AGAIN) -> Split:
    """Splits a vector, by Gram-Schmidt block by block; once more if less than `again` is left."""
    size_v = jnp.linalg.norm(v)
    w, shares = _project(v, basis)

    def project(state):
        w, shares, _ = state
        w, more = _project(w, basis)
        return w, shares + more, jnp.asarray(False)

    inside = jnp.linalg.norm(w) <= again * size_v
    w, shares, _ = lax.while_loop(lambda state: state[2], project, (w, shares, inside))
    size = jnp.linalg.norm(w)
    vanishes = size <= 10 * jnp.finfo(v.dtype).eps * size_v
    unit = jnp.where(vanishes, 0, w / jnp.where(vanishes, 1, size))
    return Split(unit=unit, size=jnp.where(vanishes, 0, size), shares=shares)


def combine(weights: Float[Array, " places"], basis: Basis) -> Vector:
    """Returns weights @ basis."""
    total = jnp.zeros_like(basis.last)
    for start, block in zip(_starts(basis), basis.blocks, strict=True):
        part = weights[start : start + len(block)]

        def add(state, part=part, block=block):
            total, _ = state
            return total + weighted_sum(part, block), jnp.asarray(False)

        total, _ = lax.while_loop(lambda state: state[1], add, (total, start < basis.count))
    return total


def _project(w: Vector, basis: Basis) -> tuple[Vector, Float[Array, " places"]]:
    """Returns what of w is orthogonal to the basis, and its shares."""
    shares = []
    for start, block in zip(_starts(basis), basis.blocks, strict=True):

        def take_out(state, block=block):
            w, _, _ = state
            share = dot(block, w)
            return w - weighted_sum(share, block), share, jnp.asarray(False)

        nothing = jnp.zeros(len(block), w.dtype)
        state = w, nothing, start < basis.count
        w, share, _ = lax.while_loop(lambda state: state[2], take_out, state)
        shares.append(share)
    return w, jnp.concatenate(shares)


def _starts(basis: Basis) -> list[int]:
    """Returns the number of the first vector of each block."""
    sizes = [len(block) for block in basis.blocks]
    return [sum(sizes[:i]) for i in range(len(sizes))]
