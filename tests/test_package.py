"""The package as it is imported: late, and right wherever its first name is used."""

import subprocess
import sys

import homoode_jax
from homoode_jax.mathematics import public

FIRST_USE = """
import sys
import homoode_jax
assert "jax" not in sys.modules
import jax, jax.numpy as jnp

@jax.jit
def solve(x):
    cell = lambda a, z, x: jnp.tanh(a * z + x)
    return homoode_jax.equilibrium(cell, 0.5, jnp.zeros_like(x), x).z

first = solve(jnp.ones((2, 3)))
again = homoode_jax.equilibrium(lambda a, z, x: jnp.tanh(a * z + x), 0.5, first, jnp.ones((2, 3))).z
assert jnp.allclose(first, again, atol=1e-4)
gradient = jax.grad(lambda x: solve(x).sum())(jnp.ones((2, 3)))
assert bool(jnp.isfinite(gradient).all())
"""


def test_public_names_are_those_of_the_mathematics():
    assert homoode_jax.__all__ == public.__all__
    for name in public.__all__:
        assert getattr(homoode_jax, name) is getattr(public, name)
    assert set(public.__all__) <= set(dir(homoode_jax))


def test_the_first_use_may_be_in_a_traced_function():
    done = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
