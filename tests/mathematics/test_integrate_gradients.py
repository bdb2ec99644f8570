"""Gradients of `integrate` beside finite differences of its answers, and beside each other.

Measured (relative to the largest entry of each leaf): see the comment of each bound.
"""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import integrate
from tests.mathematics.problems import (
    finite_differences,
    recorded_steps,
    relative_error,
    smooth_field,
    smooth_finite_differences,
    smooth_gradient,
    smooth_loss,
    smooth_problem,
    smooth_weights,
)

pytestmark = pytest.mark.usefixtures("x64")
ROUTES = ("direct", "checkpointed", "backsolve")
ALL = [(adjoint, batching) for batching in ("joint", "per_example") for adjoint in ROUTES]


def smooth_gradients(adjoint, batching, tol, weight_zs=0.0, scale=1.0):
    weights = jax.tree.map(lambda w: scale * w, smooth_weights())
    weights = {"z": weights["z"]} if adjoint == "backsolve" or batching != "joint" else weights
    if "zs" in weights:
        weights["zs"] *= weight_zs
    (gradients, _), solution = smooth_gradient(adjoint, batching)(
        smooth_problem(), weights, tol, 0.0
    )
    assert jnp.all(solution.success)
    return gradients


@functools.cache
def replayed():
    """The loss of a solve on the recorded steps of an adaptive one, and its slopes."""
    inputs = smooth_problem()
    steps = recorded_steps(smooth_field, *inputs, tol=1e-4, dt0=0.05)
    assert 3 < len(steps) < 16
    loss = functools.partial(
        smooth_loss, weights=smooth_weights(), tol=None, save_at=(0.3, 0.8), max_steps=16,
        controller=diffrax.StepTo(steps),
    )  # fmt: skip
    return loss, len(steps) - 1, finite_differences(lambda inputs: loss(inputs)[0], inputs)


@pytest.mark.parametrize("adjoint", ["direct", "checkpointed"])
def test_gradients_on_recorded_steps_match_finite_differences(adjoint):
    loss, num_steps, want = replayed()
    got, solution = jax.jit(jax.grad(functools.partial(loss, adjoint=adjoint), has_aux=True))(
        smooth_problem()
    )
    assert solution.stats.num_steps == num_steps
    assert relative_error(got, want) < 1e-9


@pytest.mark.parametrize("tol", [1e-8, 1e-10])
@pytest.mark.parametrize(("adjoint", "batching"), ALL)
def test_gradients_of_the_adaptive_solve_match_finite_differences(adjoint, batching, tol):
    got = smooth_gradients(adjoint, batching, tol)
    error = relative_error(got, smooth_finite_differences(weight_zs=0.0))
    print(f"\n{adjoint} {batching} tol {tol}: {error:.1e}")
    assert error < 1e-6


@pytest.mark.parametrize("adjoint", ["direct", "checkpointed"])
def test_gradients_through_saved_states_match_finite_differences(adjoint):
    got = smooth_gradients(adjoint, "joint", 1e-10, weight_zs=1.0)
    error = relative_error(got, smooth_finite_differences(weight_zs=1.0))
    print(f"\nzs {adjoint}: {error:.1e}")
    assert error < 1e-6
    assert relative_error(got, smooth_finite_differences(weight_zs=0.0)) > 0.1


@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_the_two_discrete_routes_are_the_same_to_rounding(batching):
    direct, checkpointed = (
        smooth_gradients(adjoint, batching, 1e-3) for adjoint in ("direct", "checkpointed")
    )
    assert relative_error(direct, checkpointed) < 1e-12


@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_the_error_of_backsolve_falls_with_the_tolerance(batching):
    exact = smooth_finite_differences(weight_zs=0.0)
    errors = [
        relative_error(smooth_gradients("backsolve", batching, tol), exact)
        for tol in (1e-3, 1e-5, 1e-7)
    ]
    print(f"\nbacksolve {batching}: {errors}")
    assert errors[0] < 0.05
    assert errors[1] < errors[0] / 20
    assert errors[2] < errors[1] / 20


@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_backsolve_takes_the_same_steps_whatever_the_scale_of_the_loss(batching):
    whole = smooth_gradients("backsolve", batching, 1e-5)
    tiny = smooth_gradients("backsolve", batching, 1e-5, scale=1e-6)
    assert relative_error(jax.tree.map(lambda g: 1e6 * g, tiny), whole) < 1e-12


def test_gradients_vmap_over_parameters():
    """A batch of decay rates at once; Euler's four steps have a closed-form derivative."""

    def loss(rate, adjoint):
        params = {"rate": rate, "activation": jax.nn.relu}
        decay = lambda p, t, z, x: -p["rate"] * p["activation"](z)  # noqa: E731
        return integrate(
            decay, params, jnp.ones((1, 1)), None, solver="euler", controller="constant", dt0=0.25,
            max_steps=4, adjoint=adjoint,
        ).z[0, 0]  # fmt: skip

    rates = jnp.array([0.1, 0.5, 2.0])
    for adjoint in ("direct", "backsolve"):
        slope = jax.jit(jax.vmap(functools.partial(jax.grad(loss), adjoint=adjoint)))(rates)
        end, k = (1 - rates / 4) ** 4, rates / 4
        exact = {
            "direct": -((1 - k) ** 3),
            # Euler backwards: z <- z + k z, a <- a - k a, g <- g + dt (-z) a, from z(1), a = 1.
            "backsolve": -sum(0.25 * end * (1 + k) ** n * (1 - k) ** n for n in range(4)),
        }
        np.testing.assert_allclose(slope, exact[adjoint], rtol=1e-12)
