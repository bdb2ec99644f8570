"""A data set in memory: train, validation and test images with their labels.

Of many processes, each may read its own share of the images only (`config.data.shares`). What
there is then in all, and in which order, the processes tell each other: each fills an array with
what it knows, zeros or less elsewhere, and the largest entry of all processes is what is there.
"""

import hashlib
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int, UInt8

from homoode_jax.experiments.config import DataSettings
from homoode_jax.experiments.console import say
from homoode_jax.experiments.errors import UserError, first_line
from homoode_jax.experiments.images import Reading, Record, Share
from homoode_jax.experiments.processes import maximum_over_processes
from homoode_jax.experiments.sources import Info

UNREAD = -1  # in place of a label that another process has read: below all labels
DAMAGED = np.iinfo(np.int32).max  # above all labels: one process that says so is enough
KEY = "S64"  # ids that decide the order, such as "train_16399": by 64 bytes, then by number


class Split(NamedTuple):
    """Images and labels, in a fixed order.

    Attributes:
        images: those that this process has read.
        labels: of all images.
        place: where each is in `images`; -1 for those that other processes have.
        part: which part each belongs to.
        parts: how many parts there are (`config.data.shares`).
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


def load(data: DataSettings) -> Dataset:
    """Reads a data set and holds out the validation split.

    Raises:
        UserError: if it is not there, not readable, or not what it should be.
    """
    info = data.info
    share = _share(data.shares)
    train, test = (_gather(data, name, info, share) for name in ("train", "test"))
    train = take(train, _first_of_each_class(train.labels, data.per_class))
    kept, held_out = _hold_out(train.labels, data.validation, data.split_seed)
    return Dataset(take(train, kept), take(train, held_out), test)


def make_split(images: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"]) -> Split:
    """Returns a split of one part, all of which is here."""
    count = len(labels)
    return Split(
        images=images, labels=labels, place=np.arange(count), part=np.zeros(count, int), parts=1
    )


def take(split: Split, index: Int[np.ndarray, " k"]) -> Split:
    """Returns the images of these numbers, in this order."""
    place = split.place[index]
    here = place >= 0
    return Split(
        images=split.images[place[here]],
        labels=split.labels[index],
        place=_places(here),
        part=split.part[index],
        parts=split.parts,
    )


def _share(parts: int) -> Share:
    """Returns the share of this process: as many parts as any other's, or all of them."""
    each, rest = divmod(parts, jax.process_count())
    if rest:
        return Share(parts, 0, parts)
    first = jax.process_index() * each
    return Share(parts, first, first + each)


def digest(data: Dataset) -> str:
    """Returns a digest of the labels of all splits, which another image more or less changes."""
    found = hashlib.blake2b(digest_size=8)
    for split in data:
        found.update(f"{len(split.labels)}:".encode() + np.asarray(split.labels, "<i8").tobytes())
    return found.hexdigest()


def _first_of_each_class(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Returns the indices of the first so many images of each class; of all images for 0."""
    least = int(np.min(np.bincount(labels)))
    if per_class > least:
        raise UserError(
            f"config.data.per_class={per_class} is more than the smallest class has, {least}."
        )
    places = [np.flatnonzero(labels == label)[: per_class or None] for label in np.unique(labels)]
    return np.sort(np.concatenate(places))


def _hold_out(labels: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the indices of train by class, in the same way for the same seed."""
    everything = np.arange(len(labels))
    classes = len(np.unique(labels))
    if size == 0:
        return everything, everything[:0]
    if not classes <= size <= len(labels) - classes:
        raise UserError(
            f"config.data.validation={size} must be 0, or from {classes} to "
            f"{len(labels) - classes}: at least one image of each class on either side."
        )
    if np.min(np.unique_counts(labels).counts) < 2:
        raise UserError(
            f"config.data.validation={size} holds out images of each class, and one class has a "
            "single training image; set it to 0, or add images."
        )
    from sklearn.model_selection import train_test_split  # here: it takes a second to import

    kept, held_out = train_test_split(
        everything, test_size=size, random_state=seed, stratify=labels
    )
    return np.sort(kept), np.sort(held_out)


def _gather(data: DataSettings, name: str, info: Info, share: Share) -> Split:
    """Makes arrays of the records of a split; damaged ones are refused, or left out and told."""
    reading = info.read(data.data_dir, name, share)
    faults = [_fault(record, info) for record in reading.records]
    labels = _tell_labels(reading, faults)
    if np.any(labels == DAMAGED):
        _refuse_or_warn(data, name, labels, reading, faults)
    order = _order(reading, np.flatnonzero((labels >= 0) & (labels != DAMAGED)))
    missing = sorted(set(range(info.classes)) - set(labels[order].tolist()))
    if missing:
        raise UserError(
            f"{data.dataset} ({name}): there is no image of class {info.names[missing[0]]}."
        )
    read = {record.number: record.image for record in reading.records}
    images = np.array([read[i] for i in order if i in read], np.uint8).reshape(-1, *info.shape)
    place = _places(np.isin(order, list(read)))
    part = share.deal(reading.count)[order]
    return Split(images=images, labels=labels[order], place=place, part=part, parts=share.parts)


def _tell_labels(reading: Reading, faults: list[str | None]) -> Int[np.ndarray, " n"]:
    """Returns the labels of all records, those of other processes too."""
    labels = np.full(reading.count, UNREAD, np.int32)
    for record, fault in zip(reading.records, faults, strict=True):
        labels[record.number] = DAMAGED if fault else record.label
    return maximum_over_processes(labels)


def _order(reading: Reading, kept: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
    """Sorts numbers of records by their keys, those of other processes too."""
    keys = np.zeros(reading.count, KEY)  # of NULs, the smallest bytes, where others have read
    for record in reading.records:
        keys[record.number] = record.key
    told = maximum_over_processes(keys.view(np.uint8).reshape(reading.count, -1))
    # Stable: equal keys, those of a data set without ids say, stay in the order of the files.
    return kept[np.argsort(told.view(KEY)[kept, 0], kind="stable")]


def _refuse_or_warn(
    data: DataSettings, name: str, labels: np.ndarray, reading: Reading, faults: list[str | None]
) -> None:
    here = [
        f"{record.place} {fault}"
        for record, fault in zip(reading.records, faults, strict=True)
        if fault
    ]
    damaged = np.flatnonzero(labels == DAMAGED)
    first = here[0] if here else f"another process cannot read its record {damaged[0]}"
    if not data.skip_damaged:
        raise UserError(
            f"{data.dataset} ({name}): {first}. Mend it, or set "
            "config.data.skip_damaged=True to leave such records out."
        )
    say(
        f"warning: {len(damaged)} of {len(labels)} records of {data.dataset} ({name}) "
        f"are damaged and left out; the first: {first}"
    )


def _places(here: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Numbers those that are here from 0 on; -1 for the others."""
    return np.where(here, np.cumsum(here) - 1, -1)


def _fault(record: Record, info: Info) -> str | None:
    """Returns what is wrong with a record, or None."""
    image = record.image
    label = record.label
    if isinstance(image, Exception):
        return f"is not a readable image: {first_line(image)[:200]}"
    if image.shape != info.shape or image.dtype != np.uint8:
        wanted = list(info.shape)
        got = list(image.shape)
        return f"should be an image of uint8{wanted}, got {image.dtype}{got}"
    if not 0 <= label < info.classes:
        return f"has label {label}; labels go from 0 to {info.classes - 1}"
    return None
