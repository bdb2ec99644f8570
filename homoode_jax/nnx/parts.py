"""What layers are made of beside fields and cells: starts, dropout, and what is kept of a solve."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, PyTree

from homoode_jax.layers import start as starts
from homoode_jax.layers.dropout import check_is_part, check_rate, drop
from homoode_jax.mathematics.common.options import is_concrete


class Solved(nnx.Variable):
    """What is kept of the last call of a layer: `layer.failed` and `layer.evaluations`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> import homoode_jax.nnx
        >>> cell = lambda z, x: jnp.tanh(x + 0.5 * z)
        >>> layer = homoode_jax.nnx.DEQ(cell, keep_solution=True)
        >>> z = layer(jnp.ones((4, 3)))
        >>> print(layer.failed[...], layer.evaluations[...])
        0 5
    """


class LearnedPoint(nnx.Module):
    """A start that is the same for all inputs, and learns: by `start_loss`, or through an ODE.

    Args:
        shape: of the state of one example.
        rngs: random keys; None: the point begins at zero.
        scale: standard deviation of the entries that it begins with.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> import homoode_jax.nnx
        >>> start = homoode_jax.nnx.LearnedPoint((32,), nnx.Rngs(0))
        >>> deq = homoode_jax.nnx.DEQ(lambda z, x: jnp.tanh(z / 2 + x), z0=start)
        >>> x = jnp.ones((4, 32))
        >>> z = deq(x)
        >>> print(z.shape, deq.start_loss(z) > 0)
        (4, 32) True
    """

    def __init__(
        self, shape: int | Sequence[int], rngs: nnx.Rngs | None = None, scale: float = 1.0
    ):
        shape = starts.as_shape(shape)
        zero = jnp.zeros(shape)
        self.point = nnx.Param(
            zero if rngs is None else scale * jax.random.normal(rngs.params(), shape)
        )

    def __call__(self, x: PyTree[ArrayLike]) -> Float[Array, "batch ..."]:
        """Returns the point for each example of x."""
        return starts.at_point(self.point[...], x, starts.number_of_rows("LearnedPoint", x))


class VariationalDropout(nnx.Module):
    """Dropout for the inside of a field or cell: one mask a solve, another for each example.

    It follows `model.train()` and `model.eval()`, as `nnx.Dropout` does.

    Args:
        rate: of the entries that are set to zero, at least 0 and below 1.
        broadcast_dims: axes along which the mask is the same: (1, 2) drops channels of an image.
        deterministic: True: drops nothing.
        rngs: has the stream "dropout".

    Raises:
        ValueError: if the rate is not as above, and outside of a field or cell.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> import homoode_jax.nnx
        >>> class Cell(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.drop = homoode_jax.nnx.VariationalDropout(0.5, rngs=rngs)
        ...     def __call__(self, z, x):
        ...         return x + 0.1 * self.drop(z)
        >>> layer = homoode_jax.nnx.DEQ(Cell(nnx.Rngs(0)))
        >>> z = layer(jnp.ones((1, 8)))  # 1, or the solution of z = 1 + 0.2 z
        >>> print(sorted({round(float(entry), 2) for entry in z[0]}))
        [1.0, 1.25]
    """

    def __init__(
        self,
        rate: float,
        *,
        broadcast_dims: Sequence[int] = (),
        deterministic: bool = False,
        rngs: nnx.Rngs,
    ):
        self.rate = check_rate(rate)
        self.broadcast_dims = tuple(broadcast_dims)
        self.deterministic = deterministic
        self.rngs = rngs["dropout"].fork()

    @property
    def is_on(self) -> bool:
        """Returns whether it drops anything."""
        return not self.deterministic and not (is_concrete(self.rate) and self.rate == 0)

    def __call__(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns z with some entries set to zero, and the others scaled by 1 / (1 - rate)."""
        if not self.is_on:
            return z
        check_is_part()
        return drop(z, self.rate, self.broadcast_dims)
