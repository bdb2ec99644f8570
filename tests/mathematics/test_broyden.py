"""Broyden's matrix beside a dense one of NumPy, and what makes it begin anew."""

import jax
import jax.numpy as jnp
import numpy as np

from homoode_jax.mathematics.cells.broyden import identity, learn, step_from

N = 12


def cell():
    """Returns a map of vectors, for NumPy and JAX."""
    rng = np.random.default_rng(0)
    weights = 1.2 * rng.normal(size=(N, N)) / np.sqrt(N)
    shift = rng.normal(size=N)
    return lambda z: np.tanh(weights @ z + shift)


def after_steps(count, memory):
    """Returns B as NumPy has it, the memory, the point and the cell there."""
    f = cell()
    z = np.zeros(N)
    dense = np.eye(N)
    learned = identity(jnp.zeros(N), memory)
    for _ in range(count):
        v = z - f(z)
        step = -np.linalg.solve(dense, v)
        after = z + step
        change = after - f(after) - v
        dense = dense + np.outer(change - dense @ step, step) / (step @ step)
        learned = learn(learned, jnp.asarray(step), jnp.asarray(after - f(after)))
        z = after
    return dense, learned, z, f(z)


def test_its_steps_are_those_of_a_dense_matrix(x64):
    """B' = B + (y - B s) s^T / |s|^2, inverted by NumPy, for as many steps as it remembers."""
    for count in range(10):
        dense, learned, z, f = after_steps(count, memory=10)
        expected = -np.linalg.solve(dense, z - f)
        got = step_from(learned, jnp.asarray(z), jnp.asarray(f))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.linalg.norm(expected))


def test_it_begins_anew_when_it_is_full_or_cannot_learn(x64):
    """Full, without a step, at what is not finite, and with a term that makes B singular."""
    _, full, z, f = after_steps(4, memory=3)  # the fourth term has no room
    _, learned, z, f = after_steps(2, memory=3)
    step = jnp.ones(N)
    # B' = I + r s^T / |s|^2 has the determinant 1 + r s / |s|^2, which is 0 for r = -s.
    with jax.debug_nans(True):
        singular = learn(identity(step, 3), step, -step)
    for memory in (
        full,
        learn(learned, 0 * step, step),
        learn(learned, step, jnp.nan * step),
        singular,
    ):
        assert memory.rank == 0
        got = step_from(memory, jnp.asarray(z), jnp.asarray(f))
        np.testing.assert_array_equal(got, f - z)


def test_many_terms_of_two_entries_cost_no_digits(x64):
    """To a few times eps cond(B); the inverse by itself, not refined, is out by 7e-14 cond(B)."""
    worst = 0.0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        weights = 2 * rng.normal(size=(2, 2))
        shift = rng.normal(size=2)
        z = np.zeros(2)
        v = z - np.sin(weights @ z + shift)
        dense = np.eye(2)
        learned = identity(jnp.zeros(2), 20)
        for _ in range(18):
            step = -np.linalg.solve(dense, v)
            got = step_from(learned, jnp.asarray(z), jnp.asarray(z - v))
            error = np.linalg.norm(got - step) / np.linalg.norm(step)
            worst = max(worst, error / np.linalg.cond(dense))
            z = z + step
            after = z - np.sin(weights @ z + shift)
            dense = dense + np.outer(after - v - dense @ step, step) / (step @ step)
            learned = learn(learned, jnp.asarray(step), jnp.asarray(after))
            v = after
            if np.linalg.norm(v) < 1e-9:
                break
    assert worst < 1e-14
