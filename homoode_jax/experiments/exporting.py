"""The export of a run: its best weights as an artifact that needs no homoode_jax.

Images go in as they are stored, 8 bits a channel; probabilities of the classes come out, and
whether an image's solve succeeded.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

from homoode_jax import artifact
from homoode_jax.experiments import checkpoint, workdir
from homoode_jax.experiments.batches import normalise
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.console import say
from homoode_jax.experiments.devices import use_precision
from homoode_jax.experiments.errors import UserError, explain_os_error
from homoode_jax.experiments.files import local_folder
from homoode_jax.experiments.model import make_classifier
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.sources import INFO
from homoode_jax.networks.classifier import ImageClassifier, Weights


def export_run(path: str) -> Path:
    """Writes the best weights of a run to the folder `export` in its workdir."""
    folder = Path(path)
    config = workdir.stored_config(folder) if path else None
    if config is None:
        raise UserError(
            f"--mode=export needs --workdir of a run (a folder with config.json), got {path!r}."
        )
    use_precision(config.model.dtype)
    classifier = make_classifier(config)
    weights, facts = _best(folder, classifier, config.model.dtype)
    info = INFO[config.data.dataset]
    about = {
        "dataset": config.data.dataset,
        "layer": config.model.layer,
        "classes": info.classes,
        "returns": ["probabilities", "success"],
        **facts,
        "made_by": environment(),
    }
    target = local_folder(str(folder / "export"), "--workdir")
    say(f"exporting {config.model.layer} on {config.data.dataset} for any batch size ...")
    try:
        artifact.write(
            folder=target,
            call=lambda images: classify(config, classifier, weights, images),
            row=jax.ShapeDtypeStruct(info.shape, jnp.uint8),
            about=about,
        )
    except OSError as error:
        raise UserError(f"{target} cannot be written: {explain_os_error(error)}") from error
    say(f"{target}: model.stablehlo, model.json and load.py, for {', '.join(artifact.PLATFORMS)}")
    return target


def classify(
    config: Config, classifier: ImageClassifier, weights: Weights, images: UInt8[Array, "n h w c"]
) -> dict[str, Array]:
    """Returns the probabilities of the classes, and whether each image's solve succeeded."""
    data = config.data
    output = classifier(weights, normalise(images, data.mean, data.std, config.model.dtype))
    success = jnp.broadcast_to(output.solution.success, images.shape[:1])
    return {"probabilities": jax.nn.softmax(output.logits), "success": success}


def _best(folder: Path, classifier: ImageClassifier, dtype: str) -> tuple[Weights, dict[str, Any]]:
    """Returns the best weights of a run, and their facts."""
    drawn = jax.eval_shape(classifier.init, jax.random.key(0))
    like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtype), drawn)
    checkpoints = checkpoint.open_checkpoints(folder, create=False)
    found = checkpoint.restore_best(checkpoints, like)
    if found is None:
        raise UserError(f"{folder} holds no best weights yet; train it for an epoch.")
    return found
