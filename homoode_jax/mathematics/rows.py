"""Norms of batched pytrees, one for each example.

A batched pytree has leaves `[batch, ...]`; the entries of an example are those of its row in
every leaf, taken together.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

from homoode_jax.mathematics.dtypes import cast, common_dtype


def mean_squares(tree: PyTree[Array]) -> Float[Array, " batch"]:
    """Mean square of each example's entries, in float32 or better."""
    leaves = jax.tree.leaves(cast(tree, common_dtype(tree)))
    rows = [jnp.square(leaf).reshape(len(leaf), -1) for leaf in leaves]
    return jnp.mean(jnp.concatenate(rows, axis=1), axis=1)


def row_rms(tree: PyTree[Array]) -> Float[Array, " batch"]:
    """Root mean square of each example's entries; its gradient at 0 is 0."""
    return root(mean_squares(tree))


def root(square: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Square root; its gradient at 0 is 0."""
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), square)


def minus(a: PyTree[Array], b: PyTree[Array]) -> PyTree[Array]:
    """a - b, leaf by leaf."""
    return jax.tree.map(jnp.subtract, a, b)


def signed_total(counts: Shaped[Array, "*batch"]) -> Shaped[Array, ""]:
    """Returns the sum of all sizes, negative if one count is: no success may hide a failure."""
    total = jnp.sum(jnp.abs(counts))
    return jnp.where(jnp.any(counts < 0), -total, total)
