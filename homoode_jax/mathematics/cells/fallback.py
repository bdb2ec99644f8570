"""What stands behind GMRES for the linear systems of implicit gradients, A x = b.

Restarted GMRES stagnates on operators that are harmless otherwise. The Krylov space of 20 vectors
of a cyclic shift of 40 entries does not contain its inverse at all; near a bifurcation the one
direction that matters is lost at every restart. Where it fails, a state of up to `DENSE` entries
is factorised. A larger one goes to GMRES with as many vectors as `ROOM` has place for: that is
enough for the cells of a training that begins, with some hundred singular values near zero. If it
is not, LSMR (Fong & Saunders 2011) follows, which needs six vectors and converges if few singular
values are small.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from homoode_jax.mathematics.cells.basis import ROOM, places_within
from homoode_jax.mathematics.cells.gmres import GMRES
from homoode_jax.mathematics.cells.vectors import Vector
from homoode_jax.mathematics.common.examples import once
from homoode_jax.mathematics.common.trees import is_at_most

DENSE = 512  # entries up to which an operator is made a matrix: a megabyte in float32
LONG_MEMORY = 304  # vectors that GMRES keeps at the most
FEWEST = 40  # vectors below which keeping more is not worth another start
LSMR_STEPS = 1000
# A factorisation's residual is rounding, about eps cond(A) |b|: so is the error of its answer.
ROUNDING = 1e-3


class Try(NamedTuple):
    """A linear solve that has failed so far.

    Attributes:
        b: the right-hand side.
        x: the last solution tried.
        target: size of the residual to reach.
        failed: whether it is still to be reached.
        products: with the operator.
    """

    b: Vector
    x: Vector
    target: Float[Array, ""]
    failed: Bool[Array, ""]
    products: Int[Array, ""]


Product = Callable[[Vector], Vector]


def solve_again(product: Product, start: Try, room: int = ROOM) -> Try:
    """Goes on by stronger methods, each in a loop that makes no turn where it is not needed.

    `room` is for the vectors of a longer GMRES, in entries; 0 for none.
    """
    size = start.b.size
    if is_at_most(size, DENSE):
        return _if_failed(_factorised, product, start)
    kept = places_within(room, size, LONG_MEMORY) - 1
    if kept >= FEWEST:
        start = _if_failed(lambda *each: _by_long_gmres(kept, *each), product, start)
    return _if_failed(_by_lsmr, product, start)


def _if_failed(method: Callable, product: Product, start: Try) -> Try:
    def turn(state: Try) -> Try:
        x, size, more = method(product, state)
        small = is_at_most(x.size, DENSE)
        enough = ROUNDING if small else 100 * jnp.finfo(x.dtype).eps
        target = jnp.maximum(state.target, enough * jnp.linalg.norm(state.b))
        products = (state.products + more).astype(state.products.dtype)
        # b changes: otherwise XLA would move what is computed from it out of the loop, and do it
        # where GMRES has converged too.
        return Try(b=x, x=x, target=state.target, failed=~(size <= target), products=products)

    return once(start.failed, turn, start)._replace(b=start.b)


class Fallback(lx.AbstractLinearSolver):
    """Solves by GMRES, and by `solve_again` where that fails.

    Attributes:
        first: the GMRES to begin with.
        room: as `solve_again` has it.
    """

    first: GMRES
    room: int = 0

    def init(self, operator, options: dict[str, Any]):  # pyright: ignore
        """Linearises the operator once."""
        return self.first.init(operator, options)

    def compute(self, state, vector, options: dict[str, Any]):  # pyright: ignore
        """Solves; returns solution, Lineax result and `{"products": ...}`."""
        value, result, stats = self.first.compute(state, vector, options)
        b, unravel = ravel_pytree(vector)

        def product(v: Vector) -> Vector:
            return ravel_pytree(state.mv(unravel(v)))[0]

        start = Try(
            b=b,
            x=ravel_pytree(value)[0],
            target=self.first.target(b),
            failed=(result != lx.RESULTS.successful) & jnp.all(jnp.isfinite(b)),
            products=stats["products"],
        )
        end = solve_again(product, start, self.room)
        failed = end.failed | ~jnp.all(jnp.isfinite(b))
        result = lx.RESULTS.where(failed, lx.RESULTS.breakdown, lx.RESULTS.successful)
        stats = {"products": end.products, "num_steps": end.products, "close": ~failed}
        return unravel(end.x), result, stats

    def transpose(self, state, options: dict[str, Any]):  # pyright: ignore
        """Returns the transposed problem."""
        return self.first.transpose(state, options)

    def conj(self, state, options: dict[str, Any]):  # pyright: ignore
        """Returns the conjugate problem."""
        return self.first.conj(state, options)

    def assume_full_rank(self) -> bool:
        """Returns True: the operator is taken to be nonsingular."""
        return True


def _factorised(product: Product, state: Try) -> tuple[Vector, Array, Int[Array, ""]]:
    """Solves by an LU factorisation of the operator's matrix, refined once.

    Returns the solution, its residual's size and the number of products.
    """
    b = state.b
    one = jnp.where(b[0] == b[0], 1, 0).astype(b.dtype)  # depends on b: XLA leaves it in the loop
    identity = one * jnp.eye(b.size, dtype=b.dtype)
    # One column at a time: a cell need not have a batching rule of its own.
    columns: Float[Array, "n n"] = lax.map(product, identity)
    matrix = columns.T
    factors = jax.scipy.linalg.lu_factor(matrix)
    x = jax.scipy.linalg.lu_solve(factors, b)
    x = x + jax.scipy.linalg.lu_solve(factors, b - matrix @ x)
    return x, jnp.linalg.norm(b - matrix @ x), jnp.asarray(b.size)


def _by_long_gmres(kept: int, product: Product, state: Try) -> tuple[Vector, Array, Int[Array, ""]]:
    """Solves by GMRES with `kept` vectors, and two cycles of them at the most."""
    solver = GMRES(rtol=0.0, atol=state.target, restart=kept, max_products=2 * kept)
    found = solver.solve(product, state.b)
    return found.value, jnp.where(found.ok, state.target, jnp.inf), found.products


def _by_lsmr(product: Product, state: Try) -> tuple[Vector, Array, Int[Array, ""]]:
    """Solves by LSMR, whose steps take a product with the operator and one with its transpose.

    Returns the solution, its residual's size and the number of products.
    """
    b = state.b
    if not has_transpose(lambda _: product, None, b):
        return state.x, jnp.asarray(jnp.inf, b.dtype), jnp.asarray(0)
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
    return x, jnp.linalg.norm(b - product(x)), 2 * jnp.asarray(solved.stats["num_steps"]) + 2


def has_transpose(operator: Callable, row: PyTree, like: Any) -> bool:
    """Returns whether JAX can transpose operator(row), a linear function of what is like `like`.

    A cell's own backward rule may hold a loop. Of `row` too, shapes and dtypes are enough.
    """
    try:
        jax.eval_shape(lambda row, v: jax.linear_transpose(operator(row), v)(v), row, like)
    except Exception:  # JAX raises what the rule of the primitive at fault happens to raise
        return False
    return True
