"""Own pictures as a data set: a folder for each class, its pictures in it.

DIR/train/CLASS/**.png|jpg and DIR/test/CLASS/**.png|jpg
DIR/train/CLASS/..., or DIR/CLASS/...: a share of each class is held out as the test split
"""

import hashlib
import os
import unicodedata
from pathlib import Path

import numpy as np

from homoode_jax.experiments.errors import UserError, shown
from homoode_jax.experiments.files import expanded
from homoode_jax.experiments.images import (
    ALL,
    SUFFIXES,
    Reading,
    Record,
    Shape,
    Share,
    fit,
    images_below,
)

UNREAD = (".avif", ".bmp", ".gif", ".heic", ".jfif", ".jpe", ".tif", ".tiff", ".webp")
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
HOW = (
    "config.data.data_dir must hold train/CLASS/*.png|jpg (and test/CLASS/...), or CLASS/*.png|jpg"
)


def list_classes(data_dir: str) -> tuple[str, ...]:
    """Returns the names of the classes, in the order of their labels.

    Raises:
        UserError: if there are not at least two, or one has no picture.
    """
    root = _root(data_dir)
    names = tuple(sorted(folder.name for folder in root.iterdir() if _is_class(folder)))
    if len(names) < 2:
        raise UserError(f"{root} holds {len(names)} folders of classes; two are the least. {HOW}.")
    splits = [name for name in names if name.lower() in SPLITS]
    if splits:
        raise UserError(f"{root / splits[0]} looks like a split, and would be a class. {HOW}.")
    return names


def read_folder(
    data_dir: str,
    split: str,
    share: Share = ALL,
    *,
    names: tuple[str, ...],
    shape: Shape,
    held_out: float,
    seed: int,
) -> Reading:
    """Reads the pictures of a split, scaled to a shape.

    Args:
        data_dir: the folder.
        split: "train" or "test".
        share: the pictures to read.
        names: the classes, in the order of their labels.
        shape: height, width and channels.
        held_out: share of each class that is the test split, where no folder is.
        seed: of that choice.

    Raises:
        UserError: if the folder is not what it should be.
    """
    files = _files(data_dir, split, names, held_out, seed)
    records = [
        Record(number, str(file), _read(file, shape), label)
        for number, (file, label) in share.those(files)
    ]
    return Reading(len(files), records)


def left_out(data_dir: str) -> list[str]:
    """Returns lines about what in a folder looks like pictures, and is not read."""
    root = _root(data_dir)
    lines = []
    top = expanded(data_dir)
    strange = sorted(file for file in top.rglob("*") if file.suffix.lower() in UNREAD)
    if strange:
        kinds = ", ".join(SUFFIXES)
        lines.append(
            f"{strange[0]} is left out, one of {len(strange)} such files: {kinds} are read"
        )
    if root != top:
        beside = (folder for folder in top.iterdir() if _is_class(folder))
        others = sorted(folder for folder in beside if folder.name not in ("train", "test"))
        lines += [f"{folder} is left out: the folders read are train and test" for folder in others]
    return lines


def _root(data_dir: str) -> Path:
    """Returns the folder whose folders are the classes of the training split."""
    given = expanded(data_dir)
    if not data_dir or not given.is_dir():
        raise UserError(f"config.data.data_dir={shown(data_dir)} is not a folder. {HOW}.")
    return given / "train" if (given / "train").is_dir() else given


def _is_class(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith(".")


def _files(
    data_dir: str, split: str, names: tuple[str, ...], held_out: float, seed: int
) -> list[tuple[Path, int]]:
    """Returns the pictures of a split, with their labels."""
    root = _root(data_dir)
    test = root.parent / "test"
    if root.name == "train" and test.is_dir():
        return _of_classes(test if split == "test" else root, names)
    if root.name != "train" and (root / "test").is_dir():
        raise UserError(f"{root} holds a folder test and no folder train. {HOW}.")
    every = _of_classes(root, names)
    chosen = []
    for label in range(len(names)):
        files = [one for one in every if one[1] == label]
        ranks = [_rank(seed, file.relative_to(root)) for file, _ in files]
        bound = min(held_out, max(ranks))  # one at least is trained on, and one tested
        for one, rank in zip(files, ranks, strict=True):
            is_tested = rank < bound or rank == min(ranks)
            if is_tested == (split == "test"):
                chosen.append(one)
    return chosen


def _rank(seed: int, file: Path) -> float:
    """Returns a number from 0 to 1 that depends on a picture's class, name and the seed alone.

    So a picture stays in its split when others come or go: none that was trained on is tested.
    """
    name = os.fsencode(f"{seed}/{unicodedata.normalize('NFC', file.as_posix())}")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) / 2**64


def _of_classes(root: Path, names: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Returns the pictures in the folders of classes, which must be these ones."""
    found = {folder.name for folder in root.iterdir() if _is_class(folder)}
    strange = sorted(found.symmetric_difference(names))
    if strange:
        what = "has a class" if strange[0] in found else "has no folder of the class"
        raise UserError(
            f"{root} {what} {shown(strange[0])}; the classes are {', '.join(map(shown, names))}."
        )
    files = [
        (file, label) for label, name in enumerate(names) for file in images_below(root / name)
    ]
    empty = set(range(len(names))) - {label for _, label in files}
    if empty:
        folder = root / names[min(empty)]
        raise UserError(f"{folder} holds no picture ({', '.join(SUFFIXES)}).")
    return files


def _read(file: Path, shape: Shape) -> np.ndarray | Exception:
    try:
        return fit(file, shape)
    except Exception as error:  # Pillow raises many kinds
        return error
