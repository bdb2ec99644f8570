"""The initial point z0: one vector, the same at every pixel and for every input.

It is detached from the task's loss and regressed on the final states by a loss of its own.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from homoode_jax.networks.layers import GroupNorm, uniform_fan_in


class InitialPoint(nnx.Module):
    """conv1x1 (no bias) of a map of ones - GroupNorm.

    A convolution of ones is its kernel, the same at every pixel; one pixel is computed.
    """

    def __init__(self, channels: int, groups: int, rngs: nnx.Rngs):
        self.kernel = nnx.Param(uniform_fan_in(rngs.params(), (1, 1, 1, channels)))
        self.norm = GroupNorm(channels, groups)

    def __call__(self) -> Float[Array, " c"]:
        """Returns z0 at any pixel."""
        return self.norm(self.kernel[...])[0, 0, 0]


def alternating(channels: int) -> Float[Array, " c"]:
    """The fixed initial point: channels alternate -1, +1."""
    return jnp.where(jnp.arange(channels) % 2, 1.0, -1.0)
