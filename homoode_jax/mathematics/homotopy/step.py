"""One predictor-corrector step along a homotopy's path.

The path is H(y) = 0, n equations for the n + 1 entries of y = (z / sqrt(n), lam), and
B = [[dH/dy], [row]] is its bordered matrix (see `equations`; Allgower & Georg 1990, chapters 2
and 6). A step from y0, on the path, takes these steps:

1.  Predict. Along the path dH/dy dy = 0, so that its tangent solves B dy = (0, 1): the last entry
    fixes the length. With row = (0, 1) that is dy/dlam, and lam is the time of the Davidenko
    equation; with row = a direction near the path's, the solution is divided by its length, and
    time is arc length. A Diffrax solver takes one step of it, to the predicted point.
2.  Aim. By arc length, a step that would pass lam = 1 is cut there, along its chord; one that
    is to aim at lam = 1 is lengthened to there.
3.  Choose the row for the correction: the chord's direction, so that the point moves across the
    path and not along it; or (0, 1), which keeps lam.
4.  Correct. Newton's method, B dy = (-H, 0), leads back to the path: y1.
5.  Watch for a singular B between y0 and y1. With a unit vector p, the probe, and the same row,

        w = B(y1)^-1 B(y0) p = p + B(y1)^-1 (B(y0) - B(y1)) p

    is near p for a short step. If an eigenvalue of B goes from e0 through zero to e1, w has e0/e1
    times the part of p along its eigenvector, which is negative: if it is the larger part of p,
    w turns against p. And w, at unit norm, is the next probe: this is inverse iteration, by which
    the probe turns towards the eigenvector whose eigenvalue is nearest to zero.
6.  Judge. The error of the step is the largest of |y1 - predicted| / (BEND |chord|) and the
    contraction of the corrections / CONTRACTION. Below 1 the step is kept (see `step_size`).
    It is infinite, and the step refused however short, where the correction failed, B became
    singular, or lam left its range on the way (see `_inside`).

So a path ends before a bifurcation, and before a fold where lam is its parameter. A long step
over a bifurcation in one of many directions, of which p has hardly any part, is not seen: the path
then goes on along its branch.
"""

from typing import NamedTuple

import diffrax
import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from homoode_jax.mathematics.cells.gmres import solve_linear, tighten
from homoode_jax.mathematics.cells.vectors import Cost, no_cost
from homoode_jax.mathematics.common.solution import Result
from homoode_jax.mathematics.common.trees import all_finite
from homoode_jax.mathematics.homotopy.corrector import Correction, correct
from homoode_jax.mathematics.homotopy.equations import Homotopy, Point, Schedule, lam_row, linearise

BEND = 0.25  # the corrector may move a step by this fraction of its length
CONTRACTION = 0.25  # and its corrections must shrink by this factor
SINGULAR = 0.01  # |B p| / |p| below which a path that cannot go on has met a singular B
LENGTHENING = 2.0  # a step may be lengthened by this factor to land on lam = 1
ON_THE_WAY = 0.01  # corrections end at this fraction of the step, on the way


class Method(eqx.Module):
    """How a path is followed; dynamic in its tolerances, static in its methods."""

    rtol: Float[Array, ""]
    atol: Float[Array, ""]
    linear_solver: lx.AbstractLinearSolver
    solver: diffrax.AbstractSolver
    schedule: Schedule
    arclength: bool = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    max_evaluations: Int[Array, ""] | None

    @property
    def order(self) -> float:
        """Returns the order of the predictor: the power of the step with which its error grows."""
        return float(self.solver.order(None) or 1)  # pyright: ignore


class Place(NamedTuple):
    """Where a path has come to, and how it is to go on.

    Attributes:
        y: last point on the path.
        t: schedule time or arc length there.
        h: the step to try, in the same unit.
        row: direction of the last step, the border of B; (0, 1) where lam is the parameter.
        probe: the unit vector that turns where B becomes singular.
        aim: True if the step should try to land on lam = 1.
        strictness: how often the linear solver's tolerance is tightened: once more after a
            refused step, because an inexact tangent misleads where M is ill-conditioned.
    """

    y: Point
    t: Float[Array, ""]
    h: Float[Array, ""]
    row: Point
    probe: Point
    aim: Bool[Array, ""]
    strictness: Float[Array, ""]


class Step(NamedTuple):
    """A step tried: where it went, and whether it may be kept.

    Attributes:
        y: the corrected point y1.
        row: the border of B there.
        t: schedule time or arc length there.
        arrives: True if it lands on lam = 1.
        overshoots: True if it passed lam = 1 without aiming, so that the next one should aim.
        error: below 1 the step is kept.
        trouble: the `Result` if no shorter step can be kept either.
        probe: w at unit norm.
        cost: what the step took.
    """

    y: Point
    row: Point
    t: Float[Array, ""]
    arrives: Bool[Array, ""]
    overshoots: Bool[Array, ""]
    error: Float[Array, ""]
    trouble: Int[Array, ""]
    probe: Point
    cost: Cost


