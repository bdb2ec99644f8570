"""Newton-Krylov iteration for z = f(z):  (I - J) dz = f - z,  with backtracking.

Steps are halved until |r| falls (Armijo); linear solves are matrix-free and inexact (Dembo,
Eisenstat & Steihaug 1982). Optimistix's Newton has neither a count of its products nor a step
that can be refused.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import ArrayLike, Real

from homoode_jax.mathematics.cells.gmres import make_linear_solver, solve_linear
from homoode_jax.mathematics.cells.vectors import Equation, Vector, no_cost, norm, repeat
from homoode_jax.mathematics.common.functions import check_products
from homoode_jax.mathematics.common.options import real_field
from homoode_jax.mathematics.common.trees import all_finite
from homoode_jax.mathematics.iterations.iterate import Move

ARMIJO = 1e-4
HALVINGS = 10
INSTEAD_OF_NEWTON = "use solver='anderson', 'broyden', 'picard' or 'ode', or "


class NewtonKrylov(eqx.Module):
    """Newton's method with matrix-free linear solves (Dembo, Eisenstat & Steihaug 1982).

    Attributes:
        linear_tol: relative tolerance of the linear solves, positive.
        linear_solver: "gmres", or a Lineax solver, which brings its own tolerance.

    Raises:
        ValueError: if a setting is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: jnp.tanh(a * z) + x
        >>> z0 = jnp.zeros((1, 1))
        >>> x = jnp.ones((1, 1))
        >>> solver = homoode_jax.NewtonKrylov(linear_tol=1e-2)
        >>> solution = homoode_jax.equilibrium(cell, 0.5, z0, x, solver=solver)
        >>> print(f"{solution.z[0, 0]:.4f}")
        1.6879
    """

    linear_tol: Real[ArrayLike, ""] = real_field("linear_tol", 1e-3, "a positive number")
    linear_solver: str | lx.AbstractLinearSolver = "gmres"

    def start(self, equation: Equation, f0: Vector) -> None:
        """Checks that the cell has Jacobian-vector products; the method has no memory."""
        check_products(equation.f, equation.z0, "solver='newton'", instead=INSTEAD_OF_NEWTON)

    def move(self, equation: Equation, z: Vector, f: Vector, memory: None) -> Move:
        """Takes a Newton step: one linear solve and a line search."""
        solver = make_linear_solver(self.linear_solver, self.linear_tol)
        _, jvp = jax.linearize(equation.f, z)
        one = jnp.ones((), z.dtype)
        precondition = equation.precondition and (lambda v: equation.precondition(z, one, v))  # pyright: ignore
        solved = solve_linear(lambda v: v - jvp(v), f - z, solver, precondition)
        new, f_new, tries, falls = _search(equation, z, f, solved.value)
        cost = no_cost().plus(nfe=1 + tries, num_jvp=solved.products)
        failed = ~solved.ok & ~falls
        return Move(
            z=new, f=f_new, memory=memory, cost=cost, rejected=jnp.asarray(False), failed=failed
        )


def _search(equation: Equation, z: Vector, f: Vector, step: Vector):
    """Halves the step until the residual falls; the last try is kept in any case."""
    size = norm(lax.stop_gradient(f - z))

    def falls(part, new, f_new):
        change = norm(lax.stop_gradient(f_new - new))
        return all_finite((new, f_new)) & (change <= (1 - ARMIJO * part) * size)

    def body(state):
        part, tries, *_ = state
        part = part / 2
        new = z + part * step
        f_new = equation.f(new)
        return part, tries + 1, new, f_new, falls(part, new, f_new)

    def goes_on(state):
        return ~state[-1] & (state[1] <= HALVINGS)

    start = jnp.full((), 2, z.dtype), jnp.zeros((), jnp.int32), z, f, jnp.asarray(False)
    _, tries, new, f_new, fell = repeat(goes_on, body, start, HALVINGS + 1, equation.unrolled)
    return new, f_new, tries, fell
