"""Batches: the order of an epoch, padding, and their way to the devices as uint8."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from homoode_jax.experiments.dataset import Split
from homoode_jax.experiments.mesh import over_devices, put


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
    for i in range(start, len(order) // size):
        yield _put(split, order[i * size : (i + 1) * size], size, mesh)


def evaluation_batches(split: Split, size: int, mesh: Mesh) -> Iterator[Batch]:
    """Yields every image once, in order; the last batch is padded to `size`."""
    for i in range(0, len(split.labels), size):
        yield _put(split, np.arange(i, min(i + size, len(split.labels))), size, mesh)


def _put(split: Split, index: np.ndarray, size: int, mesh: Mesh) -> Batch:
    padding = [(0, size - len(index))]
    images = np.pad(split.images[index], padding + [(0, 0)] * 3)
    labels = np.pad(split.labels[index], padding)
    arrays = images, labels, np.arange(size) < len(index)
    return Batch(*(put(array, over_devices(mesh)) for array in arrays))
