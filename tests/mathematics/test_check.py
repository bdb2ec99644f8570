"""`Solution.check`: what it raises, and where it may be called."""

import jax
import jax.numpy as jnp
import pytest

from homoode_jax import equilibrium

PER_EXAMPLE = {"solver": "picard", "batching": "per_example", "max_steps": 20}


def cell(slope, z, x):
    return slope * x * z + 1


def solve(rates, **options):
    x = jnp.array(rates)[:, None]
    return equilibrium(cell, 1.0, jnp.zeros_like(x), x, **options)


def test_a_solution_that_was_found_is_returned():
    solution = solve([0.1, 0.2], **PER_EXAMPLE)
    assert solution.check() is solution


@pytest.mark.parametrize(
    ("rates", "options", "says"),
    [
        ([0.1, 3.0, 0.2], PER_EXAMPLE, r"^1 of 3 solves failed \(examples 1\): max_steps\.$"),
        ([3.0] * 8, PER_EXAMPLE, r"^8 of 8 solves failed \(examples 0, 1, 2, 3, 4, \.\.\.\)"),
        ([3.0], {"solver": "picard", "max_steps": 5}, r"^the solve failed: max_steps\.$"),
    ],
)
def test_a_failure_is_raised_in_one_line(rates, options, says):
    with pytest.raises(RuntimeError, match=says):
        solve(rates, **options).check()


def test_within_jit_it_says_what_to_use():
    with pytest.raises(ValueError, match=r"outside of jit and vmap; inside, use solution\.success"):
        jax.jit(lambda rate: solve([rate], **PER_EXAMPLE).check().z)(0.1)
