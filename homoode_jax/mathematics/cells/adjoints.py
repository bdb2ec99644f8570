"""Gradients at an equilibrium z* = f(z*; x, theta), from the equilibrium alone.

    implicit:      (I - J)^T u = dL/dz*           (implicit function theorem)
    phantom(k, eta):  u = eta sum_{i<k} (eta J^T + (1 - eta) I)^i dL/dz*
                                                  (Geng et al. 2021, arXiv 2111.05177)
    then  dL/dtheta = u^T df/dtheta,  dL/dx = u^T df/dx,  dL/dz0 = 0.

phantom(1, 1) is the Jacobian-free gradient (Fung et al. 2022, arXiv 2103.12803).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Bool, PyTree, Real

from homoode_jax.mathematics.cells.basis import ROOM
from homoode_jax.mathematics.cells.fallback import Fallback
from homoode_jax.mathematics.cells.gmres import (
    GMRES,
    Linear,
    counts_products,
    make_linear_solver,
    solve_linear,
)
from homoode_jax.mathematics.cells.rows import Systems, solve_rows
from homoode_jax.mathematics.cells.vectors import Vector, flatten_cell
from homoode_jax.mathematics.common.checks import check_option
from homoode_jax.mathematics.common.examples import drop_axis, map_examples
from homoode_jax.mathematics.common.options import real_field, whole_field
from homoode_jax.mathematics.common.plan import Pullback


class Implicit(eqx.Module):
    """The exact gradient, by one transposed linear solve: (I - J)^T u = dL/dz*.

    A solve that fails makes the gradient exactly zero, and the count of products negative.

    Attributes:
        tol: positive relative tolerance of the linear solve; the gradient's error follows it.
        linear_solver: "gmres" (where it stagnates, a factorisation follows, or a GMRES with a
            longer memory and LSMR; of a batch only for the rows in need), or a Lineax solver, which
            brings its own tolerance.
        forward: True: by a rule in forward mode, which JAX transposes. `jvp`, `jacfwd`,
            `linearize` and `hessian` pass through the solve then; the products of the backward
            pass are not counted, so that there is no `backward_probe`.

    Raises:
        ValueError: if a setting is not as above; the message names it.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: a * z + x  # z = x / (1 - a)
        >>> z0 = jnp.zeros((1, 1))
        >>> x = jnp.ones((1, 1))
        >>> adjoint = homoode_jax.Implicit(tol=1e-4)
        >>> find = lambda a: homoode_jax.equilibrium(cell, a, z0, x, adjoint=adjoint).z[0, 0]
        >>> print(f"{jax.grad(find)(0.5):.3f}")  # 1 / (1 - a)^2
        4.000
    """

    tol: Real[ArrayLike, ""] = real_field("tol", 1e-6, "a positive number")
    linear_solver: str | lx.AbstractLinearSolver = "gmres"
    forward: bool = eqx.field(static=True, default=False)


class Phantom(eqx.Module):
    """The gradient of `steps` damped Picard steps from the equilibrium; no linear solve.

    See Geng et al. 2021, arXiv 2111.05177; steps=1, damping=1 is the Jacobian-free gradient.

    Attributes:
        steps: k, the vector-Jacobian products in all, at least 1.
        damping: eta in (0, 1]; 1 is the plain Neumann series.

    Raises:
        ValueError: if a setting is not as above; the message names it.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: a * z + x  # z = x / (1 - a)
        >>> z0 = jnp.zeros((1, 1))
        >>> x = jnp.ones((1, 1))
        >>> adjoint = homoode_jax.Phantom(steps=2, damping=0.5)
        >>> find = lambda a: homoode_jax.equilibrium(cell, a, z0, x, adjoint=adjoint).z[0, 0]
        >>> print(f"{jax.grad(find)(0.5):.3f}")  # of 4.000, with the sum in full
        1.750
    """

    steps: int = whole_field("steps", 5)
    damping: Real[ArrayLike, ""] = real_field("damping", 0.5, "a number in (0, 1]")


class Unrolled(eqx.Module):
    """The derivative of the solver's own steps; memory grows with `max_steps`."""


Route = Implicit | Phantom | Unrolled
IMPLICIT_ADJOINTS: dict[str, Callable[[], Route]] = {
    "implicit": Implicit,
    "implicit_jvp": lambda: Implicit(forward=True),
    "jacobian_free": lambda: Phantom(1, 1.0),
    "phantom": Phantom,
    "unrolled": Unrolled,
}


def make_route(adjoint: str | Route) -> Route:
    """Returns the adjoint behind a name; passes adjoint objects through."""
    if isinstance(adjoint, Implicit | Phantom | Unrolled):
        return adjoint
    check_option("adjoint", adjoint, IMPLICIT_ADJOINTS)
    return IMPLICIT_ADJOINTS[adjoint]()


def is_forward(route: Route) -> bool:
    """Returns whether the gradient is the transpose of a rule in forward mode."""
    return isinstance(route, Implicit) and route.forward


