"""Answers of `integrate` beside closed forms and SciPy's `solve_ivp`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg

import homoode_jax
from homoode_jax import Result
from tests.mathematics.problems import smooth_field, smooth_problem

pytestmark = pytest.mark.usefixtures("x64")


@functools.cache
def jitted(field, **static):
    """`field` solved with all numbers traced: times, tolerances, times to save at."""

    def solve(params, z0, x, t0, t1, tol, save_at):
        return homoode_jax.integrate(
            field, params, z0, x, t0=t0, t1=t1, rtol=tol, atol=tol, save_at=save_at, **static
        )

    return jax.jit(solve)


def linear(params, t, z, x):
    return jnp.einsum("bij,bj->bi", x, z)


@pytest.mark.quick(1)
@pytest.mark.parametrize("t1", [1.5, -1.0])
def test_linear_systems_match_the_matrix_exponential(t1):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 4))
    z0 = rng.normal(size=(3, 4))
    ts = t1 * jnp.array([0.0, 0.4, 1.0])
    solution = jitted(linear)(None, z0, x, 0.0, t1, 1e-10, ts)
    flow = [
        np.stack([scipy.linalg.expm(a * t) @ z for a, z in zip(x, z0, strict=True)]) for t in ts
    ]
    assert solution.success and solution.result == Result.ok
    np.testing.assert_allclose(solution.z, flow[-1], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(solution.zs, flow, rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(solution.ts, ts)


def logistic(params, t, z, x):
    return params * z * (1 - z / x)


def logistic_growth(rate, z0, capacity, t):
    return capacity / (1 + (capacity / z0 - 1) * np.exp(-rate * t))


@pytest.mark.quick(2)
@pytest.mark.parametrize("tol", [1e-4, 1e-7, 1e-10])
@pytest.mark.parametrize("t1", [3.0, -0.5])
def test_logistic_growth_is_met_to_the_traced_tolerance(tol, t1):
    z0 = np.array([[0.1], [0.5], [1.5]])
    capacity = np.array([[1.0], [2.0], [3.0]])
    solution = jitted(logistic)(0.9, z0, capacity, 0.0, t1, tol, None)
    exact = logistic_growth(0.9, z0, capacity, t1)
    assert np.max(np.abs(solution.z - exact)) < 10 * tol


def test_an_empty_interval_returns_the_initial_state():
    z0 = np.array([[0.1], [0.5], [1.5]])
    solution = jitted(logistic)(0.9, z0, np.ones((3, 1)), 0.7, 0.7, 1e-4, None)
    assert solution.success and solution.stats.num_steps == 0
    np.testing.assert_array_equal(solution.z, z0)


@pytest.mark.quick(1)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 2.0), (0.5, -1.0)])
def test_a_conditioned_time_dependent_field_matches_scipy(t0, t1):
    params, z0, x = smooth_problem(batch=3)
    ts = jnp.linspace(t0, t1, 5)[1:]

    def flat_field(t, z):
        return np.asarray(smooth_field(params, t, z.reshape(z0.shape), x)).ravel()

    scipy_solution = scipy.integrate.solve_ivp(
        flat_field, (t0, t1), np.ravel(z0), "DOP853", rtol=1e-11, atol=1e-12, t_eval=ts
    )
    exact = scipy_solution.y.T.reshape(-1, *z0.shape)
    solution = jitted(smooth_field)(params, z0, x, t0, t1, 1e-9, ts)
    np.testing.assert_allclose(solution.z, exact[-1], rtol=0, atol=1e-8)
    np.testing.assert_allclose(solution.zs, exact, rtol=0, atol=1e-7)


def lotka_volterra(params, t, z, x):
    prey = z[:, :1]
    predators = z[:, 1:]
    season = 1 + 0.5 * jnp.sin(t)
    return season * jnp.concatenate([prey * (1 - predators), predators * (prey - 1)], axis=1)


@functools.cache
def lotka_volterra_by_scipy():
    def rates(t, z):
        return np.asarray(lotka_volterra(None, t, z[None], None))[0]

    return scipy.integrate.solve_ivp(rates, (0, 5), [2, 1], "DOP853", rtol=3e-14, atol=1e-15).y


ORDERS = {
    "euler": 1,
    "heun": 2,
    "midpoint": 2,
    "ralston": 2,
    "bosh3": 3,
    "tsit5": 5,
    "dopri5": 5,
    "dopri8": 8,
}


@pytest.mark.quick(3)
@pytest.mark.parametrize("solver", ORDERS)
def test_constant_steps_converge_with_the_order_of_the_solver(solver):
    @jax.jit
    def solve(dt0):
        return homoode_jax.integrate(
            lotka_volterra,
            None,
            jnp.array([[2.0, 1.0]]),
            None,
            t1=5.0,
            solver=solver,
            controller="constant",
            dt0=dt0,
            max_steps=256,
        )

    few = 16 if solver == "dopri8" else 128
    coarse = solve(5 / few)
    fine = solve(2.5 / few)
    assert (coarse.stats.num_steps, fine.stats.num_steps) == (few, 2 * few)
    exact = lotka_volterra_by_scipy()[:, -1]
    coarse_error, fine_error = (np.max(np.abs(s.z[0] - exact)) for s in (coarse, fine))
    assert np.log2(coarse_error / fine_error) == pytest.approx(ORDERS[solver], abs=0.3)


def test_time_reversal_brings_the_state_back():
    params, z0, x = smooth_problem(batch=3)
    solve = jitted(smooth_field)
    ts = jnp.linspace(0.0, 2.0, 5)[1:]
    there = solve(params, z0, x, 0.0, 2.0, 1e-11, ts)
    back = solve(params, there.z, x, 2.0, 0.0, 1e-11, 2.0 - ts)
    np.testing.assert_allclose(back.z, z0, atol=1e-9)
    np.testing.assert_allclose(back.zs[:-1], there.zs[:-1][::-1], atol=1e-9)


def test_traced_numbers_have_no_gradient():
    def final(t0, t1, rtol, atol):
        solution = homoode_jax.integrate(
            logistic,
            1.0,
            jnp.full((1, 1), 0.5),
            jnp.ones((1, 1)),
            t0=t0,
            t1=t1,
            rtol=rtol,
            atol=atol,
            solver="heun",
            adjoint="direct",
            max_steps=16,
        )
        return solution.z[0, 0]

    value, slopes = jax.jit(jax.value_and_grad(final, (0, 1, 2, 3)))(0.0, 1.0, 1e-2, 1e-2)
    assert value == pytest.approx(logistic_growth(1.0, 0.5, 1.0, 1.0), abs=1e-2)
    assert slopes == (0, 0, 0, 0)
