"""Convolution against the library's, in every way of differentiating."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from homoode_jax.networks.convolution import LAYOUT, convolve

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


@pytest.mark.quick(3)
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


def test_images_of_low_precision_are_rounded_at_the_end_alone():
    """bfloat16 in and out: right to its last digit, where Winograd's sums in it would not be."""
    z = jnp.asarray(Z, jnp.bfloat16)
    kernel = jnp.asarray(KERNEL, jnp.bfloat16)
    g = jnp.asarray(np.random.default_rng(2).normal(size=(3, 6, 5, 2)), jnp.bfloat16)
    wide = [a.astype(jnp.float64) for a in (z, kernel, g)]

    def both(convolution, z, kernel, g):
        value, pull = jax.vjp(convolution, z, kernel)
        return value, *pull(g)

    for got, want in zip(both(convolve, z, kernel, g), both(library, *wide), strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(got.astype(float), want, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize(("platform", "is_librarys"), [("cpu", 0), ("cuda", 4), ("tpu", 4)])
def test_a_program_has_the_convolution_of_the_platform_that_it_is_lowered_for(
    platform, is_librarys
):
    """The value, twice, and the gradients of images and kernel: convolutions, or products alone."""
    step = jax.jit(lambda z, k: (convolve(z, k), gradients(convolve)(z, k)))
    lowered = step.trace(jnp.array(Z), jnp.array(KERNEL)).lower(lowering_platforms=(platform,))
    program = lowered.as_text()
    assert program.count("stablehlo.convolution") == is_librarys
