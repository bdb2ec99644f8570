"""Images made worse by formula: ten kinds of CIFAR-10-C, at its strengths (arXiv 1903.12261).

Noise (Gaussian, shot, impulse, speckle), blur, brightness, contrast, saturation, coarser pixels
and JPEG. The other kinds of that set need files, or a simulation of weather. Images are of 0 to 1
within.
"""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

Images = Float[np.ndarray, "n h w c"]


class Kind(NamedTuple):
    """A kind of corruption.

    Attributes:
        apply: images, strength and a generator to images.
        strengths: from 1 to 5.
    """

    apply: Callable[[Images, Any, np.random.Generator], Images]
    strengths: tuple[Any, ...]


def gaussian_noise(images: Images, strength: float, rng: np.random.Generator) -> Images:
    """Adds noise of that standard deviation."""
    return images + rng.normal(0, strength, images.shape)


def shot_noise(images: Images, strength: float, rng: np.random.Generator) -> Images:
    """Counts photons, `strength` of them where an image is 1."""
    return rng.poisson(images * strength) / strength


def impulse_noise(images: Images, strength: float, rng: np.random.Generator) -> Images:
    """Sets a share of the entries to 0 or 1."""
    drawn = rng.uniform(size=images.shape)
    return np.where(drawn < strength, drawn < strength / 2, images)


def speckle_noise(images: Images, strength: float, rng: np.random.Generator) -> Images:
    """Adds noise in proportion to each entry."""
    return images * (1 + rng.normal(0, strength, images.shape))


def blur(images: Images, strength: float, rng: np.random.Generator) -> Images:
    """Is a Gaussian filter of that many pixels."""
    del rng
    return ndimage.gaussian_filter(images, (0, strength, strength, 0), mode="nearest")


def brightness(images: Images, strength: float, rng: np.random.Generator) -> Images:
    """Adds to the value (HSV) of each pixel, hue and saturation kept."""
    del rng
    value = images.max(-1, keepdims=True)
    brighter = np.minimum(value + strength, 1)
    return np.where(value > 0, images / np.where(value > 0, value, 1), 1) * brighter


def contrast(images: Images, strength: float, rng: np.random.Generator) -> Images:
    """Draws each channel to its mean over the image."""
    del rng
    means = images.mean((1, 2), keepdims=True)
    return means + strength * (images - means)


def saturation(images: Images, strength: tuple[float, float], rng: np.random.Generator) -> Images:
    """Scales and shifts the saturation (HSV) of each pixel; one without hue becomes red."""
    del rng
    factor, shift = strength
    value = images.max(-1, keepdims=True)
    apart = value - images  # from the largest channel: its size is the saturation, in values
    most = apart.max(-1, keepdims=True)
    red = value * np.array([0.0, 1.0, 1.0])
    direction = np.where(most > 0, apart / np.where(most > 0, most, 1), red > 0)
    share = np.where(value > 0, most / np.where(value > 0, value, 1), 0)
    return value - direction * value * np.clip(factor * share + shift, 0, 1)


def pixelate(images: Images, strength: float, rng: np.random.Generator) -> Images:
    """Averages to fewer pixels, and takes those for the old ones."""
    del rng
    size = images.shape[2], images.shape[1]
    box = Image.Resampling.BOX
    fewer = int(strength * size[0]), int(strength * size[1])
    return _each(images, lambda one: one.resize(fewer, box).resize(size, box))


def jpeg(images: Images, strength: int, rng: np.random.Generator) -> Images:
    """Compresses at that quality."""
    del rng

    def compressed(image: Image.Image) -> Image.Image:
        kept = io.BytesIO()
        image.save(kept, "JPEG", quality=strength)
        return Image.open(kept)

    return _each(images, compressed)


KINDS = {
    "Gaussian noise": Kind(gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot noise": Kind(shot_noise, (500, 250, 100, 75, 50)),
    "impulse noise": Kind(impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "speckle noise": Kind(speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2)),
    "blur": Kind(blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "brightness": Kind(brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": Kind(contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "saturation": Kind(saturation, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
    "pixelate": Kind(pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "JPEG": Kind(jpeg, (80, 65, 58, 50, 40)),
}


def corrupted(
    images: UInt8[np.ndarray, "n h w c"], kind: str, strength: int
) -> UInt8[np.ndarray, "n h w c"]:
    """Returns images of a kind and a strength from 1 to 5; the same noise at every call."""
    apply, strengths = KINDS[kind]
    found = apply(images / 255.0, strengths[strength - 1], np.random.default_rng(strength))
    return np.round(255 * np.clip(found, 0, 1)).astype(np.uint8)


def _each(images: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    pictures = [Image.fromarray(np.uint8(np.round(255 * image))) for image in images]
    return np.stack([np.asarray(change(picture)) for picture in pictures]) / 255.0
