"""Losses and states in units so large or small that their squares leave float32's range."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Result, equilibrium, integrate

MATRIX = np.array([[0.3, -0.2], [0.1, 0.4]], np.float32)
X = np.array([[1.0, -0.5], [0.2, 0.8], [-0.3, 0.6]], np.float32)
FAR = [1e-30, 1e-21, 1e21, 1e30]


def linear(a, z, x):
    return a * z @ MATRIX + x


def root(a):
    """The root of `linear`, by NumPy in float64."""
    return np.linalg.solve(np.eye(2) - a * MATRIX.T.astype(float), X.T.astype(float)).T


@pytest.mark.parametrize("adjoint", ["implicit", "implicit_jvp"])
@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_an_implicit_gradient_is_linear_in_the_loss_at_every_scale(batching, adjoint):
    @jax.jit
    @jax.grad
    def slope(a, scale):
        solution = equilibrium(linear, a, jnp.zeros_like(X), X, batching=batching, adjoint=adjoint)
        return scale * jnp.sum(solution.z)

    h = 1e-6
    expected = np.sum(root(0.5 + h) - root(0.5 - h)) / (2 * h)
    for scale in [1.0, *FAR]:
        assert abs(slope(0.5, scale) / scale - expected) < 1e-4, scale


@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_a_continuous_adjoint_is_linear_in_the_loss_at_every_scale(batching):
    """dz/dt = -a z has z(1) = exp(-a) z0, and d/da of its sum is -exp(-a) sum z0."""

    @jax.jit
    @jax.grad
    def slope(a, scale):
        decay = lambda a, t, z, x: -a * z  # noqa: E731
        tols = {"rtol": 1e-5, "atol": 1e-5}
        solution = integrate(decay, a, X, None, adjoint="backsolve", batching=batching, **tols)
        return scale * jnp.sum(solution.z)

    for scale in [1.0, *FAR]:
        assert abs(slope(0.5, scale) / scale + np.exp(-0.5) * X.sum()) < 1e-4, scale


@pytest.mark.parametrize("unit", FAR)
def test_newton_finds_an_equilibrium_in_any_unit(unit):
    solution = solved_by_newton(jnp.float32(unit))
    assert solution.result == Result.ok
    assert np.max(np.abs(solution.z.astype(float) / unit - root(0.5))) < 1e-5
    assert np.isfinite(solution.stats.residual)


@jax.jit
def solved_by_newton(unit):
    return equilibrium(linear, 0.5, jnp.zeros_like(X), unit * X, solver="newton")


def test_a_norm_of_ones_own_measures_states_and_adjoints_alone():
    """Not the gradient of the parameters, which has another structure than a state has."""
    seen = []

    def norm(state):
        seen.append(jax.tree.structure(state))
        return jnp.sqrt(jnp.mean(jnp.square(state["z"])))

    def field(a, t, z, x):
        return {"z": -a["a"] * z["z"]}

    controller = diffrax.PIDController(rtol=1e-5, atol=1e-5, norm=norm)

    @jax.grad
    def slope(a):
        options = {"controller": controller, "adjoint": "backsolve"}
        return jnp.sum(integrate(field, a, {"z": X}, None, **options).z["z"])

    assert abs(slope({"a": 0.5})["a"] + np.exp(-0.5) * X.sum()) < 1e-4
    assert set(seen) == {jax.tree.structure({"z": X})}


@pytest.mark.usefixtures("x64")
def test_times_to_step_to_may_be_of_another_precision_than_the_state():
    steps = diffrax.StepTo(jnp.linspace(0, 1, 5, dtype="float64"))
    solution = integrate(lambda a, t, z, x: -a * z, 0.5, X, None, controller=steps, solver="heun")
    assert solution.z.dtype == np.float32
    factor = (1 - 0.125 + 0.125**2 / 2) ** 4  # Heun's, by hand
    assert np.max(np.abs(solution.z - factor * X)) < 1e-6
