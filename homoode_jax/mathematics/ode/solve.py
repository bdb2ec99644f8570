"""One initial value problem, solved by Diffrax: dz/dt = rhs(t, z, args), z(t0) = z0.

The only place that calls `diffrax.diffeqsolve`. Knows nothing of parameters, batches or
gradients beyond the Diffrax adjoint that it is handed.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from homoode_jax.mathematics.common.functions import check_products
from homoode_jax.mathematics.common.solution import Result
from homoode_jax.mathematics.common.trees import all_finite
from homoode_jax.mathematics.ode.explicit import Scanned, as_scanned
from homoode_jax.mathematics.ode.solvers import SOLVERS
from homoode_jax.mathematics.ode.stepping import (
    count_nfe,
    first_step,
    is_counted,
    make_controller,
    reuses_last_stage,
    selects_first_step,
)
from homoode_jax.mathematics.ode.times import run_in_order, save_at


class RightHandSide(eqx.Module):
    """A field as Diffrax calls it, with `(params, x)` as its arguments."""

    field: Callable

    def __call__(self, t: Array, z: PyTree[Array], args: tuple[PyTree, PyTree]) -> PyTree[Array]:
        """Returns the slope."""
        return self.field(args[0], t, z, args[1])


class Stepping(eqx.Module):
    """How to step from t0 to t1; dynamic in its numbers, static in its methods."""

    t0: Float[Array, ""]
    t1: Float[Array, ""]
    dt0: Float[Array, ""] | None
    rtol: Float[Array, ""] | None
    atol: Float[Array, ""] | None
    solver: diffrax.AbstractSolver
    controller: str | diffrax.AbstractStepSizeController
    max_steps: int = eqx.field(static=True)


class Steps(NamedTuple):
    """The accepted steps of a solve.

    Attributes:
        ends: times at which they ended, infinite (of the sign of t1 - t0) beyond the last.
        partner: final z of `Reversible`; of other solvers nothing of use.
    """

    ends: Float[Array, " max_steps"]
    partner: PyTree[Array]


class Raw(NamedTuple):
    """Outcome of one solve, before it becomes a `Solution`."""

    z: PyTree[Array]
    zs: PyTree[Array] | None
    result: Int[Array, ""]
    nfe: Int[Array, ""]
    num_steps: Int[Array, ""]
    num_rejected: Int[Array, ""]
    steps: Steps | None = None


def reverse(stepping: Stepping) -> Stepping:
    """Returns the same steps, from t1 to t0."""
    controller = stepping.controller
    dt0 = stepping.dt0
    if isinstance(controller, diffrax.StepTo):
        controller = diffrax.StepTo(controller.ts[::-1])
    return Stepping(
        t0=stepping.t1,
        t1=stepping.t0,
        dt0=None if dt0 is None else -dt0,
        rtol=stepping.rtol,
        atol=stepping.atol,
        solver=stepping.solver,
        controller=controller,
        max_steps=stepping.max_steps,
    )


def solve_ode(
    rhs: Callable,
    stepping: Stepping,
    z0: PyTree[Array],
    args: PyTree,
    norm: Callable,
    ts: Float[Array, " times"] | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    keeps_times: bool = False,
) -> Raw:
    """Solves dz/dt = rhs(t, z, args).

    A step that is not finite is refused; times or tolerances that are not make the solve fail.
    `keeps_times` keeps the times of the accepted steps, and the last state of the solver.
    """
    usable = _is_usable(stepping, ts)
    stepping, ts = _made_usable(usable, stepping, ts)
    solver = stepping.solver
    term = diffrax.ODETerm(rhs)  # pyright: ignore
    controller = make_controller(
        controller=stepping.controller,
        solver=solver,
        rtol=stepping.rtol,
        atol=stepping.atol,
        dt0=stepping.dt0,
        norm=norm,
    )
    selected = selects_first_step(controller, stepping.dt0)
    needs_f0 = selected or reuses_last_stage(solver)
    f0 = rhs(stepping.t0, z0, args) if needs_f0 else None
    dt0 = stepping.dt0
    if selected:
        dt0 = _select_first_step(stepping, controller, lambda t, z: rhs(t, z, args), z0, f0)
    forwards = isinstance(adjoint, diffrax.ForwardMode)
    method = as_scanned(solver) if is_plain(stepping) and not forwards else solver
    begins = None if f0 is None else all_finite(f0)
    if isinstance(solver, diffrax.AbstractImplicitSolver):
        _check_implicit(solver, lambda z: rhs(stepping.t0, z, args), z0)
    solution = diffrax.diffeqsolve(
        terms=term,
        solver=method,
        t0=stepping.t0,
        t1=stepping.t1,
        dt0=None,
        y0=z0,
        args=args,
        saveat=_save_at(ts, keeps_times),
        stepsize_controller=replace(controller, dt0=dt0, begins=begins),
        max_steps=stepping.max_steps,
        adjoint=adjoint or diffrax.RecursiveCheckpointAdjoint(),
        throw=False,
        solver_state=_solver_state(method, f0),
    )
    raw = _raw(solution, ts, solver if is_counted(stepping.controller) else None, selected)
    result = jnp.where(usable, raw.result, Result.nonfinite.value).astype(jnp.int32)
    raw = raw._replace(result=result)
    return raw._replace(steps=_steps(solution)) if keeps_times else raw


def _select_first_step(stepping: Stepping, controller: Any, rhs: Callable, z0, f0):
    """Returns the first step, by the tolerances and the norm of the controller."""
    inner = controller.inner
    return first_step(
        rhs,
        t0=stepping.t0,
        t1=stepping.t1,
        z0=z0,
        f0=f0,
        order=stepping.solver.error_order(diffrax.ODETerm(rhs)),  # pyright: ignore
        rtol=inner.rtol,
        atol=inner.atol,
        norm=inner.norm,
    )


def _check_implicit(
    solver: diffrax.AbstractImplicitSolver, rhs: Callable, z0: PyTree[Array]
) -> None:
    """Raises if the field has no Jacobian-vector products, which an implicit solver takes."""
    instead = f"use an explicit one ({', '.join(SOLVERS)}), or "
    who = f"solver={type(solver).__name__}"
    check_products(rhs, z0, who, of="field", instead=instead)


def _numbers(stepping: Stepping, ts) -> PyTree[Array]:
    return stepping.t0, stepping.t1, stepping.dt0, stepping.rtol, stepping.atol, ts


def _is_usable(stepping: Stepping, ts: Float[Array, " times"] | None) -> Bool[Array, ""]:
    """Returns whether times and tolerances are finite, and times to save at or step to in order."""
    finite = all_finite(_numbers(stepping, ts))
    return finite & run_in_order(stepping.t0, stepping.t1, ts, stepping.controller)


def _made_usable(usable: Bool[Array, ""], stepping: Stepping, ts):
    """Replaces unusable numbers by ones: an empty interval, whose result is overruled."""
    numbers = _numbers(stepping, ts)
    fine = jax.tree.map(lambda a: jnp.where(usable, a, jnp.ones_like(a)), numbers)
    t0, t1, dt0, rtol, atol, ts = fine
    return replace(stepping, t0=t0, t1=t1, dt0=dt0, rtol=rtol, atol=atol), ts


def is_plain(stepping: Stepping) -> bool:
    """Returns True if a method with a name here takes steps without jumps."""
    return is_counted(stepping.controller) and type(stepping.solver) in SOLVERS.values()


def _solver_state(solver, f0: PyTree | None):
    """Hands f(z0) to a pair that reuses its last stage, so that no evaluation is repeated.

    Without it Diffrax evaluates f(z0) again after every rejected first step.
    """
    if isinstance(solver, Scanned):
        return f0 if solver.tableau.fsal else None
    return (jnp.array(False), f0) if reuses_last_stage(solver) else None


def _save_at(ts: Float[Array, " times"] | None, keeps_times: bool) -> diffrax.SaveAt:
    subs = [diffrax.SubSaveAt(t1=True)]
    if ts is not None:
        subs.append(save_at(ts))
    if keeps_times:
        subs.append(diffrax.SubSaveAt(steps=True, fn=lambda t, y, args: None))
    return diffrax.SaveAt(subs=subs, solver_state=keeps_times)


def _steps(solution: diffrax.Solution) -> Steps:
    assert solution.ts is not None
    return Steps(ends=solution.ts[-1], partner=solution.solver_state)


def _raw(solution: diffrax.Solution, ts, solver, selected: bool) -> Raw:
    ys = solution.ys
    saved = solution.ts
    assert ys is not None and saved is not None
    z = jax.tree.map(lambda leaf: leaf[0], ys[0])
    zs = None if ts is None else jax.tree.map(lambda *a: _reached(saved[1], *a), ys[1], z)
    steps, rejected = (
        jnp.asarray(solution.stats[name], jnp.int32) for name in ("num_steps", "num_rejected_steps")
    )
    nfe = count_nfe(solver, steps, selected)
    return Raw(
        z=z, zs=zs, result=_code(solution.result), nfe=nfe, num_steps=steps, num_rejected=rejected
    )


def _reached(saved: Array, zs: Array, z: Array) -> Array:
    """Returns the saved states, with the last state for times that the solve did not reach."""
    reached = jnp.isfinite(saved).reshape((-1,) + (1,) * z.ndim)
    return jnp.where(reached, zs, z)


def _code(result: diffrax.RESULTS) -> Int[Array, ""]:
    """Translates Diffrax's outcome; `FiniteController` speaks through `internal_error`."""
    known = {
        Result.ok: diffrax.RESULTS.successful,
        Result.max_steps: diffrax.RESULTS.max_steps_reached,
        Result.nonfinite: diffrax.RESULTS.internal_error,
    }
    code = jnp.asarray(Result.stagnated.value, jnp.int32)
    for ours, theirs in known.items():
        code = jnp.where(result == theirs, jnp.asarray(ours.value, jnp.int32), code)
    return code
