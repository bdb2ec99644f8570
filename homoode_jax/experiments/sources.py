"""Where images come from: scikit-learn's digits, prepared TFDS data sets, Tiny-ImageNet.

Each source gives records, damaged ones too; `dataset` decides what to do with those. TFDS data
sets are read without TensorFlow; preparing them is a command of its own, named in the error that a
missing one gives.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from homoode_jax.experiments.errors import UserError, first_line, shown

READ_AT_ONCE = 2000  # records; TFDS is several times slower one by one


class Share(NamedTuple):
    """The records to read: those dealt into one of the parts `first` ... `last` - 1."""

    parts: int = 1
    first: int = 0
    last: int = 1

    def deal(self, count: int) -> np.ndarray:
        """The part of each of so many records: at random, so that classes are in each alike."""
        return np.random.default_rng(0).permutation(count) % self.parts

    def numbers(self, count: int) -> list[int]:
        """The numbers of the records to read, among so many."""
        part = self.deal(count)
        return np.flatnonzero((self.first <= part) & (part < self.last)).tolist()


ALL = Share()


class Record(NamedTuple):
    """An image as it was found, or what went wrong in reading it.

    Attributes:
        number: which one it is in its files, from 0 on.
        place: file and number, for people.
        image: its pixels, or why it cannot be read.
        label: its class.
        key: what records are put in the order of; where keys are equal, numbers decide.
    """

    number: int
    place: str
    image: np.ndarray | Exception
    label: int
    key: bytes = b""


class Reading(NamedTuple):
    """The records of a share, and how many all shares have together."""

    count: int
    records: list[Record]


class Info(NamedTuple):
    """What is known of a data set before it is read."""

    shape: tuple[int, int, int]
    classes: int
    read: Callable[[str, str, Share], Reading]


def read_digits(data_dir: str, split: str, share: Share = ALL) -> Reading:
    """Reads scikit-learn's digits; a fifth of them, by class, is the test split."""
    del data_dir
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)  # grey values from 0 to 16
    images = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    index = np.arange(len(labels))
    parts = train_test_split(index, test_size=0.2, random_state=0, stratify=labels)
    chosen = np.sort(parts[split == "test"])
    return Reading(len(chosen), [
        Record(number, f"image {i}", images[i], int(labels[i]))
        for number, i in _those(share, list(chosen))
    ])  # fmt: skip


def _those(share: Share, items: Sequence[Any]) -> list[tuple[int, Any]]:
    return [(number, items[number]) for number in share.numbers(len(items))]


def read_tfds(name: str, data_dir: str, split: str, share: Share = ALL) -> Reading:
    """Reads a prepared TFDS data set in `array_record` format; ids decide the order."""
    source: Any = _open_tfds(name, data_dir, split)
    found, places = [], _places(source, split)
    for chunk in _chunks(share.numbers(len(source))):
        try:
            found += zip(chunk, source.__getitems__(chunk), strict=True)
        except Exception as error:  # TFDS raises many kinds
            found += [(i, _read_one(source, i)) for i in chunk]
            if all(isinstance(record, Exception) for _, record in found[-len(chunk) :]):
                raise UserError(
                    f"{name} ({split}): {places[chunk[0]]} cannot be read, nor "
                    f"those after it: {first_line(error)[:200]}. Remove its folder {name} and "
                    f"prepare it again: {_prepare(name, data_dir)}"
                ) from error
    return Reading(len(source), [
        Record(i, places[i], record, 0) if isinstance(record, Exception)
        else Record(i, places[i], record["image"], int(record["label"]), record.get("id", b""))
        for i, record in found
    ])  # fmt: skip


def _read_one(source: Any, i: int) -> dict[str, Any] | Exception:
    try:
        return source[i]
    except Exception as error:
        return error


def _places(source: Any, split: str) -> list[str]:
    """The file and number of each record."""
    info = source.dataset_info.splits[split]
    shards = zip(info.filepaths, info.shard_lengths, strict=True)
    return [f"record {i} of {file}" for file, length in shards for i in range(length)]


