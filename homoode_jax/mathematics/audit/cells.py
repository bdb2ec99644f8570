"""Audits of a cell f at a point or along a path: spectrum, folds, length.

spectral radius  largest |eigenvalue| of J = df/dz; Picard's iteration converges below 1
sigma_min        smallest singular value of dH/dz: I - lam J (fixed-point homotopy) or
                 I - J (Newton); it is 0 at folds and bifurcations
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, Key, PyTree

from homoode_jax.mathematics.audit.spectra import (
    Estimate,
    largest_eigenvalue,
    smallest_singular_value,
)
from homoode_jax.mathematics.cells.precision import CellInPrecision
from homoode_jax.mathematics.cells.solve import Cell
from homoode_jax.mathematics.cells.vectors import Equation, flatten_cell
from homoode_jax.mathematics.common.checks import (
    as_arrays,
    batch_size,
    check_function,
    check_option,
    check_placement,
)
from homoode_jax.mathematics.common.examples import map_examples
from homoode_jax.mathematics.common.functions import Function, check_products, compiled
from homoode_jax.mathematics.common.options import whole
from homoode_jax.mathematics.common.trees import cast, common_dtype, mean_squares, root, shapes
from homoode_jax.mathematics.homotopy.equations import HOMOTOPIES


def spectral_radius(
    cell: Cell,
    params: PyTree,
    z: PyTree[ArrayLike],
    x: PyTree,
    *,
    dimension: Int[ArrayLike, ""] = 40,
    key: Key[Array, ""] | None = None,
) -> Estimate:
    """Largest modulus of the eigenvalues of df/dz, by Arnoldi's method.

    Finds real and complex eigenvalues alike, several of the same modulus too. Exact where an
    example has no more than `dimension` entries.

    Args:
        cell: `cell(params, z, x) -> f(z)`; called with a batch of one example.
        params: any pytree.
        z: where to linearise, a pytree of real arrays `[batch, ...]`.
        x: condition, a pytree of arrays `[batch, ...]` or None.
        dimension: Jacobian-vector products, and vectors kept, for each example.
        key: random key of the first vector, `jax.random.key(0)` if None.

    Returns:
        `value` and `error`, each `[batch]`. The error is a backward error: a matrix that far
        from df/dz (in norm) has that eigenvalue. Where it is not small, raise `dimension`.

    Raises:
        ValueError: if an argument is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> turn = lambda a, z, x: a * jnp.stack([-z[:, 1], z[:, 0]], axis=1)  # +-0.9 i
        >>> radius = homoode_jax.audit.spectral_radius(turn, 0.9, jnp.ones((1, 2)), None)
        >>> print(f"{radius.value[0]:.4f}")
        0.9000
    """
    dimension = whole("dimension", dimension)
    return _radius(Function(cell), *as_arrays((params, z, x)), dimension, key)


@compiled
def _radius(
    cell: Function, params: PyTree, z: PyTree[Array], x: PyTree, dimension: int, key: Any
) -> Estimate:
    evaluate, z = checked_cell(cell, params, z, x)

    def one(z: PyTree[Array], x: PyTree) -> Estimate:
        equation = flatten_cell(evaluate, params, z, x)[0]
        check_products(equation.f, equation.z0, "audit.spectral_radius")
        _, jvp = jax.linearize(equation.f, equation.z0)
        return largest_eigenvalue(jvp, _random(equation, key), dimension)

    return map_examples(one, z, x)


def sigma_min(
    cell: Cell,
    params: PyTree,
    zs: PyTree[ArrayLike],
    lams: Float[ArrayLike, "points *batch"] | Sequence[float],
    x: PyTree,
    *,
    homotopy: str = "fixed_point",
    dimension: Int[ArrayLike, ""] = 40,
    key: Key[Array, ""] | None = None,
) -> Estimate:
    """Smallest singular value of dH/dz along a path: 0 at a fold or a bifurcation.

    dH/dz is I - lam df/dz (fixed-point homotopy) or I - df/dz (Newton). By Golub & Kahan's
    bidiagonalisation, which does not square the matrix: tiny values are right to rounding.
    Exact where an example has no more than `dimension` entries.

    Args:
        cell: `cell(params, z, x) -> f(z)`; called with a batch of one example.
        params: any pytree.
        zs: points of the path, a pytree of real arrays `[points, batch, ...]`, such as
            `Solution.zs` of `continuation`.
        lams: lam at the points, `[points]` or `[points, batch]`, such as `Solution.ts`.
        x: condition, a pytree of arrays `[batch, ...]` or None.
        homotopy: "fixed_point" or "newton".
        dimension: pairs of vectors kept for each example; takes as many products with df/dz,
            and with its transpose (three times as many in larger states).
        key: random key of the first vector, `jax.random.key(0)` if None.

    Returns:
        `value` and `error`, each `[points, batch]`. The value is an upper bound; a singular
        value, or zero, lies within `error` of it. Where that is not small, raise `dimension`.

    Raises:
        ValueError: if an argument is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: a * z + x
        >>> zs = jnp.zeros((3, 1, 1))
        >>> lams = jnp.array([0.0, 0.25, 0.5])
        >>> sigma = homoode_jax.audit.sigma_min(cell, 2.0, zs, lams, jnp.ones((1, 1)))
        >>> print(sigma.value[:, 0].round(3))
        [1.  0.5 0. ]
    """
    check_option("homotopy", homotopy, HOMOTOPIES)
    dimension = whole("dimension", dimension)
    params, zs, x = as_arrays((params, zs, x))
    lams = _check_lams(lams, zs)
    return _sigma_min(
        cell=Function(cell),
        params=params,
        zs=zs,
        lams=lams,
        x=x,
        homotopy=homotopy,
        dimension=dimension,
        key=key,
    )


@compiled
def _sigma_min(
    cell: Function,
    params: PyTree,
    zs: PyTree[Array],
    lams: Array,
    x: PyTree,
    homotopy: str,
    dimension: int,
    key: Any,
) -> Estimate:
    first = jax.tree.map(lambda leaf: leaf[0], zs)
    evaluate, _ = checked_cell(cell, params, first, x, "zs[0]")

    def one(z: PyTree[Array], lam: Float[Array, " 1"], x: PyTree) -> Estimate:
        equation = flatten_cell(evaluate, params, z, x)[0]
        check_products(equation.f, equation.z0, "audit.sigma_min")
        _, jvp = jax.linearize(equation.f, equation.z0)
        vjp = jax.linear_transpose(jvp, equation.z0)
        lam = lam[0] if homotopy == "fixed_point" else jnp.ones_like(lam[0])
        return smallest_singular_value(
            lambda v: v - lam * jvp(v),
            lambda u: u - lam * vjp(u)[0],
            _random(equation, key),
            dimension,
        )

    # One point after another: the vectors of all of them at once would be too much to keep.
    points = cast((zs, lams), common_dtype(first))
    return lax.map(lambda point: map_examples(one, *point, x), points)


def path_length(
    zs: PyTree[ArrayLike], lams: Float[ArrayLike, "points *batch"] | Sequence[float] | None = None
) -> Float[Array, " batch"]:
    """Length of the polygon through the points of a path, in root mean squares of each example.

    Args:
        zs: points of the path, a pytree of arrays `[points, batch, ...]`.
        lams: None, or lam at the points, `[points]` or `[points, batch]`: the length is then
            that of (z / sqrt(n), lam), the arc length of `continuation`.

    Returns:
        `[batch]`, in float32 or better.

    Raises:
        ValueError: if `lams` does not fit `zs`.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> zs = jnp.array([[[0.0, 0.0]], [[3.0, 3.0]]])
        >>> print(homoode_jax.audit.path_length(zs))
        [3.]
        >>> print(homoode_jax.audit.path_length(zs, jnp.array([0.0, 4.0])))
        [5.]
    """
    zs = as_arrays(zs)
    zs = cast(zs, common_dtype(zs))
    squares = jax.vmap(mean_squares)(jax.tree.map(lambda leaf: jnp.diff(leaf, axis=0), zs))
    if lams is not None:
        squares = squares + jnp.square(jnp.diff(_check_lams(lams, zs), axis=0))
    return jnp.sum(root(squares), axis=0)


def checked_cell(cell: Function, params: PyTree, z: PyTree, x: PyTree, name: str = "z"):
    """Returns the cell called in z's own dtypes, and z in float32 or better."""
    check_placement((params, z, x))
    batch_size(z, x, state=name)
    check_function("cell", cell, (params, z, x), z)
    return CellInPrecision(cell, shapes(z)), cast(z, common_dtype(z))


def _random(equation: Equation, key: Key[Array, ""] | None) -> Float[Array, " n"]:
    key = jax.random.key(0) if key is None else key
    return jax.random.normal(key, equation.z0.shape, equation.z0.dtype)


def _check_lams(lams: Any, zs: PyTree[Array]) -> Float[Array, "points batch"]:
    """Returns lam for every point and example; raises on a shape that does not fit."""
    lams = jnp.asarray(lams)
    shape = jax.tree.leaves(zs)[0].shape[:2]
    if lams.shape not in (shape, shape[:1]):
        raise ValueError(
            f"lams must be [points] = {list(shape[:1])} or [points, batch] = {list(shape)}, as "
            f"zs has them; got {list(lams.shape)}."
        )
    return lams if lams.ndim == 2 else jnp.broadcast_to(lams[:, None], shape)
