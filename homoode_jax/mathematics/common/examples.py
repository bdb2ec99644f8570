"""Examples of a batch, each solved by itself: mapped over, and unmapped.

Under `vmap` a loop whose end differs from example to example copies all that it carries in every
turn, to freeze the examples that have ended. A loop that goes on while *any* example does copies
nothing, and freezes only what has to be: for that the mapped axis has a name. Whoever maps has to
say so. A solve within the function that is mapped could see the name too, but not use it: others,
such as Diffrax, map what they have traced once more, without names.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, PyTree

EXAMPLES = "homoode_jax: examples"


def map_examples(function: Callable, *batched: PyTree) -> PyTree:
    """Maps a function of size-1 batches over the leading axis."""

    def one(*rows: PyTree) -> PyTree:
        return function(*jax.tree.map(lambda leaf: leaf[None], rows))

    sizes = [leaf.shape[0] for leaf in jax.tree.leaves(batched)]
    # A collective needs to know how many they are, which an export of any batch size does not.
    name = EXAMPLES if all(isinstance(size, int) for size in sizes) else None
    return jax.vmap(one, axis_name=name)(*batched)


def while_any(goes_on: Callable, body: Callable, start: PyTree, freeze: Callable) -> PyTree:
    """Runs a while loop, straight in `map_examples`, until it has ended for the last example.

    `freeze(goes_on, new, old)` keeps what an example had when its own loop ended. What it leaves
    as it is must not matter any more.
    """
    if not _is_named():
        return lax.while_loop(goes_on, body, start)

    def any_goes_on(state: PyTree) -> Bool[Array, ""]:
        return lax.pmax(goes_on(state).astype(jnp.int32), EXAMPLES) > 0

    return lax.while_loop(any_goes_on, lambda old: freeze(goes_on(old), body(old), old), start)


def _is_named() -> bool:
    """Returns whether the examples of this map can be asked about each other."""
    try:
        lax.axis_index(EXAMPLES)
    except NameError:
        return False
    return True


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
