"""Newton's method and homotopies in one loop, for equations at which a fast iteration has failed.

A point is y = (z / unit, lam), with unit = sqrt(n) times the size of z, and

    H(y) = z - c f(z) - (1 - c) a - d (1 - lam) r(a),     r(z) = z - f(z),

where c = d = 1 for the Newton homotopy from a, and c = lam, d = 0 for the fixed-point homotopy. At
lam = 1 both are r. So a step of Newton's method and a correction towards a path are one solve,

    B dy = (-H, 0),     B = [[dH/dy], [row]],

with row = (0, 1) at lam = 1, and the path's direction on the way (Allgower & Georg 1990). A turn of
the loop evaluates the cell at a trial point, decides what the point is good for, and solves at most
once. The cell and its derivative are therefore compiled once, whatever is attempted:

    search         Newton from the best point known (see `descent`)
    newton_path    arc length along the Newton homotopy from the best point known (see `ascent`)
    fixed_point    arc length along the fixed-point homotopy from z0
    newton         as `search`, from z0 and with more patience

An attempt ends when it fails or has used its share of the budget.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from homoode_jax.mathematics.cells.acceptance import GONE
from homoode_jax.mathematics.cells.vectors import (
    FLOOR,
    Cost,
    Equation,
    Vector,
    no_cost,
)
from homoode_jax.mathematics.cells.verdict import Scale, judge, norm
from homoode_jax.mathematics.common.solution import RUNNING, Result
from homoode_jax.mathematics.common.trees import all_finite, choose
from homoode_jax.mathematics.homotopy.ascent import Ascent, Seen, along, begin_path
from homoode_jax.mathematics.homotopy.bordered import Bordered, by_krylov, by_matrix
from homoode_jax.mathematics.homotopy.descent import (
    Descent,
    begin_descent,
    descend,
    forcing,
    is_taken,
)
from homoode_jax.mathematics.homotopy.equations import Point, lam_row

ATTEMPTS = ("search", "newton_path", "fixed_point", "newton")
SEARCH, NEWTON_PATH, FIXED_POINT, NEWTON = range(4)
SHARES = (0.15, 0.15, 0.35, 1.0)  # of the budget
PATIENCE = {SEARCH: 25, NEWTON: 1000}  # points in a row by which |r| has to be halved
DENSE = 256  # entries up to which the Jacobian is factorised
ON_PATH = 1e-3  # tolerance of linear solves on a path


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


class Climb(NamedTuple):
    """A climb under way.

    Attributes:
        y: the point to try.
        unit: of its z.
        descent: Newton's method, in the attempts that use it.
        path: the path, in the attempts that follow one.
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


def climb(
    climber: Climber, best: Vector, least: Float[Array, ""], needed: Bool[Array, ""]
) -> Climb:
    """Climbs from the best point known until a point passes for a root, or all attempts failed."""

    def goes_on(state: Climb) -> Bool[Array, ""]:
        room = state.cost.total < climber.budget
        return needed & ~state.done & (state.attempt < len(ATTEMPTS)) & room

    start = _begin(climber, best, jnp.zeros((), jnp.int32))._replace(least=least)
    return lax.while_loop(goes_on, lambda state: _turn(climber, state), start)


def _on_path(attempt: Int[Array, ""]) -> Bool[Array, ""]:
    """Returns whether this attempt follows a path."""
    return (attempt == NEWTON_PATH) | (attempt == FIXED_POINT)


def _patience(attempt: Int[Array, ""]) -> Int[Array, ""]:
    patience = jnp.where(attempt == SEARCH, PATIENCE[SEARCH], PATIENCE[NEWTON])
    return patience.astype(jnp.int32)


