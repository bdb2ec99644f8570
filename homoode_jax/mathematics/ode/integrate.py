"""`integrate`: a learned field F solved as an ordinary differential equation.

dz/dt = F(z, t; x, theta),  z(t0) = z0        (HomoODE, arXiv 2310.09583, eq. 8)
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree, Real

from homoode_jax.mathematics.common.checks import (
    as_arrays,
    batch_size,
    check_batching,
    check_function,
    check_mask,
    check_placement,
    check_probe,
    problem_like,
)
from homoode_jax.mathematics.common.functions import Function, check_untraced, compiled
from homoode_jax.mathematics.common.guard import solve, solve_unpadded
from homoode_jax.mathematics.common.options import is_concrete, real, whole
from homoode_jax.mathematics.common.plan import Inputs
from homoode_jax.mathematics.common.solution import Solution, Stats
from homoode_jax.mathematics.common.trees import cast, cast_like, common_dtype, real_dtype, shapes
from homoode_jax.mathematics.ode.checks import (
    check_adjoint,
    check_backsolve,
    check_own,
    check_save_at,
    check_stops,
    told_apart,
)
from homoode_jax.mathematics.ode.own_times import (
    InOwnTime,
    are_own,
    in_own_time,
    make_interval,
    one_for_each,
)
from homoode_jax.mathematics.ode.plan import FieldPlan
from homoode_jax.mathematics.ode.solve import Raw, Stepping
from homoode_jax.mathematics.ode.solvers import make_reversible, make_solver
from homoode_jax.mathematics.ode.stepping import make_controller
from homoode_jax.mathematics.ode.times import times_of

Field = Callable[[PyTree, Float[Array, ""], PyTree[Array], PyTree], PyTree[Array]]
FIELD_COUNTS = "nfe", "num_steps", "num_rejected"


def integrate(
    field: Field,
    params: PyTree,
    z0: PyTree[ArrayLike],
    x: PyTree,
    *,
    t0: Real[ArrayLike, "..."] = 0.0,
    t1: Real[ArrayLike, "..."] = 1.0,
    solver: str | diffrax.AbstractSolver = "dopri5",
    controller: str | diffrax.AbstractStepSizeController = "pid",
    rtol: Real[ArrayLike, ""] | None = None,
    atol: Real[ArrayLike, ""] | None = None,
    dt0: Real[ArrayLike, ""] | None = None,
    max_steps: Int[ArrayLike, ""] = 256,
    save_at: Sequence[float] | Real[ArrayLike, "..."] | diffrax.SaveAt | None = None,
    adjoint: str | diffrax.AbstractAdjoint = "checkpointed",
    batching: str = "joint",
    backward_probe: Real[ArrayLike, "*batch"] = 0.0,
    mask: Bool[ArrayLike, " batch"] | None = None,
) -> Solution:
    """Integrates dz/dt = field(params, t, z, x) from z(t0) = z0 to t1.

    Works under `jit`, `vmap` and reverse-mode differentiation with respect to `params`, `z0`
    and `x`; second derivatives are those of "direct" and "backsolve". Step sizes are held fixed
    in every gradient. Without `jit` a solve is compiled once for a field and shapes.

    Args:
        field: `field(params, t, z, x) -> dz/dt`, with the structure, shapes and dtypes of `z`.
            It is always called with a batch axis (of size 1 in per-example mode); `t` is a `()`
            array in z's real dtype. It must not close over traced arrays.
        params: any pytree, shared by the batch.
        z0: initial state, a pytree of float or complex arrays `[batch, ...]`.
        x: condition, a pytree of arrays `[batch, ...]` or None. Integer, bool and key leaves
            have no gradient.
        t0: start of integration; may be traced, has no gradient. In per-example mode also an
            array `[batch]`: a start for each example.
        t1: end of integration, likewise; may lie before `t0`.
        solver: one of euler, heun, midpoint, ralston, bosh3, tsit5, dopri5, dopri8, a
            Diffrax solver, or a `Reversible`.
        controller: "pid" (adaptive), "constant" (steps of `dt0`), or a Diffrax controller.
        rtol: relative tolerance of "pid", 1e-3 if None; may be traced, has no gradient.
        atol: absolute tolerance of "pid", likewise.
        dt0: first step, negative if t1 < t0; None selects it (Hairer, Nørsett & Wanner, II.4).
        max_steps: the most steps to try, accepted and rejected together.
        save_at: times between `t0` and `t1`, in the order of integration, at which to keep z;
            traced ones that are not make the solve fail as `nonfinite`. In per-example mode also
            an array `[batch, times]`. A `diffrax.SaveAt` of `ts`, `t0` and `t1` is taken too.
        adjoint: "checkpointed" (recursive checkpoints, more for more `max_steps`; as many as you
            like by `diffrax.RecursiveCheckpointAdjoint`; the default), "direct" (plain
            backpropagation by `diffrax.DirectAdjoint`: has reverse-mode derivatives of every order,
            and room for what all `max_steps` steps leave behind), "backsolve" (continuous adjoint:
            constant memory, accurate to the tolerance only, no gradient through `zs`; per example
            at twice the evaluations and for explicit solvers), "reversible" (exact gradient of the
            discrete solve at constant memory, by the reversible form of `solver`, at twice the
            evaluations, more where the field contracts: for solves of ten or twenty steps in
            float32, forty in float64, else choose the coupling of a `Reversible`; no gradient
            through `zs`), or a Diffrax adjoint.
        batching: "joint" (one step size; the error norm is over the batch) or "per_example"
            (each example has its own steps and its own outcome).
        backward_probe: its cotangent is the number of vector-Jacobian products of the field in
            the backward pass: a scalar, or `[batch]` in per-example mode (a scalar then gets
            the sum, negative if one is). Negative where the backward solve of "backsolve", or the
            reconstruction of "reversible" (then of the whole batch), failed or did not lead back
            to z0: the gradient is then exactly zero.
        mask: bool `[batch]`, False for rows that are padding: they come back as they were, count
            in no error norm, no outcome and no gradient, and may hold anything.

    Returns:
        A `Solution`. Failed solves hold their last finite state and contribute exactly zero to
        every gradient. Low-precision states are integrated in float32.

    Raises:
        ValueError: if an argument is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> decay = lambda k, t, z, x: -k * z
        >>> solution = homoode_jax.integrate(decay, 2.0, jnp.ones((1, 1)), None)
        >>> print(f"{solution.z[0, 0]:.3f} {solution.stats.nfe}")
        0.136 20
    """
    params, z0, x = as_arrays((params, z0, x))
    check_placement((params, z0, x))
    batch = batch_size(z0, x)
    per_example = check_batching(batching)
    check_untraced(solver=solver, controller=controller, adjoint=adjoint)
    dtype = real_dtype(cast(z0, common_dtype(z0)))
    save_at = times_of(save_at, t0, t1)
    if are_own(t0, t1):
        check_own(t0, t1, per_example=per_example, controller=controller, dt0=dt0)
        saved = check_save_at(one_for_each(save_at, batch), t0, t1, dtype, batch)
        interval = make_interval(t0, t1, batch, dtype)
        options = {
            "solver": solver,
            "controller": controller,
            "rtol": rtol,
            "atol": atol,
            "max_steps": max_steps,
            "save_at": None if saved is None else in_own_time(saved, interval),
            "adjoint": adjoint,
            "batching": batching,
            "backward_probe": backward_probe,
            "mask": mask,
        }
        solution = integrate(InOwnTime(field), params, z0, (x, interval), **options)
        return solution._replace(ts=saved)
    solver = make_solver(solver)
    solver = make_reversible(solver) if adjoint == "reversible" else solver
    check_backsolve(adjoint, solver, per_example)
    options = FieldOptions(
        stepping=_stepping(
            dtype=dtype,
            t0=t0,
            t1=t1,
            dt0=dt0,
            rtol=rtol,
            atol=atol,
            solver=solver,
            controller=controller,
            max_steps=max_steps,
        ),
        ts=check_save_at(save_at, t0, t1, dtype, batch if per_example else None),
        mask=check_mask(mask, batch),
        adjoint=check_adjoint(adjoint),
        per_example=per_example,
    )
    probe = check_probe(backward_probe, per_example, batch, dtype)
    return _integrate(Function(field), options, Inputs(params, z0, x, probe))


class FieldOptions(NamedTuple):
    """The options of a solve, checked."""

    stepping: Stepping
    ts: Float[Array, " times"] | None
    mask: Bool[Array, " batch"] | None
    adjoint: str | diffrax.AbstractAdjoint
    per_example: bool


@compiled
def _integrate(field: Function, options: FieldOptions, inputs: Inputs) -> Solution:
    """Solves a problem whose options are known to be right."""
    z0 = inputs.z0
    like = problem_like(z0, inputs.x, options.per_example)
    t = jax.ShapeDtypeStruct((), real_dtype(z0))
    check_function("field", field, (inputs.params, t, *like), like[0])
    plan = FieldPlan(FieldInPrecision(field, shapes(z0)), **options._asdict())
    inputs = inputs._replace(z0=cast(z0, common_dtype(z0)))
    # Forward-mode differentiation cannot pass through the guard, a custom vjp.
    guard = _unguarded if isinstance(options.adjoint, diffrax.ForwardMode) else solve
    raw = solve_unpadded(inputs, plan, FIELD_COUNTS, guard)
    z = cast_like(raw.z, z0)
    zs = None if raw.zs is None else cast_like(raw.zs, z0)
    return Solution(z, plan.ts, zs, raw.result, Stats(raw.nfe, raw.num_steps, raw.num_rejected))


class FieldInPrecision(eqx.Module):
    """Calls a field in z0's dtypes; states are kept in float32 or better between calls."""

    field: Function
    like: PyTree

    def __call__(self, params: PyTree, t: Array, z: PyTree[Array], x: PyTree) -> PyTree[Array]:
        """Returns the slope, in float32 or better."""
        dz = self.field(params, t.astype(real_dtype(self.like)), cast_like(z, self.like), x)
        return cast(dz, common_dtype(self.like))


