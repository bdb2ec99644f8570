"""The layers: HomoODE, Neural ODEs, and deep equilibrium models."""

from typing import Any

from jaxtyping import Array, PyTree

from homoode_jax.layers import kinds
from homoode_jax.layers import start as starts
from homoode_jax.mathematics.common.options import whole
from homoode_jax.nnx.layer import Layer


class HomoODE(Layer):
    """dz/dt = field(t, z, x) from z(0) = z0 to t = 1 (HomoODE, arXiv 2310.09583, eq. 8).

    The state begins at a point that all inputs share; x is a condition.

    Args:
        field: a module called as `field(t, z, x)` or `field(z, x)`, with a batch axis.
        z0: None (zeros like x), a shape without the batch axis (zeros), an array of such a shape,
            an `nnx.Param` of it, or a module called with x such as a `LearnedPoint`.
        keep_solution: keeps how many solves of the last call failed in `layer.failed`, and the
            most evaluations that one took in `layer.evaluations`.
        options: those of `homoode_jax.integrate`.

    Raises:
        ValueError: if an argument is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> import homoode_jax.nnx
        >>> class Field(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.linear = nnx.Linear(32, 32, rngs=rngs)
        ...     def __call__(self, t, z, x):
        ...         return jnp.tanh(self.linear(z) + x) - z
        >>> layer = homoode_jax.nnx.HomoODE(Field(nnx.Rngs(0)), z0=(32,), solver="tsit5")
        >>> print(layer(jnp.ones((4, 32))).shape)
        (4, 32)
    """

    kind = kinds.HOMO_ODE

    def __init__(self, field: Any, z0: Any = None, *, keep_solution: bool = False, **options: Any):
        super().__init__(field, z0, keep_solution, options)


class NeuralODE(Layer):
    """dz/dt = field(t, z) from z(0) = x to t = 1 (Chen et al. 2018, arXiv 1806.07366).

    Args:
        field: a module called as `field(t, z)` or `field(z)`, with a batch axis; one that takes
            x too, `field(t, z, x)` or `field(z, x)`, sees the input as a condition.
        keep_solution: keeps how many solves of the last call failed in `layer.failed`, and the
            most evaluations that one took in `layer.evaluations`.
        options: those of `homoode_jax.integrate`.

    Raises:
        ValueError: if an argument is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax.nnx
        >>> layer = homoode_jax.nnx.NeuralODE(lambda t, z: -z)
        >>> print(f"{layer(jnp.ones((1, 1)))[0, 0]:.3f}")  # exp(-1)
        0.368
    """

    kind = kinds.NEURAL_ODE

    def __init__(self, field: Any, *, keep_solution: bool = False, **options: Any):
        super().__init__(field, None, keep_solution, options)

    def _begin(self, x: PyTree, batch: Any) -> PyTree[Array]:
        return starts.at_input(self.kind.name, x)


class AugmentedNeuralODE(Layer):
    """dz/dt = field(t, z) from z(0) = [x, 0] to t = 1 (Dupont et al. 2019, arXiv 1904.01681).

    Args:
        field: as that of `NeuralODE`; its z has `augment` entries more along the last axis.
        augment: the number of zeros that every state gets along its last axis.
        keep_solution: keeps how many solves of the last call failed in `layer.failed`, and the
            most evaluations that one took in `layer.evaluations`.
        options: those of `homoode_jax.integrate`.

    Raises:
        ValueError: if an argument is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax.nnx
        >>> layer = homoode_jax.nnx.AugmentedNeuralODE(lambda z: -z, augment=2)
        >>> print(layer(jnp.ones((1, 3))).shape)
        (1, 5)
    """

    kind = kinds.AUGMENTED_NEURAL_ODE

    def __init__(self, field: Any, augment: int, *, keep_solution: bool = False, **options: Any):
        super().__init__(field, None, keep_solution, options)
        self.augment = whole("augment", augment)

    def _begin(self, x: PyTree, batch: Any) -> PyTree[Array]:
        return starts.at_input(self.kind.name, x, self.augment)


class DEQ(Layer):
    """z = cell(z, x) by an iteration from z0: a deep equilibrium model (arXiv 1909.01377).

    Args:
        cell: a module called as `cell(z, x)`, with a batch axis.
        z0: None (zeros like x), a shape without the batch axis (zeros), an array of such a shape,
            an `nnx.Param` of it, or a module called with x such as a `LearnedPoint`. Its gradient
            through an equilibrium is zero; add `layer.start_loss(z)` to the loss.
        keep_solution: keeps how many solves of the last call failed in `layer.failed`, and the
            most evaluations that one took in `layer.evaluations`.
        options: those of `homoode_jax.equilibrium`; a preconditioner is called as
            `preconditioner(cell, z, x, lam, v)`.

    Raises:
        ValueError: if an argument is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> import homoode_jax.nnx
        >>> class Cell(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.linear = nnx.Linear(32, 32, rngs=rngs)
        ...     def __call__(self, z, x):
        ...         return jnp.tanh(0.5 * self.linear(z) + x)
        >>> layer = homoode_jax.nnx.DEQ(Cell(nnx.Rngs(0)), z0=(32,), solver="robust")
        >>> solution = layer.solve(jnp.ones((4, 32)))
        >>> print(solution.z.shape, bool(solution.success))
        (4, 32) True
    """

    kind = kinds.DEQ

    def __init__(self, cell: Any, z0: Any = None, *, keep_solution: bool = False, **options: Any):
        super().__init__(cell, z0, keep_solution, options)


class HomotopyDEQ(Layer):
    """z = cell(z, x), along a homotopy from z0.

    Args:
        cell: a module called as `cell(z, x)`, with a batch axis.
        z0: as that of `DEQ`.
        keep_solution: keeps how many solves of the last call failed in `layer.failed`, and the
            most evaluations that one took in `layer.evaluations`.
        options: those of `homoode_jax.continuation`; a homotopy of your own is called as
            `homotopy(cell, lam, z, x)`, a preconditioner as `preconditioner(cell, z, x, lam, v)`.

    Raises:
        ValueError: if an argument is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax.nnx
        >>> cell = lambda z, x: jnp.tanh(0.5 * z + x)
        >>> layer = homoode_jax.nnx.HomotopyDEQ(cell, z0=(1,), path="arclength")
        >>> solution = layer.solve(jnp.ones((1, 1)))
        >>> print(f"{solution.z[0, 0]:.3f} {solution.stats.lam}")
        0.895 1.0
    """

    kind = kinds.HOMOTOPY_DEQ

    def __init__(self, cell: Any, z0: Any = None, *, keep_solution: bool = False, **options: Any):
        super().__init__(cell, z0, keep_solution, options)