def try_step(homotopy: Homotopy, method: Method, place: Place) -> Step:
    """Returns a step from `place`, which the caller keeps or refuses (the numbers: see above)."""
    method = eqx.tree_at(
        lambda m: m.linear_solver, method, tighten(method.linear_solver, place.strictness)
    )
    t1 = place.t + place.h if method.arclength else jnp.minimum(place.t + place.h, 1)
    predicted, cost = _predict(homotopy, method, place, t1)  # 1: predict
    # 2: aim
    predicted, t1, arrives = _aim(method, place, predicted, t1)
    chord = predicted - place.y
    length = jnp.linalg.norm(chord)
    lam_fixed = lam_row(place.y.size - 1, place.y.dtype)
    # 3: row. At lam = 1 the correction must stay there, whatever the path's direction.
    row = lax.stop_gradient(chord / length) if method.arclength else lam_fixed
    row = jnp.where(arrives, lam_fixed, row)
    # 4: correct. On the way a correction need only be small beside the step, however short that
    # is. At lam = 1 the point is the answer, and has to meet the tolerances.
    near = jnp.where(arrives, 0, ON_THE_WAY * lax.stop_gradient(length))
    rtol = jnp.where(arrives, method.rtol, 0)
    atol = jnp.where(arrives, method.atol, 0)
    done = correct(
        homotopy=homotopy,
        y=predicted,
        row=row,
        solver=method.linear_solver,
        rtol=rtol,
        atol=atol,
        near=near,
    )
    turned, singular, probe, work = _watch(homotopy, method, place, done.y, row)  # 5: watch
    cost = cost.add(done.cost).add(work)
    # A prediction below lam = 1 may be corrected to beyond it. The next step then aims (2), if its
    # chord reaches lam = 1 when lengthened by LENGTHENING at most; else it is shortened as others.
    overshoots = method.arclength & done.ok & ~arrives & (done.y[-1] >= 1)
    rise = predicted[-1] - place.y[-1]
    overshoots = overshoots & (1 - place.y[-1] <= LENGTHENING * rise)
    # 6: judge. The last corrections, to tolerance, may be many and slow.
    error = jnp.linalg.norm(done.y - predicted) / (BEND * length)
    error = jnp.maximum(error, jnp.where(arrives, 0, done.contraction / CONTRACTION))
    lands = done.ok & ~turned & (arrives | (not method.arclength) | _inside(homotopy, done.y))
    error = jnp.where(lands & all_finite(done.y), error, jnp.inf)
    trouble = _trouble(done, turned | singular, length / place.h)
    return Step(
        y=done.y,
        row=row,
        t=t1,
        arrives=arrives,
        overshoots=overshoots,
        error=lax.stop_gradient(error),
        trouble=trouble,
        probe=probe,
        cost=cost,
    )


def _predict(homotopy: Homotopy, method: Method, place: Place, t1) -> tuple[Point, Cost]:
    """Takes one Diffrax step along the Davidenko field, and counts what it cost.

    Time is arc length, or lam itself: a schedule chooses where steps end, but its slope, which may
    be 0, has no part in them. The cost is counted by a second state with the slope (1, 1,
    products): a stage's slope is that times the size of the step, and their ratios are the counts.
    """
    unit = lam_row(place.y.size - 1, place.y.dtype)
    start, end = _times(method, place, t1)

    def rhs(t, state, args):
        y = state[0] if method.arclength else state[0].at[-1].set(t)
        here = linearise(homotopy, y)
        solver = tighten(method.linear_solver, 1)
        solved = solve_linear(lambda v: here.bordered(args, v), unit, solver, here.precondition)
        speed = _unit_speed(solved.value) if method.arclength else 1
        return speed * solved.value, jnp.stack([1, 1, solved.products]).astype(y.dtype)

    term = diffrax.ODETerm(rhs)  # pyright: ignore
    state = place.y, jnp.zeros(3, place.y.dtype)
    solver = method.solver
    begun = solver.init(term, start, end, state, place.row)  # pyright: ignore
    (y, total), _, dense, _, _ = solver.step(term, start, end, state, place.row, begun, False)  # pyright: ignore
    slopes = dense["k"][1] if "k" in dense else total[None]
    slopes = lax.stop_gradient(slopes)
    nfe, products = jnp.sum(jnp.round(slopes[:, 1:] / slopes[:, :1]), 0).astype(jnp.int32)
    y = y if method.arclength else y.at[-1].set(end)
    return y, no_cost().plus(nfe=nfe, num_jvp=products)


