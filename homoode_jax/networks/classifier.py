"""The image classifier: encoder, initial point, solve, head.

NNX ends here: above and below, parameters and batch statistics are plain dicts of arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Key, PyTree

from homoode_jax.mathematics.solution import Solution
from homoode_jax.networks.convolution import PRIMITIVE
from homoode_jax.networks.encoder import Encoder
from homoode_jax.networks.field import Condition, Field, draw_dropout
from homoode_jax.networks.head import Head
from homoode_jax.networks.initial_point import InitialPoint, alternating


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
        learned_initial_point: else channels alternate -1, +1.
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
    learned_initial_point: bool = True
    field_dtype: str | None = None


class Weights(NamedTuple):
    """Everything that a classifier learns, as plain dicts of arrays."""

    network: PyTree[Array]
    initial_point: PyTree[Array]
    batch_stats: PyTree[Array]


class Output(NamedTuple):
    """What a forward pass gives.

    Attributes:
        logits: scores of the classes.
        solution: outcome of the solve; its `z` is what the head read.
        batch_stats: running statistics after this batch (unchanged in evaluation).
    """

    logits: Float[Array, "n classes"]
    solution: Solution
    batch_stats: PyTree[Array]


class Network(nnx.Module):
    """Encoder, field and head: all that the task's loss trains."""

    def __init__(self, sizes: Architecture, rngs: nnx.Rngs):
        c, groups = sizes.channels, min(sizes.groups, sizes.channels)
        self.encoder = Encoder(sizes.image_channels, c, sizes.stride, rngs)
        self.field = Field(c, groups, rngs)
        self.head = Head(c, sizes.width, sizes.classes, groups, rngs)


class ImageClassifier:
    """Pure functions of `Weights` for one architecture.

    Args:
        sizes: the architecture.
        solve: `integrate` with its options bound, as `functools.partial` does.
    """

    def __init__(self, sizes: Architecture, solve: Callable[..., Solution]):
        self.sizes = sizes
        self.solve = solve
        network = nnx.eval_shape(lambda: self._make_network(0))
        self._network, *_ = nnx.split(network, nnx.Param, nnx.BatchStat)
        self._point, _ = nnx.split(nnx.eval_shape(lambda: self._make_point(0)))

    def init(self, key: Key[Array, ""]) -> Weights:
        """Draws initial weights."""
        keys = jax.random.split(key)
        _, network, stats = nnx.split(self._make_network(keys[0]), nnx.Param, nnx.BatchStat)
        _, point = nnx.split(self._make_point(keys[1]))
        network, stats, point = map(nnx.to_pure_dict, (network, stats, point))
        return Weights(network, point if self.sizes.learned_initial_point else {}, stats)

    def initial_point(self, params: PyTree[Array]) -> Float[Array, " c"]:
        """Returns z0 at any pixel; `params` is `Weights.initial_point`."""
        if not self.sizes.learned_initial_point:
            return alternating(self.sizes.channels)
        return nnx.merge(self._point, params)()

    def __call__(
        self,
        weights: Weights,
        images: Float[Array, "n H W i"],
        *,
        key: Key[Array, ""] | None = None,
        mask: Bool[Array, " n"] | None = None,
        backward_probe: float | Float[Array, "*batch"] = 0.0,
    ) -> Output:
        """Classifies a batch.

        Args:
            weights: from `init`.
            images: normalised images.
            key: draws dropout and selects training mode (batch statistics); None: evaluation.
            mask: False for rows that are padding.
            backward_probe: as `integrate` has it.
        """
        network: Any = nnx.merge(self._network, weights.network, weights.batch_stats)
        network.eval() if key is None else network.train()
        features = network.encoder(images)
        dropout = None if key is None else draw_dropout(key, self.sizes.dropout, features)
        z0 = jnp.broadcast_to(self.initial_point(weights.initial_point), features.shape)
        solution = self._solve(
            network.field, lax.stop_gradient(z0).astype(features.dtype),
            Condition(features, dropout), mask=mask, backward_probe=backward_probe,
        )  # fmt: skip
        logits = network.head(solution.z, _rows_for_statistics(solution.success))
        stats = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
        return Output(logits, solution, stats)

    def _solve(self, module: Field, z0, x: Condition, **options) -> Solution:
        graph, params = nnx.split(module)
        dtype = self.sizes.field_dtype or z0.dtype

        def field(params, t, z, x):
            del t
            inputs = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, z, x))
            return nnx.merge(graph, inputs[0])(*inputs[1:]).astype(z.dtype)

        # Backpropagation keeps the outputs of convolutions, and computes the rest anew.
        field = jax.checkpoint(field, policy=_is_convolution, prevent_cse=False)
        return self.solve(field, nnx.to_pure_dict(params), z0, x, **options)

    def _make_network(self, seed) -> Network:
        return Network(self.sizes, nnx.Rngs(seed))

    def _make_point(self, seed) -> InitialPoint:
        groups = min(self.sizes.groups, self.sizes.channels)
        return InitialPoint(self.sizes.channels, groups, nnx.Rngs(seed))


def _is_convolution(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in (PRIMITIVE, "conv_general_dilated")


def _rows_for_statistics(success: Bool[Array, "*batch"]) -> Bool[Array, "n 1 1 1"] | None:
    """Rows whose states may enter batch statistics: those solved, or all where none was."""
    if success.ndim == 0:
        return None
    return (success | ~jnp.any(success))[:, None, None, None]
