"""Evaluations forward and backward, beside the count of host callbacks in the field.

Backward, all routes evaluate the field again for each of their vector-Jacobian products, and
`checkpointed` oftener; its evaluations are not counted as backward NFE. Per-example batches run in
lockstep: every example is evaluated as often as the slowest, and reports what it would cost alone.
"""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Reversible, integrate
from tests.mathematics.problems import counted

pytestmark = pytest.mark.usefixtures("x64")
X = np.array([[1.0], [5.0], [2.0]])
EULER = {"solver": "euler", "controller": "constant", "dt0": 0.1, "max_steps": 16}


def wave(params, t, z, x):
    return params * jnp.sin(6 * t + z) * x


def solve_and_count(x=X, numbers=(), **options):
    """Forward: the solution, and evaluations on the host. `numbers` are traced options."""
    field, read = counted(wave)

    @jax.jit
    def solve(x, *traced):
        z0 = jnp.sin(x)
        return integrate(field, 1.0, z0, x, **options, **dict(zip(numbers, traced, strict=True)))

    def run(*traced, x=x):
        solution = jax.block_until_ready(solve(x, *traced))
        return solution, read()

    return run


def differentiate_and_count(**options):
    """Forward and backward: backward NFE, forward stats, and both counts on the host."""
    field, read = counted(wave)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2, 3), has_aux=True)
    def gradient(params, z0, x, probe):
        solution = integrate(field, params, z0, x, backward_probe=probe, **options)
        saved = 0 if solution.zs is None else jnp.sum(solution.zs)
        return jnp.sum(solution.z**2) + saved, solution

    def run(x=X):
        z0 = jnp.sin(x)
        per_example = options.get("batching") == "per_example"
        probe = jnp.zeros(len(x) if per_example else ())
        (*_, vjps), solution = jax.block_until_ready(gradient(1.0, z0, x, probe))
        return vjps, solution, read()

    return run


@pytest.mark.quick(1)
@pytest.mark.parametrize("solver", ["dopri5", "bosh3", "heun"])
def test_evaluations_forward_are_those_on_the_host(solver):
    """With a first step that is accepted, and one so large that it is rejected."""
    tol = 1e-2 if solver == "heun" else 1e-4
    run = solve_and_count(solver=solver, rtol=tol, atol=tol, numbers=["dt0"])
    small, (evaluations_small, _) = run(0.01)
    large, (evaluations_large, _) = run(1.0)
    assert small.stats.nfe == evaluations_small
    assert large.stats.nfe == evaluations_large
    assert large.stats.num_rejected >= 1, "a first step of 1 was accepted"


def test_evaluations_of_constant_steps_are_those_on_the_host():
    solution, (evaluations, _) = solve_and_count(**EULER)()
    assert solution.stats[:3] == (10, 10, 0) and evaluations == 10


DOPRI5 = {"rtol": 1e-4, "atol": 1e-4, "max_steps": 32}
BACKWARD = [
    ("direct", DOPRI5),
    ("direct", DOPRI5 | {"dt0": 1.0}),
    ("direct", DOPRI5 | {"save_at": (0.0, 0.1, 0.11, 0.5, 1.0)}),
    ("direct", EULER),
    ("checkpointed", DOPRI5),
    (diffrax.RecursiveCheckpointAdjoint(2), DOPRI5),
    ("backsolve", DOPRI5),
    ("backsolve", {"solver": "bosh3"}),
    ("backsolve", {"solver": "heun", "rtol": 1e-2, "atol": 1e-2}),
    ("reversible", DOPRI5),
    ("reversible", {"solver": "heun", "rtol": 1e-2, "atol": 1e-2}),
    ("direct", DOPRI5 | {"solver": Reversible("bosh3"), "max_steps": 16, "rtol": 1e-2}),
]


@pytest.mark.quick(1)
@pytest.mark.parametrize(("adjoint", "options"), BACKWARD)
def test_vector_jacobian_products_are_those_on_the_host(adjoint, options):
    """And evaluations, those of selecting the first step among them, where none is repeated."""
    vjps, solution, (evaluations, vjps_on_host) = differentiate_and_count(
        adjoint=adjoint, **options
    )()
    assert vjps == vjps_on_host > 0
    if "controller" not in options:
        assert solution.stats.num_rejected > 0
    if adjoint == "direct":  # keeps what its evaluations leave behind, and repeats none
        assert evaluations == solution.stats.nfe
    elif adjoint == "backsolve":  # two more where z(t0) is compared with z0 by the field there
        assert evaluations - solution.stats.nfe - vjps in (0, 2)
    elif adjoint == "reversible":
        assert evaluations == solution.stats.nfe + vjps


@pytest.mark.slow
def test_per_example_counts_are_those_of_each_example_alone():
    """On the host: alone exactly; together, the whole batch as often as the slowest."""
    run = solve_and_count(rtol=1e-4, atol=1e-4, batching="per_example")
    together, (evaluations, _) = run()
    alone = [run(x=X[i : i + 1]) for i in range(3)]
    nfe = together.stats.nfe.tolist()
    assert [count for _, (count, _) in alone] == nfe
    assert evaluations == max(nfe) > min(nfe)


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", ["direct", "backsolve", "reversible"])
def test_per_example_backward_counts_are_those_of_each_example_alone(adjoint):
    run = differentiate_and_count(rtol=1e-4, atol=1e-4, batching="per_example", adjoint=adjoint)
    for i in range(3):
        vjps, solution, (evaluations, vjps_on_host) = run(x=X[i : i + 1])
        assert vjps[0] == vjps_on_host
        repeated = 0 if adjoint == "direct" else vjps[0]
        looks = evaluations - solution.stats.nfe[0] - repeated
        assert looks in ((0, 2) if adjoint == "backsolve" else (0,))
