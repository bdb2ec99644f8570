"""A solve within a solve, beside closed forms: what maps examples outside must not reach in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Implicit, equilibrium, integrate
from homoode_jax.mathematics.common.examples import any_example, while_any

P = 0.4
X = np.linspace(-1, 1, 6).reshape(3, 2)


def solve_inner(p, z, batching):
    """Has the root z / (1 - p)."""
    return equilibrium(
        lambda p, y, z: p * y + z,
        p,
        jnp.zeros_like(z),
        z,
        tol=1e-11,
        adjoint=Implicit(tol=1e-11),
        batching=batching,
    ).z


@pytest.mark.slow
@pytest.mark.parametrize("inner", ["joint", "per_example"])
@pytest.mark.parametrize("adjoint", ["checkpointed", "backsolve"])
def test_an_equilibrium_within_an_ode_per_example(x64, inner, adjoint):
    """dz/dt = -z / (1 - p), so that z(1) = exp(-1 / (1 - p)) x."""

    def loss(p):
        solution = integrate(
            lambda p, t, z, x: -solve_inner(p, z, inner),
            p,
            jnp.asarray(X),
            None,
            batching="per_example",
            adjoint=adjoint,
            rtol=1e-9,
            atol=1e-9,
        )
        return jnp.sum(solution.z * X)

    value, slope = jax.value_and_grad(loss)(P)
    exact = np.exp(-1 / (1 - P)) * np.sum(X**2)
    np.testing.assert_allclose(value, exact, rtol=1e-7)
    np.testing.assert_allclose(slope, -exact / (1 - P) ** 2, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("inner", ["joint", "per_example"])
def test_an_equilibrium_within_one_per_example(x64, inner):
    """z = 0.3 z / (1 - p) + x."""

    def loss(p):
        solution = equilibrium(
            lambda p, z, x: 0.3 * solve_inner(p, z, inner) + x,
            p,
            jnp.zeros_like(X),
            jnp.asarray(X),
            tol=1e-11,
            adjoint=Implicit(tol=1e-11),
            batching="per_example",
        )
        return jnp.sum(solution.z * X)

    value, slope = jax.value_and_grad(loss)(P)
    rest = 1 - 0.3 / (1 - P)
    np.testing.assert_allclose(value, np.sum(X**2) / rest, rtol=1e-8)
    np.testing.assert_allclose(slope, np.sum(X**2) * 0.3 / (1 - P) ** 2 / rest**2, rtol=1e-8)


def test_examples_of_maps_within_maps_are_asked_together():
    flags = jnp.array([[False, False], [True, False]])
    assert not any_example(flags[0, 0])
    assert np.all(jax.vmap(jax.vmap(any_example))(flags))

    def count(most):
        """Counts to its own end, in a loop with one end for all."""
        goes_on = lambda i: i < most  # noqa: E731
        return while_any(goes_on, lambda i: i + 1, jnp.zeros((), jnp.int32), jnp.where)

    ends = jnp.array([[3, 0], [1, 5]])
    np.testing.assert_array_equal(jax.vmap(jax.vmap(count))(ends), ends)
