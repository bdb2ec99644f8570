"""What a member of the family is made of: its module, and how one without a solve is called."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, PyTree

from homoode_jax.mathematics.common.solution import Result, Solution, Stats
from homoode_jax.networks.family import Layer, matched_hidden, state_channels
from homoode_jax.networks.field import FieldNetwork, ResidualBlocks


def make_module(
    layer: Layer, channels: int, width: int, groups: int, rngs: nnx.Rngs
) -> FieldNetwork | ResidualBlocks:
    """Draws F, or the blocks of a layer without a solve."""
    if layer.solve == "once":
        return ResidualBlocks(channels, groups, rngs, layer.blocks)
    hidden = matched_hidden(layer, channels, width)
    return FieldNetwork(state_channels(layer, channels), groups, rngs, hidden)


def call_once(
    function: Callable,
    params: PyTree,
    z0: Array,
    x: PyTree,
    *,
    nfe: int,
    mask: Any = None,
    backward_probe: Any = None,
) -> Solution:
    """Returns function(params, z0, x) as a `Solution`: what a layer without a solve has."""
    del mask, backward_probe
    z = function(params, z0, x)
    result = jnp.where(jnp.all(jnp.isfinite(z)), Result.ok, Result.nonfinite).astype(jnp.int32)
    none = jnp.zeros((), jnp.int32)
    return Solution(z, None, None, result, Stats(none + nfe, none, none))