def _open_tfds(name: str, data_dir: str, split: str):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.constants import DATA_DIR

    try:
        source = tfds.data_source(name, split=split, data_dir=data_dir or None, download=False)
        len(source)  # opens the files
    except Exception as error:
        folder, command = data_dir or DATA_DIR, _prepare(name, data_dir)
        if not (Path(folder).expanduser() / name).is_dir():
            raise UserError(
                f"{name} is not prepared in {folder}. Prepare it with: {command}"
            ) from error
        raise UserError(
            f"{name} in {folder} cannot be read ({first_line(error)[:200]}). Move it away and "
            f"prepare it with: {command}"
        ) from error
    return source


def _prepare(name: str, data_dir: str) -> str:
    command = f"make data DATASET={name}"
    return f"{command} DATA_DIR={data_dir}" if data_dir else command


def _chunks(numbers: list[int]) -> Iterator[list[int]]:
    return (numbers[i : i + READ_AT_ONCE] for i in range(0, len(numbers), READ_AT_ONCE))


def read_tiny_imagenet(data_dir: str, split: str, share: Share = ALL) -> Reading:
    """Reads `tiny-imagenet-200`; its labelled `val` folder is the test split."""
    root = _tiny_imagenet_root(data_dir)
    classes = sorted(folder.name for folder in (root / "train").iterdir() if folder.is_dir())
    label_of = {name: label for label, name in enumerate(classes)}
    if split == "train":
        files = [(file, label_of[name]) for name in classes
                 for file in sorted((root / "train" / name / "images").glob("*.JPEG"))]  # fmt: skip
    else:
        text = (root / "val" / "val_annotations.txt").read_text(errors="replace")
        lines = text.splitlines()
        files = [_annotated(root, line, label_of) for line in lines if line.strip()]
    if not files:
        raise UserError(f"{root} holds no {split} images (*.JPEG).")
    return Reading(len(files), [
        Record(number, str(file), _read_image(file), label)
        for number, (file, label) in _those(share, files)
    ])  # fmt: skip


def _tiny_imagenet_root(data_dir: str) -> Path:
    given = Path(data_dir or "data")
    root = given if given.name == "tiny-imagenet-200" else given / "tiny-imagenet-200"
    for part in ("train", "val/val_annotations.txt"):
        if not (root / part).exists():
            raise UserError(
                f"{root / part} does not exist. Set config.data.data_dir to the folder that holds "
                "tiny-imagenet-200, unpacked from cs231n.stanford.edu/tiny-imagenet-200.zip."
            )
    return root


def _annotated(root: Path, line: str, label_of: dict[str, int]) -> tuple[Path, int]:
    name, wnid, *_ = [*line.split("\t"), "", ""]
    if wnid not in label_of:
        raise UserError(
            f"val_annotations.txt in {root}/val: unknown class {shown(wnid)} of {shown(name)}."
        )
    if Path(name).name != name:
        raise UserError(
            f"val_annotations.txt in {root}/val: {shown(name)} is not a file of its folder images."
        )
    return root / "val" / "images" / name, label_of[wnid]


def _read_image(file: Path) -> np.ndarray | Exception:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises many kinds
        return error


INFO = {
    "digits": Info((8, 8, 1), 10, read_digits),
    "mnist": Info((28, 28, 1), 10, partial(read_tfds, "mnist")),
    "fashion_mnist": Info((28, 28, 1), 10, partial(read_tfds, "fashion_mnist")),
    "svhn": Info((32, 32, 3), 10, partial(read_tfds, "svhn_cropped")),
    "cifar10": Info((32, 32, 3), 10, partial(read_tfds, "cifar10")),
    "cifar100": Info((32, 32, 3), 100, partial(read_tfds, "cifar100")),
    "tiny_imagenet": Info((64, 64, 3), 200, read_tiny_imagenet),
}
