"""Layers with PyTorch's default initialisation, which the reference model was trained from.

Kernels and biases are uniform on +-1/sqrt(fan_in).
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from homoode_jax.networks.convolution import convolve
from homoode_jax.networks.normalisation import group_norm

uniform_fan_in = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def uniform_bias(fan_in: int):
    """Returns an initialiser that draws a bias uniformly from +-1/sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def conv(inputs: int, outputs: int, size: int, rngs: nnx.Rngs, stride: int = 1) -> nnx.Conv:
    """Returns a square convolution with bias and zero padding of size // 2."""
    padding = ((size // 2, size // 2),) * 2
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding=padding,
        rngs=rngs,
        kernel_init=uniform_fan_in,
        bias_init=uniform_bias(inputs * size**2),
    )


def linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a linear layer with bias."""
    return nnx.Linear(
        inputs, outputs, rngs=rngs, kernel_init=uniform_fan_in, bias_init=uniform_bias(inputs)
    )


def batch_norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Returns a batch normalisation whose running statistics keep 0.9 of their past."""
    return nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)


class LoopConv(nnx.Module):
    """A 3x3 convolution with bias, for use inside a solver's loop."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
        shape = (3, 3, inputs, outputs)
        self.kernel = nnx.Param(uniform_fan_in(rngs.params(), shape))
        self.bias = nnx.Param(uniform_bias(9 * inputs)(rngs.params(), (outputs,)))

    def __call__(self, z: Float[Array, "n h w c"]) -> Float[Array, "n h w outputs"]:
        """Returns the convolution of `z`."""
        return convolve(z, self.kernel[...]) + self.bias[...]


class GroupNorm(nnx.Module):
    """Group normalisation with an affine map, for use inside a solver's loop."""

    def __init__(self, channels: int, groups: int):
        self.groups = groups
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, z: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Returns the normalised `z`."""
        return group_norm(z, self.scale[...], self.bias[...], self.groups)
