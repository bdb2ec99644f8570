"""Where the state of a layer begins, and the loss by which a learned start follows the solutions.

    z0=None      zeros like x
    z0=(32,)     zeros of that shape, without the batch axis
    z0=array     that point for all inputs, without the batch axis
    z0=module    module(x), such as a `LearnedPoint`

A gradient through an equilibrium says nothing about z0. A start that learns therefore has a loss
of its own, smooth L1 to the solution (arXiv 2310.09583, sec. 4):  mean huber(z0 - stop(z)).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.tree_util import keystr, tree_leaves_with_path
from jaxtyping import Array, Float, PyTree

from homoode_jax.layers.options import Constant
from homoode_jax.mathematics.common.checks import as_arrays, describe
from homoode_jax.mathematics.common.solution import Solution


def as_shape(shape: Any) -> tuple[int, ...]:
    """Returns the shape of a point; a whole number is that of a vector."""
    return (int(shape),) if isinstance(shape, int | np.integer) else tuple(shape)


def is_shape(part: Any) -> bool:
    """Returns True for a tuple of whole numbers."""
    return isinstance(part, tuple) and all(isinstance(n, int | np.integer) for n in part)


def keep_start(z0: Any) -> Constant:
    """Returns z0 (None, or a pytree of shapes or arrays) as what does not learn; or raises."""
    if z0 is None:
        return Constant(None)
    parts = jax.tree.leaves(z0, is_leaf=is_shape)
    arrays = (jax.Array, np.ndarray)
    if not parts or not all(is_shape(part) or isinstance(part, arrays) for part in parts):
        raise ValueError(
            f"z0={z0!r} must be None, a shape without the batch axis such as (32,), an array of "
            "such a shape, or a module called with x."
        )
    if any(isinstance(part, Tracer) for part in parts):
        raise ValueError(
            "z0 is traced: make it z0=LearnedPoint(...) or another module, or give it in the call, "
            "layer(x, z0=...)."
        )
    for part in parts:
        if is_shape(part) and min(part, default=1) < 0:
            raise ValueError(f"z0={z0!r} has a negative axis.")
    return Constant(z0)


def take_inputs(name: str, x: PyTree, z0: PyTree) -> tuple[PyTree[Array], PyTree[Array]]:
    """Returns the input of a layer and the z0 of a call as arrays, or raises."""
    if z0 is not None and is_shape(z0):
        raise ValueError(
            f"z0={z0!r} of a call must be arrays with a batch axis, as the states are."
        )
    if any(isinstance(leaf, int | float) for leaf in jax.tree.leaves(x)):
        raise ValueError(
            f"{name} needs an x of arrays; a list of numbers is one by jnp.asarray(x)."
        )
    return as_arrays((x, z0))


def number_of_rows(name: str, arrays: PyTree) -> Any:
    """Returns the batch size of the first array: an int, or symbolic in an export."""
    leaves = [leaf for leaf in jax.tree.leaves(arrays) if jnp.ndim(leaf) > 0]
    if not leaves:
        raise ValueError(f"{name} needs an x with a leading batch axis, or z0= in the call.")
    return leaves[0].shape[0]


def at_point(point: PyTree, x: PyTree, batch: Any) -> PyTree[Array]:
    """Returns the start that shapes or arrays (or None) stand for, with a row for each example."""
    point = point.tree if isinstance(point, Constant) else point
    if point is None:
        return jax.tree.map(jnp.zeros_like, _floats("z0=None (zeros like x)", x))
    dtype = _dtype(x)

    def rows(part: Any) -> Array:
        if is_shape(part):
            return jnp.zeros((batch, *part), dtype)
        part = jnp.asarray(part)
        return jnp.broadcast_to(part, (batch, *part.shape))

    return jax.tree.map(rows, point, is_leaf=is_shape)


def at_input(name: str, x: PyTree, augment: int = 0) -> PyTree[Array]:
    """Returns x, with `augment` zeros more along the last axis of every leaf."""
    x = _floats(f"the state of {name}, which begins at x,", x)
    if not augment:
        return x
    for path, leaf in tree_leaves_with_path(x):
        if leaf.ndim < 2:
            raise ValueError(
                f"x{keystr(path)} of shape {leaf.shape} has no axis to augment beside the batch."
            )
    return jax.tree.map(lambda a: jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, augment)]), x)


def check_given(z0: PyTree, begin: Callable[[], PyTree], name: str) -> None:
    """Raises if the z0 of a call is not of the shape in which the layer begins without it."""
    try:
        usual = begin()
    except ValueError:  # the layer cannot begin without it
        return
    if _shapes(z0) != _shapes(usual):
        raise ValueError(
            f"z0 has the shape {_shapes(z0)}, but the state of {name} has {_shapes(usual)}."
        )


def check_learns(name: str, learns: bool, is_given_x: bool) -> None:
    """Raises where a layer has no `start_loss`, or none without x."""
    if not learns:
        raise ValueError(
            f"the start of this {name} does not learn: give the layer z0=LearnedPoint(...), or a "
            "module called with x."
        )
    if not is_given_x:
        raise ValueError("start_loss(z, x) needs the x with which the start is called.")


def start_loss(start: PyTree[Array], z: PyTree[Array]) -> Float[Array, ""]:
    """Returns the smooth L1 distance of the start from the solution, which has no gradient."""
    if isinstance(z, Solution):
        raise ValueError("start_loss takes states, not a Solution: give it solution.z.")
    if _shapes(start) != _shapes(z):
        raise ValueError(
            f"z has the shape {_shapes(z)}, but the start of the layer has {_shapes(start)}."
        )

    def total(a: Array, b: Array) -> Array:
        apart = jnp.abs(a - lax.stop_gradient(b))
        # A batch of states is a long sum: half precision would lose it.
        apart = apart.astype(jnp.promote_types(apart.dtype, jnp.float32))
        return jnp.sum(jnp.where(apart < 1, apart**2 / 2, apart - 0.5))

    sums = jax.tree.leaves(jax.tree.map(total, start, z))
    return jnp.sum(jnp.stack(sums)) / sum(leaf.size for leaf in jax.tree.leaves(z))


def _floats(what: str, x: PyTree) -> PyTree[Array]:
    """Returns x if it is a state; raises if not."""
    leaves = jax.tree.leaves(x)
    if not leaves or not all(eqx.is_inexact_array(leaf) for leaf in leaves):
        raise ValueError(f"{what} needs an x of floats, got {jax.tree.map(describe, x)}.")
    return x


def _dtype(x: PyTree) -> Any:
    """Returns the dtype of the floats in x, or the default one."""
    floats = [leaf.dtype for leaf in jax.tree.leaves(x) if eqx.is_inexact_array(leaf)]
    return jnp.result_type(*floats) if floats else jnp.result_type(float)


def _shapes(tree: PyTree) -> Any:
    """Returns the shapes of the leaves, as errors show them."""
    return jax.tree.map(jnp.shape, tree)
