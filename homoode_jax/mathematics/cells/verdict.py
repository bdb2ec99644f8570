"""Decides by the norms at one point if it is a root, or only looks like one.

With r = z - f(z), all norms root mean squares, z is accepted where all is finite and

    |r| <= max(tol |f|, floor min(1, s0)),       s0 = |z0|, or |f(z0)| where z0 = 0

where floor is 1e-3 tol, or the absolute tolerance if that is larger, and either

    |f| <= 10 max(s0, min(1, |f(z0)|))

or a second look confirms it (see `acceptance`).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float

from homoode_jax.mathematics.cells.vectors import FLOOR, Equation, Vector, norm, rms

REACH = 10.0  # times the scale of the start: up to here a residual is enough
FALL = 1e-3  # beyond `REACH` the residual must also be this fraction of the first one
ROUNDINGS = 4.0  # units of rounding in |f| that a residual may consist of


class Scale(NamedTuple):
    """What the norms of a solve are measured against; fixed at its start.

    Attributes:
        least: min(1, s0); absolute tolerances are in units of it.
        reach: the largest |f| up to which a small residual is enough.
        residual: |r| at the start.
        unit: 1, or what the vectors of a loop are divided by before they are squared, so that no
            square leaves the dtype's range.
        eps: the precision that the cell is evaluated in.
    """

    least: Float[Array, ""]
    reach: Float[Array, ""]
    residual: Float[Array, ""]
    unit: Float[Array, ""]
    eps: float


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


def measure(equation: Equation, f0: Vector) -> Scale:
    """Returns the scale of a solve that starts at `equation.z0`, where the cell is `f0`."""
    z0, f0 = lax.stop_gradient((equation.z0, f0))
    size_z = norm(z0)
    size_f = norm(f0)
    start = jnp.where(size_z > 0, size_z, size_f)
    # A power of two, so that a vector is divided and multiplied by it without rounding.
    unit = jnp.exp2(jnp.round(jnp.log2(jnp.where(start < 1, start, jnp.sqrt(start)))))
    ordinary = (start > 1e-6) & (start < 1e6)
    unit = jnp.where(ordinary | ~(start > 0) | ~jnp.isfinite(start), 1, unit).astype(z0.dtype)
    return Scale(
        least=jnp.minimum(1, start),
        reach=REACH * jnp.maximum(start, jnp.minimum(1, size_f)),
        residual=norm(z0 - f0),
        unit=unit,
        eps=max(equation.eps, float(jnp.finfo(z0.dtype).eps)),
    )


class Measured(NamedTuple):
    """A point of a loop, and its norms; z and f are the point's own, but for rounding to zero.

    Attributes:
        z: the point.
        f: the cell there.
        size: |f|.
        residual: |z - f|.
    """

    z: Vector
    f: Vector
    size: Float[Array, ""]
    residual: Float[Array, ""]


def norms(scale: Scale, z: Vector, f: Vector) -> Measured:
    """Returns |f| and |z - f| in a loop, where each pass over a vector counts.

    They are taken as they are. Only where the scale is so far from 1 that squares may leave the
    dtype's range, one turn of a loop takes them of divided vectors: a division by a unit that is
    1 would read one more vector for every norm, since XLA keeps it as one.
    """

    def goes_on(state: tuple[Measured, Float[Array, ""]]):
        _, unit = state
        return unit != 1

    def body(state: tuple[Measured, Float[Array, ""]]):
        point, unit = state
        z = point.z / unit
        f = point.f / unit
        divided = Measured(z=unit * z, f=unit * f, size=unit * rms(f), residual=unit * rms(z - f))
        return divided, jnp.ones_like(unit)

    start = Measured(z=z, f=f, size=rms(f), residual=rms(z - f))
    point, _ = lax.while_loop(goes_on, body, (start, scale.unit))
    return point


def judge(
    scale: Scale,
    size: Float[Array, ""],
    residual: Float[Array, ""],
    tol: ArrayLike,
    atol: ArrayLike = 0.0,
) -> Verdict:
    """Returns what the norms |f| and |z - f| say of z."""
    absolute = jnp.maximum(FLOOR * tol, atol) * scale.least
    allowed = jnp.maximum(tol * size, absolute)
    # Below the smallest normal number z - f is rounded to zero, whatever it is.
    seen = (allowed >= float(jnp.finfo(size.dtype).tiny)) | (size == 0)
    small = (residual <= allowed) & seen & jnp.isfinite(size)
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