def _times(method: Method, place: Place, t1) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns where a step starts and ends, in arc length or in lam."""
    if method.arclength:
        return place.t, t1
    lam0 = place.y[-1]
    lam1 = jnp.asarray(method.schedule(t1), lam0.dtype)
    # A schedule may stand still. A step without length has no chord to judge it by.
    return lam0, jnp.where(lam1 == lam0, lam0 + 8 * jnp.finfo(lam0.dtype).eps, lam1)


def _unit_speed(tangent: Point) -> Float[Array, ""]:
    length = jnp.linalg.norm(tangent)
    return jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0)


def _aim(method: Method, place: Place, predicted: Point, t1):
    """Shortens a step that would pass lam = 1 so that it lands there."""
    if not method.arclength:
        return predicted, t1, t1 >= 1
    lam = place.y[-1]
    rise = predicted[-1] - place.y[-1]
    arrives = (rise > 0) & ((predicted[-1] >= 1) | (place.aim & (1 - lam <= LENGTHENING * rise)))
    part = lax.stop_gradient(jnp.where(arrives, (1 - lam) / rise, 1))
    landed = (place.y + part * (predicted - place.y)).at[-1].set(1)
    t1 = jnp.where(arrives, place.t + part * (t1 - place.t), t1)
    return jnp.where(arrives, landed, predicted), t1, arrives


def _watch(homotopy: Homotopy, method: Method, place: Place, y1: Point, row: Point):
    """Returns if w turns against p, if |B(y0) p| is small, the next probe, and the cost.

    The second is for a singular B so near that rounding leaves no step across it: by then the
    probe is close to the null vector.
    """
    before = linearise(homotopy, place.y)
    after = linearise(homotopy, y1)
    p = place.probe
    image = before.bordered(row, p)
    change = image - after.bordered(row, p)
    solved = solve_linear(
        lambda v: after.bordered(row, v), change, method.linear_solver, after.precondition
    )
    w = lax.stop_gradient(p + solved.value)
    cost = no_cost().plus(nfe=2, num_jvp=2 + solved.products)
    singular = jnp.linalg.norm(image) < SINGULAR
    return jnp.vdot(p, w) <= 0, singular, w / jnp.linalg.norm(w), cost


def _inside(homotopy: Homotopy, y: Point) -> Bool[Array, ""]:
    """Returns whether a path may pass y on its way to lam = 1.

    A fixed-point path does not come back to lam = 0, where z0 is its only point. A Newton path may.
    """
    lam = y[-1]
    return (lam < 1) & ((lam > 0) | (homotopy.kind != "fixed_point"))


def _trouble(done: Correction, singular, speed) -> Int[Array, ""]:
    """Returns why no step can be kept from here on, as a `Result`.

    A chord without length, or one of more than 1 / sqrt(eps) per unit of time, is no solution of
    the predictor's linear systems, but rounding.
    """
    code = jnp.where(singular, Result.bifurcation, Result.stagnated)
    solved = (speed > 0) & (speed < jnp.finfo(speed.dtype).eps ** -0.5)
    failed = ~done.ok & ~done.linear_ok | ~solved
    code = jnp.where(failed, Result.linear_solve, code)
    return jnp.where(all_finite(done.y) & done.finite, code, Result.nonfinite).astype(jnp.int32)


def first_direction(homotopy: Homotopy, method: Method) -> tuple[Point, Cost]:
    """Returns the unit tangent at (z0, 0), towards larger lam; a fold there does no harm.

    There is no chord yet to serve as row. (f - z0, 1) does: it has a part along the tangent,
    whether M is singular or not.
    """
    z0 = homotopy.equation.z0
    f0 = homotopy.f0
    y = homotopy.point(z0, 0.0)
    here = linearise(homotopy, y)
    unit = lam_row(z0.size, y.dtype)
    push = (f0 - z0) / jnp.maximum(jnp.linalg.norm(f0 - z0), jnp.finfo(y.dtype).tiny)
    row = lax.stop_gradient(jnp.append(push, jnp.ones((), y.dtype)))
    solved = solve_linear(
        lambda v: here.bordered(row, v), unit, method.linear_solver, here.precondition
    )
    tangent = lax.stop_gradient(solved.value) * jnp.where(solved.value[-1] < 0, -1, 1)
    length = jnp.linalg.norm(tangent)
    cost = no_cost().plus(nfe=1, num_jvp=solved.products)
    return jnp.where(length > 0, tangent / length, unit), cost
