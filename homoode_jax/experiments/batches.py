"""Batches: the order of an epoch, padding, their way to the devices as uint8, augmentation there.

Where images are in several parts, each batch has as many rows of every part, one part after
another: a process needs the images of the parts whose rows lie on its devices, and no others.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, UInt8

from homoode_jax.experiments.dataset import Split
from homoode_jax.experiments.devices import over_devices, put
from homoode_jax.experiments.hyperparameters import Number


class Batch(NamedTuple):
    """A batch on the devices; `mask` is False for rows that are padding."""

    images: jax.Array
    labels: jax.Array
    mask: jax.Array


def training_batches(
    split: Split, size: int, seed: int, epoch: int, start: int, mesh: Mesh
) -> Iterator[Batch]:
    """Yields the full batches of one epoch from number `start` on, shuffled by (seed, epoch)."""
    order = np.random.default_rng((seed, epoch)).permutation(len(split.labels))
    for rows in _deal(split, order, size)[start : count_batches(split, size)]:
        yield _send(split, rows, mesh)


def count_batches(split: Split, size: int) -> int:
    """Returns how many full batches an epoch has; the smallest part decides."""
    return int(np.min(_part_sizes(split))) // (size // split.parts)


def evaluation_batches(split: Split, size: int, mesh: Mesh) -> Iterator[Batch]:
    """Yields every image once, in order; the last batches are padded to `size`."""
    for rows in _deal(split, np.arange(len(split.labels)), size):
        yield _send(split, rows, mesh)


def count_evaluation_batches(split: Split, size: int) -> int:
    """Returns how many batches `evaluation_batches` has; the largest part decides."""
    return -(-int(np.max(_part_sizes(split))) // (size // split.parts))


def _part_sizes(split: Split) -> Int[np.ndarray, " parts"]:
    return np.bincount(split.part, minlength=split.parts)


def _deal(split: Split, order: Int[np.ndarray, " n"], size: int) -> Int[np.ndarray, "k size"]:
    """Returns which image each row of each batch is; -1: none, its part has no more.

    The images of a part fill its rows of one batch after another, in the given order. So the same
    images meet in a batch on any number of processes: it depends on the parts alone.
    """
    each = size // split.parts
    filled = each * count_evaluation_batches(split, size)

    def rows_of(part: int) -> Int[np.ndarray, "k each"]:
        images = order[split.part[order] == part]
        return np.pad(images, (0, filled - len(images)), constant_values=-1).reshape(-1, each)

    return np.concatenate([rows_of(part) for part in range(split.parts)], axis=1)


def _send(split: Split, rows: Int[np.ndarray, " size"], mesh: Mesh) -> Batch:
    """Sends a batch; each process the rows of its own devices."""

    def images(index: tuple[slice, ...] | None) -> np.ndarray:
        chosen = rows[index[0]] if index else rows
        found = np.zeros((len(chosen), *split.images.shape[1:]), split.images.dtype)
        places = split.place[chosen[chosen >= 0]]
        assert np.all(places >= 0), "an image that another process has"
        found[chosen >= 0] = split.images[places]
        return found

    lie = over_devices(mesh)
    shape = (len(rows), *split.images.shape[1:])
    mask = rows >= 0
    labels = np.where(mask, split.labels[rows], 0).astype(split.labels.dtype)
    return Batch(jax.make_array_from_callback(shape, lie, images), put(labels, lie), put(mask, lie))


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
