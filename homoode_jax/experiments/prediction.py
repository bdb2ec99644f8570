"""Predictions of a trained run: the classes of images that a user names."""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8
from rich import box
from rich.table import Table

from homoode_jax.experiments import workdir
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.console import console, tell
from homoode_jax.experiments.devices import use_precision
from homoode_jax.experiments.errors import UserError, first_line, printable
from homoode_jax.experiments.files import expanded
from homoode_jax.experiments.images import SUFFIXES, fit, images_below
from homoode_jax.experiments.inference import classify, load_weights
from homoode_jax.experiments.model import make_classifier


class Prediction(NamedTuple):
    """What the classifier says of an image; its keys in JSON."""

    image: str
    prediction: str
    label: int
    probability: float
    success: bool


def predict(path: str, images: Sequence[str], as_json: bool = False) -> None:
    """Prints the classes of images, by the best weights of a run.

    Args:
        path: the workdir of the run.
        images: files, and folders of images.
        as_json: prints a line of JSON for each image, in the place of a table.

    Raises:
        UserError: if the run has no weights, or none of the images can be read.
    """
    folder = Path(path)
    config = workdir.config_of_run(path, "predict")
    use_precision(config.model.dtype)
    files, pixels = _read(_find(images), config.data.info.shape)
    if not as_json:
        console.print(_table(_predictions(config, folder, files, pixels)))
        return
    with contextlib.redirect_stdout(sys.stderr):  # what is said of weights is no line of JSON
        predictions = _predictions(config, folder, files, pixels)
    for one in predictions:
        console.out(json.dumps(one._asdict()), highlight=False)


def _find(images: Sequence[str]) -> list[Path]:
    """Returns the files that are named, and those in folders that are."""
    files: list[Path] = []
    for name in images:
        path = expanded(name)
        if not path.exists():
            raise UserError(f"{name} does not exist; predict takes images, and folders of them.")
        inside = images_below(path) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{name} holds no image ({', '.join(SUFFIXES)}).")
        files += inside
    return files


def _read(
    files: Sequence[Path], shape: tuple[int, int, int]
) -> tuple[list[Path], UInt8[np.ndarray, "n h w c"]]:
    """Returns the files that can be read, and their pixels; tells of the others."""
    read, pixels = [], []
    for file in files:
        try:
            pixels.append(fit(file, shape))
        except Exception as error:  # Pillow raises many kinds
            tell(printable(f"warning: {file} is left out: {first_line(error)}"))
        else:
            read.append(file)
    if not read:
        raise UserError(f"none of the {len(files)} images can be read.")
    return read, np.stack(pixels)


def _predictions(
    config: Config, folder: Path, files: Sequence[Path], pixels: UInt8[np.ndarray, "n h w c"]
) -> list[Prediction]:
    classifier = make_classifier(config)
    weights, _ = load_weights(folder, config, classifier)
    call = jax.jit(partial(classify, config, classifier))
    names = config.data.info.names
    found = []
    for batch in _batches(pixels, config.train.eval_batch_size):
        answer: dict[str, Any] = jax.device_get(call(weights, batch))
        for probabilities, success in zip(answer["probabilities"], answer["success"], strict=True):
            label = int(np.argmax(probabilities))
            found.append((names[label], label, float(probabilities[label]), bool(success)))
    return [Prediction(str(file), *one) for file, one in zip(files, found, strict=False)]


def _batches(
    pixels: UInt8[np.ndarray, "n h w c"], most: int
) -> Iterator[UInt8[np.ndarray, "n h w c"]]:
    """Yields batches of one size; the last is filled up with its last image."""
    size = min(most, len(pixels))
    for start in range(0, len(pixels), size):
        batch = pixels[start : start + size]
        yield np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])


def _table(predictions: Sequence[Prediction]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("image", overflow="fold")
    table.add_column("class")
    table.add_column("probability", justify="right")
    for one in predictions:
        note = "" if one.success else " (its solve failed)"
        table.add_row(
            printable(one.image), printable(one.prediction), f"{one.probability:.4f}{note}"
        )
    return table
