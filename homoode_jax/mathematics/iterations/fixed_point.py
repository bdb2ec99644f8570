"""Fixed-point iterations: damped Picard, Anderson, and limited-memory Broyden.

Picard:    z' = z + beta (f - z)
Anderson:  see `mixing`
Broyden:   z' = z - B^-1 (z - f(z)),   B = I + sum_i r_i s_i^T   ("good" Broyden)
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Real

from homoode_jax.mathematics.cells.mixing import History, empty_history, mix, remember
from homoode_jax.mathematics.cells.vectors import Equation, Vector, dot, no_cost, weighted_sum
from homoode_jax.mathematics.common.options import real_field, whole_field
from homoode_jax.mathematics.common.trees import all_finite, root
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


class LowRank(NamedTuple):
    """B = I + sum_i r_i s_i^T, of which the first `rank` terms are in use.

    Attributes:
        s: steps at unit norm.
        r: the residual after each step, over the length of the step.
        products: inner products s_i r_j.
        projected: inner products of s with the residual of the last iterate.
        rank: terms in use.
    """

    s: Float[Array, "memory n"]
    r: Float[Array, "memory n"]
    products: Float[Array, "memory memory"]
    projected: Float[Array, " memory"]
    rank: Int[Array, ""]


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
        zeros = jnp.zeros((self.memory, f0.size), f0.dtype)
        return LowRank(
            s=zeros,
            r=zeros,
            products=jnp.zeros((self.memory, self.memory), f0.dtype),
            projected=jnp.zeros(self.memory, f0.dtype),
            rank=jnp.zeros((), jnp.int32),
        )

    def move(self, equation: Equation, z: Vector, f: Vector, memory: LowRank) -> Move:
        """Evaluates the cell once, and adds a term of rank one to B."""
        step = f - z + weighted_sum(_shares(memory), memory.r)
        new = z + step
        f_new = equation.f(new)
        memory = _update(memory, step, new - f_new)
        return Move(new, f_new, memory, no_cost().plus(nfe=1))


def _shares(memory: LowRank) -> Float[Array, " memory"]:
    """Returns c with B^-1 v = v - sum_i c_i r_i for the last residual v (Woodbury); 0 if singular.

    (I + S R^T) c = S v, where the rows of S and R are the terms in use.
    """
    size = len(memory.projected)
    used = jnp.arange(size, dtype=jnp.int32) < memory.rank
    inner = jnp.where(used[:, None] & used[None], memory.products, 0)
    inner = inner + jnp.eye(size, dtype=inner.dtype)
    shares = jnp.linalg.solve(inner, jnp.where(used, memory.projected, 0))
    return jnp.where(all_finite(shares), shares, 0)


def _update(memory: LowRank, step: Vector, v: Vector) -> LowRank:
    """Adds the term that makes B step = v - v', for the residuals v' before the step and v after.

    B step = -v' already, so that the term is v step^T / |step|^2. The memory is left behind when it
    is full, and after a term that is not finite: the iterate is then drawn back, or did not move.
    """
    square = dot(step, step)
    length = root(square)
    safe = jnp.where(length > 0, length, 1)
    s = step / safe
    r = v / safe
    projected = dot(memory.s, v)
    across = dot(memory.r, s)
    own = dot(s, r)
    fine = all_finite((projected, across, own, dot(r, r))) & (square > 0)
    kept = fine & (memory.rank < len(projected))
    row = jnp.minimum(memory.rank, len(projected) - 1)
    products = memory.products.at[:, row].set(projected / safe).at[row].set(across)
    return LowRank(
        s=memory.s.at[row].set(jnp.where(kept, s, memory.s[row])),
        r=memory.r.at[row].set(jnp.where(kept, r, memory.r[row])),
        products=jnp.where(kept, products.at[row, row].set(own), memory.products),
        projected=jnp.where(kept, projected.at[row].set(dot(s, v)), 0),
        rank=jnp.where(kept, memory.rank + 1, 0),
    )
