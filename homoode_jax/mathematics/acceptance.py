"""When an equilibrium is called found: the one test that every solver and path is held to.

With r = z - f(z), all norms root mean squares, z is accepted where all is finite and

    |r| <= max(tol |f|, floor min(1, s0)),       s0 = |z0|, or |f(z0)| where z0 = 0

with a floor of 1e-3 tol, or the absolute tolerance that was asked for, and either

    |f| <= 10 max(s0, min(1, |f(z0)|))

or a second look confirms it.

A residual alone keeps no promise far from the start. An iterate that runs to infinity passes any
test relative to |f|: z + 1 has a residual of 1e-6 |f| at 1e6, and in float32 one of exactly 0 at
2^24. There the cell is evaluated once more, at z + 0.1 |f| r/|r|. A root nearby makes r change
by much more than |r|; a residual that only looks small, because the state is large, stays as it is.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from homoode_jax.mathematics.solution import Result
from homoode_jax.mathematics.vectors import (
    FLOOR,
    Cost,
    Equation,
    Vector,
    finite,
    no_cost,
    rms,
)

REACH = 10.0  # times the scale of the start: up to here a residual is enough
PROBE = 0.1  # how far to look, relative to the state
CHANGE = 100.0  # by how many times its size the residual must change there
FALL = 1e-3  # of the first residual: beyond `REACH` more must be gained than a larger |f|
ROUNDINGS = 4.0  # units of rounding in |f| that a residual may consist of
GONE = 1e4  # times `REACH`: farther off a state is said to be unbounded
LOOKS = 6  # shorter and shorter looks until the cell is finite


class Scale(NamedTuple):
    """What the norms of a solve are measured against; fixed at its start.

    Attributes:
        least: min(1, s0); absolute tolerances are in units of it.
        reach: the largest |f| up to which a small residual is enough.
        residual: |r| at the start.
        unit: norms are taken of vectors divided by it, so that no square leaves the dtype's range.
        eps: the precision that the cell is evaluated in.
    """

    least: Float[Array, ""]
    reach: Float[Array, ""]
    residual: Float[Array, ""]
    unit: Float[Array, ""]
    eps: float

    def norm(self, v: Vector) -> Float[Array, ""]:
        """Returns the root mean square of v; never differentiated."""
        return self.unit * rms(lax.stop_gradient(v) / self.unit)


class Verdict(NamedTuple):
    """What the norms at one point say.

    Attributes:
        size: |f|.
        residual: |r|.
        small: True where the residual is within tolerance.
        found: True where that is enough.
        doubtful: True where a second look has to confirm it.
    """

    size: Float[Array, ""]
    residual: Float[Array, ""]
    small: Bool[Array, ""]
    found: Bool[Array, ""]
    doubtful: Bool[Array, ""]


class Look(NamedTuple):
    """An evaluation of the cell beside a point.

    Attributes:
        z: where.
        f: the cell there.
        found: True if z and f are finite.
        cost: one evaluation for each try.
    """

    z: Vector
    f: Vector
    found: Bool[Array, ""]
    cost: Cost


def measure(equation: Equation, f0: Vector) -> Scale:
    """Returns the scale of a solve that starts at `equation.z0`, where the cell is `f0`."""
    z0, f0 = lax.stop_gradient((equation.z0, f0))
    size_z = _safe_rms(z0)
    size_f = _safe_rms(f0)
    start = jnp.where(size_z > 0, size_z, size_f)
    unit = jnp.where(start < 1, start, jnp.sqrt(start))
    ordinary = (start > 1e-6) & (start < 1e6)
    unit = jnp.where(ordinary | ~(start > 0) | ~jnp.isfinite(start), 1, unit).astype(z0.dtype)
    return Scale(
        least=jnp.minimum(1, start),
        reach=REACH * jnp.maximum(start, jnp.minimum(1, size_f)),
        residual=_safe_rms(z0 - f0),
        unit=unit,
        eps=max(equation.eps, float(jnp.finfo(z0.dtype).eps)),
    )


def judge(scale: Scale, z: Vector, f: Vector, tol: ArrayLike, atol: ArrayLike = 0.0) -> Verdict:
    """Returns what |r| and |f| say of z, where the cell is f."""
    size = scale.norm(f)
    residual = scale.norm(z - f)
    absolute = jnp.maximum(FLOOR * tol, atol) * scale.least
    small = residual <= jnp.maximum(tol * size, absolute)
    small = small & jnp.isfinite(size)
    near = size <= scale.reach
    rounding = ROUNDINGS * scale.eps * size
    fallen = residual <= jnp.maximum(FALL * scale.residual, rounding)
    return Verdict(
        size=size,
        residual=residual,
        small=small,
        found=small & near,
        doubtful=small & ~near & fallen,
    )


def look_towards(scale: Scale, verdict: Verdict, z: Vector, f: Vector, z0: Vector) -> Vector:
    """Returns the step to a second look: along the residual, or away from z0 where that is 0."""
    z, f, z0 = lax.stop_gradient((z, f, z0))
    exact = verdict.residual == 0
    direction = jnp.where(exact, z - z0, z - f)
    size = jnp.where(exact, scale.norm(z - z0), verdict.residual)
    return PROBE * verdict.size * (direction / jnp.where(size > 0, size, 1))


def look(
    equation: Equation,
    z: Vector,
    step: Vector,
    needed: Bool[Array, ""],
    first: ArrayLike = 1.0,
    then: ArrayLike = 0.1,
) -> Look:
    """Evaluates the cell at z + step, shortened until it is finite there; only where `needed`.

    A loop of no turn costs nothing where no example of a batch needs a look; a condition under
    `vmap` would evaluate the cell in every case.
    """
    z, step = lax.stop_gradient((z, step))

    def goes_on(state):
        _, _, _, tries, found = state
        return needed & ~found & (tries < LOOKS)

    def body(state):
        part, _, _, tries, _ = state
        point = z + part * step
        f = lax.stop_gradient(equation.f(point))
        return part * then, point, f, tries + 1, finite(point, f)

    part = jnp.asarray(first, z.dtype)
    nothing: Int[Array, ""] = jnp.zeros((), jnp.int32)
    start = part, z, jnp.zeros_like(z), nothing, jnp.asarray(False)
    _, point, f, tries, found = lax.while_loop(goes_on, body, start)
    return Look(z=point, f=f, found=found, cost=no_cost().plus(nfe=tries))


def confirms(scale: Scale, verdict: Verdict, z: Vector, f: Vector, seen: Look) -> Bool[Array, ""]:
    """Whether the residual changes beside z as it does beside a root."""
    change = scale.norm((seen.z - seen.f) - (z - f))
    eps = float(jnp.finfo(z.dtype).eps)
    rounding = max(64 * eps, ROUNDINGS * scale.eps) * verdict.size
    steep = (change >= CHANGE * verdict.residual) & (change > rounding)
    return verdict.doubtful & seen.found & steep


def accept(
    equation: Equation,
    scale: Scale,
    z: Vector,
    f: Vector,
    tol: ArrayLike,
    atol: ArrayLike = 0.0,
) -> tuple[Bool[Array, ""], Bool[Array, ""], Cost]:
    """Returns whether z is a root, whether it only looks like one, and what that took."""
    verdict = judge(scale, z, f, tol, atol)
    step = look_towards(scale, verdict, z, f, equation.z0)
    seen = look(equation, z, step, verdict.doubtful)
    found = verdict.found | confirms(scale, verdict, z, f, seen)
    return found, verdict.small & ~found, seen.cost


def why_not(scale: Scale, size: Float[Array, ""]) -> Int[Array, ""]:
    """Returns the `Result` of a state of this size that only looks like a root."""
    gone = size > GONE * scale.reach
    code = jnp.where(gone, Result.unbounded_path.value, Result.stagnated.value)
    return code.astype(jnp.int32)


def _safe_rms(v: Vector) -> Float[Array, ""]:
    """Returns the root mean square of v, whatever its scale."""
    if not v.size:
        return jnp.zeros((), v.dtype)
    largest = jnp.max(jnp.abs(v))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return scale * rms(v / scale)
