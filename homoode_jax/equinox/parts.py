"""What layers are made of beside fields and cells: starts and dropout."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from homoode_jax.layers.dropout import check_rate, drop
from homoode_jax.layers.start import as_shape


class LearnedPoint(eqx.Module):
    """A start that is the same for all inputs, and learns: by `start_loss`, or through an ODE.

    Args:
        shape: of the state.
        key: a random key; None: the point begins at zero.
        scale: standard deviation of the entries that it begins with.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import homoode_jax.equinox
        >>> start = homoode_jax.equinox.LearnedPoint((32,), key=jax.random.key(0))
        >>> deq = homoode_jax.equinox.DEQ(lambda z, x: jnp.tanh(z / 2 + x), z0=start)
        >>> z = deq(jnp.ones(32))
        >>> print(z.shape, deq.start_loss(z) > 0)
        (32,) True
    """

    point: Float[Array, "..."]

    def __init__(
        self, shape: Sequence[int], *, key: Key[Array, ""] | None = None, scale: float = 1.0
    ):
        shape = as_shape(shape)
        self.point = jnp.zeros(shape) if key is None else scale * jax.random.normal(key, shape)

    def __call__(self, x: PyTree) -> Float[Array, "..."]:
        """Returns the point."""
        del x
        return self.point


class VariationalDropout(eqx.Module):
    """Dropout for the inside of a field or cell: one mask a solve, another for each example.

    It drops where the layer is called with `key=`, and nothing without, nor in
    `eqx.nn.inference_mode`.

    Attributes:
        rate: of the entries that are set to zero, at least 0 and below 1.
        broadcast_dims: axes along which the mask is the same: (1, 2) drops the channels of an
            image, which come first in Equinox.
        inference: True: drops nothing.

    Raises:
        ValueError: if the rate is not as above, and outside of a field or cell.

    Example:
        >>> import equinox as eqx
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import homoode_jax.equinox
        >>> class Cell(eqx.Module):
        ...     drop: eqx.Module
        ...     def __call__(self, z, x):
        ...         return x + 0.1 * self.drop(z)
        >>> layer = homoode_jax.equinox.DEQ(Cell(homoode_jax.equinox.VariationalDropout(0.5)))
        >>> z = layer(jnp.ones(8), key=jax.random.key(0))  # 1, or the solution of z = 1 + 0.2 z
        >>> print(sorted({round(float(entry), 2) for entry in z}))
        [1.0, 1.25]
    """

    rate: Any = eqx.field(converter=check_rate)
    broadcast_dims: tuple[int, ...] = eqx.field(static=True, default=(), converter=tuple)
    inference: bool = False

    def __call__(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns z with some entries set to zero, and the others scaled by 1 / (1 - rate)."""
        return z if self.inference else drop(z, self.rate, self.broadcast_dims)
