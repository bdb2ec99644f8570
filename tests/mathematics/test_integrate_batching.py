"""Batches: examples alone and among others, and rows that are only padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import integrate
from tests.mathematics.problems import (
    all_zero,
    relative_error,
    smooth_gradient,
    smooth_problem,
    smooth_weights,
)

BATCH = 256


@functools.cache
def network(dtype):
    """Parameters of a field with two smooth layers, and 256 examples of different speed."""
    rng = np.random.default_rng(0)
    params = {"in": rng.normal(size=(4, 16)) / 2, "out": rng.normal(size=(16, 4)) / 8}
    z0 = rng.normal(size=(BATCH, 4))
    x = np.exp(rng.normal(size=(BATCH, 1)))
    return jax.tree.map(lambda a: a.astype(dtype), (params, z0, x))


def network_field(params, t, z, x):
    return x * (jnp.tanh(z @ params["in"] + 3 * t) @ params["out"] - z)


@functools.cache
def network_solve(batching):
    def solve(params, z0, x, tol):
        return integrate(
            network_field, params, z0, x, rtol=tol, atol=tol, batching=batching, max_steps=1024
        )

    return jax.jit(solve)


def hasten(x):
    """The seventh example two hundred times as fast as the average one."""
    return np.where(np.arange(BATCH)[:, None] == 7, 200.0, x)


def alone_and_together(dtype, tol):
    """256 batches of one, and one batch of 256."""
    params, z0, x = network(dtype)
    solve = network_solve("per_example")

    @jax.jit
    def solve_each(z0, x):
        return jax.lax.map(lambda row: solve(params, row[0][None], row[1][None], tol), (z0, x))

    alone = jax.tree.map(lambda leaf: leaf[:, 0], solve_each(z0, x))
    return alone, solve(params, z0, x, tol)


def test_float64_examples_alone_are_the_same_as_in_a_batch(x64):
    alone, together = alone_and_together(np.float64, 1e-6)
    assert len(set(together.stats.nfe.tolist())) > 3
    np.testing.assert_array_equal(alone.stats.nfe, together.stats.nfe)
    np.testing.assert_allclose(alone.z, together.z, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_float32_examples_alone_are_the_same_as_in_a_batch_to_the_tolerance():
    """Rounding may flip a decision to accept a step: then the answers differ as two solves do.

    No pair of answers is further apart than the answers are from the truth.
    """
    alone, together = alone_and_together(np.float32, 1e-3)
    assert np.mean(alone.stats.nfe == together.stats.nfe) >= 0.98
    apart = np.max(np.abs(alone.z - together.z), axis=1)
    assert np.mean(apart < 1e-3) >= 0.98
    truth = network_solve("per_example")(*network(np.float32), 1e-6).z
    assert np.max(apart) < np.max(np.abs(together.z - truth))


def test_a_stiff_example_leaves_its_neighbours_as_they_are(x64):
    params, z0, x = network(np.float64)
    solve = network_solve("per_example")
    mild = solve(params, z0, x, 1e-6)
    stiff = solve(params, z0, hasten(x), 1e-6)
    others = np.arange(BATCH) != 7
    assert stiff.success[7] and stiff.stats.nfe[7] > 2 * np.max(mild.stats.nfe)
    np.testing.assert_array_equal(stiff.stats.nfe[others], mild.stats.nfe[others])
    np.testing.assert_array_equal(stiff.z[others], mild.z[others])


def test_a_joint_batch_shares_its_steps(x64):
    params, z0, x = network(np.float64)
    solve = network_solve("joint")
    mild = solve(params, z0, x, 1e-6)
    stiff = solve(params, z0, hasten(x), 1e-6)
    each = network_solve("per_example")(params, z0, x, 1e-6)
    assert mild.stats.nfe.shape == mild.result.shape == ()
    assert min(each.stats.nfe) < mild.stats.nfe < stiff.stats.nfe / 2
    np.testing.assert_allclose(mild.z, each.z, atol=1e-4)


PADDED = np.array([True, False, True, True, False, True])


def pad(rows, garbage):
    """Two rows of garbage among four that count."""
    out = np.full((6, *rows.shape[1:]), garbage)
    out[PADDED] = rows
    return out


@pytest.mark.quick(2)
@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30, -3.0])
@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_padding_changes_no_answer_no_gradient_and_no_count(x64, batching, garbage):
    params, z0, x = smooth_problem()
    weights = smooth_weights()
    bare, vjps, alone = smooth_gradient("backsolve", batching, (params, z0, x), weights, 1e-4)
    got, padded_vjps, solution = smooth_gradient(
        "backsolve",
        batching,
        (params, pad(z0, garbage), pad(x, garbage)),
        pad(weights, 0.0),
        1e-4,
        mask=PADDED,
    )
    assert np.all(solution.success)
    np.testing.assert_allclose(solution.z[PADDED], alone.z, rtol=1e-13)
    np.testing.assert_array_equal(solution.z[~PADDED], np.full((2, 2), garbage))

    assert relative_error(got[0], bare[0]) < 1e-12
    for padded_rows, rows in zip(got[1:], bare[1:], strict=True):
        np.testing.assert_allclose(padded_rows[PADDED], rows, rtol=1e-11)
        assert all_zero(padded_rows[~PADDED])

    counts = np.array([np.broadcast_to(c, 6) for c in (solution.stats.nfe, padded_vjps)])
    want = np.array([np.broadcast_to(c, 4) for c in (alone.stats.nfe, vjps)])
    np.testing.assert_array_equal(counts[:, PADDED], want)
