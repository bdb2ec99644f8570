"""Optimisers: AdamW with cosine decay for the network, SGD of its own for the initial point.

The initial point's rate is constant, as it is in the paper's code.
"""

from typing import NamedTuple

import jax
import optax
from jaxtyping import PyTree

from homoode_jax.experiments.hyperparameters import Hyperparameters, rate_at


class Optimisers(NamedTuple):
    """One for each group of weights."""

    network: optax.GradientTransformation
    initial_point: optax.GradientTransformation


def make_optimisers(hyper: Hyperparameters) -> Optimisers:
    """Builds both; the initial point's is called every `hyper.point_every` steps.

    The layout of their states depends on which hyperparameters are None alone.
    """

    def rate(count):
        return rate_at(hyper.learning_rate, count / hyper.total_steps)

    def point_rate(count):
        del count  # constant; the schedule's count stays, so that older checkpoints can be read
        return hyper.point_rate

    parts = []
    if hyper.gradient_clip is not None:
        parts.append(optax.clip_by_global_norm(hyper.gradient_clip))
    parts.append(optax.scale_by_adam())
    decay = 0.0 if hyper.weight_decay is None else hyper.weight_decay
    parts.append(optax.add_decayed_weights(decay))
    if hyper.scale_decay is not None:
        parts.append(optax.masked(optax.add_decayed_weights(hyper.scale_decay), _is_last_scale))
    parts.append(optax.scale_by_learning_rate(rate))
    return Optimisers(optax.chain(*parts), optax.sgd(point_rate))


def _is_last_scale(network: PyTree) -> PyTree[bool]:
    """Marks the scale of the field's last GroupNorm, which bounds the field."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: [key.key for key in path] == ["field", "norm2", "scale"], network
    )