def pull_back(
    cell: Callable,
    route: Implicit | Phantom,
    params: PyTree,
    z: PyTree[Array],
    x: PyTree,
    cotangent: PyTree[Array],
    mask: Bool[Array, " batch"] | None,
    preconditioner: Callable | None,
    solved: Linear | None = None,
) -> Pullback:
    """Pulls the cotangent of the equilibrium z back to params and x; z0 gets zeros.

    `solved` is the solution of the linear system, where it is there already.
    """
    params, fixed_params = eqx.partition(params, eqx.is_inexact_array)
    x, fixed_x = eqx.partition(x, eqx.is_inexact_array)

    def f(params, z_flat, x):
        args = eqx.combine(params, fixed_params), z, eqx.combine(x, fixed_x)
        return flatten_cell(cell, *args, mask)[0].f(z_flat)

    z_flat, _ = ravel_pytree(z)
    v, restore = ravel_pytree(cotangent)
    _, pull = jax.vjp(f, params, z_flat, x)
    if solved is None:
        inputs = eqx.combine(params, fixed_params), eqx.combine(x, fixed_x)
        _, precondition = preconditioners(cell, preconditioner, inputs=inputs, z=z, mask=mask)
        solved = _solve_linear(route, lambda u: pull(u)[1], v, precondition)
    g_params, _, g_x = pull(jnp.where(solved.ok, solved.value, 0))
    # Zero times what is not finite in the cell's derivative would not be zero.
    g_params, g_x = jax.tree.map(lambda g: jnp.where(solved.ok, g, 0), (g_params, g_x))
    vjps = jnp.where(solved.ok, solved.products + 1, -solved.products - 1)
    counted = isinstance(route, Phantom) or counts_products(route.linear_solver)
    vjps = vjps if counted else jnp.full_like(vjps, -1)
    return Pullback(g_params, restore(jnp.zeros_like(v)), g_x, vjps.astype(jnp.int32))


def pull_back_examples(
    cell: Callable,
    route: Implicit | Phantom,
    params: PyTree,
    z: PyTree[Array],
    x: PyTree,
    cotangent: PyTree[Array],
    preconditioner: Callable | None,
) -> Pullback:
    """Pulls back a batch of examples, each a problem of its own (see `pull_back`)."""
    solved = None
    if isinstance(route, Implicit) and route.linear_solver == "gmres":
        systems = _systems(cell, params, preconditioner, (z, x))
        b = jax.vmap(lambda row: ravel_pytree(row)[0])(cotangent)
        solved = solve_rows(systems, b, GMRES(rtol=route.tol))

    def one(z, x, cotangent, solved) -> Pullback:
        return pull_back(
            cell=cell,
            route=route,
            params=params,
            z=z,
            x=x,
            cotangent=cotangent,
            mask=None,
            preconditioner=preconditioner,
            solved=jax.tree.map(lambda leaf: leaf[0], solved),
        )

    back = map_examples(one, z, x, cotangent, solved)
    total = jax.tree.map(lambda g: jnp.sum(g, axis=0), back.params)
    return Pullback(total, drop_axis(back.z0), drop_axis(back.x), back.vjps)


def _systems(
    cell: Callable, params: PyTree, preconditioner: Callable | None, rows: tuple[PyTree, PyTree]
) -> Systems:
    """Returns the operators (I - J)^T of examples; `rows` are their z and x."""

    def operator(row: tuple[PyTree, PyTree]) -> Callable[[Vector], Vector]:
        z, x = _as_batch(row)
        equation, _ = flatten_cell(cell=cell, params=params, z0=z, x=x)
        _, pull = jax.vjp(equation.f, equation.z0)
        return lambda u: u - pull(u)[0]

    def inverse(row: tuple[PyTree, PyTree]) -> Callable[[Vector], Vector]:
        z, x = _as_batch(row)
        _, backward = preconditioners(cell, preconditioner, inputs=(params, x), z=z, mask=None)
        assert backward is not None
        return backward

    return Systems(
        operator=operator,
        inverse=None if preconditioner is None else inverse,
        rows=rows,
    )


def _as_batch(row: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: leaf[None], row)


def _solve_linear(route: Implicit | Phantom, jt: Callable, v: Vector, precondition) -> Linear:
    """Returns u as the module defines it for this adjoint, given the product u -> J^T u."""
    if isinstance(route, Phantom):
        yes = jnp.asarray(True)
        return Linear(phantom(jt, v, route), yes, yes, jnp.asarray(route.steps - 1))
    return solve_linear_of(route, lambda u: u - jt(u), v, precondition, ROOM)


def solve_linear_of(
    route: Implicit,
    product: Callable[[Vector], Vector],
    b: Vector,
    precondition: Callable[[Vector], Vector] | None,
    room: int = 0,
) -> Linear:
    """Solves product(u) = b with the linear solver and tolerance of an adjoint.

    `room` is that of `solve_again`: none where a batch is mapped over, which would multiply it.
    """
    solver = make_linear_solver(route.linear_solver, route.tol)
    if route.linear_solver == "gmres" and isinstance(solver, GMRES):
        solver = Fallback(solver, room)
    return solve_linear(product, b, solver, precondition)


def phantom(jt: Callable[[Vector], Vector], v: Vector, route: Phantom) -> Vector:
    """Returns the phantom sum, by Horner's rule: steps - 1 products."""
    eta = jnp.asarray(route.damping, v.dtype)

    def horner(_, u):
        return v + eta * jt(u) + (1 - eta) * u

    return eta * lax.fori_loop(0, route.steps - 1, horner, v)


def preconditioners(
    cell: Callable,
    preconditioner: Callable | None,
    *,
    inputs: tuple[PyTree, PyTree],
    z: PyTree[Array],
    mask: Bool[Array, " batch"] | None,
) -> tuple[Callable | None, Callable | None]:
    """Returns the preconditioner at z and lam = 1 and its transpose, or None twice."""
    if preconditioner is None:
        return None, None
    params, x = inputs
    equation, _ = flatten_cell(
        cell=cell, params=params, z0=z, x=x, mask=mask, preconditioner=preconditioner
    )
    z_flat = equation.z0
    one = jnp.ones((), z_flat.dtype)

    def forward(v: Vector) -> Vector:
        return equation.precondition(z_flat, one, v)  # pyright: ignore[reportOptionalCall]

    return forward, lambda v: jax.linear_transpose(forward, z_flat)(v)[0]
