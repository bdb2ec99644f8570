"""Optimistix's solvers of every kind on an equilibrium, held to our own tolerance."""

import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from homoode_jax import equilibrium

SOLVERS = {
    "root finder": optx.Newton(1e-9, 1e-9),
    "fixed point": optx.FixedPointIteration(1e-9, 1e-9),
    "dogleg": optx.Dogleg(1e-9, 1e-9),
    "least squares": optx.LevenbergMarquardt(1e-9, 1e-9),
    "minimiser": optx.BFGS(1e-9, 1e-9),
    "bisection": optx.Bisection(1e-9, 1e-9),
    "bisection that expands": optx.Bisection(1e-9, 1e-9, expand_if_necessary=True),
}
X = np.linspace(-2, 2, 6)[:, None]


def cell(slope, z, x):
    return slope * jnp.tanh(z) + x


def root(x):
    """By NumPy: z - 0.5 tanh(z) - x rises, and its root is within 0.5 of x."""
    low, high = x - 1, x + 1
    for _ in range(60):
        middle = (low + high) / 2
        rises = middle - 0.5 * np.tanh(middle) - x < 0
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    return low


@pytest.mark.quick(3)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SOLVERS)
def test_each_kind_finds_the_root(name):
    options = {"solver": SOLVERS[name], "batching": "per_example", "tol": 1e-7}
    solution = equilibrium(cell, 0.5, np.zeros_like(X), X, **options)
    assert np.all(solution.success)
    np.testing.assert_allclose(solution.z, root(X), rtol=1e-6, atol=1e-6)
    assert np.all(solution.stats.nfe == -1)


@pytest.mark.usefixtures("x64")
def test_bisection_without_a_root_is_not_ok():
    solution = equilibrium(
        lambda _, z, x: z + 1 + z**2 + 0 * x,
        None,
        np.zeros((1, 1)),
        np.ones((1, 1)),
        solver=SOLVERS["bisection"],
    )
    assert not solution.success
    assert np.all(np.isfinite(solution.z))


def test_bisection_of_many_unknowns_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"solver=Bisection is for one unknown, got 6 of them"):
        equilibrium(cell, 0.5, np.zeros_like(X), X, solver=SOLVERS["bisection"])
