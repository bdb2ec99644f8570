"""Stronger methods in one loop, for equations at which a fast iteration has failed.

A point is y = (z / unit, lam), with unit = sqrt(n) times the size of z, and

    H(y) = z - c f(z) - (1 - c) a - d (1 - lam) r(a),     r(z) = z - f(z),

where c = d = 1 for the Newton homotopy from a, and c = lam, d = 0 for the fixed-point homotopy. At
lam = 1 both are r. So a step of Newton's method and a correction towards a path are one solve,

    B dy = (-H, 0),     B = [[dH/dy], [row]],

with row = (0, 1) at lam = 1, and the path's direction on the way (Allgower & Georg 1990). A turn of
the loop evaluates the cell at a trial point, decides what the point is good for, and solves at most
once. The cell and its derivative are therefore compiled once, whatever is attempted:

    broyden        Broyden's method from the best point known (see `cells.broyden`): most of what
                   Anderson leaves is solved by it, at the price of one evaluation a step
    mixing         Anderson mixing from z0 (see `cells.mixing`), with a short memory: most of what
                   it would find late by itself, where the cell's kinks brake Broyden's method
    search         Newton from the best point known (see `descent`)
    newton_path    arc length along the Newton homotopy from the best point known (see `ascent`)
    fixed_point    arc length along the fixed-point homotopy from z0
    newton_path_z0 as `newton_path`, from z0: the best point may lie where |r| is least, and no
                   root near
    newton         as `search`, from z0 and with more patience

An attempt ends when it fails or has used its share of the budget, or of 10,000 evaluations where
the budget is smaller: then those that come last may have no turn.
"""

from functools import partial

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from homoode_jax.mathematics.cells.broyden import learn, step_from
from homoode_jax.mathematics.cells.mixing import mix, remember
from homoode_jax.mathematics.cells.vectors import Vector, no_cost
from homoode_jax.mathematics.common.examples import once, while_any
from homoode_jax.mathematics.common.solution import RUNNING, Result
from homoode_jax.mathematics.common.trees import choose
from homoode_jax.mathematics.homotopy.ascent import Seen, along
from homoode_jax.mathematics.homotopy.climber import (
    ATTEMPTS,
    BROYDEN,
    FIXED_POINT,
    MIXING,
    Climb,
    Climber,
    Mixed,
    Quasi,
    begin,
    is_on_path,
    patience_of,
)
from homoode_jax.mathematics.homotopy.descent import descend
from homoode_jax.mathematics.homotopy.linearise import look

SHARES = (0.15, 0.15, 0.15, 0.15, 0.3, 0.1, 1.0)  # of the budget
# What a budget of 10,000 leaves after the iteration. Shares of less would end each attempt before
# it arrives: a step of Newton's method in some thousand entries may take hundreds of products.
USUAL_BUDGET = 9_800
WAITS = 100  # points of the first two in a row without a better one
WANDERS = 10.0  # times its least residual: mixing goes on beyond it, for it may yet come down


def climb(
    climber: Climber, best: Vector, least: Float[Array, ""], needed: Bool[Array, ""]
) -> Climb:
    """Climbs from the best point known until a point passes for a root, or all attempts failed."""

    def goes_on(state: Climb) -> Bool[Array, ""]:
        room = state.cost.total < climber.budget
        return needed & ~state.done & (state.attempt < len(ATTEMPTS)) & room

    start = begin(climber, best, jnp.zeros((), jnp.int32))._replace(least=least)
    turn = partial(_turn, climber)
    if climber.equation.mapped:
        return while_any(goes_on, turn, start, _freeze)
    return lax.while_loop(goes_on, turn, start)


def _freeze(goes_on: Bool[Array, ""], new: Climb, old: Climb) -> Climb:
    """Keeps where a climb ended; what it remembers, most of what there is, serves no more."""
    return choose(goes_on, new, _remembering_as(old, new))


def _remembering_as(state: Climb, other: Climb) -> Climb:
    """Returns the state with the memories of another, so that a choice copies none."""
    quasi = state.quasi._replace(matrix=other.quasi.matrix)
    mixed = state.mixed._replace(history=other.mixed.history)
    return state._replace(quasi=quasi, mixed=mixed, jacobian=other.jacobian)


