"""Gradients of `integrate` beside finite differences of its answers, and beside each other."""

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
ROUTES = ("direct", "checkpointed", "backsolve", "reversible")
ALL = [(adjoint, batching) for batching in ("joint", "per_example") for adjoint in ROUTES]


@functools.cache
def replayed():
    """A loss of final and saved states, solved on the steps of an adaptive solve; its slopes."""
    inputs = smooth_problem()
    steps = recorded_steps(smooth_field, *inputs, tol=1e-4, dt0=0.05)
    assert 3 < len(steps) < 16
    loss = functools.partial(
        smooth_loss,
        weights=smooth_weights(),
        tol=None,
        save_at=(0.3, 0.8),
        max_steps=16,
        controller=diffrax.StepTo(steps),
    )
    return loss, len(steps) - 1, finite_differences(lambda inputs: loss(inputs)[0], inputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "adjoint", [pytest.param("direct", marks=pytest.mark.slow), "checkpointed"]
)
def test_gradients_on_recorded_steps_match_finite_differences(adjoint):
    """Of the final and of the saved states."""
    loss, num_steps, want = replayed()
    got, solution = jax.jit(jax.grad(functools.partial(loss, adjoint=adjoint), has_aux=True))(
        smooth_problem()
    )
    assert solution.stats.num_steps == num_steps
    assert relative_error(got, want) < 1e-9


@pytest.mark.quick(2)
@pytest.mark.parametrize("tol", [pytest.param(1e-8, marks=pytest.mark.slow), 1e-10])
@pytest.mark.parametrize(
    ("adjoint", "batching"),
    [case if case[0] != "direct" else pytest.param(*case, marks=pytest.mark.slow) for case in ALL],
)
def test_gradients_of_the_adaptive_solve_match_finite_differences(adjoint, batching, tol):
    got, _, solution = smooth_gradient(adjoint, batching, tol=tol)
    assert np.all(solution.success)
    error = relative_error(got, smooth_finite_differences())
    print(f"\n{adjoint}, {batching}, tol {tol}: {error:.1e}")
    assert error < 1e-6


@pytest.mark.parametrize("batching", ["joint", pytest.param("per_example", marks=pytest.mark.slow)])
def test_the_two_discrete_routes_are_the_same_to_rounding(batching):
    direct, checkpointed = (
        smooth_gradient(adjoint, batching, tol=1e-3)[0] for adjoint in ("direct", "checkpointed")
    )
    assert relative_error(direct, checkpointed) < 1e-12


def saved_loss(params, z0, x, adjoint, batching, **options):
    """Of final and saved states."""
    solution = integrate(
        smooth_field, params, z0, x, adjoint=adjoint, batching=batching, max_steps=32, **options
    )
    return jnp.sum(smooth_weights() * (jnp.sin(solution.zs) + solution.z**2))


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_saved_states_have_the_same_gradient_by_both_discrete_routes(batching):
    """At the ends, twice within a step and in between; forwards, backwards and not at all."""
    for t0, t1 in ((0.0, 1.0), (1.0, 0.0), (0.5, 0.5)):
        save_at = t0 + (t1 - t0) * np.array([0.0, 0.011, 0.012, 0.3, 0.8, 1.0])
        options = {"batching": batching, "t0": t0, "t1": t1, "save_at": save_at}
        direct, checkpointed = (
            jax.jit(jax.grad(functools.partial(saved_loss, adjoint=adjoint, **options), (0, 1, 2)))(
                *smooth_problem()
            )
            for adjoint in ("direct", "checkpointed")
        )
        close = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12)
        jax.tree.map(close, direct, checkpointed)


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["per_example", "joint"])
def test_direct_has_second_derivatives(batching):
    """Beside differences of the first ones; of saved states, with an example that fails."""
    params, z0, x = smooth_problem()
    x = np.where((np.arange(4)[:, None] == 3) & (batching == "per_example"), np.nan, x)
    inputs = params, z0, x
    directions = jax.tree.map(lambda a: np.cos(np.arange(a.size)).reshape(a.shape), inputs)
    options = {"batching": batching, "save_at": (0.2, 0.9), "rtol": 1e-10, "atol": 1e-10}
    first = jax.grad(functools.partial(saved_loss, adjoint="direct", **options), (0, 1, 2))

    def along(step):
        moved = jax.tree.map(lambda a, d: a + step * d, inputs, directions)
        return sum(jnp.sum(jnp.cos(g)) for g in jax.tree.leaves(first(*moved)))

    slope = jax.jit(jax.grad(along))(0.0)
    assert float(slope) == pytest.approx(central_difference(jax.jit(along)), rel=1e-6)


