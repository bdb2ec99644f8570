"""Matrix-free linear solves, every product counted.

GMRES (Saad & Schultz 1986) for Lineax. Lineax's own GMRES works in whole cycles, needs two of
them to see that it has converged (43 products where 5 would do), and cannot say how many
products it took; this one stops within a cycle and counts. Other Lineax solvers may be used; the
count is -1 for those that do not report their products.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

from homoode_jax.mathematics.cells.arnoldi import factorise, least_squares
from homoode_jax.mathematics.cells.basis import combine
from homoode_jax.mathematics.cells.vectors import Cost, Vector
from homoode_jax.mathematics.common.options import real_field, whole_field
from homoode_jax.mathematics.common.trees import is_at_most


class Linear(NamedTuple):
    """Outcome of a linear solve.

    Attributes:
        value: the last finite iterate.
        ok: True if it converged to tolerance.
        close: True if its residual is at most a hundredth of the right-hand side's.
        products: with the operator; meaningless where `counts_products` is False.
    """

    value: Vector
    ok: Bool[Array, ""]
    close: Bool[Array, ""]
    products: Int[Array, ""]


class _State(NamedTuple):
    x: Vector
    r: Vector
    size: Float[Array, ""]
    products: Int[Array, ""]
    failed: Bool[Array, ""]


class GMRES(lx.AbstractLinearSolver):
    """Restarted GMRES (Saad & Schultz 1986) for square operators on real vectors.

    Preconditioned from the right.

    Attributes:
        rtol: ends at |b - A x| <= rtol |b| + atol (Euclidean norms).
        atol: see `rtol`.
        restart: vectors kept before a restart; memory is `restart + 1` states.
        max_products: the most products with the operator.

    Options (as `lineax.linear_solve` takes them): `preconditioner`, an operator near the inverse.

    Raises:
        ValueError: if a setting is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: jnp.tanh(a * z) + x
        >>> z0 = jnp.zeros((1, 1))
        >>> x = jnp.ones((1, 1))
        >>> gmres = homoode_jax.GMRES(rtol=1e-4, restart=40)
        >>> solver = homoode_jax.NewtonKrylov(linear_solver=gmres)
        >>> solution = homoode_jax.equilibrium(cell, 0.5, z0, x, solver=solver)
        >>> print(f"{solution.z[0, 0]:.4f}")
        1.6879
    """

    rtol: Real[ArrayLike, ""] = real_field("rtol", 1e-6, "a non-negative number")
    atol: Real[ArrayLike, ""] = real_field("atol", 0.0, "a non-negative number")
    restart: int = whole_field("restart", 20)
    max_products: int = whole_field("max_products", 200)

    def init(self, operator, options: dict[str, Any]):  # pyright: ignore
        """Linearises the operator once."""
        del options
        if operator.in_structure() != operator.out_structure():
            raise ValueError("GMRES needs a square operator.")
        return lx.linearise(operator)

    def compute(self, state, vector, options: dict[str, Any]):  # pyright: ignore
        """Solves; returns solution, Lineax result and `{"products": ...}`."""
        b, unravel = ravel_pytree(vector)
        given = options.get("preconditioner")

        def on_vectors(operator: Any) -> Callable[[Vector], Vector]:
            return lambda v: ravel_pytree(operator.mv(unravel(v)))[0]

        precondition = None if given is None else on_vectors(given)
        end = self.solve(on_vectors(state), b, precondition)
        # What ends before its products are spent, and is no solution, has broken down.
        spent = end.products >= self.max_products
        results = lx.RESULTS
        failure = results.where(spent, results.max_steps_reached, results.breakdown)
        result = results.where(end.ok, results.successful, failure)
        stats = {"products": end.products, "num_steps": end.products, "close": end.close}
        return unravel(end.value), result, stats

    def solve(
        self,
        product: Callable[[Vector], Vector],
        b: Vector,
        precondition: Callable[[Vector], Vector] | None = None,
    ) -> Linear:
        """Solves product(x) = b, as Lineax does it, but for derivatives: there are none."""

        def inverse(v: Vector) -> Vector:
            return v if precondition is None else precondition(v)

        end = self._iterate(lambda v: product(inverse(v)), b)
        x = inverse(end.x)
        finite = jnp.all(jnp.isfinite(x))
        return Linear(
            value=jnp.where(finite, x, 0),
            ok=finite & ~end.failed & (end.size <= self.target(b)),
            close=finite & (end.size <= 0.01 * jnp.linalg.norm(b)),
            products=end.products,
        )

    def target(self, b: Vector) -> Float[Array, ""]:
        """Returns the size of the residual to reach."""
        return self.rtol * jnp.linalg.norm(b) + self.atol

    def _iterate(self, product: Callable, b: Vector) -> _State:
        """Repeats cycles until the residual is small, products run out, or a cycle fails."""
        target = self.target(b)

        def goes_on(state: _State):
            open_ = (state.size > target) & ~state.failed
            return open_ & (state.products < self.max_products)

        def body(state: _State) -> _State:
            cycle = factorise(
                product,
                r=state.r,
                size=state.size,
                target=target,
                most=self.max_products - state.products,
                places=b.size if is_at_most(b.size, self.restart) else self.restart,
            )
            step = least_squares(cycle, state.size)
            rest = (-cycle.hessenberg @ step).at[0].add(state.size)
            x = state.x + combine(jnp.append(step, 0), cycle.basis)
            r = combine(rest, cycle.basis)
            size = jnp.linalg.norm(r)
            products = state.products + cycle.k
            better = jnp.isfinite(size) & jnp.all(jnp.isfinite(x)) & (size < state.size)
            stuck = ~better | (cycle.broken & (size > target))
            x = jnp.where(better, x, state.x)
            r = jnp.where(better, r, state.r)
            return _State(x, r, jnp.where(better, size, state.size), products, stuck)

        zero = jnp.zeros_like(b)
        size = jnp.linalg.norm(b)
        start = _State(zero, b, size, jnp.asarray(0), ~jnp.isfinite(size))
        return lax.while_loop(goes_on, body, start)

    def transpose(self, state, options: dict[str, Any]):  # pyright: ignore
        """Returns the transposed problem."""
        return state.transpose(), {k: v.transpose() for k, v in options.items()}

    def conj(self, state, options: dict[str, Any]):  # pyright: ignore
        """Returns the conjugate problem."""
        return lx.conj(state), {k: lx.conj(v) for k, v in options.items()}

    def assume_full_rank(self) -> bool:
        """Returns True: the operator is taken to be nonsingular."""
        return True


def make_linear_solver(solver: str | lx.AbstractLinearSolver, tol) -> lx.AbstractLinearSolver:
    """Returns GMRES for "gmres"; passes Lineax solvers through."""
    if isinstance(solver, lx.AbstractLinearSolver):
        return solver
    if solver != "gmres":
        raise ValueError(f"linear_solver={solver!r} must be 'gmres' or a Lineax solver.")
    return GMRES(rtol=tol)


def solve_linear(
    product: Callable[[Vector], Vector],
    b: Vector,
    solver: lx.AbstractLinearSolver,
    precondition: Callable[[Vector], Vector] | None = None,
) -> Linear:
    """Solves `product(v) = b`; returns the last iterate of a failed solve, zeros if not finite.

    It is linear in b: a b whose squares may leave the dtype's range is solved for at size 1.
    """
    unit = unit_of(b)
    b = b / unit
    structure = jax.eval_shape(lambda: b)
    operator = lx.FunctionLinearOperator(product, structure)
    options = {}
    if precondition is not None:
        options["preconditioner"] = lx.FunctionLinearOperator(precondition, structure)
    solution = lx.linear_solve(operator, b, solver, options=options, throw=False)
    finite = jnp.all(jnp.isfinite(solution.value))
    ok = (solution.result == lx.RESULTS.successful) & finite
    close = ok | (finite & jnp.asarray(solution.stats.get("close", False)))
    value = jnp.where(finite, unit * solution.value, 0)
    return Linear(value, ok, close, _products(solver, b.size, solution))


def unit_of(b: Vector) -> Float[Array, ""]:
    """Returns 1, or the largest entry where squares of b, or of its residual, may be lost."""
    kind = jnp.finfo(b.dtype)
    largest = jnp.max(jnp.abs(lax.stop_gradient(b)), initial=0)
    ordinary = (largest > kind.tiny**0.5 / kind.eps) & (largest < kind.max**0.5 * kind.eps)
    return jnp.where(ordinary | (largest == 0) | ~jnp.isfinite(largest), 1, largest)


def tighten(solver: lx.AbstractLinearSolver, times: Real[ArrayLike, ""]) -> lx.AbstractLinearSolver:
    """Divides the tolerance of a GMRES by 100, `times` times; passes other solvers through."""
    if not isinstance(solver, GMRES):
        return solver
    tol = jnp.asarray(solver.rtol)
    least = jnp.finfo(tol.dtype).eps ** 0.75
    rtol = jnp.maximum(tol * jnp.asarray(0.01, tol.dtype) ** times, jnp.minimum(least, tol))
    return GMRES(rtol, solver.atol, solver.restart, solver.max_products)


def counts_products(solver: str | lx.AbstractLinearSolver) -> bool:
    """Returns True where the number of products with the operator is known."""
    direct = lx.LU, lx.QR, lx.SVD, lx.AutoLinearSolver
    return solver == "gmres" or isinstance(solver, (GMRES, lx.BiCGStab, *direct))


def as_counted(cost: Cost, solver: str | lx.AbstractLinearSolver) -> Cost:
    """Returns the cost, with -1 for products that the solver does not report."""
    unknown = jnp.full_like(cost.num_jvp, -1)
    return cost if counts_products(solver) else cost._replace(num_jvp=unknown)


def _products(solver, n: Any, solution: lx.Solution) -> Int[Array, ""]:
    if "products" in solution.stats:
        return jnp.asarray(solution.stats["products"], jnp.int32)
    if isinstance(solver, lx.BiCGStab):
        return jnp.asarray(1 + 2 * solution.stats["num_steps"], jnp.int32)
    return jnp.asarray(n, jnp.int32)
