"""Variational dropout: one mask a solve (Gal & Ghahramani 2016, arXiv 1512.05287).

A field whose mask changes from one evaluation to the next is no field, and its cell has no
equilibrium. So a layer draws one key for each example before a solve, and the field or cell draws
its masks from these keys in every evaluation: the same ones. The keys are part of the condition.
An example has the same mask whether it is solved alone or in a batch.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from homoode_jax.mathematics.common.options import is_concrete

_masks: ContextVar["Masks | None"] = ContextVar("masks", default=None)


class Masks:
    """The keys of a solve, in one evaluation of its field or cell."""

    def __init__(self, keys: Key[Array, "*batch"] | None):
        self.keys = keys
        self._drawn = 0

    def draw(self, rate: Any, shape: Sequence[int]) -> Array:
        """Returns the next mask of the evaluation: a number for each dropout in its order."""
        assert self.keys is not None
        place = self._drawn
        self._drawn += 1

        def one(key: Key[Array, ""], shape: Sequence[int]) -> Array:
            return jax.random.bernoulli(jax.random.fold_in(key, place), 1 - rate, shape)

        if self.keys.ndim == 0:
            return one(self.keys, shape)
        return jax.vmap(lambda key: one(key, shape[1:]))(self.keys)


@contextlib.contextmanager
def evaluation(keys: Key[Array, "*batch"] | None) -> Iterator[None]:
    """Marks an evaluation of a field or cell, whose dropouts take their masks from these keys."""
    before = _masks.set(Masks(keys))
    try:
        yield
    finally:
        _masks.reset(before)


def check_rate(rate: Any) -> Any:
    """Returns the rate, or raises."""
    if is_concrete(rate) and not 0 <= rate < 1:
        raise ValueError(f"rate must be at least 0 and below 1, got {rate!r}.")
    return rate


def drop(z: Array, rate: Any, broadcast_dims: Sequence[int] = ()) -> Array:
    """Returns z times its mask, scaled by 1 / (1 - rate); z where the solve has no dropout."""
    masks = _masks.get()
    if masks is None:
        raise ValueError(
            "VariationalDropout takes one mask a solve, and works in the field or cell of a layer "
            "only; outside one use ordinary Dropout."
        )
    if masks.keys is None:
        return z
    shape = list(z.shape)
    for dim in broadcast_dims:
        shape[dim] = 1
    kept = masks.draw(rate, shape)
    return jnp.where(kept, z / (1 - rate), 0).astype(z.dtype)


def draw_keys(key: Key[Array, ""], batch: Any) -> Key[Array, " batch"]:
    """Returns a key for each example."""
    key = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
    return jax.random.split(key, batch)


def keys_of_evaluation() -> Key[Array, "*batch"] | None:
    """Returns the keys of the evaluation under way."""
    masks = _masks.get()
    return None if masks is None else masks.keys
