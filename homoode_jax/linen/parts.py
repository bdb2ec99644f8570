"""What layers are made of beside fields and cells: starts and dropout."""

from collections.abc import Sequence

from flax import linen as nn
from jaxtyping import Array, ArrayLike, Float, PyTree

from homoode_jax.layers import start as starts
from homoode_jax.layers.dropout import check_rate, drop


class LearnedPoint(nn.Module):
    """A start that is the same for all inputs, and learns: by `start_loss`, or through an ODE.

    Attributes:
        shape: of the state of one example.
        scale: standard deviation of the entries that it begins with.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import homoode_jax.linen
        >>> start = homoode_jax.linen.LearnedPoint((32,))
        >>> deq = homoode_jax.linen.DEQ(lambda z, x: jnp.tanh(z / 2 + x), z0=start)
        >>> x = jnp.ones((4, 32))
        >>> variables = deq.init(jax.random.key(0), x)
        >>> z = deq.apply(variables, x)
        >>> print(z.shape, deq.apply(variables, z, method="start_loss") > 0)
        (4, 32) True
    """

    shape: int | tuple[int, ...]
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: PyTree[ArrayLike]) -> Float[Array, "batch ..."]:
        """Returns the point for each example of x."""
        point = self.param("point", nn.initializers.normal(self.scale), starts.as_shape(self.shape))
        return starts.at_point(point, x, starts.number_of_rows("LearnedPoint", x))


class VariationalDropout(nn.Module):
    """Dropout for the inside of a field or cell: one mask a solve, another for each example.

    It drops where `apply` is given `rngs={"dropout": key}`, and nothing without.

    Attributes:
        rate: of the entries that are set to zero, at least 0 and below 1.
        broadcast_dims: axes along which the mask is the same: (1, 2) drops channels of an image.

    Raises:
        ValueError: if the rate is not as above, and outside of a field or cell.

    Example:
        >>> import flax.linen as nn
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import homoode_jax.linen
        >>> class Cell(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, z, x):
        ...         return x + 0.1 * homoode_jax.linen.VariationalDropout(0.5)(z)
        >>> layer = homoode_jax.linen.DEQ(Cell())
        >>> z = layer.apply({}, jnp.ones((1, 8)), rngs={"dropout": jax.random.key(0)})
        >>> print(sorted({round(float(entry), 2) for entry in z[0]}))
        [1.0, 1.25]
    """

    rate: float
    broadcast_dims: Sequence[int] = ()

    @nn.compact
    def __call__(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns z with some entries set to zero, and the others scaled by 1 / (1 - rate)."""
        return drop(z, check_rate(self.rate), tuple(self.broadcast_dims))
