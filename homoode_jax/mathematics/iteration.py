"""Iterations z -> z' towards z = f(z): the loop that they share.

It keeps the best iterate, stops at the tolerance, at the first non-finite value, and where no
progress is possible, and counts.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from homoode_jax.mathematics.cells import Outcome
from homoode_jax.mathematics.solution import RUNNING, Result
from homoode_jax.mathematics.vectors import (
    Cost,
    Equation,
    Vector,
    finite,
    no_cost,
    relative_residual,
    repeat,
)

PATIENCE = 100  # iterations without a better iterate, all about as good: no progress


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


class Iteration(Protocol):
    """A method: a pytree of its settings."""

    def start(self, equation: Equation, f0: Vector) -> PyTree:
        """The memory with which it begins."""
        ...

    def move(self, equation: Equation, z: Vector, f: Vector, memory: PyTree) -> Move:
        """The next iterate, given this one and the cell there."""
        ...


class _State(NamedTuple):
    z: Vector
    f: Vector
    memory: Any
    best: Vector
    residual: Float[Array, ""]
    since: Int[Array, ""]
    result: Int[Array, ""]
    num_steps: Int[Array, ""]
    num_rejected: Int[Array, ""]
    cost: Cost
    trace: Float[Array, " points"]


def iterate(
    method: Iteration, equation: Equation, tol: Float[Array, ""], max_steps: int,
    max_evaluations: int | None = None,
) -> tuple[Outcome, Float[Array, " points"]]:  # fmt: skip
    """Runs a method; returns its outcome and the residual of every iterate (NaN beyond)."""

    def goes_on(state: _State):
        room = max_evaluations is None or state.cost.total < max_evaluations
        return (state.result == RUNNING) & (state.num_steps < max_steps) & room

    def body(state: _State) -> _State:
        return _next(state, method.move(equation, state.z, state.f, state.memory), tol)

    start = _first(method, equation, tol, max_steps)
    end = repeat(goes_on, body, start, max_steps, equation.unrolled)
    result = jnp.where(end.result == RUNNING, Result.max_steps, end.result).astype(jnp.int32)
    outcome = Outcome(
        end.best, None, None, result, end.residual, jnp.ones_like(end.residual),
        jnp.zeros_like(result), end.num_steps, end.num_rejected, end.cost,
    )  # fmt: skip
    return outcome, end.trace


def _first(method: Iteration, equation: Equation, tol, max_steps: int) -> _State:
    z, f = equation.z0, equation.f(equation.z0)
    residual, none = relative_residual(z, f), jnp.zeros((), jnp.int32)
    fine = finite(z, f)
    result = jnp.where(residual <= tol, Result.ok, RUNNING)
    result = jnp.where(fine, result, Result.nonfinite).astype(jnp.int32)
    trace = jnp.full(max_steps + 1, jnp.nan, z.dtype).at[0].set(residual)
    residual = jnp.where(fine, residual, jnp.inf)
    memory, cost = method.start(equation, f), no_cost().plus(nfe=1)
    return _State(z, f, memory, z, residual, none, result, none, none, cost, trace)


def _next(state: _State, move: Move, tol) -> _State:
    residual = relative_residual(move.z, move.f)
    fine = finite(move.z, move.f)
    better = fine & (residual < state.residual)
    since = jnp.where(better, 0, state.since + 1)
    stuck = (since >= PATIENCE) & (residual < 10 * state.residual)
    result = jnp.where(stuck, Result.stagnated, RUNNING)
    result = jnp.where(better & (residual <= tol), Result.ok, result)
    result = jnp.where(move.failed, Result.linear_solve, result)
    result = jnp.where(fine, result, Result.nonfinite).astype(jnp.int32)
    num_steps = state.num_steps + 1
    return _State(
        jnp.where(fine, move.z, state.z), jnp.where(fine, move.f, state.f),
        jax.tree.map(lambda new, old: jnp.where(fine, new, old), move.memory, state.memory),
        jnp.where(better, move.z, state.best), jnp.where(better, residual, state.residual),
        since, result, num_steps, state.num_rejected + jnp.asarray(move.rejected, jnp.int32),
        state.cost.add(move.cost),
        lax.dynamic_update_index_in_dim(state.trace, residual, num_steps, 0),
    )  # fmt: skip
