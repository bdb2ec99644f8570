"""The export of a run: its best weights as an artifact that needs no homoode_jax.

Images go in as they are stored, 8 bits a channel; probabilities of the classes come out, and
whether an image's solve succeeded.
"""

from pathlib import Path

import jax
import jax.numpy as jnp

from homoode_jax import artifact
from homoode_jax.experiments import workdir
from homoode_jax.experiments.console import say
from homoode_jax.experiments.devices import use_precision
from homoode_jax.experiments.errors import UserError, explain_os_error
from homoode_jax.experiments.files import local_folder
from homoode_jax.experiments.inference import classify, load_weights
from homoode_jax.experiments.model import make_classifier
from homoode_jax.experiments.record import environment


def export_run(path: str) -> Path:
    """Writes the best weights of a run to the folder `export` in its workdir."""
    folder = Path(path)
    config = workdir.config_of_run(path, "export")
    use_precision(config.model.dtype)
    classifier = make_classifier(config)
    weights, facts = load_weights(folder, config, classifier)
    info = config.data.info
    about = {
        "dataset": config.data.dataset,
        "layer": config.model.layer,
        "classes": info.classes,
        "names": info.names,
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
