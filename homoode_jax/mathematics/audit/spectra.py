"""Extreme eigenvalues and singular values of a matrix that is known by its products.

Arnoldi for the eigenvalue of largest modulus, Golub & Kahan's bidiagonalisation for the smallest
singular value (Golub & Van Loan, *Matrix Computations*, 10.4 and 10.5), both with full
reorthogonalisation. Nothing is squared, so that a singular value is right to the rounding of
the matrix even where it is zero.

The eigenvalues of the small Hessenberg matrix are found on the host, whatever the device: XLA has
them on the CPU only. Methods without them are worse. Power iteration fails on complex pairs, and
|H^k|^(1/k) by repeated squaring has a backward error of the square root of rounding (on a Jordan
block of size 6 it was 5 % off in float64).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from homoode_jax.mathematics.cells.basis import (
    Basis,
    add_vector,
    combine,
    empty_basis,
    orthogonalise,
)
from homoode_jax.mathematics.cells.vectors import Vector

TWICE = 1.0  # part of a vector below which it is orthogonalised once more: always
ROUNDS = 3  # of a bidiagonalisation, each from the best vector of the one before


class Estimate(NamedTuple):
    """A number found by a Krylov method.

    Attributes:
        value: the number.
        error: norm of the residual with which it was found; see where it is returned.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: a * jnp.stack([z[:, 1], z[:, 0]], axis=1)  # +-0.5
        >>> radius = homoode_jax.audit.spectral_radius(cell, 0.5, jnp.ones((2, 2)), None)
        >>> print(radius.value.round(3), bool(jnp.all(radius.error < 1e-3)))
        [0.5 0.5] True
    """

    value: Float[Array, "*batch"]
    error: Float[Array, "*batch"]


def largest_eigenvalue(
    product: Callable[[Vector], Vector], start: Vector, dimension: int
) -> Estimate:
    """Returns the largest modulus of an eigenvalue, from `dimension` products.

    `error` is a backward error: a matrix that far from the given one has that eigenvalue.
    """
    m = min(dimension, start.size)

    def step(basis: Basis, k):
        unit, size, shares = orthogonalise(product(basis.last), basis, TWICE)
        return add_vector(basis, unit), shares.at[k + 1].set(size)

    basis = add_vector(empty_basis(start, m + 1), start / jnp.linalg.norm(start))
    _, columns = lax.scan(step, basis, jnp.arange(m))
    hessenberg = columns.T
    radius, share = _spectral_radius(hessenberg[:m])
    return Estimate(radius, hessenberg[m, m - 1] * share)


def _spectral_radius(h: Float[Array, "m m"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the largest modulus of an eigenvalue, and the last entry's share in its eigenvector.

    JAX has nonsymmetric eigenvalues on some platforms only: NumPy finds them, on the host. Numbers
    travel as their bits, since JAX calls back on a thread that may know nothing of float64.
    """
    bits = lax.bitcast_convert_type(h, jnp.uint32)
    one = jnp.zeros((), h.dtype)
    like = jax.eval_shape(lambda: lax.bitcast_convert_type(one, jnp.uint32))
    found = jax.pure_callback(
        partial(_on_host, np.dtype(h.dtype)), (like, like), bits, vmap_method="broadcast_all"
    )
    radius, share = (lax.bitcast_convert_type(number, h.dtype) for number in found)
    return radius, share


def _on_host(dtype: np.dtype, bits: Any) -> tuple[np.ndarray, ...]:
    wide = _numbers(dtype, bits).astype(np.float64)
    fine = np.all(np.isfinite(wide), axis=(-2, -1))
    values, vectors = np.linalg.eig(np.where(fine[..., None, None], wide, 0))
    size = np.abs(values)
    largest = np.argmax(size, axis=-1)[..., None]
    share = np.take_along_axis(np.abs(vectors[..., -1, :]), largest, -1)[..., 0]
    radius = np.take_along_axis(size, largest, -1)[..., 0]
    numbers = (np.where(fine, number, np.nan).astype(dtype) for number in (radius, share))
    return tuple(_bits(number) for number in numbers)


def _numbers(dtype: np.dtype, bits: Any) -> np.ndarray:
    """Returns the numbers that 32-bit words, two of them for one of float64, are the bits of."""
    words = np.array(bits, order="C")
    return words.view(dtype)[..., 0] if dtype.itemsize == 8 else words.view(dtype)


def _bits(numbers: np.ndarray) -> np.ndarray:
    """Returns the 32-bit words of numbers."""
    if numbers.dtype.itemsize == 8:
        numbers = numbers[..., None]
    return np.array(numbers, order="C").view(np.uint32)


def smallest_singular_value(
    product: Callable[[Vector], Vector],
    transposed: Callable[[Vector], Vector],
    start: Vector,
    dimension: int,
) -> Estimate:
    """Returns the smallest singular value, from `dimension` products with M and its transpose.

    It takes three times as many where `dimension` is less than the size of M. The value is an
    upper bound; a singular value, or zero, lies within `error` of it.
    """

    def again(_, state: tuple[Vector, Estimate]) -> tuple[Vector, Estimate]:
        return _bidiagonalised(product, transposed, state[0], dimension)

    rounds = ROUNDS - 1 if dimension < start.size else 0
    first = _bidiagonalised(product, transposed, start, dimension)
    return lax.fori_loop(0, rounds, again, first)[1]


def _bidiagonalised(
    product: Callable, transposed: Callable, start: Vector, dimension: int
) -> tuple[Vector, Estimate]:
    """Returns the vector of the Krylov space that M shortens most, and by how much."""
    m = min(dimension, start.size)

    def step(state, _):
        left, right, alive = state
        u, alpha, _ = orthogonalise(product(right.last), left, TWICE)
        v, beta, _ = orthogonalise(transposed(u), right, TWICE)
        # Beyond an invariant subspace the vectors are zero, and a zero here would be a singular
        # value that M does not have: mark it, to be made large below.
        diagonal = jnp.where(alive, alpha, jnp.inf)
        return (add_vector(left, u), add_vector(right, v), alive & (beta > 0)), (diagonal, beta)

    left = empty_basis(start, m)
    right = add_vector(empty_basis(start, m + 1), start / jnp.linalg.norm(start))
    bases = left, right, jnp.asarray(True)
    (_, right, _), (alphas, betas) = lax.scan(step, bases, length=m)
    largest = jnp.max(jnp.where(jnp.isinf(alphas), 0, alphas))
    alphas = jnp.where(jnp.isinf(alphas), jnp.maximum(largest, 1), alphas)
    us, values, vs = jnp.linalg.svd(jnp.diag(alphas) + jnp.diag(betas[:-1], 1))
    error = jnp.minimum(betas[-1] * jnp.abs(us[-1, -1]), values[-1])
    return combine(jnp.append(vs[-1], 0), right), Estimate(values[-1], error)
