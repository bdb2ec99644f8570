"""The learned field of the reference model, which is also the cell of its equilibrium models.

    F(z; x) = GN2(mask * conv3x3(ReLU(GN1(conv3x3(z))) + x))

Without a condition (Neural ODEs, residual blocks) x is absent. Normalisation is by groups: batch
statistics have no meaning between the steps of a solve.
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
        features: output of the encoder, or None for a field that does not see it.
        dropout: scaled channel-dropout mask, or None where there is no dropout.
    """

    features: Float[Array, "n h w m"] | None
    dropout: Float[Array, "n 1 1 c"] | None


class FieldNetwork(nnx.Module):
    """F(z; x), or F(z); no time input.

    Args:
        channels: channels of the state.
        groups: groups of both normalisations.
        rngs: random keys.
        hidden: channels between the convolutions; None: as many as the state has.
    """

    def __init__(self, channels: int, groups: int, rngs: nnx.Rngs, hidden: int | None = None):
        middle = channels if hidden is None else hidden
        self.conv1 = LoopConv(channels, middle, rngs)
        self.norm1 = GroupNorm(middle, groups if hidden is None else _groups(middle, groups))
        self.conv2 = LoopConv(middle, channels, rngs)
        self.norm2 = GroupNorm(channels, groups)

    def __call__(self, z: Float[Array, "n h w c"], x: Condition) -> Float[Array, "n h w c"]:
        """Returns dz/dt, or f(z; x)."""
        hidden = nnx.relu(self.norm1(self.conv1(z)))
        hidden = self.conv2(hidden if x.features is None else hidden + x.features)
        return self.norm2(hidden if x.dropout is None else x.dropout * hidden)


class ResidualBlocks(nnx.Module):
    """z <- z + F_i(z), with weights of its own for each block; no block returns z itself."""

    def __init__(self, channels: int, groups: int, rngs: nnx.Rngs, blocks: int):
        self.blocks = nnx.List([FieldNetwork(channels, groups, rngs) for _ in range(blocks)])

    def __call__(self, z: Float[Array, "n h w c"], x: Condition) -> Float[Array, "n h w c"]:
        """Returns the state after the last block."""
        for block in self.blocks:
            z = z + block(z, x)
        return z


def draw_dropout(
    key: Key[Array, ""], rate: float | Float[Array, ""], z0: Float[Array, "n h w c"]
) -> Float[Array, "n 1 1 c"] | None:
    """Draws one channel-dropout mask for a whole solve from z0, scaled by 1/(1 - rate)."""
    if not isinstance(rate, jax.Array) and rate == 0:
        return None
    shape = (z0.shape[0], 1, 1, z0.shape[-1])
    kept = jax.random.bernoulli(key, 1 - rate, shape)
    return jnp.where(kept, 1 / (1 - rate), 0).astype(z0.dtype)


def _groups(channels: int, most: int) -> int:
    """Returns the most groups (`most` or fewer) of equal size, two channels or more if possible."""
    bound = max(min(most, channels // 2), 1)
    return next(groups for groups in range(bound, 0, -1) if channels % groups == 0)
