"""A homotopy's path from (z0, 0) to lam = 1, or to where it ends.

A loop tries a step (see `step`) and decides on it:

1.  Keep it if its error is below 1, and size the next one by the error (see `step_size`).
2.  After a step that overshot lam = 1, aim with a step of the same size; a step that aimed and was
    refused was longer than the one that overshot, so halve that one.
3.  Solve the linear systems more loosely after a kept step, and more strictly after a refused one.
4.  Go on from the new point, or again from the old one. A point lies on the path to the fraction
    ON_THE_WAY of the step that led to it, which is too rough a start for a step much shorter. So
    the old point is corrected again before it is used for one.
5.  Count a fold where lam turns: a kept chord whose lam goes the other way than the one before.
6.  End where the path does (see `endings`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from homoode_jax.mathematics.cells.gmres import tighten
from homoode_jax.mathematics.cells.vectors import Cost, no_cost, repeat
from homoode_jax.mathematics.common.solution import RUNNING, Result
from homoode_jax.mathematics.common.trees import all_finite, choose
from homoode_jax.mathematics.homotopy.corrector import correct
from homoode_jax.mathematics.homotopy.endings import Slopes, ending, first_slopes, next_slopes
from homoode_jax.mathematics.homotopy.equations import Homotopy, lam_row
from homoode_jax.mathematics.homotopy.step import (
    ON_THE_WAY,
    Method,
    Place,
    Step,
    first_direction,
    try_step,
)
from homoode_jax.mathematics.ode.step_size import StepSize, adapt, first_size


class Walk(NamedTuple):
    """A path under way.

    Attributes:
        place: where it has come to.
        size: the step to try next, and the memory of what sizes it.
        slopes: how lam changed in the last steps.
        num_folds: how often lam turned.
        result: `Result`, or RUNNING.
        num_steps: steps tried.
        num_rejected: steps refused.
        cost: work done.
        saved: first points of the path at the values of lam asked for.
        reached: which of them were passed.
        trail: every point kept, if they are wanted; then the last one repeated.
    """

    place: Place
    size: StepSize
    slopes: Slopes
    num_folds: Int[Array, ""]
    result: Int[Array, ""]
    num_steps: Int[Array, ""]
    num_rejected: Int[Array, ""]
    cost: Cost
    saved: Float[Array, "saves entries"]
    reached: Bool[Array, " saves"]
    trail: Float[Array, "points entries"] | None


def follow(
    homotopy: Homotopy, method: Method, lams: Float[Array, " saves"], keep_steps: bool = False
) -> Walk:
    """Follows the path. Its `saved` points are interpolated: they lie near the path, not on it."""

    def goes_on(walk: Walk):
        most = method.max_evaluations
        room = most is None or walk.cost.total < most
        return (walk.result == RUNNING) & (walk.num_steps < method.max_steps) & room

    def body(walk: Walk) -> Walk:
        return _decide(homotopy, method, walk, try_step(homotopy, method, walk.place), lams)

    start = _start(homotopy, method, lams, keep_steps)
    end = repeat(goes_on, body, start, method.max_steps, homotopy.equation.unrolled)
    return end._replace(result=jnp.where(end.result == RUNNING, Result.max_steps, end.result))


def _start(homotopy: Homotopy, method: Method, lams, keep_steps: bool) -> Walk:
    z0 = homotopy.equation.z0
    f0 = homotopy.f0
    y = homotopy.point(z0, 0.0)
    zero = jnp.zeros((), y.dtype)
    none = jnp.zeros((), jnp.int32)
    row = lam_row(z0.size, y.dtype)
    cost = no_cost()
    if method.arclength:
        row, cost = first_direction(homotopy, method)
    h = 0.1 / jnp.maximum(row[-1], 0.1)  # in lam, a tenth
    p = jax.random.normal(jax.random.key(0), y.shape, y.dtype).at[-1].set(0)
    place = Place(
        y=y,
        t=zero,
        h=h,
        row=row,
        probe=p / jnp.linalg.norm(p),
        aim=jnp.asarray(False),
        strictness=zero,
    )
    result = jnp.where(all_finite((z0, f0)), RUNNING, Result.nonfinite).astype(jnp.int32)
    return Walk(
        place=place,
        size=first_size(h),
        slopes=first_slopes(y.dtype),
        num_folds=none,
        result=result,
        num_steps=none,
        num_rejected=none,
        cost=cost,
        saved=jnp.broadcast_to(y, (len(lams), y.size)),
        reached=lams <= 0,
        trail=jnp.broadcast_to(y, (method.max_steps + 1, y.size)) if keep_steps else None,
    )


def _decide(homotopy: Homotopy, method: Method, walk: Walk, step: Step, lams) -> Walk:
    """Keeps a step or refuses it, and says whether the path has ended (the numbers: see above)."""
    place = walk.place
    # 1: keep it, and with which size to go on?
    taken = step.t - walk.place.t
    keep, size = adapt(walk.size, taken, step.error, method.order)
    # 2: aim at lam = 1
    h = jnp.where(step.overshoots, place.h, size.h)
    size = size._replace(h=jnp.where(place.aim & ~keep, jnp.minimum(h, place.h / 2), h))
    # 3: tolerance of the linear systems
    looser = jnp.maximum(place.strictness - 0.2, 0)
    stricter = jnp.minimum(place.strictness + 1, 8)
    # 4: the new point, or the old one again
    new = Place(
        y=step.y,
        t=step.t,
        h=size.h,
        row=step.row,
        probe=step.probe,
        aim=jnp.asarray(False),
        strictness=looser,
    )
    recentred = _recentre(
        homotopy=homotopy,
        method=method,
        place=place,
        h=size.h,
        strictness=stricter,
        needed=~keep & ~step.overshoots,
    )
    old = place._replace(y=recentred.y, h=size.h, aim=step.overshoots, strictness=stricter)
    now = choose(keep, new, old)
    # 5, 6: folds and endings
    turns = keep & method.arclength & (step.row[-1] * place.row[-1] < 0)
    slopes = choose(keep, next_slopes(walk.slopes, place.y, step.y), walk.slopes)
    walk = _save(walk, keep, place.y, step.y, lams)
    return walk._replace(
        place=now,
        size=size,
        slopes=slopes,
        num_folds=walk.num_folds + turns.astype(jnp.int32),
        result=ending(
            homotopy=homotopy,
            method=method,
            place=place,
            step=step,
            keep=keep,
            h=size.h,
            slopes=slopes,
        ),
        num_steps=walk.num_steps + 1,
        num_rejected=walk.num_rejected + (~keep).astype(jnp.int32),
        cost=walk.cost.add(step.cost).add(recentred.cost),
    )


def _recentre(homotopy: Homotopy, method: Method, place: Place, h, strictness, needed):
    """Corrects the point that a refused step left from, to ON_THE_WAY times the next step h."""
    solver = tighten(method.linear_solver, strictness)
    done = correct(
        homotopy=homotopy,
        y=place.y,
        row=place.row,
        solver=solver,
        rtol=0.0,
        atol=0.0,
        near=ON_THE_WAY * h,
        needed=needed,
    )
    return done._replace(y=jnp.where(done.ok, done.y, place.y))


def _save(walk: Walk, keep, y0, y1, lams) -> Walk:
    """Saves points at the values of lam that a kept step passed, and the new point in `trail`."""
    rise = y1[-1] - y0[-1]
    part = (lams - y0[-1]) / jnp.where(rise == 0, 1, rise)
    passed = keep & ~walk.reached & (part >= 0) & (part <= 1) & (rise != 0)
    points = (y0[None] + part[:, None] * (y1 - y0)[None]).at[:, -1].set(lams)
    saved = jnp.where(passed[:, None], points, walk.saved)
    trail = walk.trail
    if trail is not None:
        index = walk.num_steps - walk.num_rejected + 1
        later = jnp.arange(len(trail))[:, None] >= index
        trail = jnp.where(keep & later, y1[None], trail)
    return walk._replace(saved=saved, reached=walk.reached | passed, trail=trail)
