"""`solver="robust"`: a fast iteration, and stronger methods for what it leaves.

Rungs follow each other until one finds a root (see `climb` for all but the first):

    iteration, broyden, mixing, search, newton_path, fixed_point, newton_path_z0, newton

Examples that solve in the first rung never wait for the others: those are for rows that are
gathered, a few at a time (see `chunks`).
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from homoode_jax.mathematics.cells.acceptance import GONE, accept, why_not
from homoode_jax.mathematics.cells.outcome import Outcome, Rungs
from homoode_jax.mathematics.cells.vectors import Equation, norm, relative_residual
from homoode_jax.mathematics.cells.verdict import measure
from homoode_jax.mathematics.common.functions import has_products
from homoode_jax.mathematics.common.options import MOST
from homoode_jax.mathematics.common.solution import RUNNING, Result
from homoode_jax.mathematics.common.trees import all_finite, choose, is_at_most
from homoode_jax.mathematics.homotopy.climb import climb
from homoode_jax.mathematics.homotopy.climber import ATTEMPTS, Climb, Climber
from homoode_jax.mathematics.iterations.fixed_point import Anderson
from homoode_jax.mathematics.iterations.iterate import Iteration, iterate

RUNGS = ("iteration", *ATTEMPTS)
FIRST_STEPS = 50  # of the iteration, where more are allowed
MEMORY = 10  # of Anderson's method, with which it begins
# Where a state has few entries, a long memory only repeats itself, and Broyden's matrix soon has
# nothing to learn: the iteration gets the steps that it would lose.
SMALL = 16  # entries, and fewer
FIRST_STEPS_SMALL = 100
MEMORY_SMALL = 5
EVALUATIONS = 50  # the budget of all rungs for each of `max_steps`, if no other is given


class Robust(eqx.Module):
    """An iteration that one can leave alone: other methods and homotopies stand behind it.

    They take Jacobian-vector products: a cell with a `jax.custom_vjp` function has the first rung
    only.

    Attributes:
        first: the iteration to begin with: `Anderson(...)`, `Broyden(...)`, `Picard(...)`,
            `NewtonKrylov(...)` or `Relaxation(...)`. None: `Anderson` with a memory of 10, of 5
            for a state of up to 16 entries.

    Raises:
        ValueError: if `first` is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: jnp.exp(a * z) - x  # slope 3 at 0, and 0.19 at the root
        >>> z0 = jnp.zeros((1, 1))
        >>> x = jnp.ones((1, 1)) * 2
        >>> solver = homoode_jax.Robust(homoode_jax.Picard())
        >>> solution = homoode_jax.equilibrium(cell, 3.0, z0, x, solver=solver)
        >>> print(f"{solution.z[0, 0]:.4f} {bool(solution.success)}")
        -1.9975 True
    """

    first: Any = None

    def __check_init__(self):
        if self.first is None:
            return
        if isinstance(self.first, type) or not isinstance(self.first, Iteration):
            raise ValueError(
                "first must be an iteration of homoode_jax, such as Anderson(memory=10), got "
                f"{self.first!r}."
            )


class Chain(eqx.Module):
    """The rungs of `Robust`, and their bounds (an `Algorithm`)."""

    first: Any
    tol: Float[Array, ""]
    max_steps: int = eqx.field(static=True)
    max_evaluations: Int[Array, ""] | None

    def solve(self, equation: Equation) -> Outcome:
        """Climbs all rungs that it takes."""
        out = self.begin(equation)
        needed = out.result != Result.ok
        return lax.cond(needed, lambda: self.go_on(equation, out, needed), lambda: out)

    @property
    def budget(self) -> Int[Array, ""]:
        """Returns the most evaluations and products of all rungs together."""
        if self.max_evaluations is not None:
            return self.max_evaluations
        return jnp.asarray(min(EVALUATIONS * self.max_steps, MOST), jnp.int32)

    def begin(self, equation: Equation) -> Outcome:
        """Iterates from z0."""
        if equation.unrolled:
            raise ValueError(
                "solver='robust' has no adjoint='unrolled'; use 'implicit', or solver='anderson'."
            )
        is_small = is_at_most(equation.z0.size, SMALL)
        usual = Anderson(memory=MEMORY_SMALL if is_small else MEMORY)
        most = FIRST_STEPS_SMALL if is_small else FIRST_STEPS
        out, _ = iterate(
            method=usual if self.first is None else self.first,
            equation=equation,
            tol=self.tol,
            max_steps=min(self.max_steps, most),
            max_evaluations=self.budget,
        )
        none = jnp.zeros(len(RUNGS), jnp.int32)
        rungs = Rungs(
            evaluations=none.at[0].set(out.cost.total),
            results=(none + RUNNING).at[0].set(out.result),
        )
        return out._replace(rungs=rungs)

    def go_on(self, equation: Equation, out: Outcome, needed: Bool[Array, ""]) -> Outcome:
        """Climbs from where the iteration ended, if that is needed."""
        if not has_products(equation.f, equation.z0):
            return out
        z0 = equation.z0
        f0 = equation.f(z0)
        scale = measure(equation, f0)
        size = jnp.maximum(norm(z0), norm(f0 - z0))
        size = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
        # A power of 2, so that z / unit is exact: iterations go where they would without it.
        length = size * jnp.sqrt(jnp.asarray(z0.size, jnp.float32)).astype(z0.dtype)
        unit = jnp.ldexp(jnp.ones((), z0.dtype), jnp.frexp(length)[1])
        unit = jnp.where((unit > 0) & jnp.isfinite(unit), unit, 1)
        climber = Climber(
            equation=equation,
            scale=scale,
            tol=self.tol,
            unit=unit,
            budget=self.budget - out.cost.total,
        )
        needed = needed & all_finite(f0) & (climber.budget > 0)
        # An iterate that ran away has a small relative residual, and is no place to start from.
        gone = norm(out.z) > GONE * scale.reach
        best = jnp.where(gone, z0, out.z)
        least = jnp.where(gone, relative_residual(z0, f0), out.residual)
        end = climb(climber, best, least, needed)
        f = equation.f(end.best)
        found, doubt, cost = accept(equation, scale, end.best, f, self.tol)
        result = jnp.where(doubt, why_not(scale, f), _last_result(end))
        result = jnp.where(found, Result.ok.value, result).astype(jnp.int32)
        first = out.rungs
        assert first is not None
        rungs = Rungs(
            evaluations=first.evaluations.at[1:].set(end.spent),
            results=first.results.at[1:].set(end.results),
        )
        cost = cost.plus(nfe=2)  # f0, and the cell at the end
        after = out._replace(
            z=end.best,
            result=result,
            residual=relative_residual(end.best, f),
            num_steps=out.num_steps + end.turns,
            cost=out.cost.add(end.cost).add(cost),
            rungs=rungs,
        )
        return choose(needed, after, out)


def _last_result(end: Climb):
    """Returns how the last attempt ended, `max_steps` if it was under way."""
    last = jnp.minimum(end.attempt, len(ATTEMPTS) - 1)
    result = end.results[last]
    return jnp.where(result <= Result.ok.value, Result.max_steps.value, result)
