"""Where images come from: scikit-learn's digits, prepared TFDS data sets, Tiny-ImageNet.

Each source gives records, damaged ones too; `dataset` decides what to do with those. TFDS data
sets are read without TensorFlow; preparing them is a command of its own, named in the error that a
missing one gives.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from homoode_jax.experiments import tiny_imagenet
from homoode_jax.experiments.errors import UserError, first_line
from homoode_jax.experiments.files import expanded
from homoode_jax.experiments.images import ALL, Reading, Record, Shape, Share, read_image

FOLDER = "folder"  # the data set of a user's own pictures
READ_AT_ONCE = 2000  # records; TFDS is several times slower one by one


class Info(NamedTuple):
    """What is known of a data set before it is read."""

    shape: Shape
    names: tuple[str, ...]
    read: Callable[[str, str, Share], Reading]

    @property
    def classes(self) -> int:
        """Returns the number of classes."""
        return len(self.names)


class Published(NamedTuple):
    """What a TFDS data set holds, as it was published."""

    shape: Shape
    names: tuple[str, ...]
    train: int
    test: int


def _numbered(classes: int) -> tuple[str, ...]:
    return tuple(map(str, range(classes)))


NUMERALS = _numbered(10)
CLOTHES = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
TFDS = {
    "mnist": Published((28, 28, 1), NUMERALS, train=60_000, test=10_000),
    "fashion_mnist": Published((28, 28, 1), CLOTHES, train=60_000, test=10_000),
    "svhn_cropped": Published((32, 32, 3), NUMERALS, train=73_257, test=26_032),
    "cifar10": Published((32, 32, 3), CIFAR10, train=50_000, test=10_000),
    "cifar100": Published((32, 32, 3), _numbered(100), train=50_000, test=10_000),
}


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
    records = [
        Record(number, f"image {i}", images[i], int(labels[i]))
        for number, i in share.those(list(chosen))
    ]
    return Reading(len(chosen), records)


def read_tfds(name: str, data_dir: str, split: str, share: Share = ALL) -> Reading:
    """Reads a prepared TFDS data set in `array_record` format; ids decide the order."""
    source: Any = _open_tfds(name, data_dir, split)
    found = []
    places = _record_names(source, split)
    for chunk in _chunks(share.numbers(len(source))):
        try:
            found += zip(chunk, source.__getitems__(chunk), strict=True)
        except Exception as error:  # TFDS raises many kinds
            found += [(i, _read_one(source, i)) for i in chunk]
            if all(isinstance(record, Exception) for _, record in found[-len(chunk) :]):
                raise UserError(
                    f"{name} ({split}): {places[chunk[0]]} cannot be read, nor "
                    f"those after it: {first_line(error)[:200]}. Remove its folder {name} and "
                    f"prepare it again: {_preparing_command(name, data_dir)}"
                ) from error
    records = [_record(i, places[i], record, TFDS[name].shape) for i, record in found]
    return Reading(len(source), records)


def _record(i: int, place: str, record: dict[str, Any] | Exception, shape: Shape) -> Record:
    if isinstance(record, Exception):
        return Record(i, place, record, 0)
    image = read_image(record["image"], shape)
    return Record(i, place, image, int(record["label"]), record.get("id", b""))


def _read_one(source: Any, i: int) -> dict[str, Any] | Exception:
    try:
        return source[i]
    except Exception as error:
        return error


def _record_names(source: Any, split: str) -> list[str]:
    """Returns the file and number of each record."""
    return [
        f"record {i} of {file}" for file, length in _shards(source, split) for i in range(length)
    ]


def _shards(source: Any, split: str) -> list[tuple[str, int]]:
    """Returns the files of a split and how many records dataset_info.json says each has."""
    info = source.dataset_info.splits[split]
    return list(zip(map(str, info.filepaths), info.shard_lengths, strict=True))


def _open_tfds(name: str, data_dir: str, split: str):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.constants import DATA_DIR

    try:
        source: Any = tfds.data_source(
            name,
            split=split,
            data_dir=os.path.expanduser(data_dir) or None,
            download=False,
            # It decodes images of 16 bits, of other sizes and with palettes without a word.
            decoders={"image": tfds.decode.SkipDecoding()},
        )
        len(source)  # opens the files
        fault = _miscounted(name, split, source)
    except Exception as error:
        folder = data_dir or DATA_DIR
        command = _preparing_command(name, data_dir)
        if not (expanded(str(folder)) / name).is_dir():
            raise UserError(
                f"{name} is not prepared in {folder}. Prepare it with: {command}"
            ) from error
        raise UserError(
            f"{name} in {folder} cannot be read ({first_line(error)[:200]}). Move it away and "
            f"prepare it with: {command}"
        ) from error
    if fault:
        raise UserError(
            f"{name} ({split}) is not whole: {fault}. Move it away and prepare it with: "
            f"{_preparing_command(name, data_dir)}"
        )
    return source


def _miscounted(name: str, split: str, source: Any) -> str | None:
    """Says which number of records is not what it should be, or None.

    TFDS reads as many records as dataset_info.json says, whatever its files hold.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    for file, length in _shards(source, split):
        reader = ArrayRecordReader(file)
        found = reader.num_records()
        reader.close()
        if found != length:
            return f"{file} holds {found} records; its dataset_info.json says {length}"
    published = getattr(TFDS[name], split)
    if len(source) != published:
        return f"it has {len(source)} records; {published} were published"
    return None


def _preparing_command(name: str, data_dir: str) -> str:
    command = f"make data DATASET={name}"
    return f"{command} DATA_DIR={data_dir}" if data_dir else command


def _chunks(numbers: list[int]) -> Iterator[list[int]]:
    return (numbers[i : i + READ_AT_ONCE] for i in range(0, len(numbers), READ_AT_ONCE))


def _info(name: str) -> Info:
    return Info(TFDS[name].shape, TFDS[name].names, partial(read_tfds, name))


INFO = {
    "digits": Info((8, 8, 1), NUMERALS, read_digits),
    "mnist": _info("mnist"),
    "fashion_mnist": _info("fashion_mnist"),
    "svhn": _info("svhn_cropped"),
    "cifar10": _info("cifar10"),
    "cifar100": _info("cifar100"),
    "tiny_imagenet": Info(
        tiny_imagenet.SHAPE, _numbered(tiny_imagenet.CLASSES), tiny_imagenet.read_tiny_imagenet
    ),
}
