"""Audits of how near a cell's equilibrium is: residual at a point, convergence of an iteration.

residual         |z - f(z)| / max(|f(z)|, 1e-3)
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, Real

from homoode_jax.mathematics.audit.cells import checked_cell
from homoode_jax.mathematics.cells.precision import make_tolerance
from homoode_jax.mathematics.cells.solve import Cell
from homoode_jax.mathematics.cells.vectors import FLOOR, flatten_cell
from homoode_jax.mathematics.common.checks import as_arrays, batch_size
from homoode_jax.mathematics.common.examples import map_examples
from homoode_jax.mathematics.common.functions import Function, check_untraced, compiled
from homoode_jax.mathematics.common.options import whole
from homoode_jax.mathematics.common.trees import minus, row_rms
from homoode_jax.mathematics.equilibria.by_optimistix import OPTIMISTIX
from homoode_jax.mathematics.equilibria.equilibrium import Solver, make_iteration
from homoode_jax.mathematics.equilibria.robust import Robust
from homoode_jax.mathematics.iterations.iterate import iterate


def residual(cell: Cell, params: PyTree, z: PyTree[ArrayLike], x: PyTree) -> Float[Array, " batch"]:
    """Relative residual |z - f(z)| / max(|f(z)|, 1e-3), root mean squares of each example.

    The same as `Solution.stats.residual` of a per-example solve. The cell sees the whole batch.

    Args:
        cell: `cell(params, z, x) -> f(z)`.
        params: any pytree.
        z: the point, a pytree of real arrays `[batch, ...]`.
        x: condition, a pytree of arrays `[batch, ...]` or None.

    Returns:
        `[batch]`, in float32 or better.

    Raises:
        ValueError: if an argument is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: a * z + x
        >>> z = jnp.ones((1, 2))
        >>> x = jnp.ones((1, 2))
        >>> print(homoode_jax.audit.residual(cell, 0.5, z, x).round(3))
        [0.333]
    """
    return _residual(Function(cell), *as_arrays((params, z, x)))


@compiled
def _residual(cell: Function, params: PyTree, z: PyTree[Array], x: PyTree) -> Array:
    evaluate, z = checked_cell(cell, params, z, x)
    f = evaluate(params, z, x)
    return row_rms(minus(z, f)) / jnp.maximum(row_rms(f), FLOOR)


def convergence(
    cell: Cell,
    params: PyTree,
    z0: PyTree[ArrayLike],
    x: PyTree,
    *,
    solver: Solver = "anderson",
    tol: Real[ArrayLike, ""] | None = None,
    max_steps: Int[ArrayLike, ""] = 200,
) -> Float[Array, "batch points"]:
    """Relative residuals of all iterates of `equilibrium(..., batching="per_example")`.

    Args:
        cell: `cell(params, z, x) -> f(z)`; called with a batch of one example.
        params: any pytree.
        z0: where to start, a pytree of real arrays `[batch, ...]`.
        x: condition, a pytree of arrays `[batch, ...]` or None.
        solver: as in `equilibrium`, but no Optimistix solver: those keep no trace.
        tol: as in `equilibrium`.
        max_steps: as in `equilibrium`.

    Returns:
        `[batch, max_steps + 1]`: the residual at z0 and after each step, NaN beyond the last.

    Raises:
        ValueError: if an argument is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: a * z + x
        >>> z0 = jnp.ones((1, 1))
        >>> x = jnp.ones((1, 1))
        >>> trace = homoode_jax.audit.convergence(cell, 0.5, z0, x, solver="picard", max_steps=3)
        >>> print(trace.round(3))
        [[0.333 0.143 0.067 0.032]]
    """
    max_steps = whole("max_steps", max_steps)
    check_untraced(solver=solver)
    method = make_iteration(solver)
    if isinstance(method, Robust | OPTIMISTIX):
        raise ValueError(f"solver={solver!r} keeps no trace; name one of homoode_jax's own.")
    params, z0, x = as_arrays((params, z0, x))
    batch_size(z0, x)
    tol = make_tolerance("tol", tol, z0, 1e-5)
    return _convergence(
        cell=Function(cell),
        params=params,
        z0=z0,
        x=x,
        method=method,
        tol=tol,
        max_steps=max_steps,
    )


@compiled
def _convergence(
    cell: Function,
    params: PyTree,
    z0: PyTree[ArrayLike],
    x: PyTree,
    method: Any,
    tol: Array,
    max_steps: int,
) -> Float[Array, "batch points"]:
    evaluate, z0 = checked_cell(cell, params, z0, x, "z0")

    def one(z0: PyTree[Array], x: PyTree) -> Float[Array, " points"]:
        return iterate(method, flatten_cell(evaluate, params, z0, x)[0], tol, max_steps)[1]

    return map_examples(one, z0, x)
