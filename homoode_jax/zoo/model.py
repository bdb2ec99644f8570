"""A trained classifier, loaded by its name."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

from homoode_jax.experiments.config import Config, from_dict
from homoode_jax.experiments.inference import classify
from homoode_jax.experiments.model import make_classifier
from homoode_jax.mathematics.common.checks import check_option
from homoode_jax.networks.classifier import ImageClassifier, Weights
from homoode_jax.zoo import files

_classify = jax.jit(classify, static_argnums=(0, 1))


class Model(NamedTuple):
    """A trained classifier.

    Attributes:
        classifier: pure functions of the weights.
        weights: the weights.
        config: the configuration that it was trained by.
        card: what it is: its score, data, seed, and the commit that trained it.

    Example:
        >>> import numpy as np
        >>> import homoode_jax.zoo
        >>> model = homoode_jax.zoo.load("digits-homoode")
        >>> answer = model.predict(np.zeros((2, 8, 8, 1), np.uint8))
        >>> print(answer["probabilities"].shape, answer["success"].tolist())
        (2, 10) [True, True]
    """

    classifier: ImageClassifier
    weights: Weights
    config: Config
    card: dict[str, Any]

    def predict(self, images: UInt8[Any, "n h w c"]) -> dict[str, Array]:
        """Returns the probabilities of the classes, and whether each image's solve succeeded.

        Args:
            images: as they are stored, 8 bits a channel.

        Raises:
            ValueError: if the images are of another shape or dtype.
        """
        shape = self.config.data.info.shape
        if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[1:] != shape:
            raise ValueError(
                f"images must be uint8[n, {', '.join(map(str, shape))}], got "
                f"{images.dtype}{list(images.shape)}."
            )
        return _classify(self.config, self.classifier, self.weights, jnp.asarray(images))


def names() -> list[str]:
    """Returns the names that `load` takes.

    Example:
        >>> import homoode_jax.zoo
        >>> print("digits-homoode" in homoode_jax.zoo.names())
        True
    """
    return sorted(file.stem for file in files.FOLDER.glob("*.safetensors"))


def load(name: str) -> Model:
    """Loads a trained classifier.

    Args:
        name: one of `names()`.

    Raises:
        ValueError: if there is none of this name.

    Example:
        >>> import homoode_jax.zoo
        >>> model = homoode_jax.zoo.load("digits-homoode")
        >>> print(model.card["layer"], model.card["dataset"])
        homoode digits
    """
    check_option("name", name, names())
    card = files.read_card(name)
    config = from_dict(card["config"])
    classifier = make_classifier(config)
    return Model(classifier, files.read_weights(name, classifier), config, card)
