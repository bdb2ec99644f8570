"""Augmentation on the device: random crop, horizontal flip, normalisation."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key, UInt8

from homoode_jax.experiments.hyperparameters import Number


def augment(
    key: Key[Array, ""], images: UInt8[Array, "n h w c"], flip: Number | None, padding: int
) -> UInt8[Array, "n h w c"]:
    """Pads with black and crops at random, then flips with probability `flip`; None: never."""
    crop_key, flip_key = jax.random.split(key)
    if padding:
        images = _crop(crop_key, images, padding)
    if flip is not None:
        flipped = jax.random.bernoulli(flip_key, flip, (images.shape[0], 1, 1, 1))
        images = jnp.where(flipped, images[:, :, ::-1], images)
    return images


def normalise(
    images: UInt8[Array, "n h w c"], mean: Sequence[float], std: Sequence[float], dtype: str
) -> Float[Array, "n h w c"]:
    """Scales to [0, 1], subtracts the mean and divides by the standard deviation."""
    return (images.astype(dtype) / 255 - jnp.array(mean, dtype)) / jnp.array(std, dtype)


def _crop(key: Key[Array, ""], images: UInt8[Array, "n h w c"], padding: int) -> Array:
    size = images.shape[1:]
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    offsets = jax.random.randint(key, (images.shape[0], 2), 0, 2 * padding + 1)
    return jax.vmap(lambda image, at: lax.dynamic_slice(image, (at[0], at[1], 0), size))(
        padded, offsets
    )
