"""An audit of a learned field: the cell that explains it best, by the defect of `fields`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from homoode_jax.mathematics.audit.fields import (
    Points,
    checked_points,
    differences,
    misfit,
    path_slopes,
)
from homoode_jax.mathematics.cells.solve import Cell
from homoode_jax.mathematics.common.checks import as_arrays
from homoode_jax.mathematics.common.functions import Function, check_untraced, compiled
from homoode_jax.mathematics.common.options import whole
from homoode_jax.mathematics.common.trees import row_rms
from homoode_jax.mathematics.homotopy.equations import Schedule, make_schedule
from homoode_jax.mathematics.ode.integrate import Field


class Explanation(NamedTuple):
    """What `explain` found; the defects are those of `defect`.

    Attributes:
        params: parameters of the fitted cell.
        before: defect of the cell that it began with.
        after: defect of the fitted cell.
        held_out_before: the same at the points held out, or None.
        held_out_after: likewise.
        success: True if the fit came to rest before `max_steps`.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> field = lambda p, t, z, x: x / (1 - 0.5 * t) ** 2  # of f = z / 2 + x, z0 = 0
        >>> cell = lambda a, z, x: a * z + x
        >>> x = jnp.ones((1, 1))
        >>> ts = jnp.linspace(0.0, 1.0, 5)
        >>> zs = (ts / (1 - 0.5 * ts))[:, None, None]  # the path of F
        >>> points = homoode_jax.audit.Points(jnp.zeros((1, 1)), ts, zs, x)
        >>> found = homoode_jax.audit.explain(field, None, cell, 0.1, points)
        >>> print(f"{found.before[0]:.2f} {found.after[0]:.2f} {bool(found.success)}")
        0.52 0.00 True
    """

    params: PyTree
    before: Float[Array, " batch"]
    after: Float[Array, " batch"]
    held_out_before: Float[Array, " batch"] | None
    held_out_after: Float[Array, " batch"] | None
    success: Bool[Array, ""]


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
    max_steps: Int[ArrayLike, ""] = 1000,
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
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> field = lambda p, t, z, x: x / (1 - 0.5 * t) ** 2  # of f = z / 2 + x, z0 = 0
        >>> cell = lambda a, z, x: a * z + x
        >>> x = jnp.ones((1, 1))
        >>> ts = jnp.linspace(0.0, 1.0, 5)
        >>> zs = (ts / (1 - 0.5 * ts))[:, None, None]  # the path of F
        >>> points = homoode_jax.audit.Points(jnp.zeros((1, 1)), ts, zs, x)
        >>> found = homoode_jax.audit.explain(field, None, cell, 0.1, points)
        >>> print(f"{found.params:.3f}")
        0.500
    """
    max_steps = whole("max_steps", max_steps)
    check_untraced(solver=solver)
    points = checked_points(points)
    lam = make_schedule(schedule)
    params, cell_params = as_arrays((params, cell_params))
    function = Function(field)
    cell = Function(cell)
    slopes = path_slopes(function, params, points)
    solver = solver or _lbfgs(points)
    found, success = _fit(
        cell=cell,
        cell_params=cell_params,
        points=points,
        slopes=slopes,
        schedule=lam,
        solver=solver,
        max_steps=max_steps,
    )
    before, after = (misfit(cell, p, points, slopes, lam) for p in (cell_params, found))
    if held_out is None:
        return Explanation(
            params=found,
            before=before,
            after=after,
            held_out_before=None,
            held_out_after=None,
            success=success,
        )
    points = checked_points(held_out)
    slopes = path_slopes(function, params, points)
    first, last = (misfit(cell, p, points, slopes, lam) for p in (cell_params, found))
    return Explanation(
        params=found,
        before=before,
        after=after,
        held_out_before=first,
        held_out_after=last,
        success=success,
    )


class _Misfit(eqx.Module):
    """The differences that are to be small, as a function of the cell's free parameters."""

    cell: Function
    schedule: Callable

    def __call__(self, free: PyTree, args: tuple[PyTree, Points, PyTree[Array]]) -> PyTree[Array]:
        """Returns the differences at the points."""
        fixed, points, slopes = args
        return differences(self.cell, eqx.combine(free, fixed), points, slopes, self.schedule)


@compiled
def _fit(
    cell: Function,
    cell_params: PyTree,
    points: Points,
    slopes: PyTree[Array],
    schedule: Callable,
    solver: Any,
    max_steps: int,
) -> tuple[PyTree, Bool[Array, ""]]:
    """Returns the parameters with the least differences, and whether the fit came to rest."""
    free, fixed = eqx.partition(cell_params, eqx.is_inexact_array)
    fit = optx.least_squares(
        _Misfit(cell, schedule),
        solver,
        free,
        (fixed, points, slopes),
        max_steps=max_steps,
        throw=False,
    )
    return eqx.combine(fit.value, fixed), fit.result == optx.RESULTS.successful


def _lbfgs(points: Points) -> optx.LBFGS:
    """Returns L-BFGS with tolerances near rounding, since the objective is a squared defect."""
    tol = float(jnp.finfo(row_rms(points.z0).dtype).eps) ** 0.75
    return optx.LBFGS(rtol=tol, atol=tol)
