"""A data set in memory: train, validation and test images with their labels."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from homoode_jax.experiments.config import Data
from homoode_jax.experiments.console import say
from homoode_jax.experiments.errors import UserError, first_line
from homoode_jax.experiments.sources import INFO, Info, Record


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
        _gather(data, name, info, info.read(data.data_dir, name)) for name in ("train", "test")
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


def _gather(data: Data, name: str, info: Info, records: list[Record]) -> Split:
    """Makes arrays of the records of a split; damaged ones are refused, or left out and told."""
    good, bad = [], []
    for record in records:
        fault = _fault(record, info)
        if fault is None:
            good.append(record)
        elif data.skip_damaged:
            bad.append(f"{record.place} {fault}")
        else:
            raise UserError(
                f"{data.dataset} ({name}): {record.place} {fault}. Mend it, or set "
                "config.data.skip_damaged=True to leave such records out."
            )
    if bad:
        say(f"warning: {len(bad)} of {len(records)} records of {data.dataset} ({name}) are "
            f"damaged and left out; the first: {bad[0]}")  # fmt: skip
    labels = np.array([record.label for record in good], np.int32)
    missing = sorted(set(range(info.classes)) - set(labels.tolist()))
    if missing:
        raise UserError(f"{data.dataset} ({name}): there is no image of class {missing[0]}.")
    return Split(np.stack([record.image for record in good]), labels)


def _fault(record: Record, info: Info) -> str | None:
    """What is wrong with a record, or None."""
    image, label = record.image, record.label
    if isinstance(image, Exception):
        return f"is not a readable image: {first_line(image)[:200]}"
    if image.shape != info.shape or image.dtype != np.uint8:
        wanted, got = list(info.shape), list(image.shape)
        return f"should be an image of uint8{wanted}, got {image.dtype}{got}"
    if not 0 <= label < info.classes:
        return f"has label {label}; labels go from 0 to {info.classes - 1}"
    return None
