"""Fixed-point iterations: damped Picard, Anderson, and limited-memory Broyden.

    Picard:    z' = z + beta (f - z)
    Anderson:  z' = z + beta r - (dZ + beta dR) g,   g = argmin |r - dR g|,   r = f(z) - z
    Broyden:   z' = z - H (z - f(z)),   H = I + sum_i u_i v_i^T   ("good" Broyden)

dZ and dR hold the last differences of z and r (Anderson 1965; Walker & Ni 2011). The norm of the
least-squares problem is Euclidean; singular directions of dR are left out.
"""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, Real

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


class History(NamedTuple):
    """The last differences of iterates and residuals, oldest overwritten first."""

    dz: Float[Array, "memory n"]
    dr: Float[Array, "memory n"]
    turn: Int[Array, ""]


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
        zeros = jnp.zeros((self.memory, f0.size), f0.dtype)
        return History(zeros, zeros, jnp.zeros((), jnp.int32))

    def move(self, equation: Equation, z: Vector, f: Vector, memory: History) -> Move:
        """Evaluates the cell once, after a small least-squares problem."""
        r = f - z
        beta = jnp.asarray(self.damping, z.dtype)
        weights = _least_squares(memory.dr, r)
        new = z + beta * r - weights @ (memory.dz + beta * memory.dr)
        f_new = equation.f(new)
        row = memory.turn % self.memory
        memory = History(
            memory.dz.at[row].set(new - z), memory.dr.at[row].set(f_new - new - r), memory.turn + 1
        )
        return Move(new, f_new, memory, no_cost().plus(nfe=1))


def _least_squares(dr: Float[Array, "memory n"], r: Vector) -> Float[Array, " memory"]:
    """Returns argmin_g |r - g dr|, by normal equations of dr at unit row norm; 0 if not finite."""
    squares = jnp.sum(dr * dr, axis=1)
    empty = squares <= 0
    scale = jnp.where(empty, 0, 1 / jnp.sqrt(jnp.where(empty, 1, squares)))
    unit = dr * scale[:, None]
    rcond = len(dr) * jnp.finfo(r.dtype).eps
    gram = unit @ unit.T
    # Not by Lineax: under `pmap` its operators lose the mesh of a vector, and then refuse it.
    shares = lax.custom_linear_solve(
        lambda v: gram @ v, unit @ r, partial(_pseudo_inverse, gram, rcond), symmetric=True
    )
    weights = shares * scale
    return jnp.where(jnp.all(jnp.isfinite(weights)), weights, 0)


def _pseudo_inverse(gram: Float[Array, "memory memory"], rcond, _, b: Vector) -> Vector:
    """Solves with a symmetric matrix, whose singular directions are left out."""
    u, sizes, vt = jnp.linalg.svd(lax.stop_gradient(gram))
    kept = sizes > rcond * sizes[0]
    inverse = jnp.where(kept, 1 / jnp.where(kept, sizes, 1), 0)
    shares = jnp.matmul(u.T, b, precision=lax.Precision.HIGHEST)
    return jnp.matmul(vt.T, inverse * shares, precision=lax.Precision.HIGHEST)


class LowRank(NamedTuple):
    """H = I + sum_i u_i v_i^T; `rank` terms are in use."""

    u: Float[Array, "memory n"]
    v: Float[Array, "memory n"]
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
        return LowRank(zeros, zeros, jnp.zeros((), jnp.int32))

    def move(self, equation: Equation, z: Vector, f: Vector, memory: LowRank) -> Move:
        """Evaluates the cell once, and adds a term of rank one to H."""
        r = z - f
        step = -_apply(memory, r)
        new = z + step
        f_new = equation.f(new)
        memory = _update(memory, step, new - f_new - r)
        return Move(new, f_new, memory, no_cost().plus(nfe=1))


def _apply(memory: LowRank, r: Vector) -> Vector:
    return r + (memory.v @ r) @ memory.u


def _update(memory: LowRank, step: Vector, dr: Vector) -> LowRank:
    """Adds the term that makes H dr = step; none where it would be singular."""
    image = _apply(memory, dr)
    overlap = step @ image
    tiny = jnp.finfo(dr.dtype).eps * jnp.linalg.norm(step) * jnp.linalg.norm(image)
    singular = ~(jnp.abs(overlap) > tiny)
    u = jnp.where(singular, 0, (step - image) / jnp.where(singular, 1, overlap))
    v = step + (memory.u @ step) @ memory.v
    full = memory.rank >= len(memory.u)
    kept = jnp.where(full, 0, 1)
    row = jnp.where(full, 0, memory.rank)
    keep_v = (memory.v * kept).at[row].set(jnp.where(full, 0, v))
    keep_u = (memory.u * kept).at[row].set(jnp.where(full, 0, u))
    return LowRank(keep_u, keep_v, jnp.where(full, 0, memory.rank + 1))
