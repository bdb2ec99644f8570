"""Iterations z -> z' towards z = f(z): the loop that they share.

It keeps the best iterate, counts, and stops at a root (see `acceptance`) or where no progress is
possible. An iterate at which the cell is not finite is refused, and the way to it shortened.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from homoode_jax.mathematics.cells.acceptance import look_again, why_not
from homoode_jax.mathematics.cells.outcome import Outcome
from homoode_jax.mathematics.cells.vectors import (
    FLOOR,
    Cost,
    Equation,
    Vector,
    no_cost,
    norm,
    relative_residual,
    repeat,
)
from homoode_jax.mathematics.cells.verdict import Scale, judge, measure, norms
from homoode_jax.mathematics.common.examples import while_any
from homoode_jax.mathematics.common.solution import RUNNING, Result
from homoode_jax.mathematics.common.trees import all_finite, choose

PATIENCE = 100  # iterations without a better iterate, all about as good: no progress
REFUSED_ITERATES = 5  # iterates in a row at which the cell is not finite end the iteration


class Move(NamedTuple):
    """One iteration's outcome: where it went, and what it took.

    Attributes:
        z: next iterate.
        f: the cell there.
        memory: the method's own memory.
        cost: work done.
        rejected: True if the method stayed where it was.
        failed: True if a linear solve failed, and no move was possible.
    """

    z: Vector
    f: Vector
    memory: PyTree
    cost: Cost
    rejected: bool | Bool[Array, ""] = False
    failed: bool | Bool[Array, ""] = False


@runtime_checkable
class Iteration(Protocol):
    """A method: a pytree of its settings."""

    def start(self, equation: Equation, f0: Vector) -> PyTree:
        """Returns the memory with which the method begins."""
        ...

    def move(self, equation: Equation, z: Vector, f: Vector, memory: PyTree) -> Move:
        """Returns the next iterate, given this one and the cell there.

        If the cell is not finite there, its memory must be as good as before: the loop goes on
        with it, from a point on the way to that iterate.
        """
        ...


class _State(NamedTuple):
    """An iteration under way.

    Attributes:
        z: last iterate.
        f: the cell there.
        memory: the method's own.
        best: the iterate to return.
        residual: its relative residual.
        since: iterations without a better one.
        refused: iterates in a row at which the cell was not finite.
        looked: size of the residual when a second look last failed to confirm a root.
        doubt: True if the last iterate only looks like a root.
        result: `Result`, or RUNNING.
        num_steps: iterations.
        num_rejected: those that stayed where they were.
        cost: work done.
        trace: relative residual of every iterate.
    """

    z: Vector
    f: Vector
    memory: Any
    best: Vector
    residual: Float[Array, ""]
    since: Int[Array, ""]
    refused: Int[Array, ""]
    looked: Float[Array, ""]
    doubt: Bool[Array, ""]
    result: Int[Array, ""]
    num_steps: Int[Array, ""]
    num_rejected: Int[Array, ""]
    cost: Cost
    trace: Float[Array, " points"]


def iterate(
    method: Iteration,
    equation: Equation,
    tol: Float[Array, ""],
    max_steps: int,
    max_evaluations: Int[Array, ""] | None = None,
) -> tuple[Outcome, Float[Array, " points"]]:
    """Runs a method; returns its outcome and the residual of every iterate (NaN beyond)."""
    f0 = equation.f(equation.z0)
    scale = measure(equation, f0)

    def goes_on(state: _State):
        room = max_evaluations is None or state.cost.total < max_evaluations
        return (state.result == RUNNING) & (state.num_steps < max_steps) & room

    def body(state: _State) -> _State:
        move = method.move(equation, state.z, state.f, state.memory)
        return _next(state, equation, scale, move, tol)

    start = _first(
        method=method, equation=equation, scale=scale, f0=f0, tol=tol, max_steps=max_steps
    )
    if equation.mapped and not equation.unrolled:
        end = while_any(goes_on, body, start, _freeze)
    else:
        end = repeat(goes_on, body, start, max_steps, equation.unrolled)
    late = jnp.where(end.result == RUNNING, Result.max_steps.value, end.result)
    failed = late != Result.ok
    seeming = why_not(scale, end.f)
    outcome = Outcome(
        z=end.best,
        zs=None,
        ts=None,
        result=jnp.where(failed & end.doubt, seeming, late).astype(jnp.int32),
        residual=end.residual,
        lam=jnp.ones_like(end.residual),
        num_folds=jnp.zeros_like(end.num_steps),
        num_steps=end.num_steps,
        num_rejected=end.num_rejected,
        cost=end.cost,
    )
    return outcome, end.trace


def _freeze(goes_on: Bool[Array, ""], new: _State, old: _State) -> _State:
    """Keeps where an iteration ended; its memory, most of what there is, serves no more."""
    bare = choose(goes_on, new._replace(memory=None), old._replace(memory=None))
    return bare._replace(memory=new.memory)


def _first(
    method: Iteration, equation: Equation, scale: Scale, f0: Vector, tol, max_steps: int
) -> _State:
    z0 = equation.z0
    verdict = judge(scale, norm(f0), norm(z0 - f0), tol)
    residual = relative_residual(z0, f0)
    fine = all_finite((z0, f0)) & jnp.isfinite(tol)
    result = jnp.where(verdict.found, Result.ok.value, RUNNING)
    zero = jnp.zeros((), jnp.int32)
    return _State(
        z=z0,
        f=f0,
        memory=method.start(equation, f0),
        best=z0,
        residual=jnp.where(fine, residual, jnp.inf),
        since=zero,
        refused=zero,
        looked=jnp.full_like(residual, jnp.inf),
        doubt=jnp.asarray(False),
        result=jnp.where(fine, result, Result.nonfinite.value).astype(jnp.int32),
        num_steps=zero,
        num_rejected=zero,
        cost=no_cost().plus(nfe=1),
        trace=jnp.full(max_steps + 1, jnp.nan, z0.dtype).at[0].set(residual),
    )


class _Seen(NamedTuple):
    """A move after a second look, if it took one.

    Attributes:
        z: where it went in the end.
        f: the cell there.
        fine: True if the move itself was finite.
        usable: True if z and f are finite.
        residual: relative residual of the move itself.
        root: True if z is a root.
        doubt: True if it only looks like one.
        looked: size of the residual at the last look that confirmed nothing.
        cost: what the look took.
    """

    z: Vector
    f: Vector
    fine: Bool[Array, ""]
    usable: Bool[Array, ""]
    residual: Float[Array, ""]
    root: Bool[Array, ""]
    doubt: Bool[Array, ""]
    looked: Float[Array, ""]
    cost: Cost


def _look_again(state: _State, equation: Equation, scale: Scale, move: Move, tol) -> _Seen:
    """Confirms a root far from the start, or draws a move back to where the cell is finite.

    A move is not drawn back in a solve that is backpropagated: its derivative would be lost.
    """
    fixed = equation.unrolled
    point = lax.stop_gradient((move.z, move.f)) if fixed else (move.z, move.f)
    point = norms(scale, *point)
    verdict = judge(scale, point.size, point.residual, tol)
    # The residual may overflow where z and f are finite: `look_again` then looks at those.
    # `move.f`, not `point.f`: XLA computes the last operations of a convolution in the shape in
    # which they are read, and on the flat vector they take much longer.
    fine = all_finite(move.f) & jnp.isfinite(verdict.residual)
    asks = fine & verdict.doubtful & (verdict.residual <= 0.5 * state.looked)
    seen = look_again(
        equation=equation,
        scale=scale,
        verdict=verdict,
        z=point.z,
        f=point.f,
        asks=asks,
        fine=jnp.asarray(True) if fixed else fine,
        back=(state.z, state.f),
    )
    fine = all_finite((move.z, move.f)) if fixed else seen.given
    usable = fine if fixed else seen.finite
    root = fine & (verdict.found | seen.confirmed)
    return _Seen(
        z=jnp.where(usable, move.z, state.z) if fixed else seen.z,
        f=jnp.where(usable, move.f, state.f) if fixed else seen.f,
        fine=fine,
        usable=usable,
        residual=verdict.residual / jnp.maximum(verdict.size, FLOOR),
        root=root,
        doubt=fine & verdict.small & ~root,
        looked=jnp.where(asks & ~root, verdict.residual, state.looked),
        cost=seen.cost,
    )


def _next(state: _State, equation: Equation, scale: Scale, move: Move, tol) -> _State:
    """Takes a move, and says whether the iteration ends with it."""
    seen = _look_again(state, equation, scale, move, tol)
    residual = seen.residual
    # A point that was drawn back is no candidate for the best: its residual is not known yet.
    better = seen.fine & (residual < state.residual)
    chosen = better | seen.root
    since = jnp.where(better, 0, state.since + 1)
    refused = jnp.where(seen.fine, 0, state.refused + 1)
    stuck = (since >= PATIENCE) & (residual < 10 * state.residual)
    stuck = stuck | (seen.doubt & (residual == 0))
    result = jnp.where(stuck, Result.stagnated.value, RUNNING)
    result = jnp.where(seen.root, Result.ok.value, result)
    result = jnp.where(move.failed, Result.linear_solve.value, result)
    lost = ~seen.usable | (refused > REFUSED_ITERATES)
    result = jnp.where(lost, Result.nonfinite.value, result).astype(jnp.int32)
    num_steps = state.num_steps + 1
    return _State(
        z=seen.z,
        f=seen.f,
        memory=move.memory,
        best=jnp.where(chosen, seen.z, state.best),
        residual=jnp.where(chosen, residual, state.residual),
        since=since,
        refused=refused,
        looked=seen.looked,
        doubt=seen.doubt,
        result=result,
        num_steps=num_steps,
        num_rejected=state.num_rejected + jnp.asarray(move.rejected, jnp.int32),
        cost=state.cost.add(move.cost).add(seen.cost),
        trace=lax.dynamic_update_index_in_dim(state.trace, residual, num_steps, 0),
    )
