"""Images as a source gives them: records, damaged ones too, and the share of them to read.

Files become arrays of 8 bits; what cannot become one without loss is refused by name.

Pillow converts 16-bit and floating-point images to 8 bits by clipping, or by dropping high bits,
without a word: the result is another picture.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

FORMATS = ("JPEG", "PNG")
SUFFIXES = (".jpeg", ".jpg", ".png")  # in either case
GREY_MODES = ("1", "L")
MOST_PIXELS = 100_000_000  # of an image that is scaled
MODES = (*GREY_MODES, "P", "RGB", "RGBA", "CMYK")

Shape = tuple[int, int, int]


class Share(NamedTuple):
    """The records to read: those dealt into one of the parts `first` ... `last` - 1."""

    parts: int = 1
    first: int = 0
    last: int = 1

    def deal(self, count: int) -> np.ndarray:
        """Returns the part of each of so many records: at random, so that classes are in each."""
        return np.random.default_rng(0).permutation(count) % self.parts

    def numbers(self, count: int) -> list[int]:
        """Returns the numbers of the records to read, among so many."""
        part = self.deal(count)
        return np.flatnonzero((self.first <= part) & (part < self.last)).tolist()

    def those(self, items: Sequence[Any]) -> list[tuple[int, Any]]:
        """Returns the items to read, each after its number."""
        return [(number, items[number]) for number in self.numbers(len(items))]


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


def list_images(folder: Path) -> list[Path]:
    """Returns the images in a folder; hidden ones, as some systems leave, are not images."""
    return sorted(
        file
        for file in folder.glob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )


def images_below(folder: Path) -> list[Path]:
    """Returns the images in a folder, and those in the folders in it, hidden ones left out."""
    folders = sorted(sub for sub in folder.iterdir() if _is_below(sub))
    return [*list_images(folder), *(file for sub in folders for file in images_below(sub))]


def _is_below(folder: Path) -> bool:
    """Returns whether it is a folder to look into; a link may lead back to one above it."""
    if not folder.is_dir() or folder.name.startswith("."):
        return False
    return not folder.parent.resolve().is_relative_to(folder.resolve())


def read_image(source: Path | bytes, shape: Shape) -> UInt8[np.ndarray, "h w c"] | Exception:
    """Returns the pixels of a file, or of its content; or why it is not such an image."""
    try:
        return decode(source, shape)
    except Exception as error:  # Pillow raises many kinds
        return error


def decode(source: Path | bytes, shape: Shape) -> UInt8[np.ndarray, "h w c"]:
    """Decodes a JPEG or PNG image; grey becomes colour where there are three channels.

    Raises:
        ValueError: if it has another format, size or mode, which are looked at before decoding:
            a file of some kilobytes may hold gigabytes of pixels.
    """
    with _open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        _check_format(image, shape)
        converted = image.convert("L" if shape[2] == 1 else "RGB")
        return np.asarray(converted).reshape(shape)


def fit(source: Path, shape: Shape) -> UInt8[np.ndarray, "h w c"]:
    """Decodes a JPEG or PNG image of any size: scaled to the shorter side, and its middle cut out.

    It is turned as its camera was held, and colour becomes grey where there is one channel.

    Raises:
        ValueError: if it has another format or mode, or very many pixels.
    """
    from PIL import ImageOps

    height, width, channels = shape
    with _open(source) as image:
        _check_mode(image, (*MODES, "LA"))
        if image.size[0] * image.size[1] > MOST_PIXELS:
            raise ValueError(f"it has more than {MOST_PIXELS:,} pixels")
        image.draft("RGB", (2 * width, 2 * height))  # JPEG alone: decodes no more than is used
        upright = ImageOps.exif_transpose(image)
        upright = _on_white(upright).convert("L" if channels == 1 else "RGB")
        return np.asarray(ImageOps.fit(upright, (width, height))).reshape(shape)


def _open(source: Any) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked
            return Image.open(source, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError("neither a JPEG nor a PNG image") from error


def _on_white(image):
    """Returns the image as it looks on white paper: what is transparent has any colour."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image.convert("RGBA"))


def _check_format(image, shape: Shape) -> None:
    height, width, channels = shape
    if image.size != (width, height):
        got = "x".join(map(str, reversed(image.size)))
        raise ValueError(f"it has {got} pixels; {height}x{width} are wanted")
    _check_mode(image, GREY_MODES if channels == 1 else MODES)


def _check_mode(image, modes: Sequence[str]) -> None:
    if image.mode not in modes:
        raise ValueError(f"its mode is {image.mode}; {', '.join(modes)} are read")
    if any(";16" in str(tile.args) for tile in image.tile):
        raise ValueError(f"it has 16 bits a channel ({image.mode}); images of 8 bits are read")
