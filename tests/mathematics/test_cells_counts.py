"""Evaluations and products of the cell, as reported, beside the count of host callbacks in it.

Differentiating evaluates the cell once more, which is not part of the forward solve.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Implicit, Phantom, continuation, equilibrium
from tests.mathematics.cells import counted

# Slow: many programs to compile.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("x64")]
RNG = np.random.default_rng(0)
PARAMS = RNG.normal(size=(3, 3))
X = RNG.normal(size=(4, 3))
SOLVERS = ["anderson", "broyden", "newton", "picard", "ode"]
WALKS = [
    {"solver": "euler", "homotopy": "newton"},
    {"solver": "euler", "path": "arclength"},
    {"solver": "heun"},
    {"solver": "bosh3", "path": "arclength", "homotopy": "newton"},
    {"solver": "dopri5", "rtol": 1e-9},
]


def bent(params, z, x):
    return jnp.tanh(z @ params + x) - 0.1 * z


def counts(solution):
    stats = solution.stats
    return tuple(map(int, (stats.nfe, stats.num_jvp, stats.num_vjp)))


@pytest.mark.parametrize("solver", SOLVERS)
def test_equilibria_cost_what_the_host_counts(solver):
    """Forward and backward, in one program, at two places."""
    cell, read = counted(bent)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def run(params, probe, x):
        solution = equilibrium(cell, params, 0 * x, x, solver=solver, backward_probe=probe)
        return jnp.sum(solution.z**2), solution

    for scale in (0.2, 0.5):
        (_, solution), (_, vjps) = jax.block_until_ready(run(scale * PARAMS, 0.0, X))
        nfe, num_jvp, num_vjp = counts(solution)
        assert solution.success and num_vjp == 0
        assert read() == (nfe + 1, num_jvp, vjps)
        assert (num_jvp > 0) == (solver not in ("anderson", "broyden", "picard", "ode"))


@pytest.mark.parametrize("options", WALKS, ids=lambda o: "-".join(map(str, o.values())))
def test_paths_cost_what_the_host_counts(options):
    cell, read = counted(bent)
    solve = jax.jit(lambda params, x: continuation(cell, params, 0.3 + 0 * x, x, **options))
    for scale in (0.3, 2.0):  # the second is hard: steps are refused, and some paths end early
        solution = jax.block_until_ready(solve(scale * PARAMS, X))
        assert read() == counts(solution)
        assert solution.success or scale == 2


@pytest.mark.parametrize("route", ["jacobian_free", Phantom(4, 0.7), Implicit(1e-9), "implicit"])
def test_gradients_take_the_products_that_the_probe_says(route):
    cell, read = counted(bent)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def run(params, probe, x):
        solution = continuation(cell, params, 0 * x, x, adjoint=route, backward_probe=probe)
        return jnp.sum(solution.z**2)

    _, vjps = jax.block_until_ready(run(PARAMS * 0.3, 0.0, X))
    assert vjps == read()[2]
    if not isinstance(route, Implicit) and route != "implicit":
        assert vjps == (1 if route == "jacobian_free" else 4)


@pytest.mark.parametrize("solver", ["newton", "anderson"])
def test_per_example_costs_are_those_of_each_example_alone(solver):
    @functools.partial(jax.jit, static_argnums=2)
    @functools.partial(jax.grad, argnums=1, has_aux=True)
    def run(x, probe, batching):
        options = {"solver": solver, "batching": batching, "backward_probe": probe}
        solution = equilibrium(bent, 0.5 * PARAMS, 0 * x, x, **options)
        return jnp.sum(solution.z**2), solution

    x = X * np.array([[1], [1e-4], [3], [0.0]])
    vjps, together = run(x, np.zeros(4), "per_example")
    for i in range(4):
        vjp, alone = run(x[i : i + 1], 0.0, "joint")
        got = [int(number[i]) for number in (together.stats.nfe, together.stats.num_jvp, vjps)]
        assert got == [alone.stats.nfe, alone.stats.num_jvp, vjp]
    assert len(set(zip(together.stats.nfe.tolist(), vjps.tolist(), strict=True))) > 1


def test_unrolled_gradients_do_not_guess_their_cost():
    gradient = jax.jit(
        jax.grad(
            lambda probe: jnp.sum(
                equilibrium(
                    bent,
                    0.3 * PARAMS,
                    0 * X,
                    X,
                    solver="picard",
                    adjoint="unrolled",
                    max_steps=30,
                    backward_probe=probe,
                ).z
            )
        )
    )
    assert gradient(0.0) == -1
