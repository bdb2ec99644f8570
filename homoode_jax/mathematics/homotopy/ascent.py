"""A path in arc length, one correction at a time: what each point of a climb means for it.

From the last point of the path, the anchor, a step of length h goes along the last chord. The point
is corrected in the hyperplane across it until a correction is small beside h; then the chord turns,
and h grows or shrinks with the first correction. A step is tried again at a third of its length if

-   its first correction is too large a part of it, or corrections do not shrink fast enough;
-   the chord turns too far.

The chord may point away from the path by the angle of its last turn, however short the step. So
before a step is tried again, one solve finds the tangent at the anchor, B dy = (0, 1).

A small Jacobian is kept from point to point for as long as corrections shrink well with it.

A step that would pass lam = 1 is cut there, and corrected at lam = 1: a landing. If its corrections
do not shrink, the path only seemed to come there, and has a fold before: go on from the anchor.

The unit of z is its size at the anchor, so that z, whatever its length and scale, weighs as much as
lam (the theta-metric of continuation codes).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from homoode_jax.mathematics.cells.gmres import Linear
from homoode_jax.mathematics.cells.vectors import Vector, dot
from homoode_jax.mathematics.common.solution import RUNNING, Result
from homoode_jax.mathematics.homotopy.equations import Point, lam_row

FIRST_STEP = 0.2  # in arc length, where lam goes from 0 to 1
SHORTEST_STEP = 1e-6
BEND = 0.5  # of a step: the most that its first correction may be
IDEAL_BEND = 0.1
SHRINKING = (0.5, 0.7)  # ratio of corrections, on the way and at lam = 1, where roots may be double
RENEWING = 0.2  # ratio of corrections above which the derivative is taken anew
CORRECTIONS = (8, 60)
ON_THE_WAY = 0.02  # corrections end below this fraction of the step
STRAIGHT = 0.8  # least cosine between two chords
FAR = 1e4  # times the scale of the start: the path is lost


class Seen(NamedTuple):
    """What a turn has found at the trial point.

    Attributes:
        size: |H|.
        residual: |z - f| relative to |f|.
        finite: True if the cell is.
        takes: True if the point is worth a linear solve.
        root: True if it passes for a root.
        gone: True if it is so far away that a small residual means nothing.
        r_start: r at the start of the homotopy.
        renewed: True if `linear` is of the derivative at this point, and not of an older one.
        linear: the next step.
    """

    size: Float[Array, ""]
    residual: Float[Array, ""]
    finite: Bool[Array, ""]
    takes: Bool[Array, ""]
    root: Bool[Array, ""]
    gone: Bool[Array, ""]
    r_start: Vector
    renewed: Bool[Array, ""]
    linear: Linear


class Ascent(NamedTuple):
    """A path under way.

    Attributes:
        anchor: its last point.
        row: the unit vector of its last chord.
        h: length of the step that is tried.
        bend: first correction of the step, over h.
        last: length of the last correction.
        count: corrections of this step.
        landing: True while a point is corrected at lam = 1.
        is_tangent: True if `row` is the path's tangent at the anchor, and no chord.
        asks: True if the next solve is for that tangent, at the anchor.
        renews: True if the next solve takes the derivative at its own point.
    """

    anchor: Point
    row: Point
    h: Float[Array, ""]
    bend: Float[Array, ""]
    last: Float[Array, ""]
    count: Int[Array, ""]
    landing: Bool[Array, ""]
    is_tangent: Bool[Array, ""]
    asks: Bool[Array, ""]
    renews: Bool[Array, ""]


def begin_path(y: Point) -> Ascent:
    """Returns a path that has yet to leave y."""
    zero = jnp.zeros((), y.dtype)
    return Ascent(
        anchor=y,
        row=lam_row(y.size - 1, y.dtype),
        h=zero + FIRST_STEP,
        bend=zero,
        last=zero + jnp.inf,
        count=jnp.zeros((), jnp.int32),
        landing=jnp.asarray(False),
        is_tangent=jnp.asarray(False),
        asks=jnp.asarray(True),
        renews=jnp.asarray(True),
    )


def along(
    path: Ascent, y: Point, unit: Float[Array, ""], seen: Seen, least_unit, returns
) -> tuple[Ascent, Point, Float[Array, ""], Int[Array, ""]]:
    """Goes on from y: corrects it, steps on from it, or tries a shorter step.

    Returns the path, the next point to try, the unit of its z, and RUNNING or why the path ends;
    `returns` says whether it may come back to lam = 0.
    """
    step = seen.linear.value
    length = jnp.linalg.norm(step)
    begins = path.asks
    corrected = y + step
    good, on_it = _judge(path, seen, length)
    chord = _unit_vector(corrected - path.anchor)
    keeps = on_it & (dot(chord, path.row) >= STRAIGHT) & ~begins
    waits = ~begins & ~good & ~seen.renewed  # before it gives way, the derivative is renewed
    again = ~begins & ~keeps & ~waits & (~good | on_it)
    bend = jnp.where(path.count == 0, length / path.h, path.bend)
    growth = jnp.clip(jnp.sqrt(IDEAL_BEND / jnp.maximum(bend, 1e-3)), 0.5, 2)
    h = path.h * jnp.where(keeps, growth, jnp.where(again, 1 / 3, 1)).astype(y.dtype)
    row = jnp.where(begins, _unit_vector(step), jnp.where(keeps, chord, path.row))
    # A correction may pass lam = 1 by itself: then the landing starts from the old anchor.
    anchor = jnp.where(keeps & (corrected[-1] < 1), corrected, path.anchor)
    new_unit = jnp.maximum(unit * jnp.linalg.norm(anchor[:-1]), least_unit)
    new_unit = jnp.where(keeps, new_unit, unit)
    anchor, row, corrected = (v.at[:-1].multiply(unit / new_unit) for v in (anchor, row, corrected))
    row = _unit_vector(row)
    asks = again & ~path.is_tangent
    steps = begins | keeps | again
    lands = steps & ~asks & (row[-1] > 0) & (anchor[-1] + h * row[-1] >= 1)
    h = jnp.where(lands, (1 - anchor[-1]) / jnp.where(lands, row[-1], 1), h)
    next_y = jnp.where(steps, anchor + jnp.where(asks, 0, h) * row, corrected)
    next_y = jnp.where(waits, y, next_y)
    after = Ascent(
        anchor=anchor,
        row=row,
        h=h,
        bend=bend,
        last=jnp.where(steps, jnp.inf, jnp.where(waits, path.last, length)),
        count=jnp.where(steps, 0, jnp.where(waits, path.count, path.count + 1)),
        landing=jnp.where(steps, lands, path.landing),
        is_tangent=begins | (path.is_tangent & ~keeps),
        asks=asks,
        renews=waits | asks | (~steps & (length > RENEWING * path.last)),
    )
    lost = begins & ~(seen.finite & seen.linear.close)
    return after, next_y, new_unit, _ending(after, next_y, lost, returns)


def _judge(path: Ascent, seen: Seen, length) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Returns whether a correction is as short as it should be, and whether it is the last one."""
    ratio = jnp.where(path.landing, SHRINKING[1], SHRINKING[0])
    most = jnp.where(path.count == 0, BEND * path.h, ratio * path.last)
    turns = jnp.where(path.landing, CORRECTIONS[1], CORRECTIONS[0])
    good = seen.finite & seen.linear.close & (length <= most) & (path.count < turns)
    return good, good & (length <= ON_THE_WAY * path.h) & ~path.landing


def _unit_vector(v: Point) -> Point:
    length = jnp.linalg.norm(v)
    return v / jnp.where(length > 0, length, 1)


def _ending(path: Ascent, y: Point, lost, returns) -> Int[Array, ""]:
    """Returns RUNNING, or why the path ends."""
    result = jnp.where(path.h < SHORTEST_STEP, Result.stagnated.value, RUNNING)
    back = (path.anchor[-1] < 0) & ~returns
    result = jnp.where(back, Result.fold.value, result)
    gone = ~(jnp.linalg.norm(y) <= FAR)
    result = jnp.where(gone, Result.unbounded_path.value, result)
    return jnp.where(lost, Result.linear_solve.value, result).astype(jnp.int32)
