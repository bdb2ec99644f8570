"""A trained classifier at work: its best weights, and what it says of images."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

from homoode_jax.experiments import checkpoint
from homoode_jax.experiments.batches import normalise
from homoode_jax.experiments.checkpoint import Checkpoints, open_checkpoints
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.console import say
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.hyperparameters import make_hyperparameters
from homoode_jax.experiments.state import TrainState, init_state
from homoode_jax.networks.classifier import ImageClassifier, Weights


def classify(
    config: Config, classifier: ImageClassifier, weights: Weights, images: UInt8[Array, "n h w c"]
) -> dict[str, Array]:
    """Returns the probabilities of the classes, and whether each image's solve succeeded."""
    data = config.data
    output = classifier(weights, normalise(images, data.mean, data.std, config.model.dtype))
    success = jnp.broadcast_to(output.solution.success, images.shape[:1])
    return {"probabilities": jax.nn.softmax(output.logits), "success": success}


def restore_weights(
    folder: Path, checkpoints: Checkpoints, like: TrainState
) -> tuple[Weights, dict[str, Any]]:
    """Returns the best weights of a run, or the latest where none were selected; and their facts.

    Raises:
        UserError: if there are no weights.
    """
    found = checkpoint.restore_best(checkpoints, like.weights)
    if found is not None:
        return found
    latest = checkpoint.restore_latest(checkpoints, like)
    if latest is None:
        raise UserError(f"{folder} holds no checkpoint yet; train it first.")
    state, facts = latest
    if facts["best_accuracy"] is not None:
        say(f"warning: the best weights of {folder} are lost; these are the latest ones.")
    return state.weights, {"step": int(state.step)}


def load_weights(
    folder: Path, config: Config, classifier: ImageClassifier
) -> tuple[Weights, dict[str, Any]]:
    """Returns the weights of a run and their facts, without its data."""
    hyper = make_hyperparameters(config, epoch_steps=1)
    shapes = jax.eval_shape(partial(init_state, classifier, config.model.dtype), hyper)
    like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return restore_weights(folder, open_checkpoints(folder, create=False), like)
