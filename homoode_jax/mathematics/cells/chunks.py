"""Rows of a batch that need more work than others, gathered a few at a time.

Under `vmap` a loop runs for all rows until the last one has ended. Here two hard rows of 64 make
nobody wait: a loop over chunks gathers the rows in need, works on them, and puts them back.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, PyTree

CHUNK = 4  # rows


def in_chunks(
    work: Callable,
    needed: Bool[Array, " batch"],
    rows: tuple[PyTree[Array], ...],
    outcome: PyTree[Array],
) -> PyTree[Array]:
    """Returns the outcome after `work(*rows, outcome, needed)` on the rows in need.

    `work` gets a chunk of rows, their outcomes, and which of them are in need: the last chunk is
    filled up with others, whose outcomes it must return as they are.
    """
    batch = needed.shape[0]
    # Of a batch whose size is not known yet one chunk might have a row twice.
    chunk = min(CHUNK, batch) if isinstance(batch, int) else 1
    order = jnp.argsort(~needed)
    count = jnp.sum(needed)

    def body(state):
        start, outcome = state
        places = start + jnp.arange(chunk)
        index = order[places % batch]
        some, before = jax.tree.map(lambda leaf: leaf[index], (rows, outcome))
        done = work(*some, before, places < count)
        outcome = jax.tree.map(lambda leaf, new: leaf.at[index].set(new), outcome, done)
        return start + chunk, outcome

    return lax.while_loop(lambda state: state[0] < count, body, (jnp.asarray(0), outcome))[1]
