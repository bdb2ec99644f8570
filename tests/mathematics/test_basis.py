"""Orthonormal bases beside dense NumPy: in one block, in several, and in a loop over many."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax.mathematics.cells.basis import add_vector, combine, empty_basis, orthogonalise
from homoode_jax.mathematics.cells.vectors import LONG

PLACES = 21


def build(vectors, places=PLACES):
    """Returns the basis of some vectors, and each vector's size and shares."""
    basis = empty_basis(vectors[0], places)
    told = []
    for v in vectors:
        unit, size, shares = orthogonalise(v, basis)
        basis = add_vector(basis, unit)
        told.append((size, shares))
    return basis, told


@pytest.mark.quick(5)
@pytest.mark.parametrize("n", [40, LONG])
@pytest.mark.parametrize(("count", "places"), [(1, 21), (8, 21), (9, 21), (20, 21), (20, 88)])
def test_vectors_are_split_as_by_dense_factors(x64, n, count, places):
    """Nearly parallel ones too: each is a hundredth away from the one before."""
    rng = np.random.default_rng(count)
    vectors = np.cumsum(0.01 * rng.normal(size=(count, n)), 0) + rng.normal(size=n)
    basis, told = jax.jit(partial(build, places=places))(jnp.asarray(vectors))
    rows = np.concatenate([np.asarray(block).reshape(-1, n) for block in basis.blocks])
    assert len(basis.blocks) == (3 if n >= LONG and places == 21 else 1)
    assert len(rows) == places
    np.testing.assert_allclose(rows[:count] @ rows[:count].T, np.eye(count), atol=1e-12)
    assert not np.any(rows[count:])
    for k, (size, shares) in enumerate(told):
        whole = size * rows[k] + shares @ rows
        np.testing.assert_allclose(whole, vectors[k], atol=1e-12)
    weights = rng.normal(size=places)
    np.testing.assert_allclose(combine(jnp.asarray(weights), basis), weights @ rows, atol=1e-12)


@pytest.mark.parametrize("n", [40, LONG])
def test_a_vector_that_lies_in_the_basis_leaves_nothing(x64, n):
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(3, n)))
    basis, _ = build(vectors)
    unit, size, shares = orthogonalise(vectors[0] - 2 * vectors[2], basis)
    assert size == 0 and not jnp.any(unit)
    np.testing.assert_allclose(combine(shares, basis), vectors[0] - 2 * vectors[2], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("places", [PLACES, 88])
def test_examples_that_have_as_many_vectors_as_they_need_are_each_alone(x64, places):
    """Under `vmap` a block is read where any example needs it."""
    vectors = jnp.asarray(np.random.default_rng(1).normal(size=(2, 9, LONG)))

    def last(vectors, count):
        def add(i, basis):
            return add_vector(basis, orthogonalise(vectors[i], basis).unit)

        return jax.lax.fori_loop(0, count, add, empty_basis(vectors[0], places)).last

    together = jax.vmap(last)(vectors, jnp.array([2, 9]))
    for i, count in enumerate((2, 9)):
        np.testing.assert_allclose(together[i], last(vectors[i], count), atol=1e-13)
