"""Small systems beside those of Moré, Garbow & Hillstrom, as Burkardt's `test_nonlin` has them.

With these, `problems.library` has the 23 problems of Julia's NonlinearProblemLibrary.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.nonlinear.problem import Problem

Vector = Float[Array, " n"]


def chained_rosenbrock(n: int) -> Problem:
    """Each unknown is the square of the one before; the start is far off in the first alone."""

    def g(z: Vector) -> Vector:
        return jnp.append(1 - z[0], 10 * (z[1:] - z[:-1] ** 2))

    # g' is triangular: -1 in the first row, then -20 z before the diagonal and 10 on it, so that
    # det < 0. Its norm at the start is 30; going back from the last row to the first doubles an
    # error nine times.
    start = np.ones(n)
    start[0] = -1.2
    return Problem(g, z_start=start, s=1 / 31, sigma=5e-5, solution=np.ones(n))


def matrix_square_root(n: int) -> Problem:
    """X X = A with A nearly a Jordan block, of 2 x 2 or 3 x 3 entries (Hammarling)."""
    side = int(n**0.5)
    a = 1e-4 * np.eye(side)
    a[0, 1] = 1

    def g(z: Vector) -> Vector:
        x = z.reshape(side, side)
        return (x @ x - a).ravel()

    # At the start, the identity, g' is twice the identity. At the root its eigenvalues are 0.02,
    # in a Jordan chain of length three with links of 50.
    root = 1e-2 * np.eye(side)
    root[0, 1] = 50
    start = np.eye(side).ravel()
    return Problem(g, z_start=start, s=1 / 2, sigma=8e-10, solution=root.ravel())


def line_and_circle() -> Problem:
    """A line and a circle; roots (0, 3) and (3, 0) (Dennis & Schnabel, 1983)."""

    def g(z: Vector) -> Vector:
        return jnp.stack([z.sum() - 3, z @ z - 9])

    # At the start g' = [[1, 1], [2, 10]]: norm 10.3.
    return Problem(
        g, z_start=np.array([1.0, 5.0]), s=1 / 10.3, sigma=0.1, solution=np.array([0, 3.0])
    )


def bent_axes() -> Problem:
    """Has roots on both axes, and a singular g' at the origin (`test_nonlin` 18)."""

    def bent(z):
        """Returns (1 - exp(-z^2)) / z, whose limit at zero is zero."""
        safe = jnp.where(z == 0, 1, z)
        return jnp.where(z == 0, 0, -jnp.expm1(-(safe**2)) / safe)

    def g(z: Vector) -> Vector:
        return jnp.stack([z[1] ** 2 * bent(z[0]), z[0] * bent(z[1])])

    # Norm of g' at the start: 2.1; its eigenvalues have both signs.
    return Problem(g, z_start=np.array([2.0, 2.0]), s=1 / 2.1, sigma=0.0, solution=np.zeros(2))


def cube_of_length() -> Problem:
    """z times its squared length; g' is zero at the root (`test_nonlin` 19)."""

    def g(z: Vector) -> Vector:
        return z * (z @ z)

    # g' = |z|^2 + 2 z z': norm 54 at the start.
    return Problem(g, z_start=np.array([3.0, 3.0]), s=1 / 54, sigma=0.0, solution=np.zeros(2))


def double_root() -> Problem:
    """One unknown, with a simple root at 0 and a double one at 5 (`test_nonlin` 20)."""

    def g(z: Vector) -> Vector:
        return z * (z - 5) ** 2

    # g' = 8 at the start, 25 at the simple root.
    return Problem(g, z_start=np.ones(1), s=1 / 8, sigma=3.0, solution=np.zeros(1))


def freudenstein_roth() -> Problem:
    """Two cubics, whose sum of squares has a local minimum that is no root (1963)."""

    def g(z: Vector) -> Vector:
        x, y = z
        return jnp.stack([x - y**3 + 5 * y**2 - 2 * y - 13, x + y**3 + y**2 - 14 * y - 29])

    # At the start g' = [[1, -34], [1, -6]]: norm 34.6, eigenvalues with negative real parts; at the
    # root they are positive.
    start = np.array([0.5, -2.0])
    return Problem(g, z_start=start, s=-1 / 34.6, sigma=0.03, solution=np.array([5.0, 4.0]))


def boggs() -> Problem:
    """Three roots, of which Newton's method finds the far one only (Boggs, 1971)."""

    def g(z: Vector) -> Vector:
        return jnp.stack([z[0] ** 2 - z[1] + 1, z[0] - jnp.cos(np.pi * z[1] / 2)])

    # At the start g' = [[2, -1], [1, 0]]: norm 2.4.
    return Problem(
        g, z_start=np.array([1.0, 0.0]), s=1 / 2.4, sigma=0.2, solution=np.array([0, 1.0])
    )
