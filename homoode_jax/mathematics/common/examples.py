"""Examples of a batch, each solved by itself: mapped over, and unmapped.

Under `vmap` a loop whose end differs from example to example copies all that it carries in every
turn, to freeze the examples that have ended. A loop that goes on while *any* example does copies
nothing, and freezes only what has to be.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, PyTree


def map_examples(function: Callable, *batched: PyTree) -> PyTree:
    """Maps a function of size-1 batches over the leading axis."""

    def one(*rows: PyTree) -> PyTree:
        return function(*jax.tree.map(lambda leaf: leaf[None], rows))

    return jax.vmap(one)(*batched)


@jax.custom_batching.custom_vmap
def any_example(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """Returns whether a flag is set for any example of all maps around; itself without a map.

    The answer is one for all examples, so that a loop that asks takes as many turns for each of
    them, and `vmap` freezes nothing in it: its body has to.
    """
    return flag


@any_example.def_vmap
def _any_of_mapped(size: Any, mapped: list[bool], flag: Bool[Array, "..."]):
    del size  # a symbolic dimension, in an export
    return any_example(jnp.any(flag, axis=0) if mapped[0] else flag), False


def while_any(goes_on: Callable, body: Callable, start: PyTree, freeze: Callable) -> PyTree:
    """Runs a while loop until it has ended for the last example.

    `freeze(goes_on, new, old)` keeps what an example had when its own loop ended. What it leaves
    as it is must not matter any more.
    """

    def turn(old: PyTree) -> PyTree:
        return freeze(goes_on(old), body(old), old)

    return lax.while_loop(lambda state: any_example(goes_on(state)), turn, start)


def once(needed: Bool[Array, ""], work: Callable, state: PyTree) -> PyTree:
    """Works on the state if that is needed, in a loop of one turn or none.

    Under `vmap` it costs nothing where no example needs it, while both sides of a condition would
    be computed. XLA may compute before the loop what `work` does not take from the state.
    """
    start = state, needed
    return lax.while_loop(lambda now: now[1], lambda now: (work(now[0]), ~now[1]), start)[0]


def drop_axis(tree: PyTree) -> PyTree:
    """Drops the size-1 batch axis that each mapped example had."""
    return jax.tree.map(lambda leaf: leaf[:, 0], tree)


def times_first(tree: PyTree) -> PyTree:
    """Turns saved states `[batch, times, 1, ...]` of mapped examples to `[times, batch, ...]`."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf[:, :, 0], 1, 0), tree)
