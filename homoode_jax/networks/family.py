"""The family: how each layer makes the state that the head reads from the features x.

    homoode                dz/dt = F(z; x), z(0) = z0
    neural_ode             dz/dt = F(z),    z(0) = x
    augmented_neural_ode   dz/dt = F(z),    z(0) = [x, 0]
    deq                    z = F(z; x), by an iteration from z0
    continuation           z = F(z; x), along a homotopy from F(z0; x)
    continuous_deq         z = F(z; x), as the steady state of dz/dt = F(z; x) - z
    euler                  z0 + F(z0; x)
    none                   x
    resnet                 x, then z <- z + F_i(z) six times

All have the same module F, so that they differ in nothing else. The augmented state has twice the
channels; its F is narrower within, so that it has about as many parameters. `continuation` starts
at F(z0; x), from where the homotopy takes a fifth of the evaluations that it takes from z0
(results/starts.json): z0 is the same at every pixel, normalisation makes F steep there, and at
initial weights its Jacobian has eigenvalues above 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, PyTree

from homoode_jax.mathematics.common.solution import Result, Solution, Stats
from homoode_jax.networks.field import FieldNetwork, ResidualBlocks


class Layer(NamedTuple):
    """How a layer makes its state.

    Attributes:
        solve: the public function that runs it, or "once": its module is called once.
        start: where its state begins: "point" (z0), "image" (F(z0; x)), "features" (x), or
            "augmented" (x and as many zeros).
        blocks: residual blocks, where there is no solve.
    """

    solve: str
    start: str
    blocks: int = 0

    @property
    def has_point(self) -> bool:
        """Returns whether it starts from z0, and its module sees x as a condition."""
        return self.start in ("point", "image")


LAYERS = {
    "homoode": Layer("integrate", "point"),
    "neural_ode": Layer("integrate", "features"),
    "augmented_neural_ode": Layer("integrate", "augmented"),
    "deq": Layer("equilibrium", "point"),
    "continuation": Layer("continuation", "image"),
    "continuous_deq": Layer("equilibrium", "point"),
    "euler": Layer("integrate", "point"),
    "none": Layer("once", "features"),
    "resnet": Layer("once", "features", blocks=6),
}


def state_channels(layer: Layer, channels: int) -> int:
    """Returns the number of channels of the state."""
    return 2 * channels if layer.start == "augmented" else channels


def matched_hidden(layer: Layer, channels: int, width: int) -> int | None:
    """Returns the channels within F that give field and head of the augmented state HomoODE's size.

    With c channels and k = 2c: (18 k + 3) m + 3 k = 18 c^2 + 6 c - (k - c) (width + 2), where
    the last term is what the head of a wider state has more. None: as many as the state has.
    """
    if layer.start != "augmented":
        return None
    k = state_channels(layer, channels)
    budget = 18 * channels**2 + 6 * channels - (k - channels) * (width + 2)
    return max(round((budget - 3 * k) / (18 * k + 3)), 1)


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
