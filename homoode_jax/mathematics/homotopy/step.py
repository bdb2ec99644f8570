"""One predictor-corrector step along a homotopy's path.

Predictor: one step of a Diffrax solver along the Davidenko field, B dy = (0, 1), with lam(t) or
arc length as time. Corrector: Newton-Krylov back to the path. A step is judged by how far the
corrector had to go, relative to the step (Allgower & Georg 1990, chapters 2 and 6), and refused,
however small, where B is seen to become singular on the way: B(y1)^-1 B(y0) p turns against p.
So a path ends before a bifurcation, and before a fold where lam is its parameter. A long step
over a bifurcation in one of many directions, which p hardly has, is not seen: the path then goes
on along its branch.
"""

from typing import NamedTuple

import diffrax
import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from homoode_jax.mathematics.cells.gmres import solve_linear, tighten
from homoode_jax.mathematics.cells.vectors import Cost, finite, no_cost
from homoode_jax.mathematics.common.solution import Result
from homoode_jax.mathematics.homotopy.corrector import Correction, correct
from homoode_jax.mathematics.homotopy.equations import Homotopy, Point, Schedule, lam_row, linearise

BEND = 0.25  # the corrector may move a step by this fraction of its length
CONTRACTION = 0.25  # and its corrections must shrink by this factor
SINGULAR = 0.01  # |B p| / |p| below which a path that cannot go on has met a singular B
REACH = 2.0  # a step may be lengthened by this factor to land on lam = 1
NEAR = 0.01  # corrections end at this fraction of the step, on the way


class Method(eqx.Module):
    """How a path is followed; dynamic in its tolerances, static in its methods."""

    rtol: Float[Array, ""]
    atol: Float[Array, ""]
    linear_solver: lx.AbstractLinearSolver
    solver: diffrax.AbstractSolver
    schedule: Schedule
    arclength: bool = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    max_evaluations: int | None = eqx.field(static=True)

    @property
    def order(self) -> float:
        """Power of the step by which the corrector's share in it grows."""
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
        strictness: how often the linear solver's tolerance is tightened: once more after a step
            refused, for an inexact tangent misleads where M is ill-conditioned.
    """

    y: Point
    t: Float[Array, ""]
    h: Float[Array, ""]
    row: Point
    probe: Point
    aim: Bool[Array, ""]
    strictness: Float[Array, ""]


class Step(NamedTuple):
    """A step tried: where it went, and whether it may be kept."""

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
    """Predicts and corrects; changes nothing."""
    method = eqx.tree_at(
        lambda m: m.linear_solver, method, tighten(method.linear_solver, place.strictness)
    )
    t1 = place.t + place.h if method.arclength else jnp.minimum(place.t + place.h, 1)
    predicted, cost = _predict(homotopy, method, place, t1)
    predicted, t1, arrives = _aim(method, place, predicted, t1)
    chord = predicted - place.y
    length = jnp.linalg.norm(chord)
    lam_fixed = lam_row(place.y.size - 1, place.y.dtype)
    row = lax.stop_gradient(chord / length) if method.arclength else lam_fixed
    row = jnp.where(arrives, lam_fixed, row)
    # On the way a correction is small beside the step, however short that is.
    near = jnp.where(arrives, 0, NEAR * lax.stop_gradient(length))
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
    turned, singular, probe, work = _watch(homotopy, method, place, done.y, row)
    cost = cost.add(done.cost).add(work)
    overshoots = method.arclength & done.ok & ~arrives & (done.y[-1] >= 1)
    rise = predicted[-1] - place.y[-1]  # too little of it: it cannot aim, but take a shorter step
    overshoots = overshoots & (1 - place.y[-1] <= REACH * rise)
    error = jnp.linalg.norm(done.y - predicted) / (BEND * length)
    error = jnp.maximum(error, jnp.where(arrives, 0, done.contraction / CONTRACTION))
    lands = done.ok & ~turned & (arrives | (not method.arclength) | _inside(homotopy, done.y))
    error = jnp.where(lands & finite(done.y), error, jnp.inf)
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

    Time is arc length, or lam itself: a schedule chooses the steps, but its slope, which may be 0,
    has no part in them. The cost rides along as a second state: what each stage took is read off
    the stages' slopes.
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
    # A schedule that stands still would leave a step of no length, which nothing can be judged by.
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
    arrives = (rise > 0) & ((predicted[-1] >= 1) | (place.aim & (1 - lam <= REACH * rise)))
    part = lax.stop_gradient(jnp.where(arrives, (1 - lam) / rise, 1))
    landed = (place.y + part * (predicted - place.y)).at[-1].set(1)
    t1 = jnp.where(arrives, place.t + part * (t1 - place.t), t1)
    return jnp.where(arrives, landed, predicted), t1, arrives


def _watch(homotopy: Homotopy, method: Method, place: Place, y1: Point, row: Point):
    """Returns whether B becomes singular between two points, or is nearly so; and the next probe.

    w = B(y1)^-1 B(y0) p is near p for a short step, and turns against it where an eigenvalue
    passes zero; w itself becomes the next probe, as in an inverse iteration. So B(y0) p is small
    where rounding leaves no step to tell.
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
    """Whether a path may pass there on its way; at lam = 0 a fixed-point path has z0 alone."""
    lam = y[-1]
    return (lam < 1) & ((lam > 0) | (homotopy.kind != "fixed_point"))


def _trouble(done: Correction, singular, speed) -> Int[Array, ""]:
    """Why a step cannot be kept, if it cannot; a speed that is rounding's is no solution."""
    code = jnp.where(singular, Result.bifurcation, Result.stagnated)
    solved = (speed > 0) & (speed < jnp.finfo(speed.dtype).eps ** -0.5)
    failed = ~done.ok & ~done.linear_ok | ~solved
    code = jnp.where(failed, Result.linear_solve, code)
    return jnp.where(finite(done.y) & done.finite, code, Result.nonfinite).astype(jnp.int32)


def first_direction(homotopy: Homotopy, method: Method) -> tuple[Point, Cost]:
    """Returns the unit tangent at (z0, 0), towards larger lam; a fold there does no harm.

    The row is no tangent yet: (f - z0, 1) has a part along it, whether M is singular or not.
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
