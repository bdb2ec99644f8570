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
from jax.extend.core import get_opaque_trace_state
from jaxtyping import Array, Key

from homoode_jax.mathematics.common.options import is_concrete

_masks: ContextVar["Masks | None"] = ContextVar("masks", default=None)


class DropoutPlaceError(ValueError):
    """A dropout where it cannot know the masks of the solve."""


class Masks:
    """The keys of a solve, in one evaluation of its field or cell."""

    def __init__(self, keys: Key[Array, "*batch"] | None):
        self.keys = keys
        self._drawn = 0
        self._trace = get_opaque_trace_state()

    def check_place(self) -> None:
        """Raises in a function that the field or cell transforms.

        JAX keeps what it has traced of such a function, and with it the keys of another solve.
        """
        if get_opaque_trace_state() != self._trace:
            raise DropoutPlaceError(
                "VariationalDropout is called in a function that the field or cell gives to jit, "
                "checkpoint, cond, scan or vmap, which would keep the mask of another solve. Call "
                "it outside of that function; transform the whole layer or model instead."
            )

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


def check_is_part() -> None:
    """Raises where a dropout drops, and the layer found none in its field or cell."""
    masks = _masks.get()
    if masks is not None and masks.keys is None:
        raise DropoutPlaceError(
            "VariationalDropout is called by the field or cell of a layer, and is no part of it: "
            "make it an attribute of that module."
        )


def drop(z: Array, rate: Any, broadcast_dims: Sequence[int] = ()) -> Array:
    """Returns z times its mask, scaled by 1 / (1 - rate); z where the solve has no dropout."""
    masks = _masks.get()
    if masks is None:
        raise DropoutPlaceError(
            "VariationalDropout takes one mask a solve, and works in the field or cell of a layer "
            "only; outside one use ordinary Dropout."
        )
    if masks.keys is None:
        return z
    masks.check_place()
    shape = list(z.shape)
    for dim in broadcast_dims:
        shape[dim] = 1
    kept = masks.draw(rate, shape)
    return jnp.where(kept, z / (1 - rate), 0).astype(z.dtype)


def draw_keys(key: Key[Array, "*batch"], batch: Any) -> Key[Array, " batch"]:
    """Returns a key for each example, of one key, or of as many."""
    if not isinstance(key, jax.Array):
        raise ValueError(f"key must be a jax.random.key, got {key!r}.")
    key = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
    if key.ndim == 0:
        return jax.random.split(key, batch)
    if key.shape != (batch,):
        raise ValueError(
            f"key must be one, or one for each of the {batch} examples, got {key.shape}."
        )
    return key


def keys_of_evaluation() -> Key[Array, "*batch"] | None:
    """Returns the keys of the evaluation under way."""
    masks = _masks.get()
    return None if masks is None else masks.keys
