"""Newton-Krylov corrections towards a homotopy's path: B(y) dy = (-H(y), 0).

The row of the bordered matrix B says where to look for the path: at the same lam, or in the
hyperplane across the path's direction (Allgower & Georg 1990, chapter 6). The linear solves are
inexact (Dembo, Eisenstat & Steihaug 1982).
"""

from typing import NamedTuple

import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from homoode_jax.mathematics.cells.gmres import solve_linear
from homoode_jax.mathematics.cells.vectors import Cost, no_cost, repeat
from homoode_jax.mathematics.common.trees import all_finite
from homoode_jax.mathematics.homotopy.equations import Homotopy, Point, linearise

ITERATIONS = 12
LAST_ITERATIONS = 60  # at lam = 1, where a root may be singular and convergence linear


class Correction(NamedTuple):
    """Outcome of a correction.

    Attributes:
        y: the corrected point.
        ok: True if it lies on the path, to tolerance or to rounding.
        linear_ok: False if a linear solve failed on the way.
        finite: False if H was not finite.
        contraction: the largest ratio of a correction to the one before it; 0 if there was one.
        cost: what it took.
    """

    y: Point
    ok: Bool[Array, ""]
    linear_ok: Bool[Array, ""]
    finite: Bool[Array, ""]
    contraction: Float[Array, ""]
    cost: Cost


class _State(NamedTuple):
    y: Point
    last: Float[Array, ""]
    turn: Int[Array, ""]
    done: Bool[Array, ""]
    failed: Bool[Array, ""]
    linear_ok: Bool[Array, ""]
    finite: Bool[Array, ""]
    contraction: Float[Array, ""]
    cost: Cost


def correct(
    homotopy: Homotopy,
    y: Point,
    row: Point,
    solver: lx.AbstractLinearSolver,
    rtol,
    atol,
    near,
    needed=True,
) -> Correction:
    """Corrects y, until one of three holds: |H| <= max(atol, rtol |z|); a correction is at most
    `near`; or a correction is rounding.

    It fails if a correction is not shorter than the one before. Unless `needed`, y is returned as
    it is.
    """

    def goes_on(state: _State):
        most = jnp.where(near > 0, ITERATIONS, LAST_ITERATIONS)
        return ~state.done & ~state.failed & (state.turn < most)

    def body(state: _State) -> _State:
        here = linearise(homotopy, state.y)
        size = jnp.linalg.norm(lax.stop_gradient(state.y[:-1]))
        target = jnp.maximum(atol, rtol * size)
        small = jnp.linalg.norm(lax.stop_gradient(here.h)) <= target
        # Nothing is left to solve where H is small: the solve then takes no products.
        b = jnp.append(jnp.where(small, 0, -here.h), 0)
        linear = solve_linear(lambda v: here.bordered(row, v), b, solver, here.precondition)
        length = jnp.linalg.norm(lax.stop_gradient(linear.value))
        rounding = 4 * jnp.finfo(b.dtype).eps * jnp.linalg.norm(lax.stop_gradient(state.y))
        # A first correction has none before it to show that corrections shrink: make another.
        settled = ((length <= rounding) | ((length <= near) & (state.turn > 0))) & linear.close
        ratio = jnp.where(small | (length <= rounding), 0, length / state.last)
        failed = ~small & ~(all_finite(here.h) & (linear.close | (length > 0)) & (ratio < 1))
        return _State(
            y=jnp.where(failed, state.y, state.y + linear.value),
            last=length,
            turn=state.turn + 1,
            done=small | (settled & ~failed),
            failed=failed,
            linear_ok=state.linear_ok & (linear.close | small),
            finite=all_finite(here.h),
            contraction=jnp.maximum(state.contraction, ratio),
            cost=state.cost.plus(nfe=1, num_jvp=linear.products),
        )

    start = _start(y, skip=jnp.logical_not(needed))
    end = repeat(goes_on, body, start, LAST_ITERATIONS, homotopy.equation.unrolled)
    return Correction(
        y=end.y,
        ok=end.done,
        linear_ok=end.linear_ok,
        finite=end.finite,
        contraction=end.contraction,
        cost=end.cost,
    )


def _start(y: Point, skip: Bool[Array, ""]) -> _State:
    """Returns the state before the first correction, which is done if there is to be none."""
    no = jnp.asarray(False)
    zero = jnp.zeros((), y.dtype)
    return _State(
        y=y,
        last=zero + jnp.inf,
        turn=jnp.asarray(0),
        done=skip,
        failed=no,
        linear_ok=~no,
        finite=~no,
        contraction=zero,
        cost=no_cost(),
    )