def _begin(climber: Climber, best: Vector, attempt: Int[Array, ""]) -> Climb:
    """Returns the state at the start of an attempt, with nothing known but the best point."""
    from_z0 = (attempt == NEWTON) | (attempt == FIXED_POINT)
    start = jnp.where(from_z0, climber.equation.z0, best)
    lam = jnp.where(_on_path(attempt), 0, 1).astype(best.dtype)
    y = jnp.append(start / climber.unit, lam)
    infinite = jnp.full_like(lam, jnp.inf)
    none = jnp.zeros(len(ATTEMPTS), jnp.int32)
    kept = best.size if best.size <= DENSE else 0
    return Climb(
        y=y,
        unit=climber.unit,
        descent=begin_descent(y, _patience(attempt)),
        path=begin_path(y),
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


def _turn(climber: Climber, state: Climb) -> Climb:
    """Evaluates the cell at y, and decides what comes next."""
    seen, jacobian = _look(climber, state)
    cost = no_cost().plus(nfe=1, num_jvp=seen.linear.products)
    better = seen.root | (seen.finite & ~seen.gone & (seen.residual < state.least))
    state = state._replace(
        r_start=seen.r_start,
        best=jnp.where(better, state.y[:-1] * state.unit, state.best),
        least=jnp.where(better, seen.residual, state.least),
        jacobian=jacobian,
        done=seen.root,
        spent=state.spent.at[state.attempt].add(cost.total),
        cost=state.cost.add(cost),
        turns=state.turns + 1,
    )
    on_path = _on_path(state.attempt)
    path, y, unit, lost = along(
        path=state.path,
        y=state.y,
        unit=state.unit,
        seen=seen,
        least_unit=1e-3 * climber.unit,
        returns=state.attempt != FIXED_POINT,
    )
    ascended = state._replace(path=path, y=y, unit=unit)
    descent, y, stuck = descend(state.descent, state.y, seen, _patience(state.attempt))
    descended = state._replace(descent=descent, y=y)
    after = choose(on_path, ascended, descended)._replace(first=jnp.asarray(False))
    share = jnp.asarray(SHARES, jnp.float32)[state.attempt]
    spent = state.spent[state.attempt].astype(jnp.float32)
    over = spent > share * climber.budget.astype(jnp.float32)
    over = over | (state.cost.total >= climber.budget)
    result = jnp.where(on_path, lost, stuck)
    result = jnp.where((result == RUNNING) & over, Result.max_steps.value, result)
    result = jnp.where(seen.root, Result.ok.value, result).astype(jnp.int32)
    after = after._replace(results=state.results.at[state.attempt].set(result))
    return choose(result > Result.ok.value, _next_attempt(climber, after), after)


def _look(climber: Climber, state: Climb) -> tuple[Seen, Float[Array, "m m"]]:
    """Evaluates and linearises the cell at y, and solves for the next step."""
    z = state.y[:-1] * state.unit
    f, jvp = jax.linearize(climber.equation.f, z)
    here = _homotopy(state, z, f)
    size = jnp.linalg.norm(here.h)
    finite = all_finite((f, size))
    on_path = _on_path(state.attempt)
    takes = finite & (on_path | is_taken(state.descent, size))
    fixes_lam = ~on_path | state.first | state.path.landing
    asks = on_path & state.path.asks
    row = jnp.where(fixes_lam, lam_row(z.size, z.dtype), state.path.row)
    # Nothing is solved where y is not taken.
    b = jnp.append(jnp.where(asks, 0, -here.h), asks.astype(z.dtype))
    b = jnp.where(takes, b, 0)
    problem = Bordered(jvp=jvp, c=here.c, slope=here.slope, row=row, b=b)
    if state.jacobian.size:
        renewed = takes & (~on_path | state.path.renews)
        linear, jacobian = by_matrix(problem, state.jacobian, renewed)
    else:
        renewed = takes
        jacobian = state.jacobian
        linear = by_krylov(problem, jnp.where(on_path, ON_PATH, forcing(state.descent, size)))
    verdict = judge(climber.scale, norm(f), norm(z - f), climber.tol)
    gone = norm(z) > GONE * climber.scale.reach
    seen = Seen(
        size=size,
        residual=verdict.residual / jnp.maximum(verdict.size, FLOOR),
        finite=finite,
        takes=takes,
        root=finite & ~gone & (verdict.found | verdict.doubtful),
        gone=gone,
        r_start=here.r_start,
        renewed=renewed,
        linear=linear,
    )
    return seen, jacobian


class _Homotopy(NamedTuple):
    """H at a point, over the unit, and what its derivative is made of."""

    h: Vector
    c: Float[Array, ""]
    slope: Vector
    r_start: Vector


def _homotopy(state: Climb, z: Vector, f: Vector) -> _Homotopy:
    """Returns H as the module defines it, and dH/dlam."""
    r = z - f
    rest = 1 - state.y[-1]
    r_start = jnp.where(state.first, r, state.r_start)
    fixed_point = state.attempt == FIXED_POINT
    h = r + jnp.where(fixed_point, rest * (f - state.start), -rest * r_start)
    slope = jnp.where(fixed_point, state.start - f, r_start)
    return _Homotopy(
        h=h / state.unit,
        c=jnp.where(fixed_point, state.y[-1], 1),
        slope=slope / state.unit,
        r_start=r_start,
    )


def _next_attempt(climber: Climber, state: Climb) -> Climb:
    """Returns the state at the start of the next attempt, with what is known by now."""
    fresh = _begin(climber, state.best, state.attempt + 1)
    return fresh._replace(
        least=state.least,
        results=state.results,
        spent=state.spent,
        cost=state.cost,
        turns=state.turns,
    )
