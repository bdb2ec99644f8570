"""The learned field of the reference model.

    F(z; x) = GN2(mask * conv3x3(ReLU(GN1(conv3x3(z))) + x))

Normalisation is by groups: batch statistics have no meaning between the steps of a solve.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from homoode_jax.networks.layers import GroupNorm, LoopConv


class Condition(NamedTuple):
    """What the field is conditioned on; constant during a solve.

    Attributes:
        features: output of the encoder.
        dropout: scaled channel-dropout mask, or None where there is no dropout.
    """

    features: Float[Array, "n h w c"]
    dropout: Float[Array, "n 1 1 c"] | None


class Field(nnx.Module):
    """F(z; x); no time input."""

    def __init__(self, channels: int, groups: int, rngs: nnx.Rngs):
        self.conv1 = LoopConv(channels, rngs)
        self.norm1 = GroupNorm(channels, groups)
        self.conv2 = LoopConv(channels, rngs)
        self.norm2 = GroupNorm(channels, groups)

    def __call__(self, z: Float[Array, "n h w c"], x: Condition) -> Float[Array, "n h w c"]:
        """Returns dz/dt."""
        hidden = self.conv2(nnx.relu(self.norm1(self.conv1(z))) + x.features)
        return self.norm2(hidden if x.dropout is None else x.dropout * hidden)


def draw_dropout(
    key: Key[Array, ""], rate: float, features: Float[Array, "n h w c"]
) -> Float[Array, "n 1 1 c"] | None:
    """Draws one channel-dropout mask for a whole solve, scaled by 1/(1 - rate)."""
    if rate == 0:
        return None
    shape = (features.shape[0], 1, 1, features.shape[-1])
    kept = jax.random.bernoulli(key, 1 - rate, shape)
    return jnp.where(kept, 1 / (1 - rate), 0).astype(features.dtype)
