"""A climb under way (see `climb`): what it knows, and how an attempt begins."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from homoode_jax.mathematics.cells.broyden import LowRank, identity
from homoode_jax.mathematics.cells.mixing import History, empty_history
from homoode_jax.mathematics.cells.vectors import Cost, Equation, Vector, no_cost
from homoode_jax.mathematics.cells.verdict import Scale
from homoode_jax.mathematics.common.solution import RUNNING
from homoode_jax.mathematics.common.trees import is_at_most
from homoode_jax.mathematics.homotopy.ascent import Ascent, begin_path
from homoode_jax.mathematics.homotopy.descent import Descent, begin_descent
from homoode_jax.mathematics.homotopy.equations import Point

ATTEMPTS = (
    "broyden",
    "mixing",
    "search",
    "newton_path",
    "fixed_point",
    "newton_path_z0",
    "newton",
)
BROYDEN, MIXING, SEARCH, NEWTON_PATH, FIXED_POINT, NEWTON_PATH_Z0, NEWTON = range(7)
PATIENCE = {SEARCH: 25, NEWTON: 1000}  # points in a row by which |r| has to be halved
HISTORY = 5  # differences that mixing keeps
MEMORY = 80  # terms of Broyden's matrix: the more, the more it solves
MEMORY_ENTRIES = 2**20  # of all terms: long states have fewer
LEAST_MEMORY = 10  # terms
DENSE = 256  # entries up to which the Jacobian is factorised


class Climber(NamedTuple):
    """What stays the same during a climb.

    Attributes:
        equation: what is solved.
        scale: of its residuals.
        tol: tolerance of the root.
        unit: sqrt(n) times the size of z at the start.
        budget: the most evaluations and products.
    """

    equation: Equation
    scale: Scale
    tol: Float[Array, ""]
    unit: Float[Array, ""]
    budget: Int[Array, ""]


class Quasi(NamedTuple):
    """Broyden's method under way.

    Attributes:
        step: to the point that is tried.
        matrix: B, which has learned from all steps before.
    """

    step: Vector
    matrix: LowRank


class Mixed(NamedTuple):
    """Anderson mixing under way.

    Attributes:
        z: the last point.
        f: the cell there.
        history: of the points before; empty until that attempt.
    """

    z: Vector
    f: Vector
    history: History


class Climb(NamedTuple):
    """A climb under way.

    Attributes:
        y: the point to try.
        unit: of its z.
        descent: Newton's method, in the attempts that use it.
        path: the path, in the attempts that follow one.
        quasi: Broyden's method, in the attempt that uses it.
        mixed: Anderson mixing, in the attempt that uses it.
        low: least relative residual of this attempt.
        since: points of it without a lower one.
        start: a, where the homotopy begins.
        r_start: r(a), known after the first turn of an attempt.
        best: the iterate to return.
        least: its relative residual.
        attempt: index in `ATTEMPTS`.
        jacobian: of f, at the last point at which it was taken; empty for large states.
        first: True before the first turn of an attempt.
        done: True when a point passes for a root.
        results: how attempts ended, as `Result`; RUNNING for those that were not made.
        spent: evaluations and products by attempt.
        cost: all of them.
        turns: of the loop.
    """

    y: Point
    unit: Float[Array, ""]
    descent: Descent
    path: Ascent
    quasi: Quasi
    mixed: Mixed
    low: Float[Array, ""]
    since: Int[Array, ""]
    start: Vector
    r_start: Vector
    best: Vector
    least: Float[Array, ""]
    attempt: Int[Array, ""]
    jacobian: Float[Array, "m m"]
    first: Bool[Array, ""]
    done: Bool[Array, ""]
    results: Int[Array, " attempts"]
    spent: Int[Array, " attempts"]
    cost: Cost
    turns: Int[Array, ""]


def begin(climber: Climber, best: Vector, attempt: Int[Array, ""]) -> Climb:
    """Returns the state at the start of an attempt, with nothing known but the best point."""
    from_z0 = (attempt == MIXING) | (attempt >= FIXED_POINT)
    start = jnp.where(from_z0, climber.equation.z0, best)
    lam = jnp.where(is_on_path(attempt), 0, 1).astype(best.dtype)
    y = jnp.append(start / climber.unit, lam)
    infinite = jnp.full_like(lam, jnp.inf)
    none = jnp.zeros(len(ATTEMPTS), jnp.int32)
    kept = best.size if is_at_most(best.size, DENSE) else 0
    return Climb(
        y=y,
        unit=climber.unit,
        descent=begin_descent(y, patience_of(attempt)),
        path=begin_path(y),
        quasi=Quasi(
            step=jnp.zeros_like(best),
            matrix=identity(best, _terms(best.size)),
        ),
        mixed=Mixed(z=best, f=best, history=empty_history(best, HISTORY)),
        low=infinite,
        since=jnp.zeros((), jnp.int32),
        start=start,
        r_start=jnp.zeros_like(best),
        best=best,
        least=infinite,
        attempt=attempt,
        jacobian=jnp.zeros((kept, kept), best.dtype),
        first=jnp.asarray(True),
        done=jnp.asarray(False),
        results=none + RUNNING,
        spent=none,
        cost=no_cost(),
        turns=jnp.zeros((), jnp.int32),
    )


def _terms(entries: Any) -> int:
    """Returns how many terms Broyden's matrix has for a state of so many entries.

    The least, where the number is not known yet: a joint solve exported for any batch size.
    """
    if not isinstance(entries, int):
        return LEAST_MEMORY
    return min(max(MEMORY_ENTRIES // max(entries, 1), LEAST_MEMORY), MEMORY)


def is_on_path(attempt: Int[Array, ""]) -> Bool[Array, ""]:
    """Returns whether this attempt follows a path."""
    return (attempt >= NEWTON_PATH) & (attempt <= NEWTON_PATH_Z0)


def patience_of(attempt: Int[Array, ""]) -> Int[Array, ""]:
    """Returns within how many points a descent has to halve |r|."""
    patience = jnp.where(attempt == SEARCH, PATIENCE[SEARCH], PATIENCE[NEWTON])
    return patience.astype(jnp.int32)
