"""Boundary value problems and integral equations on grids of any size.

Sources: Moré, Garbow & Hillstrom (1981), problems 28 and 29; Chandrasekhar's H-equation as in
Kelley, "Solving Nonlinear Equations with Newton's Method" (SIAM 2003); the Bratu (Gelfand) problem
-Laplacian(u) = lambda exp(u), zero on the boundary of the unit interval or square. The difference
equations are multiplied by h^2, as in problem 28.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.nonlinear.problem import Problem

Vector = Float[Array, " n"]


def interior(n: int) -> Float[np.ndarray, " n"]:
    """Grid points of (0, 1), ends left out."""
    return np.arange(1, n + 1) / (n + 1)


def minus_second_difference(z: Vector) -> Vector:
    """Of values with zeros at both ends; eigenvalues in (0, 4)."""
    padded = jnp.pad(z, 1)
    return 2 * z - padded[:-2] - padded[2:]


def discrete_boundary_value(n: int) -> Problem:
    """u'' = (u + t + 1)^3 / 2, whose solution is 2 / (2 - t) - t - 1 up to O(h^2) (MGH 28)."""
    t = interior(n)
    h = 1 / (n + 1)

    def g(z: Vector) -> Vector:
        return minus_second_difference(z) + h**2 * (z + t + 1) ** 3 / 2

    # g' is positive definite everywhere: no fixed-point path has a fold. Norm near the start at
    # most 4 + 6 h^2. Smallest eigenvalue: pi^2 h^2 and about 3 h^2 from the cubic term.
    s = 1 / (4 + 6 * h**2)
    return Problem(g, z_start=t * (t - 1), s=s, sigma=s * 13 * h**2)


def discrete_integral(n: int) -> Problem:
    """Returns the same boundary value problem through its Green's function (MGH 29)."""
    t = interior(n)
    h = 1 / (n + 1)

    def g(z: Vector) -> Vector:
        cubes = (z + t + 1) ** 3
        below = jnp.cumsum(t * cubes)
        above = jnp.cumsum(((1 - t) * cubes)[::-1])[::-1] - (1 - t) * cubes
        return z + h * ((1 - t) * below + t * above) / 2

    # g' = I + a product of two positive semidefinite matrices: eigenvalues at least 1. Norm near
    # the start about 1 + 6 / pi^2 at most, so that s = 1, the problem's own fixed-point form.
    return Problem(g, z_start=t * (t - 1), s=1.0, sigma=1.0)


def chandrasekhar(n: int, c: float) -> Problem:
    """H-equation by the midpoint rule; c < 1 has two roots, which meet at c = 1."""
    mu = (np.arange(n) + 0.5) / n
    kernel = c / (2 * n) * mu[:, None] / (mu[:, None] + mu)

    def g(z: Vector) -> Vector:
        return z - 1 / (1 - kernel @ z)

    # s = 1, the equation's own fixed-point form: f' >= 0 entrywise, with spectral radius below 1
    # at the smaller root (the physical one), above which the start (ones) does not lie. The
    # smallest eigenvalue of g' there is of the order of sqrt(1 - c).
    sigma = {0.9: 0.4, 0.9999: 0.014}[c]
    return Problem(g, z_start=np.ones(n), s=1.0, sigma=sigma, parameter=f"c={c}")


def bratu_1d(n: int, load: float) -> Problem:
    """Bratu's problem on an interval; two roots below the fold at 3.5138, none above."""
    h = 1 / (n + 1)

    def g(z: Vector) -> Vector:
        return minus_second_difference(z) - h**2 * load * jnp.exp(z)

    # Norm below 4 near the start. g' is positive definite from the start (zero) up to the smaller
    # root, which bounds the fixed-point path (a supersolution): that path has no fold.
    sigma = {1.0: 2.2, 3.5: 0.22}[load] * h**2
    return Problem(g, z_start=np.zeros(n), s=1 / 4, sigma=sigma, parameter=f"lambda={load}")


def bratu_2d(side: int, load: float) -> Problem:
    """Bratu's problem on a square, five-point stencil; two roots below the fold at 6.808."""
    h = 1 / (side + 1)

    def g(z: Vector) -> Vector:
        u = z.reshape(side, side)
        padded = jnp.pad(u, 1)
        neighbours = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
        return (4 * u - neighbours - h**2 * load * jnp.exp(u)).ravel()

    # As in one dimension, with norm below 8.
    sigma = {1.0: 2.3, 6.0: 1.1}[load] * h**2
    return Problem(g, z_start=np.zeros(side**2), s=1 / 8, sigma=sigma, parameter=f"lambda={load}")
