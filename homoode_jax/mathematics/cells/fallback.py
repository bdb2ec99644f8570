"""The linear solve of implicit gradients: GMRES, and a factorisation or LSMR where it fails.

Restarted GMRES stagnates on operators that are harmless otherwise. The Krylov space of 20 vectors
of a cyclic shift of 40 entries does not contain its inverse at all; near a bifurcation the one
direction that matters is lost at every restart. Where it fails, a state of up to `DENSE` entries
is factorised. A larger one goes to LSMR (Fong & Saunders 2011), which needs six vectors and
converges if few singular values are small. Both run in a loop that makes no turn where GMRES has
converged.
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
from homoode_jax.mathematics.common.trees import is_at_most

DENSE = 512  # entries up to which an operator is made a matrix: a megabyte in float32
LSMR_STEPS = 1000
# A factorisation's residual is rounding, about eps cond(A) |b|: so is the error of its answer.
ROUNDING = 1e-3


class Fallback(lx.AbstractLinearSolver):
    """Solves by GMRES, and by a factorisation or LSMR where that fails.

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
            # The loop's state has b, and changes it. Otherwise XLA would move this solve out of
            # the loop, and do it where GMRES has converged too.
            _, b, _, _, products = state
            is_small = is_at_most(b.size, DENSE)
            solve = _factorised if is_small else _by_lsmr
            x, rest, more = solve(product, b)
            enough = ROUNDING if is_small else 100 * jnp.finfo(b.dtype).eps
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
    one = jnp.where(b[0] == b[0], 1, 0).astype(b.dtype)  # depends on b: XLA leaves it in the loop
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
    if not _has_transpose(product, b):
        return jnp.zeros_like(b), b, jnp.asarray(0)
    # Lineax's LSMR writes its constants as Python numbers: float64 where that is enabled, and then
    # it takes no float32 vector.
    wide = jnp.result_type(float)
    operator = lx.FunctionLinearOperator(
        lambda v: product(v.astype(b.dtype)).astype(wide), jax.ShapeDtypeStruct(b.shape, wide)
    )
    eps = float(jnp.finfo(b.dtype).eps)
    solver = lx.LSMR(rtol=eps, atol=0.0, max_steps=LSMR_STEPS)
    solved = lx.linear_solve(operator, b.astype(wide), solver, throw=False)
    x = solved.value.astype(b.dtype)
    return x, b - product(x), 2 * jnp.asarray(solved.stats["num_steps"]) + 2


def _has_transpose(product, b: Vector) -> bool:
    """Returns whether JAX can transpose the product: a cell's own backward rule may hold a loop."""
    try:
        jax.eval_shape(lambda v: jax.linear_transpose(product, b)(v), b)
    except Exception:  # JAX raises what the rule of the primitive at fault happens to raise
        return False
    return True
