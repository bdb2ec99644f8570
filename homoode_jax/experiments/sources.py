"""Where images come from: scikit-learn's digits, prepared TFDS data sets, Tiny-ImageNet.

TFDS data sets are read without TensorFlow; preparing them is a command of its own, named in
the error that a missing one gives.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from homoode_jax.experiments.errors import UserError, first_line

Arrays = tuple[np.ndarray, np.ndarray]
READ_AT_ONCE = 2000  # records; TFDS is several times slower one by one


class Info(NamedTuple):
    """What is known of a data set before it is read."""

    shape: tuple[int, int, int]
    classes: int
    read: Callable[[str, str], Arrays]


def read_digits(data_dir: str, split: str) -> Arrays:
    """Reads scikit-learn's digits; a fifth of them, by class, is the test split."""
    del data_dir
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)  # grey values from 0 to 16
    images = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    index = np.arange(len(labels))
    parts = train_test_split(index, test_size=0.2, random_state=0, stratify=labels)
    chosen = np.sort(parts[split == "test"])
    return images[chosen], labels[chosen].astype(np.int32)


def read_tfds(name: str, data_dir: str, split: str) -> Arrays:
    """Reads a prepared TFDS data set in `array_record` format."""
    source: Any = _open_tfds(name, data_dir, split)
    try:
        records = [
            record for chunk in _chunks(len(source)) for record in source.__getitems__(chunk)
        ]
        records.sort(key=lambda record: record.get("id", b""))  # an order that no format decides
        images = np.stack([record["image"] for record in records])
        labels = np.array([record["label"] for record in records], np.int32)
    except Exception as error:
        raise UserError(
            f"{name} ({split}) in {data_dir or 'the TFDS data folder'} is damaged and cannot be "
            f"read: {first_line(error)}. Remove its folder {name} there and prepare it again: "
            f"{_prepare(name, data_dir)}"
        ) from error
    return images, labels


def _open_tfds(name: str, data_dir: str, split: str):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow_datasets as tfds

    try:
        return tfds.data_source(name, split=split, data_dir=data_dir or None, download=False)
    except Exception as error:
        raise UserError(
            f"{name} is not prepared in {data_dir or 'the TFDS data folder'} "
            f"({first_line(error)[:200]}). Prepare it with: {_prepare(name, data_dir)}"
        ) from error


def _prepare(name: str, data_dir: str) -> str:
    command = f"make data DATASET={name}"
    return f"{command} DATA_DIR={data_dir}" if data_dir else command


def _chunks(size: int) -> Iterator[range]:
    return (range(i, min(i + READ_AT_ONCE, size)) for i in range(0, size, READ_AT_ONCE))


def read_tiny_imagenet(data_dir: str, split: str) -> Arrays:
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
    images = np.stack([_read_image(file) for file, _ in files])
    return images, np.array([label for _, label in files], np.int32)


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
        raise UserError(f"val_annotations.txt in {root}/val: unknown class {wnid!r} of {name!r}.")
    return root / "val" / "images" / name, label_of[wnid]


def _read_image(file: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises many kinds
        raise UserError(f"{file} is not a readable image: {first_line(error)}.") from error
    if pixels.shape != (64, 64, 3):
        raise UserError(
            f"{file} should have 64x64 pixels, got {pixels.shape[0]}x{pixels.shape[1]}."
        )
    return pixels


INFO = {
    "digits": Info((8, 8, 1), 10, read_digits),
    "mnist": Info((28, 28, 1), 10, partial(read_tfds, "mnist")),
    "fashion_mnist": Info((28, 28, 1), 10, partial(read_tfds, "fashion_mnist")),
    "svhn": Info((32, 32, 3), 10, partial(read_tfds, "svhn_cropped")),
    "cifar10": Info((32, 32, 3), 10, partial(read_tfds, "cifar10")),
    "cifar100": Info((32, 32, 3), 100, partial(read_tfds, "cifar100")),
    "tiny_imagenet": Info((64, 64, 3), 200, read_tiny_imagenet),
}
