"""Fixed-point iterations: damped Picard, Anderson, and limited-memory Broyden.

Picard:    z' = z + beta (f - z)
Anderson:  see `mixing`
Broyden:   see `broyden`
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import ArrayLike, Real

from homoode_jax.mathematics.cells.broyden import LowRank, identity, learn, step_from
from homoode_jax.mathematics.cells.mixing import History, empty_history, mix, remember
from homoode_jax.mathematics.cells.vectors import Equation, Vector, no_cost
from homoode_jax.mathematics.common.options import real_field, whole_field
from homoode_jax.mathematics.iterations.iterate import Move


class Picard(eqx.Module):
    """Damped fixed-point iteration, z' = z + beta (f(z) - z).

    Converges where |1 - beta + beta mu| < 1 for every eigenvalue mu of J.

    Attributes:
        damping: beta, not 0; 1 is plain iteration.

    Raises:
        ValueError: if `damping` is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: a * z + x  # slope -3: plain iteration would run away
        >>> z0 = jnp.zeros((1, 1))
        >>> x = jnp.ones((1, 1))
        >>> solver = homoode_jax.Picard(damping=0.25)
        >>> solution = homoode_jax.equilibrium(cell, -3.0, z0, x, solver=solver)
        >>> print(f"{solution.z[0, 0]:.4f}")
        0.2500
    """

    damping: Real[ArrayLike, ""] = real_field("damping", 1.0, "a number other than 0")

    def start(self, equation: Equation, f0: Vector) -> None:
        """Returns None: the method has no memory."""

    def move(self, equation: Equation, z: Vector, f: Vector, memory: None) -> Move:
        """Takes a damped step, for one evaluation."""
        z = z + jnp.asarray(self.damping, z.dtype) * (f - z)
        return Move(z, equation.f(z), memory, no_cost().plus(nfe=1))


class Anderson(eqx.Module):
    """Anderson acceleration (Anderson 1965; Walker & Ni 2011).

    Attributes:
        memory: how many differences are kept, at least 1.
        damping: beta, not 0.

    Raises:
        ValueError: if a setting is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: jnp.tanh(a * z) + x
        >>> z0 = jnp.zeros((1, 1))
        >>> x = jnp.ones((1, 1))
        >>> solver = homoode_jax.Anderson(memory=3, damping=0.8)
        >>> solution = homoode_jax.equilibrium(cell, 0.5, z0, x, solver=solver)
        >>> print(f"{solution.z[0, 0]:.4f}")
        1.6879
    """

    memory: int = whole_field("memory", 5)
    damping: Real[ArrayLike, ""] = real_field("damping", 1.0, "a number other than 0")

    def start(self, equation: Equation, f0: Vector) -> History:
        """Returns a history without differences."""
        return empty_history(f0, self.memory)

    def move(self, equation: Equation, z: Vector, f: Vector, memory: History) -> Move:
        """Evaluates the cell once, after a small least-squares problem."""
        beta = jnp.asarray(self.damping, z.dtype)
        new = mix(memory, z, f, beta)
        f_new = equation.f(new)
        memory = remember(memory, z, f, z_new=new, f_new=f_new, damping=beta)
        return Move(new, f_new, memory, no_cost().plus(nfe=1))


class Broyden(eqx.Module):
    """Broyden's "good" method (Broyden 1965) on z - f(z), from the identity.

    It starts anew when its memory is full.

    Attributes:
        memory: how many terms of rank one are kept, at least 1.

    Raises:
        ValueError: if `memory` is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: jnp.tanh(a * z) + x
        >>> z0 = jnp.zeros((1, 1))
        >>> x = jnp.ones((1, 1))
        >>> solver = homoode_jax.Broyden(memory=10)
        >>> solution = homoode_jax.equilibrium(cell, 0.5, z0, x, solver=solver)
        >>> print(f"{solution.z[0, 0]:.4f}")
        1.6879
    """

    memory: int = whole_field("memory", 20)

    def start(self, equation: Equation, f0: Vector) -> LowRank:
        """Returns the identity."""
        return identity(f0, self.memory)

    def move(self, equation: Equation, z: Vector, f: Vector, memory: LowRank) -> Move:
        """Evaluates the cell once, and adds a term of rank one to B."""
        step = step_from(memory, z, f)
        new = z + step
        f_new = equation.f(new)
        memory = learn(memory, step, new - f_new)
        return Move(new, f_new, memory, no_cost().plus(nfe=1))
