"""The files of a trained classifier: NAME.safetensors has its weights, NAME.json its card.

A weight is named by its path in `networks.classifier.Weights`, such as network.head.dense.kernel.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path, tree_structure
from safetensors.numpy import load_file, save_file

from homoode_jax.networks.classifier import ImageClassifier, Weights

FOLDER = Path(__file__).parent / "weights"


def write(name: str, weights: Weights, card: dict[str, Any], folder: Path = FOLDER) -> None:
    """Writes weights and card."""
    arrays = {_name(path): np.asarray(leaf) for path, leaf in tree_leaves_with_path(weights)}
    save_file(arrays, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")


def read_card(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Returns the card."""
    return json.loads((folder / f"{name}.json").read_text())


def read_weights(name: str, classifier: ImageClassifier, folder: Path = FOLDER) -> Weights:
    """Returns the weights of a classifier.

    Raises:
        ValueError: if they are those of another one.
    """
    arrays = load_file(folder / f"{name}.safetensors")
    like = jax.eval_shape(classifier.init, jax.random.key(0))
    wanted = {_name(path): leaf.shape for path, leaf in tree_leaves_with_path(like)}
    found = {key: array.shape for key, array in arrays.items()}
    if wanted != found:
        differing = sorted(set(wanted.items()).symmetric_difference(found.items()))
        raise ValueError(f"{name}.safetensors is of another classifier: {differing[0]}.")
    leaves = [jnp.asarray(arrays[key]) for key in wanted]
    return jax.tree.unflatten(tree_structure(like), leaves)


def _name(path: Any) -> str:
    return keystr(path, simple=True, separator=".")
