"""Failure is data: codes, last finite states, and gradients that are exactly zero."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Result, integrate
from tests.mathematics.problems import (
    MAX_STEPS,
    all_zero,
    relative_error,
    smooth_field,
    smooth_finite_differences,
    smooth_gradient,
    smooth_problem,
    smooth_weights,
)

pytestmark = pytest.mark.usefixtures("x64")
ROUTES = ("direct", "checkpointed", "backsolve", "reversible")
ALL = [(adjoint, batching) for batching in ("joint", "per_example") for adjoint in ROUTES]


def gradients(adjoint, batching, x, **options):
    """Of the smooth problem for a condition x."""
    params, z0, _ = smooth_problem()
    return smooth_gradient(adjoint, batching, (params, z0, x), **options)


def with_row(rows, row, value):
    return np.where(np.arange(len(rows))[:, None] == row, value, rows)


def test_a_solve_out_of_steps_returns_where_it_got_to():
    """Five of ten steps of Euler; and a row of padding, which comes back as it was."""

    @jax.jit
    def solve(z0, mask):
        return integrate(
            lambda params, t, z, x: -z,
            None,
            z0,
            None,
            solver="euler",
            controller="constant",
            dt0=0.1,
            max_steps=5,
            save_at=(0.2, 0.5, 0.9),
            mask=mask,
        )

    solution = solve(np.array([[np.nan], [1.0]]), np.array([False, True]))
    assert solution.result == Result.max_steps and not solution.success
    assert solution.stats[:3] == (5, 5, 0)
    np.testing.assert_allclose(solution.z[:, 0], [np.nan, 0.9**5], rtol=1e-14)
    np.testing.assert_allclose(solution.zs[:, 1, 0], [0.9**2, 0.9**5, 0.9**5], rtol=1e-14)
    assert np.all(np.isnan(solution.zs[:, 0]))


@pytest.mark.slow
@pytest.mark.parametrize(("adjoint", "batching"), ALL)
def test_a_solve_out_of_steps_has_exactly_zero_gradients(adjoint, batching):
    got, vjps, solution = gradients(adjoint, batching, smooth_problem()[2], tol=1e-15)
    assert np.all(solution.result == Result.max_steps)
    assert np.all(solution.stats.num_steps == MAX_STEPS)
    assert np.all(np.isfinite(solution.z))
    assert all_zero(got) and all_zero(vjps)


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", ROUTES)
def test_one_failed_example_fails_a_joint_batch_and_says_so(adjoint):
    _, z0, x = smooth_problem()
    got, vjps, solution = gradients(adjoint, "joint", with_row(x, 2, np.nan))
    assert solution.result == Result.nonfinite
    assert solution.stats.num_steps == 1
    np.testing.assert_array_equal(solution.z, z0)
    assert all_zero(got) and all_zero(vjps)


@pytest.mark.quick(1)
@pytest.mark.parametrize("adjoint", ROUTES)
def test_a_failed_example_is_as_if_it_were_not_there(adjoint):
    """Beside a batch in which it succeeds and counts for nothing, and one that is without it."""
    x = smooth_problem()[2]
    got, vjps, solution = gradients(adjoint, "per_example", with_row(x, 3, np.nan))
    np.testing.assert_array_equal(solution.result, [0, 0, 0, Result.nonfinite])
    assert solution.stats.num_steps[3] == 1
    np.testing.assert_array_equal(solution.z[3], smooth_problem()[1][3])

    ignored, vjps_ignored, complete = gradients(
        adjoint, "per_example", x, weights=with_row(smooth_weights(), 3, 0.0)
    )
    np.testing.assert_array_equal(solution.z[:3], complete.z[:3])
    np.testing.assert_array_equal(solution.stats.nfe[:3], complete.stats.nfe[:3])
    # The mended solve is another program, whose last places may differ, and so its steps: one unit
    # in the last place of x was seen to change the gradient of "direct" by 1e-15 to 1e-9.
    assert relative_error(got, ignored) < (1e-8 if adjoint == "direct" else 1e-14)
    assert all_zero([leaf[3] for leaf in got[1:]])
    assert vjps[3] == 0
    np.testing.assert_array_equal(vjps[:3], vjps_ignored[:3])

    without = got[0], got[1][:3], got[2][:3]
    assert relative_error(without, smooth_finite_differences(batch=3)) < 1e-6


@pytest.mark.quick(1)
@pytest.mark.parametrize("adjoint", ROUTES)
def test_a_batch_without_success_has_exactly_zero_gradients(adjoint):
    x = np.full((4, 2), np.nan)
    got, vjps, solution = gradients(adjoint, "per_example", x)
    assert np.all(solution.result == Result.nonfinite)
    assert all_zero(got) and all_zero(vjps)


def square(params, t, z, x):
    """1 / (1/z0 - t), with a pole at 1/z0."""
    return z**2


def test_a_pole_stops_a_solve_and_leaves_the_neighbours_alone():
    """Steps shrink towards the pole until time stands still; overflow stops the first step."""
    z0 = jnp.array([[0.5], [2.0], [1e200], [-3.0]])
    solution = jax.jit(
        lambda z0: integrate(
            square, None, z0, None, rtol=1e-6, atol=1e-6, batching="per_example", max_steps=4096
        )
    )(z0)
    np.testing.assert_array_equal(
        solution.result, [Result.ok, Result.stagnated, Result.nonfinite, Result.ok]
    )
    np.testing.assert_allclose(solution.z[[0, 3], 0], [1.0, -0.75], atol=1e-5)
    assert solution.stats.num_steps[2] == 1 and solution.z[2, 0] == 1e200
    assert solution.stats.num_steps[1] < 512
    assert np.isfinite(solution.z[1, 0]) and solution.z[1, 0] > 1e12


def test_constant_steps_past_a_pole_stop_at_the_first_that_is_not_finite():
    """Euler's map z + z^2/16 from 2 overflows long before its 1000 steps are over."""

    @jax.jit
    def solve(z0):
        return integrate(
            square,
            None,
            z0,
            None,
            t1=62.5,
            solver="euler",
            controller="constant",
            dt0=1 / 16,
            max_steps=1000,
        )

    steps = 1
    last = 2.0
    while np.isfinite(following := last + last * last / 16):
        steps = steps + 1
        last = following
    solution = solve(jnp.array([[2.0]]))
    assert solution.result == Result.nonfinite
    assert solution.stats.num_steps == steps < 50
    np.testing.assert_allclose(solution.z, [[last]], rtol=1e-9)


