"""Trees of arrays: one dtype for a whole state, norms and choices of its rows.

Diffrax steps states of mixed dtypes wrongly or not at all; a state is cast on the way in to the
dtype that holds every leaf (at least float32), and back wherever the field or the caller sees it.

A batched tree has leaves `[batch, ...]`; the entries of an example are those of its row in every
leaf, taken together.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, Shaped

HasDtype = Array | jax.ShapeDtypeStruct


def common_dtype(tree: PyTree[HasDtype]):
    """Returns the dtype that holds every leaf, complex if one of them is; float32 or better."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(tree)]
    return jnp.promote_types(jnp.result_type(*dtypes), jnp.float32)


def real_dtype(tree: PyTree[HasDtype]):
    """Returns the real dtype that belongs to the leaves taken together."""
    return jnp.finfo(jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(tree)))).dtype


def shapes(tree: PyTree[Array]) -> PyTree[jax.ShapeDtypeStruct]:
    """Returns the shapes and dtypes of the leaves, which a program takes as constants."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def cast(tree: PyTree[Array], dtype) -> PyTree[Array]:
    """Casts every leaf to `dtype`."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def cast_like(tree: PyTree[Array], like: PyTree[HasDtype]) -> PyTree[Array]:
    """Casts every leaf to the dtype of its counterpart; real ones keep the real part."""

    def convert(leaf: Array, target: HasDtype) -> Array:
        is_real = not jnp.issubdtype(target.dtype, jnp.complexfloating)
        return (jnp.real(leaf) if is_real else leaf).astype(target.dtype)

    return jax.tree.map(convert, tree, like)


def wide_zeros(tree: PyTree[HasDtype]) -> PyTree[Array]:
    """Returns zeros to sum into, each in float32 or better."""

    def zeros(leaf: HasDtype) -> Array:
        return jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32))

    return jax.tree.map(zeros, tree)


def choose(condition: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """Returns every leaf of the first tree where the condition holds, else of the second."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def mean_squares(tree: PyTree[Array]) -> Float[Array, " batch"]:
    """Returns the mean square of each example's entries, in float32 or better."""
    leaves = jax.tree.leaves(cast(tree, common_dtype(tree)))
    rows = [_square(leaf).reshape(leaf.shape[0], -1) for leaf in leaves]
    return jnp.mean(jnp.concatenate(rows, axis=1), axis=1)


def _square(leaf: Array) -> Array:
    """Returns |leaf|^2, which is differentiable at 0."""
    if not jnp.iscomplexobj(leaf):
        return jnp.square(leaf)
    return jnp.square(leaf.real) + jnp.square(leaf.imag)


def row_rms(tree: PyTree[Array]) -> Float[Array, " batch"]:
    """Returns the root mean square of each example's entries; its gradient at 0 is 0."""
    return root(mean_squares(tree))


def root(square: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Returns the square root; its gradient at 0 is 0."""
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), square)


def minus(a: PyTree[Array], b: PyTree[Array]) -> PyTree[Array]:
    """Returns a - b, leaf by leaf."""
    return jax.tree.map(jnp.subtract, a, b)


def signed_total(counts: Shaped[Array, "*batch"]) -> Shaped[Array, ""]:
    """Returns the sum of |counts|, negative if one count is, so that no success hides a failure."""
    total = jnp.sum(jnp.abs(counts))
    return jnp.where(jnp.any(counts < 0), -total, total)


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Returns True if every entry of every leaf is finite."""
    flags = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(flags)) if flags else jnp.asarray(True)


def largest(tree: PyTree[Array]) -> Float[Array, ""]:
    """Returns the modulus of the largest entry, 0 of nothing."""
    sizes = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]
    return jnp.max(jnp.stack([size.astype(common_dtype(sizes)) for size in sizes]))


def is_at_most(size: Any, most: int) -> bool:
    """Returns whether a size is that small; a symbolic one (`jax.export`) counts as larger."""
    return isinstance(size, int) and size <= most


def select_rows(mask: Bool[Array, " batch"], where_true: PyTree, where_false: PyTree) -> PyTree:
    """Takes each row of every leaf from the first tree where `mask` holds, else the second."""

    def select(a: Array, b: Array) -> Array:
        return jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(select, where_true, where_false)


def scale_rows(factors: Float[Array, " batch"], tree: PyTree[Array]) -> PyTree[Array]:
    """Multiplies each row of every leaf by its factor."""

    def scale(leaf: Array) -> Array:
        return leaf * factors.reshape((-1,) + (1,) * (leaf.ndim - 1)).astype(leaf.dtype)

    return jax.tree.map(scale, tree)
