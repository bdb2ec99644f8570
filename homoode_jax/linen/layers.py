"""The layers: HomoODE, Neural ODEs, and deep equilibrium models."""

from homoode_jax.layers import kinds
from homoode_jax.linen.layer import with_fields


class HomoODE(with_fields(kinds.HOMO_ODE)):
    """dz/dt = field(t, z, x) from z(0) = z0 to t = 1; see `homoode_jax.nnx.HomoODE`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import homoode_jax.linen
        >>> layer = homoode_jax.linen.HomoODE(lambda t, z, x: x - z, z0=(1,), solver="tsit5")
        >>> x = jnp.ones((4, 1))
        >>> z = layer.apply(layer.init(jax.random.key(0), x), x)  # 1 - exp(-1)
        >>> print(f"{z[0, 0]:.3f}")
        0.632
    """


class NeuralODE(with_fields(kinds.NEURAL_ODE)):
    """dz/dt = field(t, z) from z(0) = x to t = 1; see `homoode_jax.nnx.NeuralODE`.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax.linen
        >>> layer = homoode_jax.linen.NeuralODE(lambda t, z: -z)
        >>> print(f"{layer.apply({}, jnp.ones((1, 1)))[0, 0]:.3f}")  # exp(-1)
        0.368
    """


class AugmentedNeuralODE(with_fields(kinds.AUGMENTED_NEURAL_ODE)):
    """dz/dt = field(t, z) from z(0) = [x, 0]; see `homoode_jax.nnx.AugmentedNeuralODE`.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax.linen
        >>> layer = homoode_jax.linen.AugmentedNeuralODE(lambda z: -z, augment=2)
        >>> print(layer.apply({}, jnp.ones((1, 3))).shape)
        (1, 5)
    """


class DEQ(with_fields(kinds.DEQ)):
    """z = cell(z, x) by an iteration from z0; see `homoode_jax.nnx.DEQ`.

    Example:
        >>> import flax.linen as nn
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import homoode_jax.linen
        >>> class Cell(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, z, x):
        ...         return jnp.tanh(0.5 * nn.Dense(32)(z) + x)
        >>> layer = homoode_jax.linen.DEQ(Cell(), z0=(32,), solver="robust")
        >>> x = jnp.ones((4, 32))
        >>> variables = layer.init(jax.random.key(0), x)
        >>> solution = layer.apply(variables, x, method="solve")
        >>> print(solution.z.shape, bool(solution.success))
        (4, 32) True
    """


class HomotopyDEQ(with_fields(kinds.HOMOTOPY_DEQ)):
    """z = cell(z, x), along a homotopy from z0; see `homoode_jax.nnx.HomotopyDEQ`.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax.linen
        >>> cell = lambda z, x: jnp.tanh(0.5 * z + x)
        >>> layer = homoode_jax.linen.HomotopyDEQ(cell, z0=(1,), path="arclength")
        >>> print(f"{layer.apply({}, jnp.ones((1, 1)))[0, 0]:.3f}")
        0.895
    """
