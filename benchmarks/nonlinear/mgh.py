"""The systems of nonlinear equations of Moré, Garbow & Hillstrom (1981) that have no grid.

"Testing Unconstrained Optimization Software", ACM TOMS 7(1), 17-41; numbers are the paper's. Three
of them, Wood, Watson and variably dimensioned, are square only as gradients: here in the form
that MINPACK's test programs give them (`vecfcn`, Argonne 1980).

A fixed-point path leaves lambda = 0 with det(dH/dz) = 1 and can arrive at lambda = 1 only with
det(s g') >= 0: that sign is said where it is known.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.nonlinear.problem import Problem

Vector = Float[Array, " n"]


def rosenbrock(n: int) -> Problem:
    """Extended Rosenbrock; n even (MGH 1, 21)."""

    def g(z: Vector) -> Vector:
        odd = z[::2]
        even = z[1::2]
        return jnp.stack([10 * (even - odd**2), 1 - odd], axis=1).ravel()

    # MINPACK orders the two rows the other way, with det < 0 everywhere; in the paper's order
    # det g' = 10. At the start g' = [[24, 10], [-1, 0]]: norm 26, eigenvalues positive. Their real
    # parts change sign at odd = 0, half-way to the root.
    start = np.tile([-1.2, 1.0], n // 2)
    return Problem(g, z_start=start, s=1 / 26, sigma=0.02, solution=np.ones(n))


def powell_singular(n: int) -> Problem:
    """Extended Powell singular; n a multiple of 4. g' has rank n / 2 at the root (MGH 13, 22)."""

    def g(z: Vector) -> Vector:
        a, b, c, d = z.reshape(-1, 4).T
        rows = [a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2]
        return jnp.stack(rows, axis=1).ravel()

    # Norm of g' at the start: 18.3. It has eigenvalues of both signs there whatever the sign of s.
    start = np.tile([3.0, -1.0, 0.0, 1.0], n // 4)
    return Problem(g, z_start=start, s=1 / 20, sigma=0.0, solution=np.zeros(n))


def powell_badly_scaled() -> Problem:
    """Two unknowns, one root near (1.098e-5, 9.106) and its mirror image (MGH 3)."""

    def g(z: Vector) -> Vector:
        return jnp.stack([1e4 * z[0] * z[1] - 1, jnp.exp(-z[0]) + jnp.exp(-z[1]) - 1.0001])

    # At the start g' = [[1e4, 0], [-1, -1/e]]: norm 1e4, det < 0. det g' is also negative at the
    # root with z[0] < z[1], and positive at the other one.
    root = np.array([1.098159e-5, 9.106146])
    return Problem(g, z_start=np.array([0.0, 1.0]), s=1e-4, sigma=1e-8, solution=root)


def wood() -> Problem:
    """Gradient of Wood's function; rows 1 and 3 are halved, as in MINPACK (MGH 14)."""

    def g(z: Vector) -> Vector:
        a, b, c, d = z
        left = b - a**2
        right = d - c**2
        first = [-200 * a * left - (1 - a), 200 * left + 20.2 * (b - 1) + 19.8 * (d - 1)]
        second = [-180 * c * right - (1 - c), 180 * right + 20.2 * (d - 1) + 19.8 * (b - 1)]
        return jnp.stack(first + second)

    # Largest row sum of |g'| at the start: 6201. A Hessian (times a positive diagonal), definite
    # at the start and at the root: eigenvalues positive there.
    start = np.array([-3.0, -1.0, -3.0, -1.0])
    return Problem(g, z_start=start, s=1 / 6201, sigma=1e-4, solution=np.ones(4))


def helical_valley() -> Problem:
    """Polar angle with its cut on the negative z[1] axis, as in the paper (MGH 7)."""

    def g(z: Vector) -> Vector:
        turns = 0.25 + jnp.arctan2(-z[0], z[1]) / (2 * np.pi)
        radius = jnp.hypot(z[0], z[1])
        return jnp.stack([10 * (z[2] - 10 * turns), 10 * (radius - 1), z[2]])

    # Norm of g' at the start: 18.8; det > 0 off the cut. At start and root the eigenvalues of g'
    # are 1 and +-12.6i.
    root = np.array([1.0, 0, 0])
    return Problem(g, z_start=-root, s=1 / 20, sigma=0.04, solution=root)


def watson(n: int) -> Problem:
    """Half the gradient of Watson's sum of squares, as in MINPACK; n at most 31 (MGH 20)."""
    t = np.arange(1, 30)[:, None] / 29
    k = np.arange(n)
    powers = t**k
    slopes = k * t ** np.maximum(k - 1, 0)

    def residuals(z: Vector) -> Float[Array, " 31"]:
        ends = jnp.stack([z[0], z[1] - z[0] ** 2 - 1])
        return jnp.concatenate([slopes @ z - (powers @ z) ** 2 - 1, ends])

    def g(z: Vector) -> Vector:
        values, pullback = jax.vjp(residuals, z)
        return pullback(values)[0]

    # At the start (zero) g' = slopes'slopes + 2 powers'powers + diag(3, 1, 0, ...), positive
    # definite: its trace bounds the norm.
    bound = float((slopes**2).sum() + 2 * (powers**2).sum() + 4)
    sigma = {2: 0.1, 6: 3e-6, 9: 2e-10}[n]
    return Problem(g, z_start=np.zeros(n), s=1 / bound, sigma=sigma)


def chebyquad(n: int) -> Problem:
    """Nodes of Chebyshev's quadrature; real roots for n = 1, ..., 7 and 9 only (MGH 35)."""
    order = np.arange(1, n + 1)
    integrals = np.where(order % 2 == 0, -1 / np.maximum(order**2 - 1, 1), 0)

    def g(z: Vector) -> Vector:
        y = 2 * z - 1
        polynomials = [jnp.ones_like(y), y]
        while len(polynomials) <= n:
            polynomials.append(2 * y * polynomials[-1] - polynomials[-2])
        return jnp.stack(polynomials[1:]).mean(axis=1) - integrals

    # s: norm of g' at the start. Its eigenvalues have real parts of both signs there, and a
    # permutation of a root is a root: det g' has either sign at one of them.
    norm, sigma = {2: (2.0, 0.7), 5: (4.3, 0.2), 7: (5.5, 0.1), 9: (5.6, 0.03)}[n]
    return Problem(g, z_start=order / (n + 1), s=1 / norm, sigma=sigma)


def brown_almost_linear(n: int) -> Problem:
    """All equations linear but the last (MGH 27)."""

    def g(z: Vector) -> Vector:
        return jnp.append(z[:-1] + z.sum() - (n + 1), z.prod() - 1)

    # At the start g' = I + ones but for the last row, which is 2^(1-n): norm at most n + 1,
    # det = 2^(1-n), all eigenvalues positive. At the root of ones det = 1.
    sigma = {10: 8e-3, 40: 6e-4}[n]
    return Problem(g, z_start=np.full(n, 0.5), s=1 / (n + 1), sigma=sigma, solution=np.ones(n))


def trigonometric(n: int) -> Problem:
    """Coupled by the sum of cosines; 0 is a root, others exist (MGH 26)."""
    order = np.arange(1, n + 1)

    def g(z: Vector) -> Vector:
        cosines = jnp.cos(z)
        return n - cosines.sum() + order * (1 - cosines) - jnp.sin(z)

    # g' = -I at the root 0: the sign. At the start g' = 1 1'/n + diag(i/n - 1), to first order, of
    # norm at most 1; one eigenvalue of -g' is negative there.
    return Problem(g, z_start=np.full(n, 1 / n), s=-1.0, sigma=1.0, solution=np.zeros(n))


def variably_dimensioned(n: int) -> Problem:
    """Half the gradient of the paper's sum of squares, as in MINPACK (MGH 25)."""
    order = np.arange(1, n + 1)

    def g(z: Vector) -> Vector:
        total = order @ (z - 1)
        return z - 1 + order * total * (1 + 2 * total**2)

    # g' = I + (1 + 6 total^2) order order', positive definite everywhere: no fixed-point path has
    # a fold. Its norm at the start, exactly:
    total = (n + 1) * (2 * n + 1) / 6
    s = 1 / (1 + (1 + 6 * total**2) * float(order @ order))
    return Problem(g, z_start=1 - order / n, s=s, sigma=s, solution=np.ones(n))


def broyden_tridiagonal(n: int) -> Problem:
    """Quadratic, tridiagonal (MGH 30)."""

    def g(z: Vector) -> Vector:
        padded = jnp.pad(z, 1)
        return (3 - 2 * z) * z - padded[:-2] - 2 * padded[2:] + 1

    # Rows of g': 3 - 4 z on the diagonal, -1 and -2 beside it. Norm at the start at most 10;
    # dominant, so eigenvalues positive, wherever z < 0, as at start and root.
    return Problem(g, z_start=np.full(n, -1.0), s=1 / 10, sigma=0.3)


def broyden_banded(n: int) -> Problem:
    """Cubic, five bands below the diagonal and one above (MGH 31)."""

    def g(z: Vector) -> Vector:
        padded = jnp.pad(z * (1 + z), (5, 1))
        band = sum(padded[i : i + n] for i in (0, 1, 2, 3, 4, 6))
        return z * (2 + 5 * z**2) + 1 - band

    # Rows of g' at the start: 17 on the diagonal, at most six ones beside it: norm at most 23,
    # and dominant, as at the root (z about -0.6).
    return Problem(g, z_start=np.full(n, -1.0), s=1 / 23, sigma=0.2)
