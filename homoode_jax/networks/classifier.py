"""The image classifier: encoder, start, layer of the family, head.

NNX ends here: above and below, parameters and batch statistics are plain dicts of arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Key, PyTree

from homoode_jax.mathematics.common.solution import Solution
from homoode_jax.mathematics.regularisers import jacobian_norm, with_kinetic_energy
from homoode_jax.networks.convolution import PRIMITIVE
from homoode_jax.networks.encoder import Encoder
from homoode_jax.networks.family import LAYERS, state_channels
from homoode_jax.networks.field import Condition, draw_dropout
from homoode_jax.networks.head import Head
from homoode_jax.networks.initial_point import MODULES, alternating
from homoode_jax.networks.member import make_module


@dataclass(frozen=True)
class Architecture:
    """Sizes of an `ImageClassifier`.

    Attributes:
        image_channels: 1 for grey images, 3 for colour.
        classes: number of classes.
        channels: channels C of condition and state.
        width: width D of the head.
        groups: the most groups of a GroupNorm; C channels have min(groups, C).
        stride: stride of the encoder's first convolution.
        dropout: rate of the field's channel dropout.
        layer: a key of `family.LAYERS`.
        initial_point: one of `initial_point.KINDS`, for layers that start at a point.
        field_dtype: precision that the field is evaluated in, "bfloat16" say; None: that of the
            weights. States, error norms and gradients keep theirs.
    """

    image_channels: int
    classes: int
    channels: int = 64
    width: int = 256
    groups: int = 32
    stride: int = 1
    dropout: float = 0.1
    layer: str = "homoode"
    initial_point: str = "learned"
    field_dtype: str | None = None


class Weights(NamedTuple):
    """Everything that a classifier learns, as plain dicts of arrays."""

    network: PyTree[Array]
    initial_point: PyTree[Array]
    batch_stats: PyTree[Array]


class Output(NamedTuple):
    """Result of a forward pass.

    Attributes:
        logits: scores of the classes.
        solution: outcome of the solve; its `z` is what the head read.
        batch_stats: running statistics after this batch (unchanged in evaluation).
        features: output of the encoder.
        penalty: the regulariser's term of the loss, before its weight.
    """

    logits: Float[Array, "n classes"]
    solution: Solution
    batch_stats: PyTree[Array]
    features: Float[Array, "n h w c"]
    penalty: Float[Array, ""]


class Network(nnx.Module):
    """Encoder, field (or cell, or residual blocks) and head: all that the task's loss trains."""

    def __init__(self, sizes: Architecture, rngs: nnx.Rngs):
        c = sizes.channels
        groups = min(sizes.groups, sizes.channels)
        layer = LAYERS[sizes.layer]
        self.encoder = Encoder(sizes.image_channels, c, sizes.stride, rngs)
        self.field = make_module(layer, c, sizes.width, groups, rngs)
        self.head = Head(state_channels(layer, c), sizes.width, sizes.classes, groups, rngs)


