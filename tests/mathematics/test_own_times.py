"""Examples with an interval of time, and times to save at, of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Result, integrate

Z0 = jnp.array([[1.0], [2.0], [3.0]])
T0 = np.array([0.0, 0.5, 1.0])
T1 = np.array([1.0, 2.0, -1.0])
TIGHT = {"rtol": 1e-9, "atol": 1e-9, "batching": "per_example"}


def field(k, t, z, x):
    return -k * t * z  # z(t1) = z0 exp(-k (t1^2 - t0^2) / 2)


def closed(k, t0, t1):
    return np.asarray(Z0)[:, 0] * np.exp(-k * (t1**2 - t0**2) / 2)


@pytest.mark.quick(1)
@pytest.mark.parametrize("adjoint", ["checkpointed", "direct", "backsolve", "reversible"])
def test_each_example_is_solved_over_its_own_interval(x64, adjoint):
    def solve(k):
        return integrate(
            field, k, jnp.asarray(Z0, float), None, t0=T0, t1=T1, adjoint=adjoint, **TIGHT
        )

    solution = solve(0.7)
    assert solution.success.all()
    np.testing.assert_allclose(solution.z[:, 0], closed(0.7, T0, T1), rtol=1e-6)
    slope = jax.grad(lambda k: jnp.sum(solve(k).z))(0.7)
    want = np.sum(-(T1**2 - T0**2) / 2 * closed(0.7, T0, T1))
    np.testing.assert_allclose(slope, want, rtol=1e-5)


@pytest.mark.slow
def test_an_interval_that_is_the_same_for_all_is_that_of_a_scalar():
    shared = integrate(field, 0.7, Z0, None, t1=2.0, batching="per_example", rtol=1e-6, atol=1e-6)
    own = integrate(
        field, 0.7, Z0, None, t1=np.full(3, 2.0), batching="per_example", rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(own.z, shared.z, rtol=1e-5)
    # The selection of the first step knows a unit of time, all later ones do not.
    assert np.all(np.abs(own.stats.num_steps - shared.stats.num_steps) <= 1)


def test_states_are_saved_at_the_times_of_each_example(x64):
    saved = np.stack([T0, (T0 + T1) / 2, T1], axis=1)
    solution = integrate(
        field, 0.7, jnp.asarray(Z0, float), None, t0=T0, t1=T1, save_at=saved, **TIGHT
    )
    np.testing.assert_array_equal(solution.ts, saved)
    assert solution.zs.shape == (3, 3, 1)
    for column, ts in enumerate(saved.T):
        np.testing.assert_allclose(solution.zs[column, :, 0], closed(0.7, T0, ts), rtol=1e-5)


@pytest.mark.slow
def test_times_to_save_at_may_differ_where_the_interval_does_not(x64):
    saved = np.array([[0.0, 1.0], [0.5, 1.0], [0.25, 0.75]])
    solution = integrate(field, 0.7, jnp.asarray(Z0, float), None, save_at=saved, **TIGHT)
    for column, ts in enumerate(saved.T):
        np.testing.assert_allclose(solution.zs[column, :, 0], closed(0.7, 0.0, ts), rtol=1e-5)
    slope = jax.grad(
        lambda k: jnp.sum(
            integrate(field, k, jnp.asarray(Z0, float), None, save_at=saved, **TIGHT).zs[0]
        )
    )(0.7)
    want = np.sum(-(saved[:, 0] ** 2) / 2 * closed(0.7, 0.0, saved[:, 0]))
    np.testing.assert_allclose(slope, want, rtol=1e-4)


def test_traced_times_of_each_example_fail_each_by_itself():
    def solve(k, t1):
        return integrate(field, k, Z0, None, t1=t1, batching="per_example")

    ends = jnp.array([1.0, jnp.nan, 0.0])
    solution = jax.jit(solve)(0.7, ends)
    assert list(solution.result) == [Result.ok, Result.nonfinite, Result.ok]
    np.testing.assert_allclose(solution.z[2], Z0[2])  # an empty interval
    slope = jax.jit(jax.grad(lambda k, t1: jnp.sum(solve(k, t1).z)))(0.7, ends)
    np.testing.assert_allclose(slope, -0.5 * np.exp(-0.35), rtol=1e-2)


def test_a_field_that_returns_a_number_is_named():
    with pytest.raises(ValueError, match="field must return the shapes"):
        integrate(lambda k, t, z, x: 0.0, 0.7, Z0, None, t1=T1, batching="per_example")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"t1": T1, "batching": "joint"}, "batching='per_example'"),
        ({"t1": np.ones(2)}, "one for each of the 3 examples"),
        ({"t1": np.array([1.0, np.nan, 2.0])}, "finite number"),
        ({"t1": T1, "dt0": 0.1}, "dt0=None"),
        ({"t0": np.full(3, 1e8), "t1": np.full(3, 1e8 + 1)}, "same time in float32"),
        ({"save_at": np.ones((2, 2))}, "each of the 3 examples"),
        ({"t1": T1, "save_at": np.tile([0.0, 3.0], (3, 1))}, "in order"),
    ],
)
def test_times_that_do_not_fit_are_named(options, words):
    options = {"batching": "per_example", **options}
    with pytest.raises(ValueError, match=words):
        integrate(field, 0.7, Z0, None, **options)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_times_of_ones_own_come_in_the_dtype_of_the_states(dtype):
    field = lambda p, t, z, x: -t * z  # noqa: E731
    z = integrate(
        field, None, jnp.ones((2, 1), dtype), None, t1=np.array([1.0, 2.0]), batching="per_example"
    ).z
    assert z.dtype == dtype
    np.testing.assert_allclose(z[:, 0].astype(float), np.exp([-0.5, -2.0]), atol=2e-2)
