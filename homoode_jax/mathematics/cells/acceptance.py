"""When an equilibrium is called found: the one test that every solver and path is held to.

Near the start the residual decides (see `verdict`). Far from it, a residual alone keeps no promise:
an iterate that runs to infinity passes any test relative to |f|. z + 1 has a residual of 1e-6 |f|
at 1e6, and in float32 one of exactly 0 at 2^24. There the cell is evaluated once more, at

    z + 0.1 |f| r/|r|.

A root nearby makes r change by much more than |r|; a residual that only looks small, because the
state is large, stays as it is.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from homoode_jax.mathematics.cells.vectors import Cost, Equation, Vector, no_cost, norm
from homoode_jax.mathematics.cells.verdict import ROUNDINGS, Scale, Verdict, judge
from homoode_jax.mathematics.common.solution import Result
from homoode_jax.mathematics.common.trees import all_finite

PROBE = 0.1  # how far to look, relative to the state
CHANGE = 100.0  # by how many times its size the residual must change there
GONE = 1e4  # times the reach: beyond it a state that is no root counts as unbounded
LOOKS = 6  # shorter and shorter steps until the cell is finite
RETREAT = 0.25  # of the way to a point at which the cell is not finite, again and again


class Look(NamedTuple):
    """A point after a second look.

    Attributes:
        z: the point, or one on the way to it where the cell is finite.
        f: the cell there.
        finite: True if z and f are finite.
        given: True if they were so from the start.
        confirmed: True if the look confirmed a root.
        cost: one evaluation for each try.
    """

    z: Vector
    f: Vector
    finite: Bool[Array, ""]
    given: Bool[Array, ""]
    confirmed: Bool[Array, ""]
    cost: Cost


def look_again(
    equation: Equation,
    scale: Scale,
    verdict: Verdict,
    z: Vector,
    f: Vector,
    asks: Bool[Array, ""],
    fine: Bool[Array, ""],
    back: tuple[Vector, Vector],
) -> Look:
    """Evaluates the cell beside z to confirm a root, or between z and where it was finite before.

    A loop of no turn costs nothing where no example of a batch needs a look; a condition under
    `vmap` would evaluate the cell in every case. One loop serves both ends, so that the cell is
    compiled once for them, and its vectors are z and f themselves, so that none is copied.

    Args:
        equation: has the cell.
        scale: that of the solve.
        verdict: what the norms say of z.
        z: the point.
        f: the cell there.
        asks: True where a root is to be confirmed.
        fine: False where z or f may not be finite: if they are not, z is drawn back.
        back: a point where the cell is finite, and the cell there.
    """

    def goes_on(state):
        _, _, _, tries, open_, _, _ = state
        return open_ & (tries < LOOKS)

    def body(state):
        z, f, part, tries, _, _, _ = state
        given = fine | all_finite((z, f))
        beside = z + part * _direction(verdict, z, f, equation.z0)
        elsewhere = jnp.where(given, z, _drawn(z, back))
        point = jnp.where(fine, beside, elsewhere)
        f_there = lax.stop_gradient(equation.f(point))
        reached = all_finite((point, f_there))
        change = norm((point - f_there) - (z - f))
        confirmed = fine & reached & _is_steep(scale, verdict, change)
        z = jnp.where(given, z, point)
        f = jnp.where(given, f, f_there)
        return z, f, 0.1 * part, tries + 1, ~reached, confirmed, given

    tries = jnp.zeros((), jnp.int32)
    part = jnp.full((), PROBE, z.dtype)
    start = z, f, part, tries, asks | ~fine, jnp.asarray(False), fine
    z, f, _, tries, open_, confirmed, given = lax.while_loop(goes_on, body, start)
    return Look(
        z=z,
        f=f,
        finite=given | ~open_,
        given=given,
        confirmed=confirmed,
        cost=no_cost().plus(nfe=tries),
    )


def _direction(verdict: Verdict, z: Vector, f: Vector, z0: Vector) -> Vector:
    """Returns a vector of z's size: along the residual, or away from z0 where that is 0."""
    exact = verdict.residual == 0
    direction = jnp.where(exact, z - z0, z - f)
    size = jnp.where(exact, norm(z - z0), verdict.residual)
    return verdict.size * (direction / jnp.where(size > 0, size, 1))


def _drawn(z: Vector, back: tuple[Vector, Vector]) -> Vector:
    """Returns a point nearer to where the cell was finite."""
    start, f = back
    # It depends on z, so that XLA leaves it in the loop; `f - start` alone would be moved out.
    end = jnp.where(all_finite(z), z, f)
    return start + RETREAT * (end - start)


def _is_steep(scale: Scale, verdict: Verdict, change: Float[Array, ""]) -> Bool[Array, ""]:
    """Returns whether the residual changes beside z as it does beside a root."""
    eps = float(jnp.finfo(change.dtype).eps)
    rounding = max(64 * eps, ROUNDINGS * scale.eps) * verdict.size
    return verdict.doubtful & (change >= CHANGE * verdict.residual) & (change > rounding)


def accept(
    equation: Equation,
    scale: Scale,
    z: Vector,
    f: Vector,
    tol: ArrayLike,
    atol: ArrayLike = 0.0,
) -> tuple[Bool[Array, ""], Bool[Array, ""], Cost]:
    """Returns whether z is a root, whether it only looks like one, and what that took."""
    z, f = lax.stop_gradient((z, f))
    verdict = judge(scale, norm(f), norm(z - f), tol, atol)
    seen = look_again(
        equation=equation,
        scale=scale,
        verdict=verdict,
        z=z,
        f=f,
        asks=verdict.doubtful,
        fine=jnp.asarray(True),
        back=(z, f),
    )
    found = verdict.found | seen.confirmed
    return found, verdict.small & ~found, seen.cost


def why_not(scale: Scale, f: Vector) -> Int[Array, ""]:
    """Returns the `Result` of a point that only looks like a root, by its f."""
    gone = norm(f) > GONE * scale.reach
    code = jnp.where(gone, Result.unbounded_path.value, Result.stagnated.value)
    return code.astype(jnp.int32)
