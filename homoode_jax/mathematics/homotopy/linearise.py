"""What a turn of a climb finds at its point: the cell there, and the next step of an attempt.

The homotopy is that of `climb`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from homoode_jax.mathematics.cells.acceptance import GONE
from homoode_jax.mathematics.cells.vectors import FLOOR, Vector, norm
from homoode_jax.mathematics.cells.verdict import judge
from homoode_jax.mathematics.common.trees import all_finite
from homoode_jax.mathematics.homotopy.ascent import Seen
from homoode_jax.mathematics.homotopy.bordered import Bordered, by_krylov, by_matrix
from homoode_jax.mathematics.homotopy.climber import (
    FIXED_POINT,
    MIXING,
    Climb,
    Climber,
    is_on_path,
)
from homoode_jax.mathematics.homotopy.descent import forcing, is_taken
from homoode_jax.mathematics.homotopy.equations import lam_row

ON_PATH = 1e-3  # tolerance of linear solves on a path


def look(climber: Climber, state: Climb) -> tuple[Seen, Vector, Float[Array, "m m"]]:
    """Evaluates and linearises the cell at y, and solves for the next step."""
    z = state.y[:-1] * state.unit
    f, jvp = jax.linearize(climber.equation.f, z)
    here = _homotopy(state, z, f)
    size = jnp.linalg.norm(here.h)
    finite = all_finite((f, size))
    on_path = is_on_path(state.attempt)
    takes = finite & (on_path | is_taken(state.descent, size)) & (state.attempt > MIXING)
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
    return seen, f, jacobian


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