def _unguarded(inputs: Inputs, plan: FieldPlan) -> Raw:
    return plan.run(inputs)


def _stepping(dtype, t0, t1, dt0, rtol, atol, solver, controller, max_steps) -> Stepping:
    max_steps = whole("max_steps", max_steps)
    t0 = real("t0", t0)
    t1 = real("t1", t1)
    dt0 = None if dt0 is None else real("dt0", dt0)
    rtol = None if rtol is None else real("rtol", rtol, "a non-negative number")
    atol = None if atol is None else real("atol", atol, "a non-negative number")
    points = not is_concrete(dt0, t0, t1) or dt0 * (t1 - t0) > 0 or (t0 == t1 and dt0 != 0)
    if not points:
        raise ValueError(f"dt0={dt0!r} must point from t0={t0!r} to t1={t1!r} and not be zero.")
    make_controller(controller, solver, rtol, atol, dt0, norm=None)  # raises on a bad choice
    check_stops(controller, t0, t1, dt0, dtype)
    controller = jax.tree.map(partial(_of_dtype, dtype), controller)
    arrays = (
        None if number is None else lax.stop_gradient(jnp.asarray(number, dtype))
        for number in (t0, told_apart(t0, t1, dtype), dt0, rtol, atol)
    )
    return Stepping(*arrays, solver, controller, max_steps)  # pyright: ignore


def _of_dtype(dtype, leaf: Any) -> Any:
    """Returns an array of times or tolerances in the dtype of the times; other leaves as is."""
    is_array = isinstance(leaf, jax.Array | np.ndarray)
    floats = is_array and jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.asarray(leaf, dtype) if floats else leaf
