"""Extreme eigenvalues and singular values of a matrix that is known by its products.

Arnoldi for the eigenvalue of largest modulus, Golub & Kahan's bidiagonalisation for the smallest
singular value (Golub & Van Loan, *Matrix Computations*, 10.4 and 10.5), both with full
reorthogonalisation. Nothing is squared, so that a singular value is right to the rounding of
the matrix even where it is zero. Both work on all devices: the small problem that remains is
solved by products and an SVD, for general eigenvalues exist on the CPU only.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from homoode_jax.mathematics.vectors import Vector

SQUARINGS = 30  # the power 2^30: Gelfand's limit is then exact to rounding


class Estimate(NamedTuple):
    """A number found by a Krylov method.

    Attributes:
        value: the number.
        error: norm of the residual with which it was found; see where it is returned.
    """

    value: Float[Array, "*batch"]
    error: Float[Array, "*batch"]


def largest_eigenvalue(
    product: Callable[[Vector], Vector], start: Vector, dimension: int
) -> Estimate:
    """Largest modulus of an eigenvalue, from `dimension` products.

    `error` is a backward error: a matrix that far from the given one has that eigenvalue.
    """
    m = min(dimension, start.size)

    def step(basis: Float[Array, "m+1 n"], k):
        image = product(basis[k])
        w, size = _orthogonalised(image, basis)
        return basis.at[k + 1].set(w), (basis @ image).at[k + 1].set(size)

    basis = jnp.zeros((m + 1, start.size), start.dtype).at[0].set(start / jnp.linalg.norm(start))
    _, columns = lax.scan(step, basis, jnp.arange(m))
    hessenberg = columns.T
    radius, share = _spectral_radius(hessenberg[:m])
    return Estimate(radius, hessenberg[m, m - 1] * share)


def _spectral_radius(h: Float[Array, "m m"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """|h^N|^(1/N) for a huge N, by squaring; and the last entry's share in the eigenvectors.

    Gelfand's formula: whatever eigenvalues share the largest modulus, none needs to be found.
    The columns of h^N span their eigenvectors.
    """

    def square(_, state):
        power, log, weight = state
        size = jnp.linalg.norm(power)
        power = power / jnp.where(size > 0, size, 1)
        squared = jnp.matmul(power, power, precision="highest")
        return squared, log + weight * jnp.log(size), weight / 2

    zero = jnp.zeros((), h.dtype)
    power, log, weight = lax.fori_loop(0, SQUARINGS, square, (h, zero, zero + 1))
    size = jnp.linalg.norm(power)
    share = jnp.linalg.norm(power[-1]) / jnp.where(size > 0, size, 1)
    return jnp.where(size > 0, jnp.exp(log + weight * jnp.log(size)), 0), share


def smallest_singular_value(
    product: Callable[[Vector], Vector],
    transposed: Callable[[Vector], Vector],
    start: Vector,
    dimension: int,
) -> Estimate:
    """Smallest singular value, from `dimension` products with the matrix and its transpose.

    The value bounds it from above; some singular value lies within `error` of it. No method
    with as many products of M^T M does better from this start: its span is searched whole.
    """
    m = min(dimension, start.size)

    def step(state, k):
        left, right, alive = state
        u, alpha = _orthogonalised(product(right[k]), left)
        v, beta = _orthogonalised(transposed(u), right)
        # Past an invariant subspace vectors are zero, and their singular values none of M's.
        diagonal = jnp.where(alive, alpha, jnp.inf)
        return (left.at[k].set(u), right.at[k + 1].set(v), alive & (beta > 0)), (diagonal, beta)

    empty = jnp.zeros((m + 1, start.size), start.dtype)
    right = empty.at[0].set(start / jnp.linalg.norm(start))
    _, (alphas, betas) = lax.scan(step, (empty[:m], right, jnp.asarray(True)), jnp.arange(m))
    largest = jnp.max(jnp.where(jnp.isinf(alphas), 0, alphas))
    alphas = jnp.where(jnp.isinf(alphas), jnp.maximum(largest, 1), alphas)
    left, values, _ = jnp.linalg.svd(jnp.diag(alphas) + jnp.diag(betas[:-1], 1))
    return Estimate(values[-1], betas[-1] * jnp.abs(left[-1, -1]))


def _orthogonalised(v: Vector, basis: Float[Array, "k n"]) -> tuple[Vector, Float[Array, ""]]:
    """The unit vector of v's part across the basis, and its size; zeros if v lies within.

    Classical Gram-Schmidt, twice; unused rows of the basis are zero.
    """
    w = v - (basis @ v) @ basis
    w = w - (basis @ w) @ basis
    size = jnp.linalg.norm(w)
    vanishes = size <= 10 * jnp.finfo(v.dtype).eps * jnp.linalg.norm(v)
    return jnp.where(vanishes, 0, w / jnp.where(vanishes, 1, size)), jnp.where(vanishes, 0, size)
