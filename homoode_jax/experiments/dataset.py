"""A data set in memory: train, validation and test images with their labels.

Of many processes, each may read its own share of the images only (`Data.shares`). What there is
then in all, and in which order, the processes tell each other.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int, UInt8

from homoode_jax.experiments.config import Data
from homoode_jax.experiments.console import say
from homoode_jax.experiments.errors import UserError, first_line
from homoode_jax.experiments.processes import most
from homoode_jax.experiments.sources import INFO, Info, Reading, Record, Share

UNREAD, DAMAGED = -2, -1  # in place of labels
KEY_BYTES = 64  # of the keys that are compared


class Split(NamedTuple):
    """Images and labels, in a fixed order.

    Attributes:
        images: those that this process has read.
        labels: of all images.
        place: where each is in `images`; -1 for those that other processes have.
        part: which part each belongs to.
        parts: how many parts there are (`Data.shares`).
    """

    images: UInt8[np.ndarray, "m h w c"]
    labels: Int[np.ndarray, " n"]
    place: Int[np.ndarray, " n"]
    part: Int[np.ndarray, " n"]
    parts: int


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
    info, share = INFO[data.dataset], _share(data.shares)
    train, test = (
        _gather(data, name, info, info.read(data.data_dir, name, share))
        for name in ("train", "test")
    )
    train = take(train, _first(train.labels, data.per_class))
    kept, held = _hold_out(train.labels, data.validation, data.split_seed)
    return Dataset(take(train, kept), take(train, held), test)


def whole(images: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"]) -> Split:
    """A split of one part, all of which is here."""
    return Split(images, labels, np.arange(len(labels)), np.zeros(len(labels), int), 1)


def take(split: Split, index: Int[np.ndarray, " k"]) -> Split:
    """The images of these numbers, in this order."""
    place = split.place[index]
    here = place >= 0
    return Split(
        split.images[place[here]], split.labels[index],
        np.where(here, np.cumsum(here) - 1, -1), split.part[index], split.parts,
    )  # fmt: skip


def _share(parts: int) -> Share:
    """The share of this process: as many parts as any other's, or all of them."""
    processes, process = jax.process_count(), jax.process_index()
    if parts % processes:
        return Share(parts, 0, parts)
    each = parts // processes
    return Share(parts, process * each, (process + 1) * each)


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


def _gather(data: Data, name: str, info: Info, reading: Reading) -> Split:
    """Makes arrays of the records of a split; damaged ones are refused, or left out and told."""
    faults = [_fault(record, info) for record in reading.records]
    good = [record for record, fault in zip(reading.records, faults, strict=True) if not fault]
    labels, keys = _tell(reading, faults)
    if np.any(labels == DAMAGED):
        bad = [f"{record.place} {fault}"
               for record, fault in zip(reading.records, faults, strict=True) if fault]  # fmt: skip
        _refuse_or_warn(data, name, labels, bad[0] if bad else "one that another process reads")
    kept = np.flatnonzero(labels >= 0)
    missing = sorted(set(range(info.classes)) - set(labels[kept].tolist()))
    if missing:
        raise UserError(f"{data.dataset} ({name}): there is no image of class {missing[0]}.")
    images = np.array([record.image for record in good], np.uint8).reshape(-1, *info.shape)
    place = np.full(reading.count, -1)
    place[[record.number for record in good]] = np.arange(len(good))
    everything = Split(images, labels, place, np.arange(reading.count) % data.shares, data.shares)
    return take(everything, kept[np.argsort(keys[kept], kind="stable")])


def _tell(reading: Reading, faults: list[str | None]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and keys of all records, those of other processes too."""
    labels = np.full(reading.count, UNREAD, np.int32)
    keys = np.zeros(reading.count, f"S{KEY_BYTES}")
    for record, fault in zip(reading.records, faults, strict=True):
        labels[record.number] = DAMAGED if fault else record.label
        keys[record.number] = record.key
    told = most(keys.view(np.uint8).reshape(-1, KEY_BYTES))
    return most(labels), np.ascontiguousarray(told).view(keys.dtype)[:, 0]


def _refuse_or_warn(data: Data, name: str, labels: np.ndarray, first: str) -> None:
    if not data.skip_damaged:
        raise UserError(
            f"{data.dataset} ({name}): {first}. Mend it, or set "
            "config.data.skip_damaged=True to leave such records out."
        )
    say(f"warning: {np.sum(labels == DAMAGED)} of {len(labels)} records of {data.dataset} ({name}) "
        f"are damaged and left out; the first: {first}")  # fmt: skip


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
