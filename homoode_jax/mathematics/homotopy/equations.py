"""Homotopies that lead from z0 to a root of r(z) = z - f(z), and their Davidenko equation.

    fixed-point:  H(z, lam) = z - lam f(z) - (1 - lam) z0,    M = dH/dz = I - lam J
    Newton:       H(z, lam) = r(z) - (1 - lam) r(z0),         M = dH/dz = I - J
    Davidenko:    M dz/dlam = -dH/dlam

H(z0, 0) = 0 and H(z, 1) = r(z) (Davidenko 1953; Allgower & Georg 1990). At z0 = 0 the first is
the relation F = (I - lam J)^-1 f of HomoODE (arXiv 2310.09583, figure 1). A homotopy of the
caller's has any other way between these ends.

A point of the path is y = (z / sqrt(n), lam): its Euclidean norm is the root mean square of z
beside lam, whatever n is. One bordered matrix serves both kinds of path,

    B = [[M, dH/dlam], [row]],   row = (0, 1) for lam as parameter, the tangent for arc length;

a fold makes M singular, but not B with the tangent as its row (Keller 1977).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from homoode_jax.mathematics.cells.vectors import Equation, Vector
from homoode_jax.mathematics.common.checks import check_option
from homoode_jax.mathematics.common.functions import Function

Point = Float[Array, " entries"]  # n + 1 of them: z, scaled, and lam
HOMOTOPIES = ("fixed_point", "newton")
OWN = "own"  # a homotopy of the caller's
SCHEDULES = {
    "linear": lambda t: t,
    "cosine": lambda t: (1 - jnp.cos(jnp.pi * t)) / 2,
    "quadratic": lambda t: t * (2 - t),
}
Schedule = Callable[[Float[Array, ""]], Float[Array, ""]]


class Homotopy(NamedTuple):
    """H of one equation.

    Attributes:
        equation: what is solved.
        f0: the cell at z0.
        kind: "fixed_point", "newton", or "own" for that of the equation.
    """

    equation: Equation
    f0: Vector
    kind: str

    @property
    def scale(self) -> Float[Array, ""]:
        """Returns sqrt(n), by which z is divided in a point of the path."""
        return jnp.sqrt(jnp.asarray(self.f0.size, self.f0.dtype))

    def point(self, z: Vector, lam) -> Point:
        """Returns the point (z / sqrt(n), lam)."""
        return jnp.append(z / self.scale, jnp.asarray(lam, z.dtype))

    def split(self, y: Point) -> tuple[Vector, Float[Array, ""]]:
        """Returns z and lam of a point."""
        return y[:-1] * self.scale, y[-1]


class Linearised(NamedTuple):
    """H at a point: its value and its derivative, scaled as points are, for one evaluation.

    Attributes:
        h: H / sqrt(n).
        bordered: `(row, v) -> B v`; one Jacobian-vector product.
        precondition: `v -> v'`, near B's inverse; or None.
    """

    h: Vector
    bordered: Callable[[Point, Point], Point]
    precondition: Callable[[Point], Point] | None


def linearise(homotopy: Homotopy, y: Point) -> Linearised:
    """Evaluates the cell once at y, and linearises it there."""
    if homotopy.kind == OWN:
        return _linearise_own(homotopy, y)
    z, lam = homotopy.split(y)
    z0 = homotopy.equation.z0
    scale = homotopy.scale
    f, jvp = jax.linearize(homotopy.equation.f, z)
    fixed_point = homotopy.kind == "fixed_point"
    if fixed_point:
        h = z - lam * f - (1 - lam) * z0
        slope = z0 - f
    else:
        r0 = z0 - homotopy.f0
        h = z - f - (1 - lam) * r0
        slope = r0

    def bordered(row: Point, v: Point) -> Point:
        mv = v[:-1] - (lam if fixed_point else 1) * jvp(v[:-1])
        return jnp.append(mv + v[-1] * slope / scale, row @ v)

    return Linearised(h / scale, bordered, _preconditioner(homotopy, z, lam))


def _linearise_own(homotopy: Homotopy, y: Point) -> Linearised:
    """Linearises a homotopy of the caller's, for one evaluation of it."""
    z, lam = homotopy.split(y)
    scale = homotopy.scale
    own = homotopy.equation.homotopy
    assert own is not None
    h, jvp = jax.linearize(own, z, lam)

    def bordered(row: Point, v: Point) -> Point:
        return jnp.append(jvp(v[:-1], v[-1] / scale), row @ v)

    return Linearised(h / scale, bordered, _preconditioner(homotopy, z, lam))


def _preconditioner(homotopy: Homotopy, z: Vector, lam) -> Callable[[Point], Point] | None:
    precondition = homotopy.equation.precondition
    if precondition is None:
        return None
    return lambda v: jnp.append(precondition(z, lam, v[:-1]), v[-1])


def lam_row(n: Any, dtype) -> Point:
    """Returns the row (0, 1): lam is the parameter."""
    return jnp.zeros(n + 1, dtype).at[-1].set(1)


def make_schedule(schedule: str | Schedule) -> Schedule:
    """Returns the schedule lam(t) behind a name; checks functions and passes them through."""
    if not callable(schedule):
        check_option("schedule", schedule, SCHEDULES)
        return Function(SCHEDULES[schedule])
    function = schedule if isinstance(schedule, Function) else Function(schedule)
    t = jax.ShapeDtypeStruct((), jnp.float32)
    jaxpr, lam, static = eqx.filter_make_jaxpr(function)(t)
    if any(isinstance(const, Tracer) for const in jaxpr.consts):
        raise ValueError(
            "schedule closes over a traced array; it must be known when the solve is compiled, "
            "such as lambda t: t**2."
        )
    if static is not None or getattr(lam, "shape", None) != ():
        raise ValueError(
            f"schedule must return a scalar array for a scalar t, got {lam or static}."
        )
    return function
