"""The bordered linear system of a climb, solved by products or by a matrix that is kept.

    [[I - c J, slope], [row]] dy = b

A matrix of n columns takes n products, and is worth it for a small state: it serves many points,
and it does not stagnate where Krylov's methods do.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from homoode_jax.mathematics.cells.basis import ROOM, places_within
from homoode_jax.mathematics.cells.gmres import GMRES, Linear, solve_linear
from homoode_jax.mathematics.cells.vectors import Vector, dot
from homoode_jax.mathematics.common.examples import once
from homoode_jax.mathematics.common.trees import all_finite
from homoode_jax.mathematics.homotopy.equations import Point

MAX_PRODUCTS = 400
# Vectors of GMRES, the residual that it begins with among them: most cells of a training that
# begins need a hundred or two.
FEWEST = 48
MOST = 200
DAMPING = 1e-6  # of a step with a singular matrix, relative to its squared entries


class Bordered(NamedTuple):
    """The linear system of a turn, [[I - c J, slope], [row]] dy = b, J by its products."""

    jvp: Callable[[Vector], Vector]
    c: Float[Array, ""]
    slope: Vector
    row: Point
    b: Point


def by_krylov(problem: Bordered, rtol) -> Linear:
    """Solves by GMRES, to a relative tolerance."""

    def product(v: Point) -> Point:
        image = v[:-1] - problem.c * problem.jvp(v[:-1]) + v[-1] * problem.slope
        return jnp.append(image, problem.row @ v)

    solver = GMRES(rtol=rtol, restart=vectors_kept(problem.b.size), max_products=MAX_PRODUCTS)
    return solve_linear(product, problem.b, solver)


def vectors_kept(size: Any) -> int:
    """Returns how many vectors of that many entries GMRES keeps before it starts again."""
    return max(FEWEST, places_within(ROOM, size, MOST)) - 1


def by_matrix(
    problem: Bordered, jacobian: Float[Array, "m m"], renews: Bool[Array, ""]
) -> tuple[Linear, Float[Array, "m m"]]:
    """Solves with a Jacobian that is kept, or taken anew, which costs a product for each entry."""

    def renew(jacobian):
        # Depends on the state, so that XLA leaves it in the loop. One column at a time: a cell need
        # not have a batching rule of its own.
        one = jnp.where(jnp.isnan(jacobian[0, 0]), 0, 1).astype(jacobian.dtype)
        columns = lax.map(problem.jvp, one * jnp.eye(len(jacobian), dtype=jacobian.dtype))
        return columns.T

    jacobian = once(renews, renew, jacobian)
    block = jnp.eye(len(jacobian), dtype=jacobian.dtype) - problem.c * jacobian
    matrix = jnp.block([[block, problem.slope[:, None]], [problem.row[None]]])
    value, close = _solved(matrix, problem.b)
    products = jnp.where(renews, len(jacobian), 0).astype(jnp.int32)
    return Linear(value, close, close, products), jacobian


def _solved(matrix: Float[Array, "k k"], b: Point) -> tuple[Point, Bool[Array, ""]]:
    """Returns a step, and whether it solves the system; a damped one where none does.

    Nothing is factorised where b is 0. And only one factorisation is under way at a time: jaxlib
    0.10 runs a large batch of them on the threads on which XLA:CPU runs its programs, and two such
    batches beside each other may wait for each other for ever.
    """

    # The matrix is in the state, and changes: XLA would take the factorisation of a constant one
    # out of the loop, and with it out of the order.
    def solve(state):
        matrix, rest, _ = state
        value = jnp.linalg.solve(matrix, rest)
        return jnp.zeros_like(matrix), rest - dot(matrix, value), value

    def damp(state):
        matrix, b, _ = state
        return jnp.zeros_like(matrix), jnp.zeros_like(b), _damped(matrix, b)

    _, rest, value = once(jnp.any(b != 0), solve, (matrix, b, jnp.zeros_like(b)))
    close = all_finite(value) & (jnp.linalg.norm(rest) <= 0.01 * jnp.linalg.norm(b))
    _, _, value = once(~close, damp, (matrix, b, value))
    return value, close


def _damped(matrix: Float[Array, "k k"], b: Point) -> Point:
    """Returns a step of Levenberg and Marquardt for a singular matrix; 0 if that is not finite."""
    normal = dot(matrix.T, matrix)
    damping = DAMPING * jnp.trace(normal) / len(b)
    normal = normal + damping * jnp.eye(len(b), dtype=b.dtype)
    step = jnp.linalg.solve(normal, dot(matrix.T, b))
    return jnp.where(all_finite(step), step, 0)
