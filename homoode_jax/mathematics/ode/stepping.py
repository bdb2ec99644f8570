"""Steps of an ODE solve: step-size controllers, error norm, first step, NFE.

The first step follows Hairer, Nørsett & Wanner, *Solving Ordinary Differential Equations I*,
section II.4, and hands its first evaluation on to the solver.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from homoode_jax.mathematics.common.checks import check_option
from homoode_jax.mathematics.common.trees import all_finite, choose, select_rows
from homoode_jax.mathematics.ode.solvers import Reversible
from homoode_jax.mathematics.ode.times import StepTo

CONTROLLERS = ("pid", "constant")
REFUSED_STEPS = 15  # steps in a row that are not finite: shortening does not help


class Norm(eqx.Module):
    """Root mean square over all entries of the rows that count, in float32 or better.

    Attributes:
        mask: bool [batch], the rows that count; None: all of them.
    """

    mask: Bool[Array, " batch"] | None = None

    def __call__(self, tree: PyTree[Array]) -> Float[Array, ""]:
        """Returns the norm of a state-like pytree; never differentiated."""
        leaves = [lax.stop_gradient(leaf) for leaf in jax.tree.leaves(tree)]
        total = sum(jnp.sum(self._counted(jnp.square(_magnitude(leaf)))) for leaf in leaves)
        total = jnp.asarray(total)
        rows = leaves[0].shape[0] if self.mask is None else jnp.sum(self.mask, dtype=total.dtype)
        entries = sum(leaf.size // leaf.shape[0] for leaf in leaves)
        return jnp.sqrt(total / jnp.maximum(rows * entries, 1))

    def _counted(self, leaf: Array) -> Array:
        return leaf if self.mask is None else select_rows(self.mask, leaf, jnp.zeros_like(leaf))


class AdjointNorm(eqx.Module):
    """The larger of the norms of z and its adjoint a; gradients of parameters do not count."""

    norm: Callable

    def __call__(self, state: PyTree[Array]) -> Float[Array, ""]:
        """Returns the error norm of (z, a, ...)."""
        z, a, *_ = state
        return jnp.maximum(self.norm(z), self.norm(a))


def in_adjoint_norm(controller: Any) -> Any:
    """Returns a controller, or what wraps one, whose own norm is of (z, a) alone."""

    def is_pid(part: Any) -> bool:
        return isinstance(part, diffrax.PIDController)

    def in_norm(part: Any) -> Any:
        return replace(part, norm=AdjointNorm(part.norm)) if is_pid(part) else part

    return jax.tree.map(in_norm, controller, is_leaf=is_pid)


class FiniteController(diffrax.AbstractStepSizeController):
    """Refuses a step that is not finite, and stops where no shorter one can help.

    A refused step counts as one with an infinite error: the controller inside shortens it. The
    solve stops, as not finite, if that controller does not heed errors, if the field is not
    finite at the start, or after `REFUSED_STEPS` such steps in a row; and, as stagnated, where time
    can tell no shorter step.

    The stop at a non-finite step travels as Diffrax's `internal_error`, which nothing else uses
    here. The first step, if one is given, comes through here too: Diffrax checks its own at run
    time by a callback to the host, and XLA keeps no program with one in its compilation cache.

    Attributes:
        inner: the controller.
        check_error: True if an error that is not finite means that a stage was not.
        dt0: the first step, or None.
        begins: False if the field is known not to be finite at the start.
    """

    inner: diffrax.AbstractStepSizeController
    check_error: bool = eqx.field(static=True)
    dt0: Float[Array, ""] | None = None
    begins: Bool[Array, ""] | None = None

    def wrap(self, direction):
        """Passes the direction of time on."""
        dt0 = None if self.dt0 is None else self.dt0 * direction
        return type(self)(self.inner.wrap(direction), self.check_error, dt0, self.begins)

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):  # pyright: ignore
        """Starts the controller inside with the first step."""
        del dt0
        end, state = self.inner.init(terms, t0, t1, y0, self.dt0, args, func, error_order)
        return end, (state, jnp.zeros((), jnp.int32))

    def adapt_step_size(
        self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
    ):  # pyright: ignore
        """Adapts as the controller inside does; a step that is not finite has an infinite error."""
        state, refused = controller_state
        finite = all_finite((y1_candidate, y_error if self.check_error else None))
        y1_candidate = choose(finite, y1_candidate, y0)
        y_error = jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.inf), y_error)
        keep, next_t0, next_t1, jumped, state, result = self.inner.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, state
        )
        moves = (t1 > t0) & (keep | (next_t1 < t1))  # near a pole, rounding stops time
        refused = jnp.where(finite, 0, refused + 1)
        helpless = keep | (refused > REFUSED_STEPS)
        if self.begins is not None:
            helpless = helpless | ~self.begins
        result = diffrax.RESULTS.where(moves, result, diffrax.RESULTS.dt_min_reached)
        lost = ~finite & (helpless | ~moves)
        result = diffrax.RESULTS.where(lost, diffrax.RESULTS.internal_error, result)
        return keep & finite, next_t0, next_t1, jumped, (state, refused), result


class FiniteAdaptiveController(FiniteController, diffrax.AbstractAdaptiveStepSizeController):
    """The same around an adaptive controller, whose tolerances implicit solvers look up."""

    @property
    def rtol(self):  # pyright: ignore
        """Returns the relative tolerance of the controller inside."""
        return self.inner.rtol  # pyright: ignore

    @property
    def atol(self):  # pyright: ignore
        """Returns the absolute tolerance of the controller inside."""
        return self.inner.atol  # pyright: ignore

    @property
    def norm(self):  # pyright: ignore
        """Returns the error norm of the controller inside."""
        return self.inner.norm  # pyright: ignore


def make_controller(controller, solver, rtol, atol, dt0, norm) -> FiniteController:
    """Returns the step-size controller behind a name, or the one given, made to stop on NaN."""
    inner = _inner_controller(controller, rtol, atol, dt0, norm)
    adaptive = isinstance(inner, diffrax.AbstractAdaptiveStepSizeController)
    if adaptive and isinstance(solver, diffrax.Euler):
        raise ValueError(
            "solver='euler' has no error estimate, so controller='pid' cannot adapt its step; "
            "use controller='constant' with dt0, or a solver such as 'heun'."
        )
    explicit = not isinstance(solver, diffrax.AbstractImplicitSolver)
    kind = FiniteAdaptiveController if adaptive else FiniteController
    return kind(inner, explicit)  # pyright: ignore[reportCallIssue]


def _inner_controller(controller, rtol, atol, dt0, norm) -> diffrax.AbstractStepSizeController:
    if isinstance(controller, diffrax.AbstractStepSizeController):
        if rtol is not None or atol is not None:
            raise ValueError(
                "rtol and atol belong to controller='pid'; with a controller object "
                f"({type(controller).__name__}) set them on that object instead."
            )
        return StepTo(controller.ts) if isinstance(controller, diffrax.StepTo) else controller
    check_option("controller", controller, CONTROLLERS)
    if controller == "constant":
        if dt0 is None:
            raise ValueError("controller='constant' needs dt0, the step size; got dt0=None.")
        return diffrax.ConstantStepSize()
    rtol, atol = (lax.stop_gradient(1e-3 if tol is None else tol) for tol in (rtol, atol))
    return diffrax.PIDController(rtol=rtol, atol=atol, norm=norm)


def selects_first_step(controller: FiniteController, dt0) -> bool:
    """Returns True where the first step is ours to choose: adaptive steps and no dt0."""
    return dt0 is None and isinstance(controller.inner, diffrax.PIDController)


def is_counted(controller: str | diffrax.AbstractStepSizeController) -> bool:
    """Returns True where every step costs the same: no jumps after which a solver starts anew."""
    known = str, diffrax.PIDController, diffrax.ConstantStepSize, diffrax.StepTo
    return isinstance(controller, known)


def first_step(
    rhs: Callable, t0, t1, z0: PyTree, f0: PyTree, order, rtol, atol, norm: Callable
) -> Float[Array, ""]:
    """Returns the signed size of the first step, for one evaluation of `rhs` beside `f0`.

    Where `z0` is (nearly) zero its scale says nothing; the probe is then a thousandth of the
    interval, not Hairer's 1e-6, which would cost HomoODE's z0 = 0 several tiny steps.
    """
    span = jnp.abs(t1 - t0)
    sign = jnp.where(t1 < t0, -1, 1)
    scale = jax.tree.map(lambda z: atol + rtol * _magnitude(z), z0)
    d0 = norm(_divide(z0, scale))
    d1 = norm(_divide(f0, scale))
    flat = (d0 < 1e-5) | (d1 < 1e-5) | ~jnp.isfinite(d1)
    probe = jnp.where(flat, 1e-3 * span, jnp.minimum(0.01 * d0 / jnp.where(flat, 1, d1), span))
    probe = jnp.asarray(probe, span.dtype)
    z1 = jax.tree.map(lambda z, f: z + (sign * probe).astype(f.dtype) * f, z0, f0)
    f1 = rhs(t0 + sign * probe, z1)
    d2 = norm(_divide(jax.tree.map(jnp.subtract, f1, f0), scale)) / probe
    steepest = jnp.maximum(d1, d2)
    step = jnp.where(
        steepest <= 1e-15,
        jnp.maximum(1e-6 * span, 1e-3 * probe),
        (0.01 / jnp.maximum(steepest, 1e-15)) ** (1 / order),
    )
    step = jnp.where(jnp.isfinite(steepest), step, 1e-3 * probe)
    step = jnp.minimum(jnp.minimum(100 * probe, step), span)
    return lax.stop_gradient((sign * step).astype(span.dtype))


def count_nfe(solver, num_steps: Int[Array, "*batch"], selected: bool) -> Int[Array, "*batch"]:
    """Returns the evaluations of a forward solve, first-step selection included; -1 if unknown.

    An explicit pair that reuses its last stage (FSAL) costs 1 + (stages - 1) * steps, any other
    explicit Runge-Kutta method stages * steps. Selection adds one evaluation to the first and
    two to the second, which cannot use f(z0) again. A reversible step is a step and the increment
    back.
    """
    if isinstance(solver, diffrax.Euler):
        return num_steps
    if isinstance(solver, Reversible):
        both = solver.base.tableau.num_stages + solver.stages  # pyright: ignore
        return 2 * selected + both * num_steps
    if not isinstance(solver, diffrax.AbstractERK):
        return jnp.full_like(num_steps, -1)
    stages = solver.tableau.num_stages  # pyright: ignore
    if reuses_last_stage(solver):
        return selected + 1 + (stages - 1) * num_steps
    return 2 * selected + stages * num_steps


def count_vjps(solver, num_steps: Int[Array, "*batch"]) -> Int[Array, "*batch"]:
    """Returns the vector-Jacobian products of backpropagation; the selection has none."""
    return count_nfe(solver, num_steps, selected=False)


def reuses_last_stage(solver: diffrax.AbstractSolver) -> bool:
    """Returns True for explicit first-same-as-last pairs."""
    return isinstance(solver, diffrax.AbstractERK) and bool(solver.tableau.fsal)  # pyright: ignore


def count_stages(solver) -> int:
    """Returns the evaluations of one step by itself."""
    base = solver.base if isinstance(solver, Reversible) else solver
    return base.tableau.num_stages if isinstance(base, diffrax.AbstractERK) else 1  # pyright: ignore


def _magnitude(leaf: Array) -> Array:
    leaf = jnp.abs(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def _divide(tree: PyTree, scale: PyTree) -> PyTree:
    return jax.tree.map(jnp.divide, tree, scale)
