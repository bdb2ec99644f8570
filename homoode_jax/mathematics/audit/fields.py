"""Audits of a learned field F(z, t; x): does it come to rest, and does a cell explain it?

F is explained by a cell f if it is the Davidenko field of f's fixed-point homotopy,

    (I - lam J) F = lam' (f - z0),    lam = lam(t),    J = df/dz,

HomoODE's relation (arXiv 2310.09583, figure 1). The defect is the norm of the difference relative
to that of F. Relative to |lam' (f - z0)| it would be small for any cell that is large: fits ran
away to such cells, even where F was a Davidenko field.

Along a path of F itself the difference is dH/dt: there the relation holds if and only if
f(z(t)) = z0 + (z(t) - z0) / lam(t). A flexible cell may take these values on any paths that do
not meet. So a small defect says more on paths that the cell was not fitted to, and most at points
off the paths.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, PyTree, Real

from homoode_jax.mathematics.cells.solve import Cell
from homoode_jax.mathematics.cells.vectors import FLOOR
from homoode_jax.mathematics.common.checks import as_arrays, batch_size, check_function
from homoode_jax.mathematics.common.functions import Function, check_products, compiled
from homoode_jax.mathematics.common.options import real
from homoode_jax.mathematics.common.trees import mean_squares, minus, root, row_rms
from homoode_jax.mathematics.homotopy.equations import Schedule, make_schedule
from homoode_jax.mathematics.ode.integrate import Field


class FieldNorms(NamedTuple):
    """Root mean square speed of each example, at the start and at the end of its path.

    Attributes:
        start: of F(z0, t0).
        end: of F(z1, t1); 0 if z1 is an equilibrium.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> decay = lambda k, t, z, x: -k * z
        >>> z0 = jnp.ones((1, 2))
        >>> z1 = jnp.full((1, 2), 0.25)
        >>> norms = homoode_jax.audit.field_norms(decay, 2.0, z0, z1, None)
        >>> print(norms.end / norms.start)
        [0.25]
    """

    start: Float[Array, " batch"]
    end: Float[Array, " batch"]


class Points(NamedTuple):
    """Where a field is compared with a cell: points of its paths, or any others.

    Attributes:
        z0: the start of the homotopy, a pytree of real arrays `[batch, ...]`.
        ts: times from 0 to 1, `[points]`.
        zs: states at these times, a pytree of real arrays `[points, batch, ...]`.
        x: condition, a pytree of arrays `[batch, ...]` or None.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> field = lambda p, t, z, x: x / (1 - p * t) ** 2
        >>> z0 = jnp.zeros((1, 1))
        >>> x = jnp.ones((1, 1))
        >>> ts = jnp.linspace(0.0, 1.0, 5)
        >>> solution = homoode_jax.integrate(field, 0.5, z0, x, save_at=ts)
        >>> points = homoode_jax.audit.Points(z0, ts, solution.zs, x)
        >>> cell = lambda a, z, x: a * z + x
        >>> defect = homoode_jax.audit.defect(field, 0.5, cell, 0.5, points)
        >>> print(f"{defect[0]:.2f}")
        0.00
    """

    z0: PyTree[Array]
    ts: Float[Array, " points"]
    zs: PyTree[Array]
    x: PyTree


def field_norms(
    field: Field,
    params: PyTree,
    z0: PyTree[ArrayLike],
    z1: PyTree[Array],
    x: PyTree,
    *,
    t0: Real[ArrayLike, ""] = 0.0,
    t1: Real[ArrayLike, ""] = 1.0,
) -> FieldNorms:
    """How fast a path is at its end, beside its start. At an equilibrium the end would be 0.

    Args:
        field: `field(params, t, z, x) -> dz/dt`; called with the whole batch.
        params: any pytree.
        z0: state at t0, a pytree of real arrays `[batch, ...]`.
        z1: state at t1.
        x: condition, a pytree of arrays `[batch, ...]` or None.
        t0: start of the path.
        t1: end of the path.

    Returns:
        `start` and `end`, each `[batch]`: root mean squares of F(z0, t0) and of F(z1, t1).

    Raises:
        ValueError: if an argument is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> decay = lambda k, t, z, x: -k * z
        >>> z0 = jnp.ones((1, 2))
        >>> z1 = jnp.full((1, 2), 0.25)
        >>> norms = homoode_jax.audit.field_norms(decay, 2.0, z0, z1, None)
        >>> print(norms.start, norms.end)
        [2.] [0.5]
    """
    params, z0, z1, x = as_arrays((params, z0, z1, x))
    batch_size(z0, x)
    batch_size(z1, x, state="z1")
    times = tuple(jnp.asarray(real(name, t)) for name, t in (("t0", t0), ("t1", t1)))
    return _field_norms(Function(field), params, times, (z0, z1), x)


@compiled
def _field_norms(field: Function, params: PyTree, times: tuple, states: tuple, x: PyTree):
    ends = zip(times, states, strict=True)
    return FieldNorms(*(row_rms(_slopes(field, params, t, z, x)) for t, z in ends))


def defect(
    field: Field,
    params: PyTree,
    cell: Cell,
    cell_params: PyTree,
    points: Points,
    *,
    schedule: str | Schedule = "linear",
) -> Float[Array, " batch"]:
    """Relative defect |(I - lam J) F - lam' (f - z0)| / |F| of each example.

    Args:
        field: `field(params, t, z, x) -> dz/dt`; called with the whole batch.
        params: any pytree.
        cell: `cell(cell_params, z, x) -> f(z)`, likewise.
        cell_params: any pytree.
        points: where to compare them.
        schedule: lam(t), as in `continuation`; "linear" is lam = t.

    Returns:
        `[batch]`: both norms are root mean squares over the example's points and entries, that
        of F at least 1e-3. The cell that explains nothing, f = z0, has 1.

    Raises:
        ValueError: if an argument is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> field = lambda p, t, z, x: x / (1 - 0.5 * t) ** 2  # of f = z / 2 + x, z0 = 0
        >>> cell = lambda a, z, x: a * z + x
        >>> x = jnp.ones((1, 1))
        >>> ts = jnp.linspace(0.0, 1.0, 5)
        >>> zs = (ts / (1 - 0.5 * ts))[:, None, None]  # the path of F
        >>> points = homoode_jax.audit.Points(jnp.zeros((1, 1)), ts, zs, x)
        >>> defect = homoode_jax.audit.defect(field, None, cell, 0.5, points)
        >>> print(f"{defect[0]:.3f}")
        0.000
    """
    points = checked_points(points)
    lam = make_schedule(schedule)
    slopes = path_slopes(Function(field), as_arrays(params), points)
    return misfit(Function(cell), as_arrays(cell_params), points, slopes, lam)


def differences(
    cell: Cell, cell_params: PyTree, points: Points, slopes: PyTree[Array], schedule: Callable
) -> PyTree[Array]:
    """Returns the differences `[points, batch, ...]`; their squares sum to the squared defect."""

    def at(t, z: PyTree[Array], slope: PyTree[Array]):
        lam, speed = jax.jvp(schedule, (t,), (jnp.ones_like(t),))
        f, jf = jax.jvp(lambda z: cell(cell_params, z, points.x), (z,), (slope,))
        want = jax.tree.map(lambda f, z0: (speed * (f - z0)).astype(f.dtype), f, points.z0)
        got = jax.tree.map(lambda slope, jf: (slope - lam * jf).astype(jf.dtype), slope, jf)
        return minus(got, want)

    at_once = lambda z: cell(cell_params, z, points.x)  # noqa: E731
    check_products(at_once, points.z0, "audit.defect")
    between = jax.vmap(at)(points.ts, points.zs, slopes)
    speeds = jnp.mean(jax.vmap(mean_squares)(slopes), axis=0)
    entries = sum(leaf[0].size for leaf in jax.tree.leaves(points.z0))
    scale = len(points.ts) * entries * jnp.maximum(speeds, FLOOR**2)

    def divide(leaf: Array) -> Array:
        return leaf / jnp.sqrt(scale).reshape(1, -1, *(1,) * (leaf.ndim - 2))

    return jax.tree.map(divide, between)


@compiled
def misfit(cell, cell_params, points: Points, slopes, schedule) -> Float[Array, " batch"]:
    """Returns the defect, from F's values at the points."""

    def sum_rows(leaf: Float[Array, "points batch ..."]) -> Float[Array, " batch"]:
        return jnp.sum(jnp.square(leaf), axis=(0, *range(2, leaf.ndim)))

    residuals = jax.tree.leaves(differences(cell, cell_params, points, slopes, schedule))
    return root(jnp.sum(jnp.stack([sum_rows(leaf) for leaf in residuals]), axis=0))


def _slopes(field: Field, params: PyTree, t, z: PyTree[Array], x: PyTree) -> PyTree[Array]:
    dtype = jnp.finfo(jnp.result_type(*jax.tree.leaves(z))).dtype
    args = params, t.astype(dtype), z, x
    check_function("field", field, args, z)
    return field(*args)


@compiled
def path_slopes(field: Function, params: PyTree, points: Points) -> PyTree[Array]:
    """Returns F at all points. It is called point by point, as a solver would call it."""
    return lax.map(
        lambda at: _slopes(field, params, at[0], at[1], points.x), (points.ts, points.zs)
    )


def checked_points(points: Points) -> Points:
    """Returns the points as arrays, or raises."""
    points = Points(*as_arrays(tuple(points)))
    batch = batch_size(points.z0, points.x)
    ts = jnp.asarray(points.ts)
    want = jax.tree.map(lambda leaf: (*ts.shape, *leaf.shape), points.z0)
    got = jax.tree.map(jnp.shape, points.zs)
    if ts.ndim != 1 or got != want:
        raise ValueError(
            f"points.zs must be [points, batch, ...] as ts {list(ts.shape)} and z0 (batch {batch}) "
            f"have them: shapes {want}, got {got}."
        )
    return points._replace(ts=ts)
