"""Optimisers: AdamW with cosine decay for the network, SGD of its own for the initial point."""

from typing import NamedTuple

import jax
import optax
from jaxtyping import PyTree

from homoode_jax.experiments.config import Config


class Optimisers(NamedTuple):
    """One for each group of weights, and the learning rate of the first by step."""

    network: optax.GradientTransformation
    initial_point: optax.GradientTransformation
    learning_rate: optax.Schedule


def make_optimisers(config: Config, total_steps: int) -> Optimisers:
    """Builds both; the initial point's is called every `config.initial_point.every` steps."""
    train, point = config.train, config.initial_point
    rate = _cosine(train.learning_rate, train.final_learning_rate, total_steps)
    point_rate = _cosine(point.learning_rate, train.final_learning_rate, total_steps)
    clip = [optax.clip_by_global_norm(train.gradient_clip)] if train.gradient_clip else []
    decay = optax.add_decayed_weights(config.regularise.scale)
    scale = [optax.masked(decay, _is_last_scale)] if config.regularise.scale else []
    adam = (
        optax.scale_by_adam(), optax.add_decayed_weights(train.weight_decay), *scale,
        optax.scale_by_learning_rate(rate),
    )  # fmt: skip
    sgd = optax.sgd(lambda count: point_rate(count * point.every))
    return Optimisers(optax.chain(*clip, *adam), sgd, rate)


def _is_last_scale(network: PyTree) -> PyTree[bool]:
    """Marks the scale of the field's last GroupNorm, which bounds the field."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: [key.key for key in path] == ["field", "norm2", "scale"], network
    )


def _cosine(start: float, end: float, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(start, steps, alpha=end / start if start else 0.0)
