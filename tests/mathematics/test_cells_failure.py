"""Ill-posed problems: failures stay with their example, are named, and give no gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Anderson, Result, continuation, equilibrium

RNG = np.random.default_rng(0)
PARAMS = 0.4 * RNG.normal(size=(3, 3))
X = RNG.normal(size=(3, 3))
BAD = np.where(np.arange(3)[:, None] == 1, np.nan, X)
METHODS = ["anderson", "broyden", "newton", "picard", "ode"]


def bent(params, z, x):
    return jnp.tanh(z @ params) + x


@functools.cache
def gradient(method, batching, adjoint="implicit"):
    def loss(params, x):
        z0 = 0.1 * jnp.ones_like(x)
        options = {"batching": batching, "adjoint": adjoint}
        if method == "path":
            solution = continuation(bent, params, z0, x, max_steps=20, **options)
        else:
            solution = equilibrium(bent, params, z0, x, solver=method, max_steps=40, **options)
        return jnp.sum(solution.z**2), solution

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))


@pytest.mark.quick(1)
@pytest.mark.parametrize("method", ["path", "anderson", "newton"])
def test_a_failed_example_leaves_its_neighbours_bit_for_bit(method):
    run = gradient(method, "per_example")
    (by_params, by_x), got = run(PARAMS, BAD)
    (_, good_x), good = run(PARAMS, X)
    others = np.array([0, 2])
    assert got.result.tolist() == [0, Result.nonfinite, 0]
    assert np.array_equal(got.z[1], np.full(3, 0.1, np.float32))
    for a, b in zip(
        jax.tree.leaves((got.z, got.stats)), jax.tree.leaves((good.z, good.stats)), strict=True
    ):
        assert np.array_equal(a[others], b[others])
    assert np.array_equal(by_x[others], good_x[others]) and not np.any(by_x[1])
    (alone, _), _ = gradient(method, "per_example")(PARAMS, np.stack([X[0], X[2], BAD[1]]))
    assert np.isfinite(by_params).all() and np.allclose(by_params, alone, rtol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize("adjoint", ["jacobian_free", "phantom", "unrolled"])
def test_no_route_lets_a_failure_into_gradients(adjoint):
    (by_params, by_x), got = gradient("picard", "per_example", adjoint)(PARAMS, BAD)
    (_, good), _ = gradient("picard", "per_example", adjoint)(PARAMS, X)
    assert got.result.tolist() == [0, Result.nonfinite, 0]
    assert np.isfinite(by_params).all() and np.any(by_params) and not np.any(by_x[1])
    assert np.array_equal(by_x[0], good[0])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["path", "anderson"])
def test_a_joint_batch_fails_as_a_whole_and_says_so(method):
    gradients, got = gradient(method, "joint")(PARAMS, BAD)
    assert got.result == Result.nonfinite and not got.success
    assert np.all(got.z == np.float32(0.1))
    assert all(not np.any(leaf) for leaf in gradients)


@pytest.mark.quick(1)
@pytest.mark.parametrize("solver", ["anderson", "broyden", Anderson(memory=8)])
def test_degenerate_memories_do_no_harm(solver):
    """Constant cells, a start at the root, fewer dimensions than memory, no root at all."""

    @jax.jit
    def run(slope, bias, z0):
        cell = lambda p, z, x: p[0] * z + p[1] + 0 * x  # noqa: E731
        return equilibrium(cell, (slope, bias), z0, jnp.zeros((1, 2)), solver=solver, max_steps=60)

    constant = run(0.0, 2.0, jnp.ones((1, 2)))
    assert constant.success and np.allclose(constant.z, 2)
    already = run(0.5, 1.0, jnp.full((1, 2), 2.0))
    assert already.success and already.stats.nfe == 1 and np.all(already.z == 2)
    small = run(-0.9, 1.0, jnp.array([[0.0, 5.0]]))
    assert small.success and np.allclose(small.z, 1 / 1.9, rtol=1e-4)
    none = run(1.0, 1.0, jnp.zeros((1, 2)))
    residual = np.sqrt(np.mean((none.z - (none.z + 1)) ** 2)) / np.abs(none.z + 1).max()
    assert np.isfinite(none.z).all() and (not none.success or residual <= 1.1e-5)


@pytest.mark.quick(2)
@pytest.mark.parametrize("solver", METHODS)
def test_a_cell_that_overflows_ends_with_its_last_finite_state(solver):
    """f = 30 z^3 - 1e3 from 10: |f| leaves float32 in a few plain iterations."""
    cell = lambda p, z, x: p * z**3 - 1e3 + 0 * x  # noqa: E731
    run = jax.jit(
        lambda p: equilibrium(cell, p, jnp.full((1, 2), 10.0), jnp.ones((1, 2)), solver=solver)
    )
    got = run(30.0)
    assert np.isfinite(got.z).all() and np.isfinite(got.stats.residual)
    f = np.asarray(cell(30.0, got.z, 1.0), np.float64)
    residual = np.sqrt(np.mean((got.z - f) ** 2)) / max(np.sqrt(np.mean(f**2)), 1e-3)
    assert got.success == (residual <= 1.01e-5)
    if solver in ("picard", "ode"):
        assert not got.success


@pytest.mark.parametrize(
    "adjoint", ["implicit", "implicit_jvp", "phantom", "jacobian_free", "unrolled"]
)
def test_padding_where_the_cell_has_no_derivative_leaves_the_gradient_alone(adjoint):
    """z = sqrt(p z) + x is smooth at its root, and not at 0."""
    cell = lambda p, z, x: jnp.sqrt(p * z) + x  # noqa: E731

    def total(p, rows, mask):
        ones = jnp.ones((rows, 1))
        solution = equilibrium(cell, p, ones, ones, adjoint=adjoint, mask=mask, max_steps=40)
        return jnp.sum(solution.z[:2]), solution.success

    slope = jax.jit(jax.grad(total, has_aux=True), static_argnums=1)
    got, success = slope(0.5, 3, jnp.array([True, True, False]))
    want, _ = slope(0.5, 2, jnp.array([True, True]))
    assert success and want > 0.5
    np.testing.assert_allclose(got, want, rtol=1e-3)
