"""Memory of a compiled gradient against the number of steps that it takes."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import homoode_jax

BATCH = 4
WIDTH = 64
STEPS = 10, 100, 1000


def field(params, t, z, x):
    return jnp.tanh(z @ params + x) - t * z


@functools.cache
def gradient_in(num_steps, adjoint, batching):
    """Compiled, with its temporary memory in states; takes `num_steps` steps."""

    # A coupling at which a thousand steps can be undone in float32.
    solver = homoode_jax.Reversible(diffrax.Heun(), 0.999) if adjoint == "reversible" else "heun"

    def loss(params, z0, x):
        solution = homoode_jax.integrate(
            field,
            params,
            z0,
            x,
            solver=solver,
            controller="constant",
            dt0=1 / num_steps,
            max_steps=num_steps,
            adjoint=adjoint,
            batching=batching,
        )
        return jnp.sum(solution.z**2), solution.stats.num_steps

    rng = np.random.default_rng(0)
    shapes = (WIDTH, WIDTH), (BATCH, WIDTH), (BATCH, WIDTH)
    inputs = [jnp.asarray(0.1 * rng.normal(size=shape), jnp.float32) for shape in shapes]
    program = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True)).lower(*inputs).compile()
    gradient, steps = program(*inputs)
    assert np.all(steps == num_steps)
    assert all(np.all(np.isfinite(g)) and np.any(g) for g in gradient)
    return program.memory_analysis().temp_size_in_bytes / (4 * BATCH * WIDTH)


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["joint", "per_example"])
@pytest.mark.parametrize(
    "adjoint", ["backsolve", pytest.param("reversible", marks=pytest.mark.slow)]
)
def test_memory_does_not_grow_with_the_steps(adjoint, batching):
    """But for the times at which they ended, two numbers a step."""
    few, more, many = (gradient_in(n, adjoint, batching) for n in STEPS)
    number = 2 * (BATCH if batching == "per_example" else 1) / (BATCH * WIDTH)
    print(f"\n{adjoint}, {batching}: {few:.1f}, {more:.1f}, {many:.1f} states for {STEPS} steps")
    assert more <= 1.01 * few + 100 * number
    assert many <= 1.01 * few + 1000 * number


@pytest.mark.slow
def test_memory_of_checkpointed_grows_as_its_checkpoints_do():
    """Diffrax keeps c of n steps, the least c with (c + 1) (c + 2) / 2 > n: 4, 13 and 44."""
    few, more, many = (gradient_in(n, "checkpointed", "joint") for n in STEPS)
    slopes = (more - few) / (13 - 4), (many - more) / (44 - 13)
    print(f"\n{slopes[0]:.2f} and {slopes[1]:.2f} states a checkpoint")
    assert slopes == pytest.approx((1, 1), abs=0.15)


@pytest.mark.slow
def test_a_given_number_of_checkpoints_bounds_the_memory():
    adjoint = diffrax.RecursiveCheckpointAdjoint(checkpoints=5)
    few, _, many = (gradient_in(n, adjoint, "joint") for n in STEPS)
    assert many <= 1.02 * few


@pytest.mark.slow
def test_one_gradient_of_the_parameters_for_all_examples():
    """Held for each of 4 examples, that of 16 states would be 48 states more, in each stage."""
    joint, alone = (gradient_in(10, "backsolve", batching) for batching in ("joint", "per_example"))
    assert alone <= joint + 16
