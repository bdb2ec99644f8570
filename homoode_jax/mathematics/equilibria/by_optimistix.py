"""Solvers of Optimistix as algorithms for equilibria: z - f(z) = 0, or z = f(z).

Root finders, least-squares solvers and minimisers get the residual z - f, fixed-point solvers f.
They have tolerances of their own, and count nothing; what they return is held to ours.

Ours are no solvers of Optimistix in turn. Its loop returns the last iterate, where ours returns the
best; it ends at a step that is small, where ours looks at a root again before it says ok; and it
bounds steps, where ours bounds evaluations and products.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jax import lax
from jaxtyping import Array, Float

from homoode_jax.mathematics.cells.acceptance import accept, why_not
from homoode_jax.mathematics.cells.outcome import Outcome
from homoode_jax.mathematics.cells.vectors import Equation, Vector, no_cost, relative_residual
from homoode_jax.mathematics.cells.verdict import measure
from homoode_jax.mathematics.common.checks import check_not_mapped
from homoode_jax.mathematics.common.functions import check_products
from homoode_jax.mathematics.common.solution import Result
from homoode_jax.mathematics.common.trees import all_finite
from homoode_jax.mathematics.iterations.newton_krylov import INSTEAD_OF_NEWTON

BY_PRODUCTS = optx.AbstractRootFinder | optx.AbstractLeastSquaresSolver
OPTIMISTIX = BY_PRODUCTS | optx.AbstractFixedPointSolver | optx.AbstractMinimiser
DOUBLINGS = 40  # of the interval in which a change of sign is looked for


class _Value(eqx.Module):
    """f as Optimistix calls it: a pytree, whose arrays are no constants of its programs."""

    f: Callable[[Vector], Vector]

    def __call__(self, z: Vector, args: None) -> Vector:
        """Returns f at z."""
        return self.f(z)


class _Residual(_Value):
    """z - f(z) as Optimistix calls it."""

    def __call__(self, z: Vector, args: None) -> Vector:
        """Returns the residual at z."""
        return z - self.f(z)


class ByOptimistix(eqx.Module):
    """A solver of Optimistix, with its own tolerances (an `Algorithm`); nothing is counted."""

    solver: Any
    tol: Float[Array, ""]
    max_steps: int = eqx.field(static=True)

    def solve(self, equation: Equation) -> Outcome:
        """Solves by Optimistix; the result is ok only if the residual is within `tol`."""
        if equation.unrolled:
            check_not_mapped("adjoint='unrolled' of an Optimistix solver", instead="'implicit'")
        end = self._end(equation)
        value = jnp.reshape(end.value, equation.z0.shape)
        fine = all_finite(value)
        z = jnp.where(fine, value, equation.z0)
        f = equation.f(z)
        f0 = equation.f(equation.z0)
        scale = measure(equation, f0)
        found, doubt, _ = accept(equation, scale, z, f, self.tol)
        late = end.result == optx.RESULTS.nonlinear_max_steps_reached
        result = jnp.where(late, Result.max_steps.value, Result.stagnated.value)
        result = jnp.where(doubt, why_not(scale, f), result)
        result = jnp.where(found, Result.ok.value, result)
        result = jnp.where(fine & all_finite(f), result, Result.nonfinite.value)
        residual = relative_residual(z, f)
        zero = jnp.zeros((), jnp.int32)
        unknown = jnp.full((), -1, jnp.int32)
        return Outcome(
            z=z,
            zs=None,
            ts=None,
            result=result.astype(jnp.int32),
            residual=residual,
            lam=jnp.ones_like(residual),
            num_folds=zero,
            num_steps=jnp.asarray(end.stats["num_steps"], jnp.int32),
            num_rejected=zero,
            cost=no_cost()._replace(nfe=unknown, num_jvp=unknown),
        )

    def _end(self, equation: Equation) -> optx.Solution:
        """Runs the solver on the problem that it is for."""
        adjoint = optx.RecursiveCheckpointAdjoint() if equation.unrolled else optx.ImplicitAdjoint()
        options: dict[str, Any] = {
            "max_steps": self.max_steps,
            "adjoint": adjoint,
            "throw": False,
        }
        who = f"solver={type(self.solver).__name__}"
        if isinstance(self.solver, optx.AbstractFixedPointSolver):
            return optx.fixed_point(_Value(equation.f), self.solver, equation.z0, **options)
        if isinstance(self.solver, optx.Bisection):
            return _bisect(self.solver, who, equation, options)
        if isinstance(self.solver, BY_PRODUCTS):
            check_products(equation.f, equation.z0, who, instead=INSTEAD_OF_NEWTON)
        return optx.root_find(_Residual(equation.f), self.solver, equation.z0, **options)


class _Rising(eqx.Module):
    """The residual of one unknown, with the sign that makes it rise over the interval."""

    f: Callable[[Vector], Vector]
    sign: Float[Array, ""]

    def __call__(self, z: Float[Array, ""], args: None) -> Float[Array, ""]:
        """Returns the residual at z."""
        return self.sign * (z - self.f(z[None])[0])


def _bisect(solver: optx.Bisection, who: str, equation: Equation, options: dict) -> optx.Solution:
    """Bisects the first interval about z0, doubled again and again, whose ends have two signs.

    Where there is none, some point is returned; it is no root.
    """
    n = equation.z0.size
    if n != 1:
        raise ValueError(
            f"{who} is for one unknown, got {n} of them; use batching='per_example' with states of "
            "one entry, or another solver."
        )
    z0 = equation.z0[0]
    residual = _Rising(equation.f, jnp.ones_like(z0))

    def goes_on(state):
        _, lower, upper, turns = state
        return ~(lower * upper < 0) & (turns < DOUBLINGS)

    def body(state):
        width, _, _, turns = state
        width = 2 * width
        return width, residual(z0 - width, None), residual(z0 + width, None), turns + 1

    r0 = residual(z0, None)
    width = jnp.maximum(jnp.abs(r0), 1e-3 * jnp.maximum(jnp.abs(z0), 1))
    start = width, r0, r0, jnp.asarray(0)
    width, lower, _, _ = lax.while_loop(goes_on, body, start)
    return optx.root_find(
        _Rising(equation.f, jnp.where(lower > 0, -1, 1).astype(z0.dtype)),
        dataclasses.replace(solver, flip=False, expand_if_necessary=False),
        z0,
        options={"lower": z0 - width, "upper": z0 + width},
        **options,
    )
