"""The layers: HomoODE, Neural ODEs, and deep equilibrium models."""

from typing import Any

import equinox as eqx

from homoode_jax.equinox.layer import Layer
from homoode_jax.layers import kinds
from homoode_jax.mathematics.common.options import whole


class HomoODE(Layer):
    """dz/dt = field(t, z, x) from z(0) = z0 to t = 1; see `homoode_jax.nnx.HomoODE`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import homoode_jax.equinox
        >>> layer = homoode_jax.equinox.HomoODE(lambda t, z, x: x - z, z0=(1,), solver="tsit5")
        >>> z = jax.vmap(layer)(jnp.ones((4, 1)))  # 1 - exp(-1)
        >>> print(f"{z[0, 0]:.3f}")
        0.632
    """

    kind = kinds.HOMO_ODE

    def __init__(self, field: Any, z0: Any = None, *, batched: bool = False, **options: Any):
        super().__init__(field, z0, batched, options)


class NeuralODE(Layer):
    """dz/dt = field(t, z) from z(0) = x to t = 1; see `homoode_jax.nnx.NeuralODE`.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax.equinox
        >>> layer = homoode_jax.equinox.NeuralODE(lambda t, z: -z)
        >>> print(f"{layer(jnp.ones(1))[0]:.3f}")  # exp(-1)
        0.368
    """

    kind = kinds.NEURAL_ODE

    def __init__(self, field: Any, *, batched: bool = False, **options: Any):
        super().__init__(field, None, batched, options)


class AugmentedNeuralODE(Layer):
    """dz/dt = field(t, z) from z(0) = [x, 0]; see `homoode_jax.nnx.AugmentedNeuralODE`.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax.equinox
        >>> layer = homoode_jax.equinox.AugmentedNeuralODE(lambda z: -z, augment=2)
        >>> print(layer(jnp.ones(3)).shape)
        (5,)
    """

    augment: int = eqx.field(static=True)
    kind = kinds.AUGMENTED_NEURAL_ODE

    def __init__(self, field: Any, augment: int, *, batched: bool = False, **options: Any):
        super().__init__(field, None, batched, options)
        self.augment = whole("augment", augment)


class DEQ(Layer):
    """z = cell(z, x) by an iteration from z0; see `homoode_jax.nnx.DEQ`.

    Example:
        >>> import equinox as eqx
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import homoode_jax.equinox
        >>> class Cell(eqx.Module):
        ...     linear: eqx.nn.Linear
        ...     def __call__(self, z, x):
        ...         return jnp.tanh(0.5 * self.linear(z) + x)
        >>> cell = Cell(eqx.nn.Linear(32, 32, key=jax.random.key(0)))
        >>> layer = homoode_jax.equinox.DEQ(cell, z0=(32,), solver="robust")
        >>> solution = jax.vmap(layer.solve)(jnp.ones((4, 32)))
        >>> print(solution.z.shape, solution.success)
        (4, 32) [ True  True  True  True]
    """

    kind = kinds.DEQ

    def __init__(self, cell: Any, z0: Any = None, *, batched: bool = False, **options: Any):
        super().__init__(cell, z0, batched, options)


class HomotopyDEQ(Layer):
    """z = cell(z, x), along a homotopy from z0; see `homoode_jax.nnx.HomotopyDEQ`.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax.equinox
        >>> cell = lambda z, x: jnp.tanh(0.5 * z + x)
        >>> layer = homoode_jax.equinox.HomotopyDEQ(cell, z0=(1,), path="arclength")
        >>> print(f"{layer(jnp.ones(1))[0]:.3f}")
        0.895
    """

    kind = kinds.HOMOTOPY_DEQ

    def __init__(self, cell: Any, z0: Any = None, *, batched: bool = False, **options: Any):
        super().__init__(cell, z0, batched, options)
