"""The initial point z0 of a state, from nothing, from past final states, or from the features.

    alternating   channels alternate -1, +1
    learned       one vector, the same at every pixel and for every input
    huber         the running Huber centre of z(1) in each channel
    predicted     GN(conv1x1(x)): a prediction of z(1) from the features

All are detached from the task's loss. "learned" and "predicted" are regressed on z(1) by a loss
of their own, smooth L1, whose minimum over single vectors is the centre that "huber" follows.
"""

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from homoode_jax.networks.layers import GroupNorm, conv, uniform_fan_in

KINDS = ("learned", "alternating", "huber", "predicted")
REGRESSED = ("learned", "predicted")
NEWEST = 0.1  # weight of the newest batch in the running centre


class InitialPoint(nnx.Module):
    """conv1x1 (no bias) of a map of ones - GroupNorm.

    A convolution of ones is its kernel, the same at every pixel; one pixel is computed.
    """

    def __init__(self, channels: int, groups: int, rngs: nnx.Rngs):
        self.kernel = nnx.Param(uniform_fan_in(rngs.params(), (1, 1, 1, channels)))
        self.norm = GroupNorm(channels, groups)

    def __call__(self, features: Float[Array, "n h w c"]) -> Float[Array, " c"]:
        """Returns z0 at any pixel."""
        del features
        return self.norm(self.kernel[...])[0, 0, 0]


class Centre(nnx.Module):
    """The running centre of z(1); it begins as the alternating point."""

    def __init__(self, channels: int, groups: int, rngs: nnx.Rngs):
        del groups, rngs
        self.centre = nnx.Param(alternating(channels))

    def __call__(self, features: Float[Array, "n h w c"]) -> Float[Array, " c"]:
        """Returns z0 at any pixel."""
        del features
        return self.centre[...]


class Predictor(nnx.Module):
    """conv1x1 - GroupNorm of the features."""

    def __init__(self, channels: int, groups: int, rngs: nnx.Rngs):
        self.conv = conv(channels, channels, 1, rngs)
        self.norm = GroupNorm(channels, groups)

    def __call__(self, features: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Returns z0."""
        return self.norm(self.conv(features))


MODULES = {"learned": InitialPoint, "huber": Centre, "predicted": Predictor}


def alternating(channels: int) -> Float[Array, " c"]:
    """Returns the fixed initial point: channels alternate -1, +1."""
    return jnp.where(jnp.arange(channels) % 2, 1.0, -1.0)


def move_centre(
    centre: Float[Array, " c"], z1: Float[Array, "n h w c"], counts: Bool[Array, " n"]
) -> Float[Array, " c"]:
    """Moves a running Huber centre towards that of the rows in `counts`.

    The batch's centre m solves mean(clip(z - m, -1, 1)) = 0. One Newton step leads from the running
    centre towards it; a tenth of that step is taken.
    """
    apart = lax.stop_gradient(z1) - centre
    rows = counts[:, None, None, None]
    pull = jnp.sum(jnp.where(rows, jnp.clip(apart, -1, 1), 0), axis=(0, 1, 2))
    inside = jnp.sum(rows & (jnp.abs(apart) < 1), axis=(0, 1, 2))
    total = jnp.maximum(jnp.sum(counts) * z1.shape[1] * z1.shape[2], 1)
    # Where few lie inside, Newton's step is far too long: ten gradient steps are the most.
    return centre + NEWEST * pull / jnp.maximum(inside, 0.1 * total)
