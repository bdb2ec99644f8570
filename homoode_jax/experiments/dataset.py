"""A data set in memory: train, validation and test images with their labels."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from homoode_jax.experiments.config import Data
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.sources import INFO, Info


class Split(NamedTuple):
    """Images and labels, in a fixed order."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]


class Dataset(NamedTuple):
    """The three splits; validation is held out of train and may be empty."""

    train: Split
    validation: Split
    test: Split


def load(data: Data) -> Dataset:
    """Reads a data set and holds out the validation split.

    Raises:
        UserError: if it is not there, not readable, or not what it should be.
    """
    info = INFO[data.dataset]
    train, test = (
        _checked(data.dataset, name, info, Split(*info.read(data.data_dir, name)))
        for name in ("train", "test")
    )
    train = _take(train, _first(train.labels, data.per_class))
    kept, held = _hold_out(train.labels, data.validation, data.split_seed)
    return Dataset(_take(train, kept), _take(train, held), test)


def _first(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Indices of the first so many images of each class; of all images for 0."""
    least = int(np.min(np.bincount(labels)))
    if per_class > least:
        raise UserError(
            f"config.data.per_class={per_class} is more than the smallest class has, {least}."
        )
    places = [np.flatnonzero(labels == label)[: per_class or None] for label in np.unique(labels)]
    return np.sort(np.concatenate(places))


def _hold_out(labels: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the indices of train by class, in the same way for the same seed."""
    everything, classes = np.arange(len(labels)), len(np.unique(labels))
    if size == 0:
        return everything, everything[:0]
    if not classes <= size <= len(labels) - classes:
        raise UserError(
            f"config.data.validation={size} must be 0, or from {classes} to "
            f"{len(labels) - classes}: at least one image of each class on either side."
        )
    from sklearn.model_selection import train_test_split  # here: it takes a second to import

    kept, held = train_test_split(everything, test_size=size, random_state=seed, stratify=labels)
    return np.sort(kept), np.sort(held)


def _take(split: Split, index: np.ndarray) -> Split:
    return Split(split.images[index], split.labels[index])


def _checked(dataset: str, name: str, info: Info, split: Split) -> Split:
    """Refuses images or labels that are not what the data set should hold."""
    images, labels = split
    if images.shape[1:] != info.shape or images.dtype != np.uint8:
        raise UserError(
            f"{dataset} ({name}): images should be uint8{list(info.shape)}, "
            f"got {images.dtype}{list(images.shape[1:])}."
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= info.classes))
    if len(wrong):
        raise UserError(
            f"{dataset} ({name}): record {wrong[0]} has label {labels[wrong[0]]}; labels go "
            f"from 0 to {info.classes - 1}."
        )
    missing = sorted(set(range(info.classes)) - set(labels.tolist()))
    if missing:
        raise UserError(f"{dataset} ({name}): there is no image of class {missing[0]}.")
    return split
