"""Tiny-ImageNet, read from its folder `tiny-imagenet-200`; its labelled `val` is the test split."""

import re
from pathlib import Path

from homoode_jax.experiments.errors import UserError, shown
from homoode_jax.experiments.files import expanded
from homoode_jax.experiments.images import (
    ALL,
    SUFFIXES,
    Reading,
    Record,
    Share,
    list_images,
    read_image,
)

ARCHIVE = "tiny-imagenet-200"
SHAPE = (64, 64, 3)
CLASSES = 200
CLASS = re.compile(r"n\d{8}")  # of WordNet


def read_tiny_imagenet(data_dir: str, split: str, share: Share = ALL) -> Reading:
    """Reads the images of a split.

    Raises:
        UserError: if the folder is not what it should be.
    """
    root = _find_root(data_dir)
    label_of = {name: label for label, name in enumerate(_classes(root / "train"))}
    if split == "train":
        files = [
            (file, label)
            for name, label in label_of.items()
            for file in _images(root / "train" / name / "images")
        ]
    else:
        files = _annotated(root, label_of)
    records = [
        Record(number, str(file), read_image(file, SHAPE), label)
        for number, (file, label) in share.those(files)
    ]
    return Reading(len(files), records)


def _find_root(data_dir: str) -> Path:
    given = expanded(data_dir or "data")
    root = given if given.name == ARCHIVE else given / ARCHIVE
    for part in ("train", "val/val_annotations.txt"):
        if not (root / part).exists():
            raise UserError(
                f"{root / part} does not exist. Set config.data.data_dir to the folder that holds "
                f"{ARCHIVE}, unpacked from cs231n.stanford.edu/{ARCHIVE}.zip."
            )
    return root


def _classes(train: Path) -> list[str]:
    """Returns the names of the classes, in the order of their labels.

    A folder too many, or too few, would give every class after it the label of another.
    """
    found = sorted(
        path.name for path in train.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    strange = [name for name in found if not CLASS.fullmatch(name)]
    if strange:
        raise UserError(
            f"{train} holds a folder {shown(strange[0])}, which is no class (n and eight digits). "
            "Move it away."
        )
    if len(found) != CLASSES:
        raise UserError(
            f"{train} holds {len(found)} folders of classes; there must be {CLASSES}. "
            f"Unpack {ARCHIVE} again."
        )
    return found


def _images(folder: Path) -> list[Path]:
    """Returns the image files of a class, or raises if there are none."""
    files = list_images(folder)
    if not files:
        raise UserError(f"{folder} holds no image of its class ({', '.join(SUFFIXES)}).")
    return files


def _annotated(root: Path, label_of: dict[str, int]) -> list[tuple[Path, int]]:
    """Returns the files that `val_annotations.txt` names, with their labels."""
    text = (root / "val" / "val_annotations.txt").read_text(errors="replace")
    files = [_line(root, line, label_of) for line in text.splitlines() if line.strip()]
    if not files:
        raise UserError(f"val_annotations.txt in {root}/val names no image.")
    return files


def _line(root: Path, line: str, label_of: dict[str, int]) -> tuple[Path, int]:
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
