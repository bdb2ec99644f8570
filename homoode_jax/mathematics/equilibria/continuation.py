"""`continuation`: a homotopy's path followed from z0 to a root of z = f(z; x, theta).

HomoODE (arXiv 2310.09583) learns a field for such paths. Here the cell is explicit, and the path of
its fixed-point or Newton homotopy is followed by predictor and corrector (see `homotopy`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree, Real

from homoode_jax.mathematics.cells.acceptance import accept, why_not
from homoode_jax.mathematics.cells.adjoints import Route
from homoode_jax.mathematics.cells.gmres import as_counted, make_linear_solver
from homoode_jax.mathematics.cells.outcome import Outcome
from homoode_jax.mathematics.cells.precision import make_tolerance
from homoode_jax.mathematics.cells.solve import Cell, solve_cells
from homoode_jax.mathematics.cells.vectors import Cost, Equation, Vector, no_cost, relative_residual
from homoode_jax.mathematics.cells.verdict import Scale, measure
from homoode_jax.mathematics.common.checks import check_option
from homoode_jax.mathematics.common.functions import check_products, check_untraced
from homoode_jax.mathematics.common.options import budget, is_concrete, numbers, real, whole
from homoode_jax.mathematics.common.solution import Result, Solution
from homoode_jax.mathematics.homotopy.corrector import Correction, correct
from homoode_jax.mathematics.homotopy.equations import (
    HOMOTOPIES,
    OWN,
    Homotopy,
    Point,
    Schedule,
    lam_row,
    make_schedule,
)
from homoode_jax.mathematics.homotopy.path import Walk, follow
from homoode_jax.mathematics.homotopy.step import Method
from homoode_jax.mathematics.ode.solvers import make_explicit_solver

PATHS = ("natural", "arclength")
OwnHomotopy = Callable[[PyTree, Float[Array, ""], PyTree[Array], PyTree], PyTree[Array]]
INSTEAD_OF_A_PATH = "use equilibrium with solver='anderson', 'broyden', 'picard' or 'ode', or "


class Continuation(eqx.Module):
    """A homotopy and how its path is followed (an `Algorithm`)."""

    method: Method
    kind: str = eqx.field(static=True)
    lams: Float[Array, " saves"] | None
    keep_steps: bool = eqx.field(static=True)

    def solve(self, equation: Equation) -> Outcome:
        """Follows the path, corrects the points to save, and judges the end."""
        check_products(equation.f, equation.z0, "continuation", instead=INSTEAD_OF_A_PATH)
        own = equation.homotopy
        if own is not None:
            at_start = partial(_at, own, jnp.zeros((), equation.z0.dtype))
            check_products(at_start, equation.z0, "continuation", of="homotopy")
        homotopy = Homotopy(equation, equation.f(equation.z0), self.kind)
        scale = measure(equation, homotopy.f0)
        method = self.method
        method = eqx.tree_at(lambda m: m.atol, method, method.atol * scale.least)
        lams = jnp.zeros(0, equation.z0.dtype) if self.lams is None else self.lams
        walk = follow(homotopy, method, lams, self.keep_steps)
        z, lam = homotopy.split(walk.place.y)
        z = jnp.where(walk.num_steps > walk.num_rejected, z, equation.z0)  # z0 bit for bit
        f = equation.f(z)
        result, looking = _verdict(
            homotopy=homotopy, method=self.method, scale=scale, walk=walk, z=z, f=f
        )
        zs, ts, on_path, saving = self._saved(homotopy, method, walk)
        result = jnp.where((result == Result.ok) & ~on_path, Result.stagnated.value, result)
        cost = walk.cost.plus(nfe=2)  # f(z0) at the start, f(z) at the end
        cost = cost.add(looking).add(saving)
        return Outcome(
            z=z,
            zs=zs,
            ts=ts,
            result=result.astype(jnp.int32),
            residual=relative_residual(z, f),
            lam=lam,
            num_folds=walk.num_folds,
            num_steps=walk.num_steps,
            num_rejected=walk.num_rejected,
            cost=as_counted(cost, method.linear_solver),
        )

    def _saved(self, homotopy: Homotopy, method: Method, walk: Walk):
        """Returns z and lam of the saved points, whether all lie on the path, and the cost.

        Points at given lams are corrected to tolerance there.
        """
        points = walk.saved
        on_path = jnp.asarray(True)
        cost = no_cost()
        if walk.trail is not None:
            points = walk.trail
        elif self.lams is None:
            return None, None, on_path, cost
        else:
            fixed = jax.vmap(lambda y: _at_lam(homotopy, method, y))(walk.saved)
            points = jnp.where((walk.reached & fixed.ok)[:, None], fixed.y, walk.saved)
            points = jnp.where(walk.reached[:, None], points, walk.place.y[None])
            on_path = jnp.all(fixed.ok | ~walk.reached) & _rises(self.lams)
            cost = jax.tree.map(jnp.sum, fixed.cost)
        zs, lams = jax.vmap(homotopy.split)(points)
        return zs, lams if self.lams is None else self.lams, on_path, cost


def _verdict(
    homotopy: Homotopy, method: Method, scale: Scale, walk: Walk, z: Vector, f: Vector
) -> tuple[Int[Array, ""], Cost]:
    """Returns how the path ended, which is ok only if its end is a root, and the cost of that."""
    arrived = walk.result == Result.ok
    # A path that did not arrive needs no second look: a tolerance of -1 accepts nothing.
    tol = jnp.where(arrived, method.rtol, -1)
    atol = jnp.where(arrived, method.atol, -1)
    root, doubt, cost = accept(
        equation=homotopy.equation, scale=scale, z=z, f=f, tol=tol, atol=atol
    )
    missed = jnp.where(doubt, why_not(scale, f), Result.stagnated.value)
    return jnp.where(arrived & ~root, missed, walk.result), cost


def _at(own: Callable, lam: Float[Array, ""], z: Vector) -> Vector:
    return own(z, lam)


def _at_lam(homotopy: Homotopy, method: Method, y: Point) -> Correction:
    row = lam_row(homotopy.f0.size, y.dtype)
    return correct(
        homotopy=homotopy,
        y=y,
        row=row,
        solver=method.linear_solver,
        rtol=method.rtol,
        atol=method.atol,
        near=0.0,
    )


def _rises(lams: Float[Array, " saves"]) -> Bool[Array, ""]:
    """Returns True if lams run from 0 to 1 in order."""
    return jnp.all(jnp.diff(lams) >= 0) & (lams[0] >= 0) & (lams[-1] <= 1)


def continuation(
    cell: Cell,
    params: PyTree,
    z0: PyTree[ArrayLike],
    x: PyTree,
    *,
    homotopy: str | OwnHomotopy = "fixed_point",
    path: str = "natural",
    schedule: str | Schedule = "linear",
    solver: str | diffrax.AbstractERK | diffrax.Euler = "euler",
    rtol: Real[ArrayLike, ""] | None = None,
    atol: Real[ArrayLike, ""] = 1e-8,
    max_steps: Int[ArrayLike, ""] = 200,
    max_evaluations: Int[ArrayLike, ""] | None = None,
    save_at: str | Sequence[float] | Real[ArrayLike, " saves"] | None = None,
    linear_solver: str | lx.AbstractLinearSolver = "gmres",
    linear_tol: Real[ArrayLike, ""] = 1e-3,
    preconditioner: Callable | None = None,
    adjoint: str | Route = "implicit",
    batching: str = "joint",
    backward_probe: Real[ArrayLike, "*batch"] = 0.0,
    mask: Bool[ArrayLike, " batch"] | None = None,
) -> Solution:
    """Finds z = cell(params, z, x) by following a homotopy from (z0, 0) to lam = 1.

    Works under `jit`, `vmap` and reverse-mode differentiation, of any order, with respect to
    `params` and `x`.

    Args:
        cell: `cell(params, z, x) -> f(z)`, with the structure, shapes and dtypes of `z`. Always
            called with a batch axis (of size 1 in per-example mode). It must not close over
            traced arrays, and have Jacobian-vector products: no `jax.custom_vjp` functions.
        params: any pytree, shared by the batch.
        z0: start of the path, a pytree of real arrays `[batch, ...]`.
        x: condition, a pytree of arrays `[batch, ...]` or None. Integer, bool and key leaves
            have no gradient.
        homotopy: "fixed_point" (H = z - lam f - (1 - lam) z0) or "newton"
            (H = r(z) - (1 - lam) r(z0)), r(z) = z - f(z); or one of your own,
            `homotopy(params, lam, z, x) -> H` with the structure, shapes and dtypes of z: 0 at
            (0, z0), and 0 at lam = 1 where z is a root. Its evaluations count as the cell's.
        path: "natural" (lam is the parameter; ends at a fold) or "arclength" (passes folds, and
            counts them in `stats.num_folds`).
        schedule: lam(t) for t from 0 to 1 along a natural path: "linear", "cosine", "quadratic",
            or a function that grows from 0 to 1, and whose slope may be 0; steps are chosen in t.
        solver: the predictor along the Davidenko field: "euler", or an explicit Diffrax
            Runge-Kutta method by name or object.
        rtol: the root, and the points saved on the way, are corrected until
            |H| <= max(rtol |z|, atol min(1, s0)), root mean squares, s0 = |z0|, or |f(z0)| where
            z0 = 0; may be traced, has no gradient. None: 1e-5, or what z0's dtype can reach.
        atol: see `rtol`.
        max_steps: the most predictor-corrector steps to try.
        max_evaluations: a bound on evaluations of the cell and products with its Jacobian taken
            together, looked at between steps; may be traced; None: no bound.
        save_at: values of lam in increasing order at which to keep the path's first point, or
            "steps" for every point stepped on: `ts` is then lam, `max_steps + 1` of it, the last
            one repeated. Traced values out of order end a path as `stagnated`.
        linear_solver: "gmres", or a Lineax solver, which brings its own tolerance.
        linear_tol: relative tolerance of "gmres"; corrections make up for what it leaves.
        preconditioner: `preconditioner(params, z, x, lam, v)`, linear in v and near
            (dH/dz)^-1 v; in implicit gradients it is taken at lam = 1.
        adjoint: "implicit" (a transposed linear solve; or `Implicit(tol, linear_solver)`),
            "implicit_jvp" (the same in forward mode too, for `jvp`, `jacfwd` and `hessian`),
            "jacobian_free", "phantom" (or `Phantom(steps, damping)`), or "unrolled"
            (backpropagation through the path's steps). All but the last return zeros for z0.
        batching: "joint" (one path for the whole batch) or "per_example" (a path for each).
        backward_probe: its cotangent is the number of vector-Jacobian products of the cell in
            the backward pass: a scalar, or `[batch]` in per-example mode (a scalar then gets the
            sum, negative if one is). Negative where its linear solve failed, which makes the
            gradient exactly zero, or where unknown.
        mask: bool `[batch]`, False for rows that are padding.

    Returns:
        A `Solution`. `ok` promises that z and f are finite, that the residual |z - f| at z, in
        z0's dtype, is at most max(rtol |f|, atol min(1, s0), 1e-3 rtol min(1, s0)), and that a
        state further than 10 max(s0, min(1, |f(z0)|)) from 0 was confirmed by one more
        evaluation beside it (see `acceptance`). A path that ends early leaves its last point in
        `z`, its lam in `stats.lam`, and the reason in `result`: `fold`, `bifurcation`,
        `unbounded_path`, `linear_solve`, `stagnated`, `nonfinite` or `max_steps`. Failed solves
        contribute exactly zero to every gradient.

    Raises:
        ValueError: if an argument is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: a * z + x
        >>> z0 = jnp.zeros((1, 1))
        >>> x = jnp.ones((1, 1))
        >>> solution = homoode_jax.continuation(cell, -3.0, z0, x)
        >>> print(f"{solution.z[0, 0]:.4f} {solution.stats.lam:.1f}")
        0.2500 1.0
    """
    own = None if isinstance(homotopy, str) else homotopy
    if not callable(own):
        check_option("homotopy", homotopy, HOMOTOPIES)
    check_untraced(solver=solver, linear_solver=linear_solver, adjoint=adjoint)
    _check_path(path, schedule)
    linear_tol = real("linear_tol", linear_tol, "a positive number")
    most = budget("max_evaluations", max_evaluations)
    method = partial(
        Method,
        linear_solver=make_linear_solver(linear_solver, linear_tol),
        solver=make_explicit_solver(solver),
        schedule=make_schedule(schedule),
        arclength=path == "arclength",
        max_steps=whole("max_steps", max_steps),
        max_evaluations=most,
    )

    def algorithm(z0) -> Continuation:
        tolerance = make_tolerance("rtol", rtol, z0, 1e-5)
        least = make_tolerance("atol", atol, z0, 0.0, positive=False)
        lams, keep_steps = _check_save_at(save_at, tolerance.dtype)
        kind = OWN if callable(homotopy) else homotopy
        return Continuation(method(rtol=tolerance, atol=least), kind, lams, keep_steps)

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
        homotopy=own,
        backward_probe=backward_probe,
    )


def _check_path(path: str, schedule: str | Schedule) -> None:
    check_option("path", path, PATHS)
    if path == "arclength" and schedule != "linear":
        raise ValueError("schedule belongs to path='natural'; arc length has a speed of its own.")


def _check_save_at(save_at: Any, dtype) -> tuple[Float[Array, " saves"] | None, bool]:
    if save_at is None or isinstance(save_at, str):
        if save_at not in (None, "steps"):
            raise ValueError(f"save_at={save_at!r} must be 'steps', values of lam, or None.")
        return None, save_at == "steps"
    lams = numbers("save_at", save_at, dtype)
    if is_concrete(lams) and not np.all(np.diff(np.concatenate([[0], lams, [1]])) >= 0):
        raise ValueError(f"save_at must rise from 0 to 1, got {save_at!r}.")
    return lax.stop_gradient(jnp.asarray(lams)), False
