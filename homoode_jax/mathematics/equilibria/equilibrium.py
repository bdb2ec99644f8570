"""`equilibrium`: the root of z = f(z; x, theta) by iteration.

The solution of a deep equilibrium model (Bai, Kolter & Koltun 2019, arXiv 1909.01377).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree, Real

from homoode_jax.mathematics.cells.adjoints import Route
from homoode_jax.mathematics.cells.gmres import as_counted
from homoode_jax.mathematics.cells.outcome import Outcome
from homoode_jax.mathematics.cells.precision import make_tolerance
from homoode_jax.mathematics.cells.solve import Cell, solve_cells
from homoode_jax.mathematics.cells.vectors import Equation
from homoode_jax.mathematics.common.checks import check_option
from homoode_jax.mathematics.common.functions import check_untraced
from homoode_jax.mathematics.common.options import budget, whole
from homoode_jax.mathematics.common.solution import Solution
from homoode_jax.mathematics.equilibria.by_optimistix import OPTIMISTIX, ByOptimistix
from homoode_jax.mathematics.equilibria.robust import Chain, Robust
from homoode_jax.mathematics.iterations.fixed_point import Anderson, Broyden, Picard
from homoode_jax.mathematics.iterations.iterate import Iteration, iterate
from homoode_jax.mathematics.iterations.newton_krylov import NewtonKrylov
from homoode_jax.mathematics.iterations.relaxation import Relaxation

EQUILIBRIUM_SOLVERS: dict[str, Callable[[], Any]] = {
    "anderson": Anderson,
    "broyden": Broyden,
    "newton": NewtonKrylov,
    "picard": Picard,
    "ode": Relaxation,
    "robust": Robust,
}
Solver = str | Anderson | Broyden | NewtonKrylov | Picard | Relaxation | Robust | OPTIMISTIX


class Iterated(eqx.Module):
    """An iteration and when it ends (an `Algorithm`)."""

    method: Any
    tol: Float[Array, ""]
    max_steps: int = eqx.field(static=True)
    max_evaluations: Int[Array, ""] | None

    def solve(self, equation: Equation) -> Outcome:
        """Iterates from z0."""
        bounds = self.max_steps, self.max_evaluations
        out = iterate(self.method, equation, self.tol, *bounds)[0]
        solver = getattr(self.method, "linear_solver", "gmres")
        return out._replace(cost=as_counted(out.cost, solver))


def equilibrium(
    cell: Cell,
    params: PyTree,
    z0: PyTree[ArrayLike],
    x: PyTree,
    *,
    solver: Solver = "anderson",
    tol: Real[ArrayLike, ""] | None = None,
    max_steps: Int[ArrayLike, ""] = 200,
    max_evaluations: Int[ArrayLike, ""] | None = None,
    adjoint: str | Route = "implicit",
    batching: str = "joint",
    preconditioner: Callable | None = None,
    backward_probe: Real[ArrayLike, "*batch"] = 0.0,
    mask: Bool[ArrayLike, " batch"] | None = None,
) -> Solution:
    """Finds z = cell(params, z, x) by iteration from z0.

    Works under `jit`, `vmap` and reverse-mode differentiation, of any order, with respect to
    `params` and `x`.

    Args:
        cell: `cell(params, z, x) -> f(z)`, with the structure, shapes and dtypes of `z`. Always
            called with a batch axis (of size 1 in per-example mode). It must not close over
            traced arrays.
        params: any pytree, shared by the batch.
        z0: where to start (a warm start, if it is near), a pytree of real arrays `[batch, ...]`.
        x: condition, a pytree of arrays `[batch, ...]` or None. Integer, bool and key leaves
            have no gradient.
        solver: "anderson", "broyden", "newton", "picard", "ode" (relaxation of dz/dt = f - z),
            "robust" (Anderson; Broyden, Newton and homotopies for what it leaves);
            `Anderson(...)`, `Broyden(...)`, `NewtonKrylov(...)`, `Picard(damping=...)`,
            `Relaxation(...)`, `Robust(...)` with their settings; or an Optimistix solver of any
            kind with its own tolerances (its cost is not counted: -1). "newton", and Optimistix's
            root finders and least-squares solvers, take Jacobian-vector products: not of a cell
            with a `jax.custom_vjp` function.
        tol: ends at |z - f| <= tol * max(|f|, 1e-3 min(1, s0)), root mean squares over the batch
            (joint) or the example, s0 = |z0|, or |f(z0)| where z0 = 0; may be traced, has no
            gradient. None: 1e-5, or what z0's dtype can reach.
        max_steps: the most iterations (for "ode": steps tried; for "robust": of its first rung,
            and 50 evaluations each for all rungs, unless `max_evaluations` says otherwise).
        max_evaluations: a bound on evaluations of the cell and products with its Jacobian taken
            together, looked at between steps; may be traced; None: no bound. Not for Optimistix
            solvers.
        adjoint: "implicit" (a transposed linear solve; or `Implicit(tol, linear_solver)`),
            "implicit_jvp" (the same in forward mode too, for `jvp`, `jacfwd` and `hessian`),
            "jacobian_free", "phantom" (or `Phantom(steps, damping)`), or "unrolled"
            (backpropagation through the iterations). All but the last return zeros for z0.
        batching: "joint" (one vector: one stopping) or "per_example" (each example stops by
            itself, and has its own outcome).
        preconditioner: `preconditioner(params, z, x, lam, v)`, linear in v and near
            (I - df/dz)^-1 v at lam = 1; used by "newton" and by implicit gradients.
        backward_probe: its cotangent is the number of vector-Jacobian products of the cell in
            the backward pass: a scalar, or `[batch]` in per-example mode (a scalar then gets the
            sum, negative if one is). Negative where its linear solve failed, which makes the
            gradient exactly zero, or where unknown.
        mask: bool `[batch]`, False for rows that are padding.

    Returns:
        A `Solution`; z is the best iterate. `ok` promises that z and f are finite, that the
        residual at z, in z0's dtype, is within `tol` as above, and that a state further than
        10 max(s0, min(1, |f(z0)|)) from 0 was confirmed by one more evaluation beside it (see
        `acceptance`). An iteration that only seems to converge ends as `stagnated`, or as
        `unbounded_path` if it ran away. Failed solves contribute exactly zero to every gradient.

    Raises:
        ValueError: if an argument is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: jnp.tanh(a * z) + x
        >>> z0 = jnp.zeros((1, 1))
        >>> x = jnp.ones((1, 1))
        >>> solution = homoode_jax.equilibrium(cell, 0.5, z0, x)
        >>> print(f"{solution.z[0, 0]:.4f} {bool(solution.success)}")
        1.6879 True
    """
    max_steps = whole("max_steps", max_steps)
    most = budget("max_evaluations", max_evaluations)
    check_untraced(solver=solver, adjoint=adjoint)
    method = make_iteration(solver)

    def algorithm(z0):
        number = make_tolerance("tol", tol, z0, 1e-5)
        if isinstance(method, OPTIMISTIX):
            return ByOptimistix(method, number, max_steps)
        if isinstance(method, Robust):
            return Chain(method.first, number, max_steps, most)
        return Iterated(method, number, max_steps, most)

    return solve_cells(
        cell,
        params,
        z0,
        x,
        algorithm,
        adjoint=adjoint,
        batching=batching,
        mask=mask,
        preconditioner=preconditioner,
        backward_probe=backward_probe,
    )


def make_iteration(solver: Solver) -> Iteration | Robust | OPTIMISTIX:
    """Returns the method behind a name; passes methods and Optimistix solvers through."""
    known = Anderson | Broyden | NewtonKrylov | Picard | Relaxation | Robust | OPTIMISTIX
    if isinstance(solver, known):
        return solver  # pyright: ignore[reportReturnType]
    check_option("solver", solver, EQUILIBRIUM_SOLVERS)
    return EQUILIBRIUM_SOLVERS[str(solver)]()
