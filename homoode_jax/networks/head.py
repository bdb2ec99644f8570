"""The head: final state to logits."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from homoode_jax.networks.layers import GroupNorm, batch_norm, conv, linear


class Head(nnx.Module):
    """GroupNorm - ReLU - conv1x1 - BatchNorm - ReLU - global average pool - linear."""

    def __init__(self, channels: int, width: int, classes: int, groups: int, rngs: nnx.Rngs):
        self.norm1 = GroupNorm(channels, groups)
        self.conv = conv(channels, width, 1, rngs)
        self.norm2 = batch_norm(width, rngs)
        self.linear = linear(width, classes, rngs)

    def __call__(
        self, z: Float[Array, "n h w c"], rows: Bool[Array, "n 1 1 1"] | None = None
    ) -> Float[Array, "n classes"]:
        """Returns the logits; batch statistics are over `rows`, or all."""
        hidden = nnx.relu(self.norm2(self.conv(nnx.relu(self.norm1(z))), mask=rows))
        return self.linear(jnp.mean(hidden, axis=(1, 2)))
