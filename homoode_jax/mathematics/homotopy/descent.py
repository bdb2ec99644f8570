"""Newton's method with a line search, one point at a time: what each point of a climb means for it.

A step is halved until |r| falls (Armijo). Where it never does, the shortest part is taken all the
same: a line search that insists would end beside a minimum of |r| that is no root. The descent ends
if |r| is not halved within `patience` points.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from homoode_jax.mathematics.common.solution import RUNNING, Result
from homoode_jax.mathematics.homotopy.ascent import Seen
from homoode_jax.mathematics.homotopy.equations import Point

ARMIJO = 1e-4
SHORTEST = 2.0**-10  # part of a step that is taken whatever it leads to
LONGEST = 100.0  # times the size of a point: a step


class Descent(NamedTuple):
    """Newton's method under way.

    Attributes:
        base: the last point that was taken.
        part: part of the next step that is being tried.
        size: |r| at base.
        goal: what |r| has to fall to within `patience` points.
        patience: points left for that.
    """

    base: Point
    part: Float[Array, ""]
    size: Float[Array, ""]
    goal: Float[Array, ""]
    patience: Int[Array, ""]


def begin_descent(y: Point, patience: Int[Array, ""]) -> Descent:
    """Returns a descent that takes its first point, y, as it is."""
    infinite = jnp.full((), jnp.inf, y.dtype)
    return Descent(
        base=y,
        part=jnp.ones((), y.dtype),
        size=infinite,
        goal=infinite,
        patience=patience,
    )


def is_taken(descent: Descent, size: Float[Array, ""]) -> Bool[Array, ""]:
    """Returns whether a point with this |r| is gone on from."""
    falls = size <= (1 - ARMIJO * descent.part) * descent.size
    return falls | (descent.part <= SHORTEST)


def forcing(descent: Descent, size: Float[Array, ""]) -> Float[Array, ""]:
    """Returns how exactly to solve for the next step, by the last one (Eisenstat & Walker 1996)."""
    fall = jnp.where(jnp.isfinite(descent.size), size / descent.size, 1)
    return jnp.clip(0.9 * fall**2, 1e-4, 0.1)


def descend(
    descent: Descent, y: Point, seen: Seen, patience: Int[Array, ""]
) -> tuple[Descent, Point, Int[Array, ""]]:
    """Takes the point and steps on, or halves the step that led to it.

    Returns the descent, the next point to try, and RUNNING or why the descent ends; `patience` is
    what it has after |r| was halved.
    """
    takes = seen.takes
    step = _bounded(seen.linear.value, y)
    halved = takes & (seen.size <= descent.goal)
    after = Descent(
        base=jnp.where(takes, y, descent.base),
        part=jnp.where(takes, 1, descent.part / 2),
        size=jnp.where(takes, seen.size, descent.size),
        goal=jnp.where(halved, seen.size / 2, descent.goal),
        patience=jnp.where(halved, patience, descent.patience - takes.astype(jnp.int32)),
    )
    next_y = jnp.where(takes, y + step, (descent.base + y) / 2)
    stands = takes & ~jnp.any(step != 0)
    begins = ~jnp.isfinite(descent.size)
    nowhere = ~seen.finite & (begins | (after.part < SHORTEST / 4))
    result = jnp.where(after.patience < 0, Result.stagnated.value, RUNNING)
    result = jnp.where(stands, Result.linear_solve.value, result)
    result = jnp.where(takes & seen.gone, Result.unbounded_path.value, result)
    return after, next_y, jnp.where(nowhere, Result.nonfinite.value, result)


def _bounded(step: Point, y: Point) -> Point:
    """Returns the step, shortened to at most LONGEST times the size of y."""
    most = LONGEST * jnp.linalg.norm(y)
    length = jnp.linalg.norm(step)
    return step * jnp.where(length > most, most / jnp.where(length > most, length, 1), 1)