def _turn(climber: Climber, state: Climb) -> Climb:
    """Evaluates the cell at y, and decides what comes next."""
    seen, f, jacobian = look(climber, state)
    cost = no_cost().plus(nfe=1, num_jvp=seen.linear.products)
    better = seen.root | (seen.finite & ~seen.gone & (seen.residual < state.least))
    state = state._replace(
        r_start=seen.r_start,
        best=jnp.where(better, state.y[:-1] * state.unit, state.best),
        least=jnp.where(better, seen.residual, state.least),
        jacobian=jacobian,
        low=jnp.where(seen.residual < state.low, seen.residual, state.low),
        since=jnp.where(seen.residual < state.low, 0, state.since + 1),
        done=seen.root,
        spent=state.spent.at[state.attempt].add(cost.total),
        cost=state.cost.add(cost),
        turns=state.turns + 1,
    )
    after, result = _decide(climber, state, seen, f)
    share = jnp.asarray(SHARES, jnp.float32)[state.attempt]
    spent = state.spent[state.attempt].astype(jnp.float32)
    over = spent > share * jnp.maximum(climber.budget, USUAL_BUDGET).astype(jnp.float32)
    over = over | (state.cost.total >= climber.budget)
    result = jnp.where((result == RUNNING) & over, Result.max_steps.value, result)
    result = jnp.where(seen.root, Result.ok.value, result).astype(jnp.int32)
    after = after._replace(
        first=jnp.asarray(False), results=state.results.at[state.attempt].set(result)
    )
    return choose(result > Result.ok.value, _next_attempt(climber, after), after)


def _decide(climber: Climber, state: Climb, seen: Seen, f: Vector) -> tuple[Climb, Int[Array, ""]]:
    """Returns the state with the point to try next, and RUNNING or why the attempt ends."""
    stepped = _iterated(state, seen, f)
    path, y, unit, lost = along(
        path=state.path,
        y=state.y,
        unit=state.unit,
        seen=seen,
        least_unit=1e-3 * climber.unit,
        returns=state.attempt != FIXED_POINT,
    )
    ascended = state._replace(path=path, y=y, unit=unit)
    descent, y, stuck = descend(state.descent, state.y, seen, patience_of(state.attempt))
    descended = state._replace(descent=descent, y=y)
    on_path = is_on_path(state.attempt)
    iterates = state.attempt <= MIXING
    ascended = _remembering_as(ascended, stepped)
    descended = _remembering_as(descended, stepped)
    after = choose(on_path, ascended, choose(iterates, stepped, descended))
    settled = _settled(state, seen)
    return after, jnp.where(on_path, lost, jnp.where(iterates, settled, stuck))


def _iterated(state: Climb, seen: Seen, f: Vector) -> Climb:
    """Returns the state after a step of Broyden's method, or of mixing, if it is their turn.

    Neither costs anything in the turns of other attempts.
    """
    z = state.y[:-1] * state.unit
    # Nothing is solved in these attempts. That the loops look at it puts them after its loops:
    # LAPACK's calls are not to run beside each other (see `bordered`).
    idle = ~jnp.any(seen.linear.value != 0)
    quasi, z1 = once(
        (state.attempt == BROYDEN) & idle, lambda old: _by_broyden(old[0], z, f), (state.quasi, z)
    )
    mixed, z1 = once(
        (state.attempt == MIXING) & idle,
        lambda old: _by_mixing(old[0], z, f, state.first),
        (state.mixed, z1),
    )
    y = jnp.append(z1 / state.unit, jnp.ones((), z.dtype))
    return state._replace(quasi=quasi, mixed=mixed, y=y)


def _by_broyden(last: Quasi, z: Vector, f: Vector) -> tuple[Quasi, Vector]:
    """Returns what Broyden's method has learned, and its next point."""
    matrix = learn(last.matrix, last.step, z - f)
    step = step_from(matrix, z, f)
    return Quasi(step=step, matrix=matrix), z + step


def _by_mixing(last: Mixed, z: Vector, f: Vector, first: Bool[Array, ""]) -> tuple[Mixed, Vector]:
    """Returns what mixing remembers, and its next point; from its first one it learns nothing."""
    one = jnp.ones((), z.dtype)
    history = remember(
        last.history,
        jnp.where(first, z, last.z),
        jnp.where(first, f, last.f),
        z_new=z,
        f_new=f,
        damping=one,
    )
    return Mixed(z=z, f=f, history=history), mix(history, z, f, one)


def _settled(state: Climb, seen: Seen) -> Int[Array, ""]:
    """Returns RUNNING, or why an iteration ends."""
    near = (state.attempt == BROYDEN) | (seen.residual < WANDERS * state.low)
    result = jnp.where((state.since > WAITS) & near, Result.stagnated.value, RUNNING)
    result = jnp.where(seen.gone, Result.unbounded_path.value, result)
    return jnp.where(seen.finite, result, Result.nonfinite.value).astype(jnp.int32)


def _next_attempt(climber: Climber, state: Climb) -> Climb:
    """Returns the state at the start of the next attempt, with what is known by now."""
    fresh = _remembering_as(begin(climber, state.best, state.attempt + 1), state)
    return fresh._replace(
        least=state.least,
        results=state.results,
        spent=state.spent,
        cost=state.cost,
        turns=state.turns,
    )