class ImageClassifier:
    """Pure functions of `Weights`, for one architecture.

    Args:
        sizes: the architecture.
        solve: the function that `family.LAYERS` names, with its options bound, as
            `functools.partial` does.
        regulariser: "kinetic" (for ODEs: mean energy of the paths), "jacobian" (for equilibria:
            mean square size of the cell's Jacobian there, or where a failed solve ended) or None.
    """

    def __init__(
        self,
        sizes: Architecture,
        solve: Callable[..., Solution],
        regulariser: str | None = None,
    ):
        self.sizes = sizes
        self.layer = LAYERS[sizes.layer]
        self.solve = solve
        self.regulariser = regulariser
        network = nnx.eval_shape(lambda: self._make_network(0))
        self._network, *_ = nnx.split(network, nnx.Param, nnx.BatchStat)
        module = MODULES.get(sizes.initial_point) if self.layer.has_point else None
        self._make_point = module and self._drawn(module)
        if self._make_point:
            self._point, _ = nnx.split(nnx.eval_shape(partial(self._make_point, 0)))

    def init(self, key: Key[Array, ""]) -> Weights:
        """Draws initial weights."""
        keys = jax.random.split(key)
        _, network, stats = nnx.split(self._make_network(keys[0]), nnx.Param, nnx.BatchStat)
        point = nnx.split(self._make_point(keys[1]))[1] if self._make_point else nnx.State({})
        return Weights(*map(nnx.to_pure_dict, (network, point, stats)))

    def initial_point(
        self, params: PyTree[Array], features: Float[Array, "n h w c"]
    ) -> Float[Array, " c"] | Float[Array, "n h w c"]:
        """Returns z0, by channel or in full; `params` is `Weights.initial_point`."""
        if not self._make_point:
            return alternating(self.sizes.channels).astype(features.dtype)
        return nnx.merge(self._point, params)(features)

    def __call__(
        self,
        weights: Weights,
        images: Float[Array, "n H W i"],
        *,
        key: Key[Array, ""] | None = None,
        dropout: float | Float[Array, ""] | None = None,
        mask: Bool[Array, " n"] | None = None,
        backward_probe: float | Float[Array, "*batch"] = 0.0,
        options: dict[str, Any] | None = None,
    ) -> Output:
        """Classifies a batch.

        Args:
            weights: from `init`.
            images: normalised images.
            key: draws dropout and selects training mode (batch statistics); None: evaluation.
            dropout: rate of the field's channel dropout in training; None: the architecture's.
            mask: False for rows that are padding.
            backward_probe: as `integrate` has it.
            options: further options of the solve, in place of those bound.
        """
        network: Any = nnx.merge(self._network, weights.network, weights.batch_stats)
        network.eval() if key is None else network.train()
        features = network.encoder(images)
        z0 = self._start(weights.initial_point, features)
        rate = self.sizes.dropout if dropout is None else dropout
        kept = None if key is None else draw_dropout(key, rate, z0)
        x = Condition(features if self.layer.has_point else None, kept)
        options = {"mask": mask, "backward_probe": backward_probe, **(options or {})}
        solution, penalty = self._solve(network.field, z0, x, key, options)
        logits = network.head(solution.z, _rows_for_statistics(solution.success))
        stats = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
        return Output(logits, solution, stats, features, penalty)

    def function(
        self, weights: Weights
    ) -> tuple[Callable[..., Float[Array, "n h w c"]], PyTree[Array]]:
        """Returns F as function(params, z, x), `x` a `Condition`, and its params."""
        network: Any = nnx.merge(self._network, weights.network, weights.batch_stats)
        return self._as_function(network.field)

    def read_out(self, weights: Weights, z: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        """Returns the head's logits of any states, in evaluation mode."""
        network: Any = nnx.merge(self._network, weights.network, weights.batch_stats)
        network.eval()
        return network.head(z)

    def _start(self, params: PyTree[Array], features: Float[Array, "n h w c"]):
        if self.layer.start == "features":
            return features
        if self.layer.start == "augmented":
            return jnp.concatenate([features, jnp.zeros_like(features)], axis=-1)
        z0 = self.initial_point(params, lax.stop_gradient(features))
        z0 = jnp.broadcast_to(z0, features.shape)
        return lax.stop_gradient(z0).astype(features.dtype)

    def _solve(self, module, z0, x: Condition, key, options) -> tuple[Solution, Float[Array, ""]]:
        """Returns the solution, and the regulariser's term (none in evaluation)."""
        function, params = self._as_function(module)
        regulariser = key is not None and self.regulariser
        none = jnp.zeros((), z0.dtype)
        if self.layer.solve != "integrate":
            solution = self._solve_cell(function, params, z0, x, options)
            if key is None or regulariser != "jacobian":
                return solution, none
            signs = jax.random.fold_in(key, 1)  # the key itself drew the dropout
            norm = jacobian_norm(function, params, solution.z, x, signs)
            return solution, norm.astype(none.dtype)

        field = as_field(function)
        if regulariser != "kinetic":
            return self.solve(field, params, z0, x, **options), none
        moving, start = with_kinetic_energy(field, z0)
        solution = self.solve(moving, params, start, x, **options)
        z, energy = solution.z
        return solution._replace(z=z), jnp.mean(energy)

    def _solve_cell(self, cell, params, z0, x: Condition, options) -> Solution:
        if self.layer.start != "image":
            return self.solve(cell, params, z0, x, **options)
        start = lax.stop_gradient(cell(params, z0, x))
        solution = self.solve(cell, params, start, x, **options)
        stats = solution.stats
        return solution._replace(stats=stats._replace(nfe=stats.nfe + 1))

    def _as_function(self, module) -> tuple[Callable, PyTree[Array]]:
        graph, params = nnx.split(module)

        def function(params, z, x):
            dtype = self.sizes.field_dtype or z.dtype
            inputs = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, z, x))
            return nnx.merge(graph, inputs[0])(*inputs[1:]).astype(z.dtype)

        return function, nnx.to_pure_dict(params)

    def _make_network(self, seed) -> Network:
        return Network(self.sizes, nnx.Rngs(seed))

    def _drawn(self, module: Callable) -> Callable[[Any], nnx.Module]:
        channels = self.sizes.channels
        groups = min(self.sizes.groups, self.sizes.channels)
        return lambda seed: module(channels, groups, nnx.Rngs(seed))


def as_field(function: Callable[..., Array]) -> Callable[..., Array]:
    """Returns a function of (params, z, x) as the field(params, t, z, x) of an ODE.

    Backpropagation keeps the outputs of its convolutions, and computes the rest anew.
    """

    @partial(jax.checkpoint, policy=_is_convolution, prevent_cse=False)
    def field(params, t, z, x):
        del t
        return function(params, z, x)

    return field


def _is_convolution(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in (PRIMITIVE, "conv_general_dilated")


def _rows_for_statistics(success: Bool[Array, "*batch"]) -> Bool[Array, "n 1 1 1"] | None:
    """Returns the rows whose states enter batch statistics: those solved, or all if none was."""
    if success.ndim == 0:
        return None
    return (success | ~jnp.any(success))[:, None, None, None]
