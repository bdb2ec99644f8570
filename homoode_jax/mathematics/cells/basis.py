"""An orthonormal basis in the making, in blocks of vectors, of which only those in use are read.

A Krylov method has room for more vectors than most solves need, and each pass over all of them
costs as much as the product that it follows. So a block without a vector yet is passed over: by a
loop of no turn, which under `vmap` costs nothing either where no example needs it. Short vectors
are in one block, since loops take time to compile; many blocks are one array, and one loop goes
over those in use.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from homoode_jax.mathematics.cells.vectors import LONG, Vector, dot, weighted_sum
from homoode_jax.mathematics.common.examples import once
from homoode_jax.mathematics.common.trees import is_at_most

BLOCK = 8  # vectors
MOST_BLOCKS = 10  # that are written out one by one; more are gone through by a loop
ROOM = 2**22  # entries that a long basis may have: 16 MB in float32
AGAIN = 0.1  # part of a vector outside the basis below which it is orthogonalised once more


class Basis(NamedTuple):
    """Orthonormal vectors, zeros where there is none yet.

    Attributes:
        blocks: of vectors; or, where there are many, one array of them all.
        last: the newest vector.
        count: how many there are.
    """

    blocks: tuple[Float[Array, "... vectors n"], ...]
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


def places_within(room: int, size: Any, most: int) -> int:
    """Returns how many vectors of that many entries have room, in whole blocks.

    None, where the size is not known yet: a symbolic dimension of an export.
    """
    if not isinstance(size, int):
        return 0
    return min(most, room // size) // BLOCK * BLOCK


def empty_basis(like: Vector, places: int) -> Basis:
    """Returns a basis without a vector, and room for `places` of them."""
    most = places if is_at_most(like.size, LONG - 1) else BLOCK
    if places > most * MOST_BLOCKS:
        size = max(size for size in range(1, most + 1) if places % size == 0)
        shapes = [(places // size, size)]
    else:
        shapes = [(min(most, places - start),) for start in range(0, places, most)]
    blocks = [jnp.zeros((*shape, like.size), like.dtype) for shape in shapes]
    return Basis(tuple(blocks), jnp.zeros_like(like), jnp.zeros((), jnp.int32))


def add_vector(basis: Basis, unit: Vector) -> Basis:
    """Returns the basis with one more vector."""
    if _is_looped(basis):
        (blocks,) = basis.blocks
        place = (*divmod(basis.count, blocks.shape[1]), jnp.zeros_like(basis.count))
        filled = lax.dynamic_update_slice(blocks, unit[None, None], place)
        return Basis((filled,), unit, basis.count + 1)
    blocks = []
    for start, block in zip(_starts(basis), basis.blocks, strict=True):
        row = basis.count - start
        here = (row >= 0) & (row < len(block))

        def put(block, row=row):
            return lax.dynamic_update_index_in_dim(block, unit, row, 0)

        blocks.append(_if(here, put, block, basis))
    return Basis(tuple(blocks), unit, basis.count + 1)


def orthogonalise(v: Vector, basis: Basis, again: float = AGAIN) -> Split:
    """Splits a vector, by Gram-Schmidt block by block; once more if less than `again` is left."""
    size_v = jnp.linalg.norm(v)
    w, shares = _project(v, basis)

    def project(state):
        w, shares = state
        w, more = _project(w, basis)
        return w, shares + more

    inside = jnp.linalg.norm(w) <= again * size_v
    w, shares = _if(inside, project, (w, shares), basis)
    size = jnp.linalg.norm(w)
    vanishes = size <= 10 * jnp.finfo(v.dtype).eps * size_v
    unit = jnp.where(vanishes, 0, w / jnp.where(vanishes, 1, size))
    return Split(unit=unit, size=jnp.where(vanishes, 0, size), shares=shares)


def combine(weights: Float[Array, " places"], basis: Basis) -> Vector:
    """Returns weights @ basis."""
    total = jnp.zeros_like(basis.last)
    if _is_looped(basis):
        shaped = weights.reshape(basis.blocks[0].shape[:2])

        def add_block(i, block, total):
            return total + weighted_sum(shaped[i], block)

        return _over_blocks(basis, add_block, total)
    for start, block in zip(_starts(basis), basis.blocks, strict=True):
        part = weights[start : start + len(block)]

        def add(total, part=part, block=block):
            return total + weighted_sum(part, block)

        total = _if(start < basis.count, add, total, basis)
    return total


def _project(w: Vector, basis: Basis) -> tuple[Vector, Float[Array, " places"]]:
    """Returns what of w is orthogonal to the basis, and its shares."""
    if _is_looped(basis):

        def project(i, block, state):
            w, shares = state
            share = dot(block, w)
            return w - weighted_sum(share, block), shares.at[i].set(share)

        start = w, jnp.zeros(basis.blocks[0].shape[:2], w.dtype)
        w, shares = _over_blocks(basis, project, start)
        return w, shares.reshape(-1)
    shares = []
    for start, block in zip(_starts(basis), basis.blocks, strict=True):

        def take_out(state, block=block):
            share = dot(block, state[0])
            return state[0] - weighted_sum(share, block), share

        state = w, jnp.zeros(len(block), w.dtype)
        w, share = _if(start < basis.count, take_out, state, basis)
        shares.append(share)
    return w, jnp.concatenate(shares)


def _if(needed: Bool[Array, ""], work: Callable, state: PyTree, basis: Basis) -> PyTree:
    """Works on the state where that is needed; in any case where all is in one block."""
    if len(basis.blocks) == 1 and not _is_looped(basis):
        return work(state)
    return once(needed, work, state)


def _is_looped(basis: Basis) -> bool:
    return basis.blocks[0].ndim == 3


def _over_blocks(basis: Basis, visit: Callable, state: PyTree) -> PyTree:
    """Visits (number, block, state) block by block, as far as they are in use."""
    (blocks,) = basis.blocks
    used = -(-basis.count // blocks.shape[1])
    return lax.fori_loop(0, used, lambda i, state: visit(i, blocks[i], state), state)


def _starts(basis: Basis) -> list[int]:
    """Returns the number of the first vector of each block."""
    sizes = [len(block) for block in basis.blocks]
    return [sum(sizes[:i]) for i in range(len(sizes))]
