"""The derivative of an equilibrium in forward mode; JAX transposes it for reverse mode.

    z = f(z; x, theta)   so that   (I - J) dz = df/dtheta dtheta + df/dx dx

The linear solve has derivatives of its own (`jax.lax.custom_linear_solve`), and the rule applies
to itself, so that derivatives of every order are there in every mode. As in `common.guard`, a
failed example contributes exactly zero: its tangent and its cotangent are set to zero, its row is
replaced by one that succeeded, and where none did nothing has a derivative at all.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, PyTree

from homoode_jax.mathematics.cells.adjoints import Implicit, preconditioners, solve_linear_of
from homoode_jax.mathematics.cells.vectors import Vector, flatten_cell
from homoode_jax.mathematics.common.examples import drop_axis, map_examples
from homoode_jax.mathematics.common.functions import check_products
from homoode_jax.mathematics.common.plan import Inputs, constant, mend
from homoode_jax.mathematics.common.solution import Result
from homoode_jax.mathematics.common.trees import select_rows


class Problem(NamedTuple):
    """The cell of one problem, and how its derivative is solved for; it has no derivative."""

    cell: Callable
    adjoint: Implicit
    preconditioner: Callable | None
    mask: Bool[Array, " batch"] | None


def solve_forward(inputs: Inputs, plan: Any) -> Any:
    """Solves the batch; its derivative is that of the equilibrium, in every mode."""
    raw = constant(plan.run(constant(inputs)))
    ok = raw.result == Result.ok
    params, x = _where_any(ok, (inputs.params, inputs.x))
    problem = Problem(plan.cell, plan.adjoint, plan.preconditioner, plan.mask)
    if not plan.per_example:
        z = root((params, x), raw.z, problem)
        return raw._replace(z=_where_any(ok, z))
    good = mend(ok, z=raw.z, x=x)
    one = partial(_root_of_example, params, problem)
    z = drop_axis(map_examples(one, good["z"], good["x"]))
    return raw._replace(z=select_rows(ok, z, raw.z))


def _root_of_example(params: PyTree, problem: Problem, z: PyTree, x: PyTree) -> PyTree[Array]:
    return root((params, x), z, problem)


def _where_any(ok: Bool[Array, "*batch"], tree: PyTree) -> PyTree:
    """Returns the tree with no derivative where nothing succeeded; 0 NaN would be NaN."""
    some = jnp.any(ok)

    def keep(leaf: Any) -> Any:
        if not eqx.is_inexact_array(leaf):
            return leaf
        return jnp.where(some, leaf, lax.stop_gradient(leaf))

    return jax.tree.map(keep, tree)


@eqx.filter_custom_jvp
def root(inputs: tuple[PyTree, PyTree], z: PyTree[Array], problem: Problem) -> PyTree[Array]:
    """Returns the equilibrium z, as a function of `inputs`: params and x."""
    del inputs, problem
    return z


@root.def_jvp
def _root_jvp(primals: tuple, tangents: tuple) -> tuple:
    inputs, z, problem = primals
    moved = tangents[0]
    z = root(inputs, z, problem)  # a second derivative is that of this rule
    z_flat, restore = ravel_pytree(z)
    fixed, inputs = eqx.partition(inputs, jax.tree.map(_is_none, moved, is_leaf=_is_none))

    def f(inputs: tuple[PyTree, PyTree], z_flat: Vector) -> Vector:
        params, x = eqx.combine(inputs, fixed)
        equation, _ = flatten_cell(
            cell=problem.cell, params=params, z0=restore(z_flat), x=x, mask=problem.mask
        )
        return equation.f(z_flat)

    check_products(partial(f, inputs), z_flat, "adjoint='implicit_jvp'")
    moved = _where_finite(f, (inputs, z_flat), moved)
    _, b = jax.jvp(lambda inputs: f(inputs, z_flat), (inputs,), (moved,))

    def product(v: Vector) -> Vector:
        return v - jax.jvp(partial(f, inputs), (z_flat,), (v,))[1]

    forward, backward = preconditioners(
        problem.cell,
        problem.preconditioner,
        inputs=constant(eqx.combine(inputs, fixed)),
        z=constant(z),
        mask=problem.mask,
    )
    dz = lax.custom_linear_solve(
        product,
        b,
        solve=partial(_solve, problem.adjoint, forward),
        transpose_solve=partial(_solve, problem.adjoint, backward),
    )
    return z, restore(dz)


def _where_finite(f: Callable, at: tuple, moved: PyTree) -> PyTree:
    """Returns the tangents, zero where the derivative of f is not finite somewhere.

    A sum over all of its columns is not finite then. Backwards this zeroes what came through it.
    """
    at = constant(at)
    _, columns = jax.jvp(f, at, jax.tree.map(jnp.ones_like, at))
    finite = jnp.all(jnp.isfinite(columns))
    return jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), moved)


def _solve(
    adjoint: Implicit, precondition: Callable | None, product: Callable, b: Vector
) -> Vector:
    """Solves product(u) = b; returns exactly zero where that fails."""
    solved = solve_linear_of(adjoint, product, b, precondition)
    return jnp.where(solved.ok, solved.value, 0)


def _is_none(leaf: Any) -> bool:
    return leaf is None
