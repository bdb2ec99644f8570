"""The mathematics floor needs nothing that belongs to the floors above."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
for name in ("flax", "optax", "orbax", "ml_collections", "tensorflow", "matplotlib", "rich"):
    sys.modules[name] = None  # importing it raises ImportError

import jax
import jax.numpy as jnp
import homoode_jax

cell = lambda a, z, x: jnp.tanh(a * z) + x
field = lambda a, t, z, x: cell(a, z, x) - z
z0, x = jnp.zeros((2, 3)), jnp.ones((2, 3))

def loss(a):
    states = (
        homoode_jax.equilibrium(cell, a, z0, x).z,
        homoode_jax.continuation(cell, a, z0, x).z,
        homoode_jax.integrate(field, a, z0, x, t1=30.0).z,
    )
    return sum(jnp.sum(z) for z in states), states

(gradient, states) = jax.grad(loss, has_aux=True)(0.5)
assert all(jnp.allclose(z, states[0], atol=1e-2) for z in states), states
assert jnp.isfinite(gradient) and gradient > 0
import homoode_jax.equinox
layer = homoode_jax.equinox.DEQ(lambda z, x: cell(0.5, z, x), batched=True)
assert jnp.allclose(layer(x), states[0], atol=1e-2)
for framework in ("nnx", "linen"):
    try:
        __import__(f"homoode_jax.{framework}")
    except ImportError as error:
        assert "pip install 'homoode-jax[train]'" in str(error), error
    else:
        raise SystemExit(f"{framework} was imported without Flax")
homoode_jax.audit.residual(cell, 0.5, states[0], x)
homoode_jax.regularisers.jacobian_norm(cell, 0.5, states[0], x, jax.random.key(0))
"""


@pytest.mark.slow
def test_the_core_imports_and_runs_without_flax_optax_and_orbax():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
