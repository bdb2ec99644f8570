"""How paths end: at lam = 1, at a fold, at a bifurcation, at infinity, or in trouble.

Where lam is the parameter, a path stops before a fold, and the fold is told by extrapolation:

1.  Near a fold at lam_f the path is lam_f - lam = c s^2, with s the arc length from the fold.
2.  So q = (dlam/ds)^2 = 4 c^2 s^2 = 4 c (lam_f - lam): it falls linearly in lam, to 0 at lam_f.
3.  Two steps, dlam apart, with q0 before and q1 now, give 4 c = (q0 - q1) / dlam, and with it
    lam_f - lam = dlam q1 / (q0 - q1).

4.  By 1 and 2 the fold is s = 2 (lam_f - lam) / sqrt(q1) of arc length away.

It is a fold if lam_f - lam is positive and a few steps at most, q1 is small, and s is short beside
the path's point. A path that is merely steep keeps its slope: q0 - q1 is near 0, and lam_f far
away. On the way to infinity at some lam, lam_p - lam = c |z|^-p, lam_f looks near too; but then 3
and 4 give s = |z| / (p + 1).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from homoode_jax.mathematics.common.solution import RUNNING, Result
from homoode_jax.mathematics.homotopy.equations import Homotopy, Point
from homoode_jax.mathematics.homotopy.step import Method, Place, Step

HUGE = 1e4  # times the scale of the start: a path that is steep, or ends, beyond it is unbounded
STEEP = 1e3
NEAR = 0.1  # part of a point, or of 1: what may be left of the way to its fold


class Slopes(NamedTuple):
    """The last step in lam, and squared slopes (dlam/ds)^2 of the last two steps."""

    step: Float[Array, ""]
    before: Float[Array, ""]
    last: Float[Array, ""]


def first_slopes(dtype) -> Slopes:
    """Returns the slopes of a path without a step, from which no fold is extrapolated."""
    return Slopes(*(jnp.ones((), dtype) for _ in range(3)))


def next_slopes(slopes: Slopes, y0: Point, y1: Point) -> Slopes:
    """Returns the slopes after the step from y0 to y1, with (dlam/ds)^2 taken of its chord."""
    chord = y1 - y0
    square = jnp.square(chord[-1]) / jnp.maximum(chord @ chord, jnp.finfo(chord.dtype).tiny)
    return Slopes(jnp.abs(chord[-1]), slopes.last, square)


def ending(
    homotopy: Homotopy,
    method: Method,
    place: Place,
    step: Step,
    keep: Bool[Array, ""],
    h: Float[Array, ""],
    slopes: Slopes,
) -> Int[Array, ""]:
    """Returns RUNNING, or the `Result` with which the path ends after this step.

    A kept step ends the path at lam = 1 or at infinity. A refused one ends it where `h`, the size
    to try next, is too small to be told from rounding.
    """
    size = jnp.linalg.norm(place.y)
    tiny = 1e-6 if h.dtype == jnp.float32 else 1e-8
    smallest = tiny * (1 + size) if method.arclength else tiny
    refused = jnp.where(h < smallest, _dead_end(homotopy, method, place, step, slopes), RUNNING)
    gone = jnp.where(_is_unbounded(homotopy, place.y, step.y), Result.unbounded_path, RUNNING)
    far = jnp.linalg.norm(step.y) > HUGE * _scale(homotopy)
    kept = jnp.where(step.arrives, jnp.where(far, Result.unbounded_path, Result.ok), gone)
    return jnp.where(keep, kept, refused).astype(jnp.int32)


def _is_unbounded(homotopy: Homotopy, y0: Point, y1: Point) -> Bool[Array, ""]:
    """Returns whether y1 is HUGE and the path steep, or y1 is HUGE squared.

    Steep means that a straight line through y0 and y1 would change z by STEEP times its size
    before lam = 1.
    """
    scale = _scale(homotopy)
    size = jnp.linalg.norm(y1)
    chord = y1 - y0
    rise = jnp.abs(1 - y1[-1]) * jnp.linalg.norm(chord[:-1])
    steep = rise > STEEP * size * jnp.abs(chord[-1])
    return (size > HUGE**2 * scale) | ((size > HUGE * scale) & steep)


def _dead_end(homotopy: Homotopy, method: Method, place: Place, step: Step, slopes: Slopes):
    """Returns why no step is possible, however small."""
    size = jnp.linalg.norm(place.y)
    slope = jnp.sqrt(slopes.last)
    left = slopes.step * slopes.last / (slopes.before - slopes.last)  # 3: lam_f - lam
    comes = (slopes.last < 0.1) & (left >= 0) & (left < 10 * slopes.step) & (not method.arclength)
    near = 2 * left <= NEAR * jnp.maximum(size, 1) * slope  # 4
    code = jnp.where(comes & near, Result.fold, step.trouble)
    # Rounding ends a path to infinity sooner than where it is HUGE.
    steep = jnp.abs(1 - place.y[-1]) > STEEP * size * slope
    pole = comes & ~near & steep & (size > 0.01 * HUGE * _scale(homotopy))
    far = size > 0.1 * HUGE * _scale(homotopy)
    return jnp.where(far | pole, Result.unbounded_path, code)


def _scale(homotopy: Homotopy) -> Float[Array, ""]:
    z0 = homotopy.equation.z0
    f0 = homotopy.f0
    return 1 + jnp.maximum(jnp.linalg.norm(z0), jnp.linalg.norm(f0)) / homotopy.scale
