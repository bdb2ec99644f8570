"""Backward passes that used to fail in silence: right now, or exactly zero and counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Implicit, Result, equilibrium, integrate

pytestmark = pytest.mark.usefixtures("x64")


def shifted(params, z, x):
    """P z = params x, P a cyclic shift: 20 Krylov vectors of a unit vector miss its inverse."""
    return z - jnp.roll(z, 1, axis=1) + params * x


@pytest.mark.quick(1)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("n", [40, 600], ids=["a factorisation", "LSMR"])
def test_where_gmres_stagnates_something_stronger_has_the_gradient(n, dtype):
    """Also for float32 where float64 is enabled, which Lineax's LSMR by itself refuses."""
    x = jnp.zeros((1, n), dtype).at[0, 3].set(1.0)

    @jax.jit
    @jax.grad
    def slope(inputs):
        scale, probe = inputs
        z0 = 2 * jnp.roll(x, -1, axis=1)  # the equilibrium at 2: nothing is left to iterate
        return equilibrium(shifted, scale, z0, x, backward_probe=probe).z[0, 2]

    gradient, vjps = slope((jnp.asarray(2.0, dtype), 0.0))
    assert gradient.dtype == dtype
    assert abs(gradient - 1) < (1e-6 if dtype == "float64" else 1e-4)
    assert vjps > 20


def turned(share, n=600):
    """A = share P + (1 - share), P a cyclic shift within blocks of 100 entries."""
    shift = np.kron(np.eye(n // 100), np.roll(np.eye(100), 1, axis=0))
    return share * shift + (1 - share) * np.eye(n)


def turning(params, z, x):
    """A z = params x, by example."""
    shares, x = x
    blocks = z.reshape(len(z), -1, 100)
    shift = jnp.roll(blocks, 1, axis=2).reshape(z.shape)
    return shares * (z - shift) + params * x


@pytest.mark.quick(1)
@pytest.mark.parametrize(("batch", "n"), [(7, 600), (1, 600), (2, 2100)])
def test_the_hard_rows_of_a_batch_have_their_gradient_and_the_easy_ones_their_cost(batch, n):
    """GMRES with 20 vectors misses the shifts, one with a hundred does not; 0.5 is singular."""
    shares = np.array([1.0, 0.0, 1.0, 0.5, 0.0, 1.0, 0.2])[:batch]
    points = np.random.default_rng(0).normal(size=(batch, n))
    x = np.stack([turned(share, n) @ point for share, point in zip(shares, points, strict=True)])
    weights = np.zeros((batch, n))
    weights[:, 7] = 1.0
    given = jnp.array(shares[:, None]), jnp.array(x)

    def loss(params, given, probe):
        options = {"batching": "per_example", "adjoint": Implicit(1e-9), "backward_probe": probe}
        solution = equilibrium(turning, params, jnp.array(2 * points), given, **options)
        return jnp.sum(weights * solution.z) ** 2 / 2, solution.result

    probe = jnp.zeros(batch)
    found, result = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(2.0, given, probe)
    slope, (_, by_x), vjps = found
    assert np.all(result == Result.ok)
    hard = shares == 0.5
    assert np.array_equal(vjps < 0, hard)
    assert np.all(vjps[shares == 0] <= 3) and np.all(vjps[shares == 1] > 100)
    total = 2 * points[:, 7].sum()
    assert slope == pytest.approx(total * points[~hard, 7].sum(), rel=1e-7)
    for row, share in enumerate(shares):
        want = 0 if share == 0.5 else 2 * total * np.linalg.solve(turned(share, n).T, weights[row])
        np.testing.assert_allclose(by_x[row], want, atol=1e-7)


@pytest.mark.slow
def test_hard_rows_have_second_derivatives():
    shares = np.array([1.0, 0.0])
    points = np.random.default_rng(0).normal(size=(2, 600))
    x = np.stack([turned(share) @ point for share, point in zip(shares, points, strict=True)])

    def loss(params):
        given = jnp.array(shares[:, None]), jnp.array(x)
        z = equilibrium(
            turning, params, jnp.array(2 * points), given, batching="per_example"
        ).z  # z = params points
        return jnp.sum(z[:, 7] ** 3) / 6

    second = jax.jit(jax.grad(jax.grad(loss)))(2.0)
    assert second == pytest.approx(2 * np.sum(points[:, 7] ** 3), rel=1e-5)


def folding(params, z, x):
    """z - x (z - 1)^2 params: its derivative at the double root 1 is that of z."""
    return z - params * x * (z - 1) ** 2 - (1 - x) * (z - 3)


@pytest.mark.slow
def test_at_a_double_root_there_is_no_gradient_and_it_says_so():
    """Beside it, the neighbour's dz/dx = 1 / x (z - 3 - (z - 1)^2) at z = 3, x = 0."""
    x = jnp.array([[1.0], [0.0]])

    def loss(x, probe):
        z0 = jnp.array([[1.0], [3.0]])
        options = {"batching": "per_example", "backward_probe": probe}
        solution = equilibrium(folding, 1.0, z0, x, **options)
        return jnp.sum(solution.z), solution

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (slope, vjps), solution = compiled(x, jnp.zeros(2))
    assert np.all(solution.result == Result.ok)
    assert slope[0] == 0 and vjps[0] < 0
    assert abs(slope[1, 0] + 4) < 1e-6 and vjps[1] > 0
    (_, total), _ = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(x, 0.0)
    assert total < 0


def forced(params, t, z, x):
    """Follows cos t at the rate x."""
    del params
    return -x * (z - jnp.cos(t))


@pytest.mark.slow
def test_a_field_that_forgets_its_start_has_no_gradient_by_backsolve():
    """Rates 1 and 40 by example, beside central differences of the closed form."""
    rates = jnp.array([[1.0], [40.0]])

    def exact(rate):
        a = rate**2 / (1 + rate**2)
        b = rate / (1 + rate**2)
        return a * np.cos(1) + b * np.sin(1) + (1 - a) * np.exp(-rate)

    @jax.jit
    @jax.grad
    def slopes(inputs):
        rates, probe = inputs
        options = {"batching": "per_example", "adjoint": "backsolve", "max_steps": 512}
        return jnp.sum(
            integrate(forced, None, jnp.ones((2, 1)), rates, backward_probe=probe, **options).z
        )

    by_rate, vjps = slopes((rates, jnp.zeros(2)))
    want = (exact(1 + 1e-6) - exact(1 - 1e-6)) / 2e-6
    assert abs(by_rate[0, 0] / want - 1) < 0.05 and vjps[0] > 0
    assert by_rate[1, 0] == 0 and vjps[1] < 0


def test_a_failed_way_back_is_mended_with_its_integers():
    """The row that forgets its start is replaced by its neighbour whole.

    With the neighbour's -1 and an integer of its own, its slope would be a root of -1.
    """

    def field(a, t, z, x):
        kind = x["kind"][:, None]
        return -(40.0**kind) * a * x["under"] ** (kind / 2) * z

    kind = jnp.array([0, 1])

    def loss(a, under, probe):
        x = {"kind": kind, "under": under}
        options = {"adjoint": "backsolve", "batching": "per_example", "backward_probe": probe}
        return jnp.sum(integrate(field, a, jnp.ones((2, 1)), x, **options).z)

    slopes = jax.grad(loss, argnums=(0, 1, 2))
    a, under, vjps = slopes(1.0, jnp.array([[-1.0], [1.0]]), jnp.zeros(2))
    assert vjps[1] < 0 < vjps[0]
    assert abs(a + np.exp(-1)) < 1e-3
    np.testing.assert_array_equal(under, 0)
