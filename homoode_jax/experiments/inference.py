"""A trained classifier at work: its best weights, and what it says of images."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

from homoode_jax.experiments import checkpoint
from homoode_jax.experiments.batches import normalise
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.errors import UserError
from homoode_jax.networks.classifier import ImageClassifier, Weights


def classify(
    config: Config, classifier: ImageClassifier, weights: Weights, images: UInt8[Array, "n h w c"]
) -> dict[str, Array]:
    """Returns the probabilities of the classes, and whether each image's solve succeeded."""
    data = config.data
    output = classifier(weights, normalise(images, data.mean, data.std, config.model.dtype))
    success = jnp.broadcast_to(output.solution.success, images.shape[:1])
    return {"probabilities": jax.nn.softmax(output.logits), "success": success}


def best_weights(
    folder: Path, classifier: ImageClassifier, dtype: str
) -> tuple[Weights, dict[str, Any]]:
    """Returns the best weights of a run, and their facts."""
    drawn = jax.eval_shape(classifier.init, jax.random.key(0))
    like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtype), drawn)
    checkpoints = checkpoint.open_checkpoints(folder, create=False)
    found = checkpoint.restore_best(checkpoints, like)
    if found is None:
        raise UserError(f"{folder} holds no best weights yet; train it for an epoch.")
    return found
