"""What is called found: no iterate that runs away, no path that ends far off, no time that is none.

Beside closed forms; cells are scalar, so that the truth is a line of Python.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from homoode_jax import Result, continuation, equilibrium
from homoode_jax.mathematics.cells.vectors import norm

# f(z), f(z) - z in float64, and the start. The first four have no root.
RUNAWAYS = {
    "constant": (lambda z: z + 1, lambda z: 1.0, 0.0),
    "softened": (lambda z: z + 1 / (1 + z**2), lambda z: 1 / (1 + z**2), 0.0),
    "kinked": (lambda z: z + jax.nn.relu(z) + 0.1, lambda z: max(z, 0) + 0.1, -1.0),
    "sigmoid": (lambda z: z + jax.nn.sigmoid(z) + 0.01, lambda z: 0.01, 8.0),
    "exponential": (lambda z: z - jnp.exp(z) + 3, lambda z: 3 - math.exp(min(z, 80)), -5.0),
    "tanh": (lambda z: z + jnp.tanh(z), math.tanh, -5.0),
}
SOLVERS = ["anderson", "broyden", "picard", "ode", "newton", optx.Newton(1e-6, 1e-6)]


def chosen(params, z, x):
    """One of the runaways, by the index in x."""
    del params
    return jax.vmap(lambda i, z: jax.lax.switch(i, [f for f, _, _ in RUNAWAYS.values()], z))(x, z)


@functools.cache
def outcomes(solver):
    x = jnp.arange(len(RUNAWAYS))
    z0 = jnp.array([[start] for _, _, start in RUNAWAYS.values()])
    options = {"batching": "per_example", "max_steps": 120}
    return jax.jit(lambda z0, x: equilibrium(chosen, None, z0, x, solver=solver, **options))(z0, x)


@pytest.mark.quick(3)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s if isinstance(s, str) else "optimistix")
def test_an_iterate_that_runs_away_is_not_found(solver):
    solution = outcomes(solver)
    for i, (name, (_, gap, _)) in enumerate(RUNAWAYS.items()):
        z = float(solution.z[i, 0])
        if solution.result[i] == Result.ok:
            assert abs(gap(z)) <= 1.01e-5 * max(abs(z), 1e-3) and abs(gap(z)) < 1e-3, (name, z)
    assert solution.result[0] != Result.ok


def test_what_only_seems_to_converge_says_so():
    """In float32 z + 1 is z itself beyond 2^24: a residual of exactly 0."""
    cell = lambda p, z, x: z + 2.0 ** jnp.ceil(jnp.log2(jnp.abs(z) + 2))  # noqa: E731
    far = lambda p, z, x: z + 1  # noqa: E731
    doubling = jax.jit(lambda z: equilibrium(cell, None, z, None, solver="picard"))(
        jnp.ones((1, 1))
    )
    assert doubling.result != Result.ok
    jump = lambda p, z, x: jnp.where(jnp.abs(z) < 1, 1e9, far(p, z, x))  # noqa: E731
    gone = jax.jit(lambda z: equilibrium(jump, None, z, None, solver="picard"))(
        jnp.zeros((1, 1)) + 0.5
    )
    assert gone.result == Result.unbounded_path and gone.stats.num_steps <= 3


@pytest.mark.quick(2)
@pytest.mark.parametrize("root", [1e-9, 1.0, 1e3, 1e6])
def test_a_root_far_from_the_start_is_found_for_a_look_or_two(root):
    """f = root + (z - root) / 2 from 1e-3, float32; near roots take no look."""

    @jax.jit
    def solve(root):
        cell = lambda p, z, x: p + 0.5 * (z - p)  # noqa: E731
        return equilibrium(cell, root, jnp.full((1, 2), 1e-3), None, solver="picard", tol=1e-4)

    solution = solve(root)
    assert solution.success
    assert abs(solution.z[0, 0] - root) <= 2e-4 * max(root, 1e-6)
    looks = int(solution.stats.nfe - 1 - solution.stats.num_steps)
    assert 0 <= looks <= 3 and (looks == 0) == (root <= 1)


@pytest.mark.parametrize("cell", ["no root", "root at 2000"])
def test_a_path_ends_far_off_only_at_a_root(cell):
    """z + 1 along arc length at a tolerance of 1e-3 came to rest at 1,963."""
    slope = 1.0 if cell == "no root" else 1 - 1 / 2000
    solution = jax.jit(
        lambda p: continuation(
            lambda p, z, x: p * z + 1, p, jnp.zeros((1, 1)), None, path="arclength", rtol=1e-3
        )
    )(slope)
    assert (solution.result == Result.ok) == (cell != "no root")
    if cell != "no root":
        assert abs(solution.z[0, 0] / 2000 - 1) < 2e-3


@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_squares_beyond_float32_decide_nothing(batching):
    """z = 0.3 z + x at scales whose squares are 0 or infinite in float32; z* = x / 0.7."""
    scales = jnp.array([1e-36, 1e-30, 1e-20, 1.0, 1e20, 1e30], jnp.float32)
    solve = jax.jit(
        lambda x: equilibrium(
            lambda params, z, x: 0.3 * z + x, None, 0 * x, x, solver="picard", batching=batching
        )
    )
    for scale in scales:
        x = scale * jnp.array([[1.0, -0.5], [0.2, 3.0]], jnp.float32)
        solution = solve(x)
        if scale < 1e-35:  # what is left of 1e-36 between roundings is no number any more
            assert np.all(solution.result != Result.ok)
            continue
        assert np.all(solution.result == Result.ok)
        np.testing.assert_allclose(solution.z, np.float64(x) / 0.7, rtol=1e-4)


@pytest.mark.quick(1)
@pytest.mark.parametrize("solver", ["anderson", "broyden", "newton"])
def test_an_iterate_outside_the_domain_is_drawn_back(solver):
    """f = 3 sqrt(z) - 1.9, which plain iteration leaves below: roots 0.825 and 4.368."""
    cell = lambda p, z, x: 3 * jnp.sqrt(z) - p  # noqa: E731
    solve = jax.jit(lambda z: equilibrium(cell, 1.9, z, None, solver=solver, max_steps=100))
    solution = solve(jnp.full((1, 1), 0.42))
    roots = [((3 + sign * math.sqrt(9 - 7.6)) / 2) ** 2 for sign in (-1, 1)]
    assert solution.success
    assert min(abs(float(solution.z[0, 0]) - root) for root in roots) < 1e-3


@pytest.mark.quick(1)
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 3.0])
def test_a_schedule_may_start_flat(power):
    """lam = t^power, and one that stands still for its first half: the root of 'linear'."""

    @jax.jit
    def solve(x):
        schedule = lambda t: jnp.clip((t - 0.25 * (power == 3)) / 0.75, 0, 1) ** power  # noqa: E731
        schedule = schedule if power == 3 else lambda t: t**power
        return continuation(lambda p, z, x: 0.5 * z + x, None, 0 * x, x, schedule=schedule)

    solution = solve(jnp.full((1, 2), 3.0))
    assert solution.success and solution.stats.lam == 1
    np.testing.assert_allclose(solution.z, 6.0, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_norm_holds_over_the_whole_range_of_a_dtype(dtype):
    """From a thousand times the smallest normal number to half the largest one."""
    limits = np.finfo(dtype)
    with jax.enable_x64(dtype == "float64"):
        # XLA divides by reciprocals in some programs and not in others.
        for size in np.geomspace(float(limits.tiny) * 1e3, float(limits.max) / 2, 41):
            v = jnp.array([0.5, -1.0, 0.25, 0.0], dtype) * jnp.asarray(size, dtype)
            expected = size * np.sqrt((0.25 + 1 + 0.0625) / 4)
            for measure in (norm, jax.jit(norm)):
                np.testing.assert_allclose(measure(v), expected, rtol=1e-5)
