"""Image files: what becomes an array of 8 bits as it is, and what is refused by name."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from homoode_jax.experiments.images import decode, read_image

SHAPE = (64, 64, 3)
RAMP = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)


def encoded(image, kind="PNG"):
    stream = io.BytesIO()
    image.save(stream, format=kind)
    return stream.getvalue()


def png(width, height, depth, colour, row):
    """Writes a PNG by hand: Pillow does not write every kind that it reads."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress((b"\0" + row) * height)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def test_each_mode_that_is_read_gives_its_colours():
    grey = Image.fromarray(RAMP)
    colour = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)
    np.testing.assert_array_equal(decode(encoded(grey), SHAPE), np.repeat(RAMP[..., None], 3, -1))
    np.testing.assert_array_equal(decode(encoded(grey), (64, 64, 1)), RAMP[..., None])
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(colour)), SHAPE), colour)
    alpha = np.concatenate([colour, np.full((64, 64, 1), 7, np.uint8)], axis=-1)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(alpha)), SHAPE), colour)
    palette = Image.fromarray(RAMP // 64)
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]])
    np.testing.assert_array_equal(decode(encoded(palette), SHAPE), colours[RAMP // 64])
    bits = decode(encoded(Image.fromarray(RAMP > 100)), SHAPE)
    np.testing.assert_array_equal(bits[..., 0], np.where(RAMP > 100, 255, 0))
    cmyk = Image.merge("CMYK", [Image.new("L", (64, 64), ink) for ink in (255, 0, 0, 0)])
    red, green, blue = decode(encoded(cmyk, "JPEG"), SHAPE)[32, 32].astype(int)
    assert red < 60 and green > 120 and blue > 120


REFUSED = {
    "16 bits of grey": (encoded(Image.fromarray(RAMP.astype(np.uint16) * 257)), "its mode is I;16"),
    "16 bits of colour": (png(64, 64, 16, 2, bytes(6 * 64)), "it has 16 bits a channel"),
    "grey with alpha": (encoded(Image.fromarray(RAMP).convert("LA")), "its mode is LA"),
    "floating point": (encoded(Image.new("F", (64, 64), 0.5), "TIFF"), "neither a JPEG nor a PNG"),
    "another format": (encoded(Image.fromarray(RAMP), "BMP"), "neither a JPEG nor a PNG"),
    "another size": (encoded(Image.new("L", (64, 32))), "it has 32x64 pixels; 64x64 are wanted"),
    "nothing": (b"", "neither a JPEG nor a PNG"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_read_as_another_picture_is_refused(kind):
    content, words = REFUSED[kind]
    error = read_image(content, SHAPE)
    assert isinstance(error, ValueError) and words in str(error) and "\n" not in str(error)


def test_colour_is_refused_where_grey_is_wanted():
    error = read_image(encoded(Image.new("RGB", (28, 28))), (28, 28, 1))
    assert "its mode is RGB; 1, L are read" in str(error)


def test_an_image_too_large_is_refused_before_it_is_decoded(recwarn):
    """Its rows, were they decoded, would take gigabytes; it takes some kilobytes."""
    content = png(13_300, 13_300, 8, 2, bytes(3 * 13_300))
    assert len(content) < 2_000_000
    began = time.monotonic()
    error = read_image(content, SHAPE)
    assert "it has 13300x13300 pixels" in str(error)
    assert time.monotonic() - began < 0.5
    assert not list(recwarn)
