"""Group normalisation against Flax's, and its gradient against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from homoode_jax.networks.normalisation import group_norm

Z = np.random.default_rng(0).normal(size=(3, 6, 5, 4))


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm_is_flaxs(groups):
    scale = jnp.array([1.0, 2.0, 3.0, 4.0])
    bias = jnp.arange(4.0)
    flax = nnx.GroupNorm(4, num_groups=groups, epsilon=1e-5, rngs=nnx.Rngs(0))
    flax.scale[...], flax.bias[...] = scale, bias
    np.testing.assert_allclose(
        group_norm(jnp.array(Z), scale, bias, groups), flax(jnp.array(Z)), rtol=1e-6, atol=1e-6
    )


def test_group_norm_gradient_is_finite_differences():
    scale = jnp.array([1.0, 2.0, 3.0, 4.0])
    bias = jnp.arange(4.0)
    step = 1e-6
    direction = np.random.default_rng(2).normal(size=Z.shape)

    def loss(z):
        return jnp.sum(jnp.sin(group_norm(z, scale, bias, 2)))

    z = jnp.array(Z)
    numeric = (loss(z + step * direction) - loss(z - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.vdot(jax.grad(loss)(z), direction), numeric, rtol=1e-7)