def central_difference(function, step=1e-3):
    """Of fourth order, at zero."""
    far_below, below, above, far_above = (function(k * step) for k in (-2, -1, 1, 2))
    return float(8 * (above - below) - (far_above - far_below)) / (12 * step)


@pytest.mark.quick(1)
@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_the_error_of_backsolve_falls_with_the_tolerance(batching):
    """At the default tolerance of 1e-3 it is 0.3 % on this mild problem."""
    errors = [
        relative_error(
            smooth_gradient("backsolve", batching, tol=tol)[0], smooth_finite_differences()
        )
        for tol in (1e-3, 1e-5, 1e-7)
    ]
    print(f"\nbacksolve, {batching}: {errors}")
    assert errors[0] < 0.01
    assert errors[1] < errors[0] / 20
    assert errors[2] < errors[1] / 20


@pytest.mark.quick(1)
@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_backsolve_takes_the_same_steps_whatever_the_scale_of_the_loss(batching):
    weights = smooth_weights()
    whole, vjps, _ = smooth_gradient("backsolve", batching, weights=weights, tol=1e-5)
    tiny, vjps_of_tiny, _ = smooth_gradient("backsolve", batching, weights=1e-6 * weights, tol=1e-5)
    assert relative_error(jax.tree.map(lambda g: 1e6 * g, tiny), whole) < 1e-12
    np.testing.assert_array_equal(vjps_of_tiny, vjps)


@pytest.mark.slow
def test_backsolve_controls_the_error_of_the_adjoint_where_z_stands_still():
    """z = 0 throughout, while da/dt = -sin(8 t) a."""

    def loss(z0):
        return integrate(
            lambda params, t, z, x: jnp.sin(8 * t) * z,
            None,
            z0,
            None,
            rtol=1e-8,
            atol=1e-8,
            adjoint="backsolve",
        ).z.sum()

    slope = jax.jit(jax.grad(loss))(np.zeros((1, 1)))
    assert float(slope[0, 0]) == pytest.approx(np.exp((1 - np.cos(8)) / 8), rel=1e-7)


@pytest.mark.slow
def test_gradients_vmap_over_parameters():
    """A batch of decay rates at once; Euler's four steps have a closed-form derivative."""

    def loss(rate, adjoint):
        params = {"rate": rate, "activation": jax.nn.relu}
        decay = lambda p, t, z, x: -p["rate"] * p["activation"](z)  # noqa: E731
        return integrate(
            decay,
            params,
            jnp.ones((1, 1)),
            None,
            solver="euler",
            controller="constant",
            dt0=0.25,
            max_steps=4,
            adjoint=adjoint,
        ).z[0, 0]

    rates = jnp.array([0.1, 0.5, 2.0])
    for adjoint in ("direct", "backsolve"):
        slope = jax.jit(jax.vmap(functools.partial(jax.grad(loss), adjoint=adjoint)))(rates)
        end = (1 - rates / 4) ** 4
        k = rates / 4
        exact = {
            "direct": -((1 - k) ** 3),
            # Euler backwards: z <- z + k z, a <- a - k a, g <- g + dt (-z) a, from z(1), a = 1.
            "backsolve": -sum(0.25 * end * (1 + k) ** n * (1 - k) ** n for n in range(4)),
        }
        # At rate 2 Euler's steps back lead to 0.32, not to 1: the gradient is off by two thirds.
        exact["backsolve"] = exact["backsolve"].at[2].set(0)
        np.testing.assert_allclose(slope, exact[adjoint], rtol=1e-12)
