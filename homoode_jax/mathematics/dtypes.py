"""One dtype for the whole state of a solve, whatever its leaves have: at least float32.

Diffrax steps states of mixed dtypes wrongly or not at all; a state is cast on the way in, and
back to its own dtypes wherever the field or the caller sees it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree


def common_dtype(tree: PyTree[Array]):
    """The dtype that holds every leaf, complex if one of them is; float32 or better."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(tree)]
    return jnp.promote_types(jnp.result_type(*dtypes), jnp.float32)


def real_dtype(tree: PyTree[Array]):
    """The real dtype that belongs to the leaves taken together."""
    return jnp.finfo(jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(tree)))).dtype


def shapes(tree: PyTree[Array]) -> PyTree[jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the leaves, which are no arrays and so constants of a program."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def cast(tree: PyTree[Array], dtype) -> PyTree[Array]:
    """Casts every leaf to `dtype`."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def cast_like(tree: PyTree[Array], like: PyTree[Array]) -> PyTree[Array]:
    """Casts every leaf to the dtype of its counterpart; real ones keep the real part."""

    def convert(leaf: Array, target: Array) -> Array:
        is_real = not jnp.issubdtype(target.dtype, jnp.complexfloating)
        return (jnp.real(leaf) if is_real else leaf).astype(target.dtype)

    return jax.tree.map(convert, tree, like)


def wide_zeros(tree: PyTree[Array]) -> PyTree[Array]:
    """Zeros to sum into, each in float32 or better."""

    def zeros(leaf: Array) -> Array:
        return jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32))

    return jax.tree.map(zeros, tree)


def choose(condition: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """Returns every leaf of the first tree where the condition holds, else of the second."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
