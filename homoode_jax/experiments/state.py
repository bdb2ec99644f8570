"""The state of a training run: one pytree, everything that a resume needs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from homoode_jax.experiments.optimiser import Optimisers
from homoode_jax.networks.classifier import ImageClassifier, Weights


class Totals(NamedTuple):
    """Sums over the images so far; `Means` of them are what people see."""

    images: Int[Array, ""]
    correct: Int[Array, ""]
    failed: Int[Array, ""]
    loss: Float[Array, ""]
    nfe_forward: Float[Array, ""]
    nfe_backward: Float[Array, ""]


class Means(NamedTuple):
    """Averages of `Totals` over images; `failed` counts the images whose solve failed."""

    loss: float
    accuracy: float
    nfe_forward: float
    nfe_backward: float
    failed: int


class TrainState(NamedTuple):
    """Weights, optimisers, the step reached, and the sums of the epoch under way."""

    step: Int[Array, ""]
    weights: Weights
    optimiser: Any
    initial_point_optimiser: Any
    totals: Totals


def empty_totals(dtype: str) -> Totals:
    """Returns sums of nothing."""
    counts = (jnp.zeros((), jnp.int32) for _ in range(3))
    return Totals(*counts, *(jnp.zeros((), dtype) for _ in range(3)))  # pyright: ignore


def means(totals: Totals) -> Means:
    """Fetches sums from the device and divides them."""
    t = jax.device_get(totals)
    loss, accuracy, forward, backward = (
        float(total) / max(int(t.images), 1)
        for total in (t.loss, t.correct, t.nfe_forward, t.nfe_backward)
    )
    return Means(loss, accuracy, forward, backward, int(t.failed))


def init_state(
    classifier: ImageClassifier, optimisers: Optimisers, seed: int, dtype: str
) -> TrainState:
    """Draws weights and starts both optimisers."""
    weights = jax.tree.map(lambda a: a.astype(dtype), classifier.init(jax.random.key(seed)))
    return TrainState(
        jnp.zeros((), jnp.int32), weights, optimisers.network.init(weights.network),
        optimisers.initial_point.init(weights.initial_point), empty_totals(dtype),
    )  # fmt: skip