def test_a_failed_backward_solve_is_zero_and_says_so():
    """Seven steps bring z to t1; back, z and its adjoint want ten, and have eight."""

    def loss(rate, probe):
        solution = integrate(
            lambda k, t, z, x: jnp.sin(k * t + z),
            rate,
            jnp.ones((1, 1)),
            None,
            rtol=1e-6,
            atol=1e-6,
            max_steps=8,
            adjoint="backsolve",
            backward_probe=probe,
        )
        return jnp.sum(solution.z), solution

    (slope, vjps), solution = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(6.0, 0.0)
    assert solution.success and solution.stats.num_steps == 7
    assert slope == 0
    assert vjps == -(2 + 6 * 8)


@pytest.mark.slow
def test_a_cotangent_that_is_not_finite_spoils_the_gradient_of_no_other_example():
    """By itself its solve fails on the way back, and contributes zero."""
    problem = smooth_problem()
    ones = np.ones_like(smooth_problem()[1])

    @jax.jit
    def pull_back(cotangent):
        def solve(params, z0, x):
            options = {"adjoint": "backsolve", "batching": "per_example"}
            return integrate(smooth_field, params, z0, x, rtol=1e-4, atol=1e-4, **options).z

        return jax.vjp(solve, *problem)[1](cotangent)

    got = pull_back(with_row(ones, 2, np.nan))
    want = pull_back(with_row(ones, 2, 0.0))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), got, want)


@pytest.mark.parametrize("batching", ["joint", "per_example"])
@pytest.mark.parametrize("adjoint", ["checkpointed", "direct", "reversible", "backsolve"])
def test_a_refused_step_beyond_the_domain_leaves_the_gradient_alone(adjoint, batching):
    """dz/dt = -p sqrt(z) is z = (1 - p t / 2)^2; stages of the first trial step have z < 0."""

    def end(p):
        options = {"dt0": 0.95, "rtol": 1e-5, "atol": 1e-5, "batching": batching}
        solution = integrate(
            lambda p, t, z, x: -p * jnp.sqrt(z),
            p,
            jnp.ones((2, 1)),
            None,
            t1=0.95,
            adjoint=adjoint,
            **options,
        )
        return jnp.mean(solution.z), solution

    (_, solution), slope = jax.jit(jax.value_and_grad(end, has_aux=True))(2.0)
    assert np.all(solution.success) and np.all(solution.stats.num_rejected > 0)
    np.testing.assert_allclose(slope, -0.95 * 0.05, rtol=1e-2)
