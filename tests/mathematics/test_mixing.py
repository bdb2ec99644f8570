"""Anderson mixing beside NumPy's least squares, and what it is not to remember."""

import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax.mathematics.cells.mixing import empty_history, mix, remember

N = 20


def history_of(rows):
    """Returns a history of these differences of residuals, which are those of z + r too."""
    history = empty_history(jnp.zeros(N), len(rows) + 1)
    zero = jnp.zeros(N)
    for row in rows:
        history = remember(
            history, zero, zero, z_new=zero, f_new=jnp.asarray(row), damping=jnp.ones(())
        )
    return history


@pytest.mark.parametrize("singular", [False, True])
def test_the_rest_is_that_of_least_squares(x64, singular):
    """With dG = dR the next iterate from z = 0 is r - dR g; a fourth row may repeat the first."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4, N))
    if singular:
        rows[3] = -2 * rows[0]
    r = rng.normal(size=N)
    weights = np.linalg.lstsq(rows.T, r, rcond=None)[0]
    got = mix(history_of(rows), jnp.zeros(N), jnp.asarray(r), jnp.ones(()))
    np.testing.assert_allclose(got, r - rows.T @ weights, rtol=0, atol=1e-12)


def test_a_difference_that_overflows_is_not_remembered(x64):
    history = history_of(np.eye(2, N))
    zero = jnp.zeros(N)
    huge = zero + 1e200
    after = remember(history, zero, zero, z_new=zero, f_new=huge, damping=jnp.ones(()))
    for old, new in zip(history, after, strict=True):
        np.testing.assert_array_equal(new, old)
