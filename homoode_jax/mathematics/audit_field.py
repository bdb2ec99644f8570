"""Audits of a learned field F(z, t; x): does it come to rest, and does a cell explain it?

F is explained by a cell f if it is the Davidenko field of f's fixed-point homotopy,

    (I - lam J) F = lam' (f - z0),    lam = lam(t),    J = df/dz,

HomoODE's relation (arXiv 2310.09583, figure 1). The relative defect is the norm of the
difference beside that of F: a cell cannot buy a small one by being large, as it could beside
|lam' (f - z0)| (fits ran away to such cells, even where F was a Davidenko field).

Along a path of F itself the difference is dH/dt: there the relation holds if and only if
f(z(t)) = z0 + (z(t) - z0) / lam(t), values that a flexible cell may take on any paths that do
not meet. So a small defect says something on paths, and more so at points off the paths, that
the cell was not fitted to.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from homoode_jax.mathematics.cells import Cell
from homoode_jax.mathematics.homotopy import Schedule, make_schedule
from homoode_jax.mathematics.integrate import Field
from homoode_jax.mathematics.problem import as_arrays, batch_size, check_bounds, check_function
from homoode_jax.mathematics.rows import mean_squares, minus, row_rms
from homoode_jax.mathematics.vectors import FLOOR


class FieldNorms(NamedTuple):
    """Root mean square speed of each example, at the start and at the end of its path."""

    start: Float[Array, " batch"]
    end: Float[Array, " batch"]


class Points(NamedTuple):
    """Where a field is compared with a cell: points of its paths, or any others.

    Attributes:
        z0: the start of the homotopy, a pytree of real arrays `[batch, ...]`.
        ts: times from 0 to 1, `[points]`.
        zs: states at these times, a pytree of real arrays `[points, batch, ...]`.
        x: condition, a pytree of arrays `[batch, ...]` or None.
    """

    z0: PyTree[Array]
    ts: Float[Array, " points"]
    zs: PyTree[Array]
    x: PyTree


class Explanation(NamedTuple):
    """What `explain` found; the defects are those of `defect`.

    Attributes:
        params: parameters of the fitted cell.
        before: defect of the cell that it began with.
        after: defect of the fitted cell.
        held_out_before: the same at the points held out, or None.
        held_out_after: likewise.
        success: True if the fit came to rest before `max_steps`.
    """

    params: PyTree
    before: Float[Array, " batch"]
    after: Float[Array, " batch"]
    held_out_before: Float[Array, " batch"] | None
    held_out_after: Float[Array, " batch"] | None
    success: Bool[Array, ""]


def field_norms(
    field: Field,
    params: PyTree,
    z0: PyTree[Array],
    z1: PyTree[Array],
    x: PyTree,
    *,
    t0: float | Float[Array, ""] = 0.0,
    t1: float | Float[Array, ""] = 1.0,
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
        >>> import jax.numpy as jnp, homoode_jax
        >>> decay = lambda k, t, z, x: -k * z
        >>> z0, z1 = jnp.ones((1, 2)), jnp.full((1, 2), 0.25)
        >>> norms = homoode_jax.audit.field_norms(decay, 2.0, z0, z1, None)
        >>> print(norms.start, norms.end)
        [2.] [0.5]
    """
    params, z0, z1, x = as_arrays((params, z0, z1, x))
    batch_size(z0, x)
    batch_size(z1, x, state="z1")
    start, end = (
        row_rms(_slopes(field, params, jnp.asarray(t), z, x)) for t, z in ((t0, z0), (t1, z1))
    )
    return FieldNorms(start, end)


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
        >>> import jax.numpy as jnp, homoode_jax
        >>> field = lambda p, t, z, x: x / (1 - 0.5 * t) ** 2  # of f = z / 2 + x, z0 = 0
        >>> cell = lambda a, z, x: a * z + x
        >>> ts, x = jnp.linspace(0, 1, 5), jnp.ones((1, 1))
        >>> zs = (ts / (1 - 0.5 * ts))[:, None, None]
        >>> points = homoode_jax.audit.Points(jnp.zeros((1, 1)), ts, zs, x)
        >>> print(f"{homoode_jax.audit.defect(field, None, cell, 0.5, points)[0]:.4f}")
        0.0000
    """
    points = _checked(points)
    slopes = _path_slopes(field, params, points)
    return _measure(cell, as_arrays(cell_params), points, slopes, make_schedule(schedule))


def explain(
    field: Field,
    params: PyTree,
    cell: Cell,
    cell_params: PyTree,
    points: Points,
    *,
    held_out: Points | None = None,
    schedule: str | Schedule = "linear",
    solver: optx.AbstractMinimiser | optx.AbstractLeastSquaresSolver | None = None,
    max_steps: int = 1000,
) -> Explanation:
    """Fits a cell whose Davidenko field is as near to a given field as can be.

    Minimises the sum of the squared `defect` of all examples over the cell's parameters. The
    fit is a local one: a large defect says that no explanation was found from `cell_params`.

    Args:
        field: `field(params, t, z, x) -> dz/dt`; called with the whole batch.
        params: its parameters, any pytree.
        cell: `cell(cell_params, z, x) -> f(z)`, usually of the field's own architecture.
        cell_params: where to begin, any pytree; integer and bool leaves stay as they are.
        points: where to fit.
        held_out: where else to measure the defect, or None.
        schedule: lam(t), as in `continuation`.
        solver: an Optimistix minimiser or least-squares solver; None takes L-BFGS, whose memory
            grows with the parameters only. `optx.LevenbergMarquardt` is faster for few of them.
        max_steps: the most steps of the solver.

    Returns:
        An `Explanation`. Whether the cell found is contractive says `spectral_radius`.

    Raises:
        ValueError: if an argument is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp, homoode_jax
        >>> field = lambda p, t, z, x: x / (1 - 0.5 * t) ** 2  # of f = z / 2 + x, z0 = 0
        >>> cell = lambda a, z, x: a * z + x
        >>> ts, x = jnp.linspace(0, 1, 5), jnp.ones((1, 1))
        >>> zs = (ts / (1 - 0.5 * ts))[:, None, None]
        >>> points = homoode_jax.audit.Points(jnp.zeros((1, 1)), ts, zs, x)
        >>> print(f"{homoode_jax.audit.explain(field, None, cell, 0.1, points).params:.3f}")
        0.500
    """
    check_bounds(max_steps=max_steps)
    points, lam, cell_params = _checked(points), make_schedule(schedule), as_arrays(cell_params)
    slopes = _path_slopes(field, params, points)
    free, fixed = eqx.partition(cell_params, eqx.is_inexact_array)
    fit = optx.least_squares(
        lambda free, args: _residuals(cell, eqx.combine(free, fixed), args[0], args[1], lam),
        solver or _lbfgs(points), free, (points, slopes), max_steps=max_steps, throw=False,
    )  # fmt: skip
    found = eqx.combine(fit.value, fixed)
    before, after = (_measure(cell, p, points, slopes, lam) for p in (cell_params, found))
    success = fit.result == optx.RESULTS.successful
    if held_out is None:
        return Explanation(found, before, after, None, None, success)
    points = _checked(held_out)
    slopes = _path_slopes(field, params, points)
    first, last = (_measure(cell, p, points, slopes, lam) for p in (cell_params, found))
    return Explanation(found, before, after, first, last, success)


def _lbfgs(points: Points) -> optx.LBFGS:
    """L-BFGS that ends near rounding: the objective is the square of a relative number."""
    tol = float(jnp.finfo(row_rms(points.z0).dtype).eps) ** 0.75
    return optx.LBFGS(rtol=tol, atol=tol)


def _residuals(
    cell: Cell, cell_params: PyTree, points: Points, slopes: PyTree[Array], schedule: Callable
) -> PyTree[Array]:
    """The differences `[points, batch, ...]`, scaled so that their squares sum to the defect's."""

    def at(t, z: PyTree[Array], slope: PyTree[Array]):
        lam, speed = jax.jvp(schedule, (t,), (jnp.ones_like(t),))
        f, jf = jax.jvp(lambda z: cell(cell_params, z, points.x), (z,), (slope,))
        want = jax.tree.map(lambda f, z0: (speed * (f - z0)).astype(f.dtype), f, points.z0)
        got = jax.tree.map(lambda slope, jf: (slope - lam * jf).astype(jf.dtype), slope, jf)
        return minus(got, want)

    differences = jax.vmap(at)(points.ts, points.zs, slopes)
    speeds = jnp.mean(jax.vmap(mean_squares)(slopes), axis=0)
    entries = sum(leaf[0].size for leaf in jax.tree.leaves(points.z0))
    scale = len(points.ts) * entries * jnp.maximum(speeds, FLOOR**2)

    def divide(leaf: Array) -> Array:
        return leaf / jnp.sqrt(scale).reshape(-1, *(1,) * (leaf.ndim - 2))

    return jax.tree.map(divide, differences)


