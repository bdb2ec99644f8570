"""GMRES with something stronger behind it: the linear solve of implicit gradients.

Restarted GMRES stagnates on operators that are harmless otherwise: 20 vectors of a cyclic shift of
40 entries do not contain its inverse at all, and near a bifurcation the one direction that matters
is lost at every restart. Where it fails, a state of up to `DENSE` entries is factorised, and a
larger one goes to LSMR (Fong & Saunders 2011), which needs six vectors and converges wherever few
singular values are small. Both run in a loop of no turn where GMRES has converged.
"""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from homoode_jax.mathematics.cells.gmres import GMRES
from homoode_jax.mathematics.cells.vectors import Vector

DENSE = 512  # entries up to which an operator is made a matrix: a megabyte in float32
LSMR_STEPS = 1000
# A factorisation's residual is rounding, about eps cond(A) |b|: so is the error of its answer.
ROUNDING = 1e-3


class Fallback(lx.AbstractLinearSolver):
    """Solves by GMRES; by a factorisation or LSMR where that fails.

    Attributes:
        first: the GMRES to begin with.
    """

    first: GMRES

    def init(self, operator, options: dict[str, Any]):  # pyright: ignore
        """Linearises the operator once."""
        return self.first.init(operator, options)

    def compute(self, state, vector, options: dict[str, Any]):  # pyright: ignore
        """Solves; returns solution, Lineax result and `{"products": ...}`."""
        value, result, stats = self.first.compute(state, vector, options)
        b, unravel = ravel_pytree(vector)
        failed = (result != lx.RESULTS.successful) & jnp.all(jnp.isfinite(b))

        def product(v: Vector) -> Vector:
            return ravel_pytree(state.mv(unravel(v)))[0]

        def again(state):
            # b is part of the loop's state, and changed by it: XLA takes what depends on nothing
            # else out of a loop, and so would solve where there is nothing to solve.
            _, b, _, _, products = state
            solve = _factorised if b.size <= DENSE else _by_lsmr
            x, rest, more = solve(product, b)
            enough = ROUNDING if b.size <= DENSE else 100 * jnp.finfo(b.dtype).eps
            target = jnp.maximum(self.first.target(b), enough * jnp.linalg.norm(b))
            missed = ~(jnp.linalg.norm(rest) <= target)
            return jnp.zeros_like(failed), rest, missed, x, products + more

        start = failed, b, failed, ravel_pytree(value)[0], stats["products"]
        # One turn where GMRES has failed, none elsewhere.
        _, _, failed, x, products = lax.while_loop(lambda state: state[0], again, start)
        result = lx.RESULTS.where(failed, lx.RESULTS.breakdown, lx.RESULTS.successful)
        stats = {"products": products, "num_steps": products, "close": ~failed}
        return unravel(x), result, stats

    def transpose(self, state, options: dict[str, Any]):  # pyright: ignore
        """Returns the transposed problem."""
        return self.first.transpose(state, options)

    def conj(self, state, options: dict[str, Any]):  # pyright: ignore
        """Returns the conjugate problem."""
        return self.first.conj(state, options)

    def assume_full_rank(self) -> bool:
        """Returns True: the operator is taken to be nonsingular."""
        return True


def _factorised(product, b: Vector) -> tuple[Vector, Vector, Int[Array, ""]]:
    """Solves by an LU factorisation of the operator's matrix, refined once.

    Returns the solution, its residual and the number of products.
    """
    one = jnp.where(b[0] == b[0], 1, 0).astype(b.dtype)  # of b, so that it stays in its loop
    identity = one * jnp.eye(b.size, dtype=b.dtype)
    # One column at a time: a cell need not have a batching rule of its own.
    columns: Float[Array, "n n"] = lax.map(product, identity)
    matrix = columns.T
    factors = jax.scipy.linalg.lu_factor(matrix)
    x = jax.scipy.linalg.lu_solve(factors, b)
    x = x + jax.scipy.linalg.lu_solve(factors, b - matrix @ x)
    return x, b - matrix @ x, jnp.asarray(b.size)


def _by_lsmr(product, b: Vector) -> tuple[Vector, Vector, Int[Array, ""]]:
    """Solves by LSMR, whose steps take a product with the operator and one with its transpose.

    Returns the solution, its residual and the number of products.
    """
    structure = jax.eval_shape(lambda: b)
    if not _has_transpose(product, b):
        return jnp.zeros_like(b), b, jnp.asarray(0)
    operator = lx.FunctionLinearOperator(product, structure)
    eps = float(jnp.finfo(b.dtype).eps)
    solver = lx.LSMR(rtol=eps, atol=0.0, max_steps=LSMR_STEPS)
    solved = lx.linear_solve(operator, b, solver, throw=False)
    x = solved.value
    return x, b - product(x), 2 * jnp.asarray(solved.stats["num_steps"]) + 2


def _has_transpose(product, b: Vector) -> bool:
    """Returns whether JAX can transpose the product: a cell's own backward rule may hold a loop."""
    try:
        jax.eval_shape(lambda v: jax.linear_transpose(product, b)(v), b)
    except Exception:  # JAX raises what the rule of the primitive at fault happens to raise
        return False
    return True
