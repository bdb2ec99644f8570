"""Checks of a problem before it is solved: structure, batch axes, closures, options.

Every check runs at trace time and raises a `ValueError` that names the argument, what it got,
and what would be right.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import keystr, tree_leaves_with_path
from jaxtyping import Array, Bool, Float, PyTree

from homoode_jax.mathematics.common.options import is_real

BATCHINGS = ("joint", "per_example")


def as_arrays(tree: PyTree) -> PyTree:
    """Turns NumPy arrays and Python floats among the leaves into JAX arrays."""

    def convert(leaf: Any) -> Any:
        return jnp.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic | float) else leaf

    return jax.tree.map(convert, tree)


def check_option(name: str, got: Any, options: Iterable[str]) -> None:
    """Raises if `got` is not one of `options`, naming the nearest one."""
    options = list(options)
    if got in options:
        return
    near = difflib.get_close_matches(str(got), options, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name}={got!r} is not one of {', '.join(map(repr, options))}.{hint}")


def check_batching(batching: str) -> bool:
    """Returns True for "per_example", or raises."""
    check_option("batching", batching, BATCHINGS)
    return batching == "per_example"


def check_placement(tree: PyTree) -> None:
    """Raises on arrays whose type says how they lie on devices: loops of a solve change that."""
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, jax.Array):
            continue
        kind = jax.typeof(leaf)
        if kind.manual_axis_type.varying:
            raise ValueError(
                f"a solve under jax.shard_map needs check_vma=False, got an array {kind} that "
                "varies over a mesh axis with check_vma=True."
            )
        explicit = set(kind.sharding.mesh.explicit_axes)
        if explicit.intersection(_axes(kind.sharding.spec)):
            raise ValueError(
                f"a solve needs mesh axes of type jax.sharding.AxisType.Auto, got an array {kind} "
                "that is sharded over an explicit one; make the mesh by "
                "jax.make_mesh(..., axis_types=(AxisType.Auto,) * axes)."
            )


def check_not_mapped(what: str, instead: str) -> None:
    """Raises under `shard_map` and `pmap`, for what Equinox's loops cannot do there.

    They compare the types of arrays, and there JAX gives constants another one than sums
    (https://github.com/patrick-kidger/equinox/pull/1261).
    """
    if jax.sharding.get_abstract_mesh().manual_axes:
        raise ValueError(
            f"{what} is not differentiated under jax.shard_map or jax.pmap; use {instead}, or "
            "jax.jit of sharded arrays without a map."
        )


def _axes(spec: Any) -> Iterator[str]:
    """Yields the mesh axes that a partition spec names."""
    for entry in spec:
        yield from entry if isinstance(entry, tuple) else (entry,)


def problem_like(z0: PyTree, x: PyTree, per_example: bool) -> tuple[PyTree, PyTree]:
    """Returns the shapes of z0 and x as a cell or field sees them: the batch, or a batch of one."""
    rows = 1 if per_example else None
    return jax.eval_shape(lambda tree: jax.tree.map(lambda a: a[:rows], tree), (z0, x))


def batch_size(z0: PyTree, x: PyTree, state: str = "z0") -> Any:
    """Returns the common leading axis of all leaves of `z0` and `x`, or raises.

    It is an int, or symbolic in an export for any batch size.
    """
    leaves = [(state + keystr(path), leaf) for path, leaf in tree_leaves_with_path(z0)]
    if not leaves:
        raise ValueError(f"{state} has no array leaves; it must hold at least one state array.")
    for name, leaf in leaves:
        if not eqx.is_inexact_array(leaf):
            raise ValueError(f"{name} must be a real or complex array, got {describe(leaf)}.")
    leaves += [("x" + keystr(path), leaf) for path, leaf in tree_leaves_with_path(x)]
    first = leaves[0][0]
    size = None
    for name, leaf in leaves:
        if not eqx.is_array(leaf) or leaf.ndim == 0:
            raise ValueError(
                f"{name} must be an array with a leading batch axis, got {describe(leaf)}."
            )
        size = leaf.shape[0] if size is None else size
        if leaf.shape[0] != size:
            raise ValueError(
                f"{name} has batch size {leaf.shape[0]} but {first} has {size}; "
                f"every leaf of {state} and x needs the same leading batch axis."
            )
    assert size is not None
    if size == 0:
        raise ValueError(f"{state} has batch size 0; a solve needs at least one example.")
    return size


def check_function(kind: str, function: Callable, args: tuple, z: PyTree) -> None:
    """Traces `function(*args)` once; raises on a traced closure or a result unlike `z`."""
    given = getattr(function, "call", function)
    if not callable(given):
        raise ValueError(f"the {kind} must be a function, got {given!r}.")
    jaxpr, out_dynamic, out_static = eqx.filter_make_jaxpr(function)(*args)
    if any(isinstance(const, Tracer) for const in jaxpr.consts):
        raise ValueError(
            f"the {kind} closes over a traced array; gradients with respect to it would be "
            "wrong. Pass everything that is traced (parameters, inputs) through `params` or `x`."
        )
    out = eqx.combine(out_dynamic, out_static)
    got = jax.tree.structure(out)
    want = jax.tree.structure(z)
    if got != want:
        raise ValueError(f"the {kind} must return the structure of z0, {want}, got {got}.")
    for (path, leaf), like in zip(tree_leaves_with_path(out), jax.tree.leaves(z), strict=True):
        if describe(leaf) != describe(like):
            raise ValueError(
                f"the {kind} must return the shapes and dtypes of z0 (called with a batch axis): "
                f"leaf{keystr(path)} should be {describe(like)}, got {describe(leaf)}."
            )


def check_mask(mask: Any, batch: Any) -> Bool[Array, " batch"] | None:
    """Returns the mask as an array, or raises."""
    if mask is None:
        return None
    mask = mask if isinstance(mask, jax.Array) else np.asarray(mask)
    if mask.dtype != bool or mask.shape != (batch,):
        raise ValueError(f"mask must be bool[{batch}], got {mask.dtype}{list(mask.shape)}.")
    return jnp.asarray(mask)


def check_probe(probe: Any, per_example: bool, batch: Any, dtype) -> Float[Array, "*batch"]:
    """Returns the backward probe as an array, or raises."""
    given = probe if isinstance(probe, jax.Array) else np.asarray(probe)
    if not is_real(given):
        raise ValueError(f"backward_probe must be a scalar, got {probe!r}.")
    probe = jnp.asarray(given, dtype)
    if probe.shape != () and not (per_example and probe.shape == (batch,)):
        raise ValueError(
            f"backward_probe must be a scalar (or [{batch}] with batching='per_example'), "
            f"got shape {list(probe.shape)}."
        )
    return probe


def describe(leaf: Any) -> str:
    """Returns dtype and shape of an array, or type and value of anything else."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return f"{leaf.dtype}{list(leaf.shape)}"
    return f"{type(leaf).__name__} {leaf!r}"
