"""Convolution and group normalisation against the library's, in every way of differentiating."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from homoode_jax.networks.operations import LAYOUT, convolve, group_norm

Z = np.random.default_rng(0).normal(size=(3, 6, 5, 4))
KERNEL = np.random.default_rng(1).normal(size=(3, 3, 4, 2))


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def library(z, kernel):
    padding = [(1, 1), (1, 1)]
    return lax.conv_general_dilated(z, kernel, (1, 1), padding, dimension_numbers=LAYOUT)


def gradients(convolution):
    return jax.grad(lambda z, k: jnp.sum(jnp.sin(convolution(z, k))), argnums=(0, 1))


def forward_over_reverse(convolution):
    return lambda z, k: jax.jvp(gradients(convolution), (z, k), (z + 1, k - 1))[1]


def reverse_over_reverse(convolution):
    def norm(z, k):
        return sum(jnp.sum(jnp.square(g)) for g in gradients(convolution)(z, k))

    return jax.grad(norm, argnums=(0, 1))


WAYS = {
    "value": lambda c: c,
    "gradient": gradients,
    "tangent": lambda c: lambda z, k: jax.jvp(c, (z, k), (z + 1, k - 1)),
    "images": lambda c: lambda z, k: jax.vmap(gradients(c), (0, None))(jnp.stack([z, z + 1]), k),
    "kernels": lambda c: lambda z, k: jax.vmap(gradients(c), (None, 0))(z, jnp.stack([k, k + 1])),
    "forward over reverse": forward_over_reverse,
    "reverse over reverse": reverse_over_reverse,
}


@pytest.mark.parametrize("way", WAYS)
def test_convolution_is_the_librarys_in_every_way(way):
    ours, theirs = (
        jax.jit(WAYS[way](c))(jnp.array(Z), jnp.array(KERNEL)) for c in (convolve, library)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), ours, theirs
    )


def test_convolution_uses_its_own_gradients_in_loops_on_the_cpu():
    if jax.default_backend() != "cpu":
        pytest.skip("the library's convolution is used on accelerators")
    assert "homoode_convolution" in str(jax.make_jaxpr(gradients(convolve))(Z, KERNEL))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm_is_flaxs(groups):
    scale, bias = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.arange(4.0)
    flax = nnx.GroupNorm(4, num_groups=groups, epsilon=1e-5, rngs=nnx.Rngs(0))
    flax.scale[...], flax.bias[...] = scale, bias
    np.testing.assert_allclose(
        group_norm(jnp.array(Z), scale, bias, groups), flax(jnp.array(Z)), rtol=1e-6, atol=1e-6
    )


def test_group_norm_gradient_is_finite_differences():
    scale, bias, step = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.arange(4.0), 1e-6
    direction = np.random.default_rng(2).normal(size=Z.shape)

    def loss(z):
        return jnp.sum(jnp.sin(group_norm(z, scale, bias, 2)))

    numeric = (loss(Z + step * direction) - loss(Z - step * direction)) / (2 * step)
    np.testing.assert_allclose(
        jnp.vdot(jax.grad(loss)(jnp.array(Z)), direction), numeric, rtol=1e-7
    )
