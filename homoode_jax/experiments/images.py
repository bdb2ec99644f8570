"""Image files as arrays of 8 bits; what cannot become one without loss is refused by name.

Pillow converts 16-bit and floating-point images to 8 bits by clipping, or by dropping high bits,
without a word: the result is another picture.
"""

import io
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

FORMATS = ("JPEG", "PNG")
SUFFIXES = (".jpeg", ".jpg", ".png")  # in either case
GREY_MODES = ("1", "L")
MODES = (*GREY_MODES, "P", "RGB", "RGBA", "CMYK")

Shape = tuple[int, int, int]


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
    from PIL import Image, UnidentifiedImageError

    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked
            opened = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError("neither a JPEG nor a PNG image") from error
    with opened as image:
        _check(image, shape)
        converted = image.convert("L" if shape[2] == 1 else "RGB")
        return np.asarray(converted).reshape(shape)


def _check(image, shape: Shape) -> None:
    height, width, channels = shape
    if image.size != (width, height):
        got = "x".join(map(str, reversed(image.size)))
        raise ValueError(f"it has {got} pixels; {height}x{width} are wanted")
    modes = GREY_MODES if channels == 1 else MODES
    if image.mode not in modes:
        raise ValueError(f"its mode is {image.mode}; {', '.join(modes)} are read")
    if any(";16" in str(tile.args) for tile in image.tile):
        raise ValueError(f"it has 16 bits a channel ({image.mode}); images of 8 bits are read")
