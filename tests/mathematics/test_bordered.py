"""The small linear systems of a climb: what is solved, what is damped, and what is left alone."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from homoode_jax.mathematics.homotopy.bordered import (
    DAMPING,
    Bordered,
    by_krylov,
    by_matrix,
    vectors_kept,
)

N = 5


def problem(jacobian, b):
    """Returns [[I - J, slope], [0 ... 0 1]] dy = b, J by its products."""
    last = jnp.zeros(N + 1).at[-1].set(1)
    return Bordered(
        jvp=lambda v: jacobian @ v,
        c=jnp.ones(()),
        slope=jnp.arange(1.0, N + 1),
        row=last,
        b=jnp.asarray(b),
    )


def matrix_of(jacobian):
    matrix = np.eye(N + 1)
    matrix[:N, :N] -= jacobian
    matrix[:N, N] = np.arange(1.0, N + 1)
    return matrix


def test_the_step_is_numpys(x64):
    rng = np.random.default_rng(0)
    jacobian = rng.normal(size=(N, N))
    b = rng.normal(size=N + 1)
    linear, kept = by_matrix(problem(jacobian, b), jnp.zeros((N, N)), jnp.asarray(True))
    np.testing.assert_allclose(kept, jacobian, atol=1e-14)
    np.testing.assert_allclose(linear.value, np.linalg.solve(matrix_of(jacobian), b), atol=1e-12)
    assert linear.close and linear.products == N


def test_a_singular_matrix_has_a_damped_step(x64):
    """Of Levenberg and Marquardt, by NumPy; J = I leaves nothing of I - J."""
    b = np.ones(N + 1)
    linear, _ = by_matrix(problem(np.eye(N), b), jnp.eye(N), jnp.asarray(False))
    matrix = matrix_of(np.eye(N))
    normal = matrix.T @ matrix
    damped = normal + DAMPING * np.trace(normal) / (N + 1) * np.eye(N + 1)
    np.testing.assert_allclose(linear.value, np.linalg.solve(damped, matrix.T @ b), rtol=1e-6)
    assert not linear.close and linear.products == 0


def test_nothing_is_solved_where_nothing_is_asked(x64):
    """With a matrix of NaN, a factorisation would be seen."""
    linear, _ = by_matrix(
        problem(np.eye(N), np.zeros(N + 1)), jnp.full((N, N), jnp.nan), jnp.asarray(False)
    )
    np.testing.assert_array_equal(linear.value, 0)


def test_one_factorisation_waits_for_the_other():
    """Two batches beside each other may wait for each other's threads for ever, on a CPU.

    So each is in a loop of its own, of one turn or none, and the second loop takes what the first
    returns. That has to hold of what XLA makes of it: it takes out of a loop what is the same in
    every turn.
    """

    def climb(jacobian, b):
        """Solves in a loop, as a climb does, with a matrix that is another in every turn."""

        def turn(i, b):
            moved = jacobian + i
            return by_matrix(problem(moved, b), moved, jnp.asarray(False))[0].value

        return lax.fori_loop(0, 3, turn, b)

    some = jnp.zeros((4, N, N)), jnp.ones((4, N + 1))
    compiled = jax.jit(jax.vmap(climb)).lower(*some).compile().as_text()
    computations = re.split(r"\n(?=\S)", compiled)
    target = 'custom_call_target="lapack_sgetrf'
    assert sorted(each.count(target) for each in computations)[-3:] == [0, 1, 1]


def test_a_system_that_needs_all_of_a_long_krylov_space_is_solved(x64):
    # No Krylov space of a cyclic shift but the whole one holds its inverse.
    n = 150
    zero = jnp.zeros(n)
    b = np.random.default_rng(1).normal(size=n + 1)
    shift = Bordered(
        jvp=lambda v: v - jnp.roll(v, 1),
        c=jnp.ones(()),
        slope=zero,
        row=jnp.zeros(n + 1).at[-1].set(1),
        b=jnp.asarray(b),
    )
    linear = by_krylov(shift, 1e-10)
    np.testing.assert_allclose(linear.value, np.append(np.roll(b[:n], -1), b[n]), atol=1e-9)
    assert linear.ok
    assert linear.products <= n + 2


def test_vectors_that_would_not_fit_are_not_kept():
    assert vectors_kept(2**12) == 199
    assert vectors_kept(2**15) == 127
    assert vectors_kept(2**20) == 47
