"""Losses: the task's cross-entropy, and the regression of the initial point."""

import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int


def cross_entropy(
    logits: Float[Array, "n classes"], labels: Int[Array, " n"], counts: Bool[Array, " n"]
) -> Float[Array, ""]:
    """Mean cross-entropy over the rows that count (zero if none does)."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(jnp.where(counts, losses, 0)) / jnp.maximum(jnp.sum(counts), 1)


def initial_point_loss(
    point: Float[Array, "*point c"], z1: Float[Array, "n h w c"], counts: Bool[Array, " n"]
) -> Float[Array, ""]:
    """Smooth-L1 distance (beta 1) of an initial point, of any shape that broadcasts, to z(1).

    The final states are held fixed.
    """
    losses = optax.huber_loss(jnp.broadcast_to(point, z1.shape), lax.stop_gradient(z1), delta=1.0)
    means = jnp.mean(losses, axis=(1, 2, 3))
    return jnp.sum(jnp.where(counts, means, 0)) / jnp.maximum(jnp.sum(counts), 1)
