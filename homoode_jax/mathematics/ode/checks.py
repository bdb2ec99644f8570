"""Checks of what `integrate` takes: times, and adjoints."""

from typing import Any

import diffrax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from homoode_jax.mathematics.common.checks import check_option
from homoode_jax.mathematics.common.options import is_concrete, numbers
from homoode_jax.mathematics.ode.plan import ADJOINTS


def check_stops(controller, t0, t1, dt0, dtype) -> None:
    """Raises on times to step to that do not lead from t0 to t1."""
    if not isinstance(controller, diffrax.StepTo):
        return
    if dt0 is not None:
        raise ValueError(f"controller=StepTo(ts) has steps of its own: give dt0=None, got {dt0!r}.")
    if is_concrete(controller.ts, t0, t1):
        a, b, stops = (np.asarray(number, dtype) for number in (t0, t1, controller.ts))
        rises = np.all(np.diff(stops if a <= b else -stops) > 0)
        if not rises or stops[0] != a or stops[-1] != b:
            raise ValueError(
                f"controller=StepTo(ts) must step from t0={a} to t1={b} in order, got ts={stops}."
            )


def told_apart(t0, t1, dtype) -> Any:
    """Returns t1, or NaN (with which a solve fails) where rounding makes it equal to t0."""
    if is_concrete(t0, t1):
        if np.any((np.asarray(t0) != t1) & (np.asarray(t0, dtype) == np.asarray(t1, dtype))):
            raise ValueError(
                f"t0={t0!r} and t1={t1!r} are the same time in {np.dtype(dtype).name}; measure "
                "time from t0, or give z0 in a wider dtype."
            )
        return t1
    same = jnp.asarray(t0, dtype) == jnp.asarray(t1, dtype)
    return jnp.where(same & (t0 != t1), jnp.nan, jnp.asarray(t1, dtype))


def check_adjoint(adjoint: Any) -> str | diffrax.AbstractAdjoint:
    """Returns the adjoint, or raises."""
    routes = ", ".join(map(repr, ADJOINTS))
    if adjoint == "implicit" or isinstance(adjoint, diffrax.ImplicitAdjoint):
        raise ValueError(
            "an implicit adjoint needs an equilibrium, F(z(t1)) = 0, and a learned field has "
            f"none at t1: the gradient would be wrong. integrate takes adjoint={routes}."
        )
    if isinstance(adjoint, diffrax.BacksolveAdjoint):
        raise ValueError(
            "adjoint=diffrax.BacksolveAdjoint() knows nothing of batches and failures; "
            "use adjoint='backsolve', the same method with both."
        )
    if isinstance(adjoint, diffrax.AbstractAdjoint):
        return adjoint
    check_option("adjoint", adjoint, ADJOINTS)
    return adjoint


def check_backsolve(adjoint: Any, solver: diffrax.AbstractSolver, per_example: bool) -> None:
    """Raises on a solver that "backsolve" does not take example by example."""
    is_implicit = isinstance(solver, diffrax.AbstractImplicitSolver)
    if adjoint == "backsolve" and per_example and is_implicit:
        raise ValueError(
            f"adjoint='backsolve' with batching='per_example' takes explicit solvers, got "
            f"{type(solver).__name__}; use batching='joint', or adjoint='checkpointed'."
        )


def check_own(t0: Any, t1: Any, per_example: bool, controller: Any, dt0: Any) -> None:
    """Raises on options that do not go with times of each example."""
    if not per_example:
        name, got = ("t0", t0) if np.ndim(t0) else ("t1", t1)
        raise ValueError(
            f"{name} must be a finite number; one for each example needs "
            f"batching='per_example', got {got!r}."
        )
    if dt0 is not None or controller != "pid":
        raise ValueError(
            "t0 and t1 of each example need controller='pid' and dt0=None, which find the steps of "
            f"each, got controller={controller!r} and dt0={dt0!r}."
        )


def check_save_at(save_at, t0, t1, dtype, batch=None) -> Float[Array, "*batch times"] | None:
    """Returns the times to save at, of each example if they are given so, or raises."""
    if save_at is None:
        return None
    if batch is not None and np.ndim(save_at) == 2:
        return _of_each_example(save_at, t0, t1, dtype, batch)
    ts = numbers("save_at", save_at, dtype)
    if is_concrete(ts, t0, t1):
        a, b = (np.asarray(number, dtype) for number in (t0, t1))
        path = np.concatenate([a[None], ts, b[None]])
        if not np.all(np.diff(path if a <= b else -path) >= 0):
            raise ValueError(f"save_at must run from t0={a} to t1={b} in order, got {save_at!r}.")
    return lax.stop_gradient(jnp.asarray(ts))


def _of_each_example(save_at, t0, t1, dtype, batch: Any) -> Float[Array, "batch times"]:
    """Returns the times to save at of each example, or raises."""
    if np.shape(save_at)[0] != batch:
        raise ValueError(
            f"save_at must have one row of times for each of the {batch} examples, got shape "
            f"{list(np.shape(save_at))}."
        )
    begins, ends = (jnp.broadcast_to(jnp.asarray(t, dtype), (batch,)) for t in (t0, t1))
    rows = [
        check_save_at(row, begin, end, dtype)
        for row, begin, end in zip(save_at, begins, ends, strict=True)
    ]
    return jnp.stack(rows)  # pyright: ignore