@eqx.filter_jit
def _measure(cell, cell_params, points: Points, slopes, schedule) -> Float[Array, " batch"]:
    """The defect, from F's values at the points."""

    def sum_rows(leaf: Float[Array, "points batch ..."]) -> Float[Array, " batch"]:
        return jnp.sum(jnp.square(leaf), axis=(0, *range(2, leaf.ndim)))

    residuals = jax.tree.leaves(_residuals(cell, cell_params, points, slopes, schedule))
    return jnp.sqrt(jnp.sum(jnp.stack([sum_rows(leaf) for leaf in residuals]), axis=0))


def _slopes(field: Field, params: PyTree, t, z: PyTree[Array], x: PyTree) -> PyTree[Array]:
    dtype = jnp.finfo(jnp.result_type(*jax.tree.leaves(z))).dtype
    args = params, t.astype(dtype), z, x
    check_function("field", field, args, z)
    return field(*args)


def _path_slopes(field: Field, params: PyTree, points: Points) -> PyTree[Array]:
    """F at all points; one after another, as its own solver would see them."""
    params = as_arrays(params)
    return lax.map(
        lambda at: _slopes(field, params, at[0], at[1], points.x), (points.ts, points.zs)
    )


def _checked(points: Points) -> Points:
    """The points as arrays, or raises."""
    points = Points(*as_arrays(tuple(points)))
    batch, ts = batch_size(points.z0, points.x), jnp.asarray(points.ts)
    want = jax.tree.map(lambda leaf: (*ts.shape, *leaf.shape), points.z0)
    got = jax.tree.map(jnp.shape, points.zs)
    if ts.ndim != 1 or got != want:
        raise ValueError(
            f"points.zs must be [points, batch, ...] as ts {list(ts.shape)} and z0 (batch {batch}) "
            f"have them: shapes {want}, got {got}."
        )
    return points._replace(ts=ts)
