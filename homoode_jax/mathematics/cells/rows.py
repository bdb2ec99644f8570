"""The linear systems of a batch of examples, A_i u_i = b_i, each solved by itself.

All are solved by GMRES; those in which it fails are gathered, a few at a time, and go on by
stronger methods (see `fallback`): two hard ones of 64 make nobody wait. Together they are one
linear solve with derivatives of every order (`jax.lax.custom_linear_solve`).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from homoode_jax.mathematics.cells.chunks import in_chunks
from homoode_jax.mathematics.cells.fallback import Try, has_transpose, solve_again
from homoode_jax.mathematics.cells.gmres import GMRES, Linear, unit_of
from homoode_jax.mathematics.cells.vectors import Vector
from homoode_jax.mathematics.common.trees import choose

Operator = Callable[[PyTree[Array]], Callable[[Vector], Vector]]


class Systems(NamedTuple):
    """The operators of a batch.

    Attributes:
        operator: row i to the function A_i.
        inverse: row i to a function near the inverse of A_i; or None.
        rows: what they are made of, along a leading axis.
    """

    operator: Operator
    inverse: Operator | None
    rows: PyTree[Array]


def solve_rows(systems: Systems, b: Float[Array, "batch n"], solver: GMRES) -> Linear:
    """Solves for each right-hand side; returns the last iterates of those that fail."""
    like = jax.tree.map(_like_one, (systems.rows, b))
    transposable = has_transpose(systems.operator, *like)
    value, found = lax.custom_linear_solve(
        lambda u: jax.vmap(lambda row, u: systems.operator(row)(u))(systems.rows, u),
        b,
        solve=partial(_solve, systems, solver),
        transpose_solve=partial(_solve, _transposed(systems), solver) if transposable else None,
        has_aux=True,
    )
    return found._replace(value=value)


def _like_one(leaf: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)


def _solve(
    systems: Systems, solver: GMRES, product: Callable, b: Float[Array, "batch n"]
) -> tuple[Float[Array, "batch n"], Linear]:
    del product  # of all rows at once
    units = jax.vmap(unit_of)(b)
    b = b / units[:, None]

    def first(row: PyTree, b: Vector) -> Linear:
        inverse = None if systems.inverse is None else systems.inverse(row)
        return solver.solve(systems.operator(row), b, inverse)

    def again(row: PyTree, b: Vector, before: Linear, needed: Bool[Array, ""]) -> Linear:
        start = Try(
            b=b,
            x=before.value,
            target=solver.target(b),
            failed=needed,
            products=before.products,
        )
        end = solve_again(systems.operator(row), start)
        ok = ~end.failed & jnp.all(jnp.isfinite(end.x))
        after = Linear(jnp.where(ok, end.x, 0), ok, ok, end.products)
        return choose(needed, after, before)

    found = jax.vmap(first)(systems.rows, b)
    needed = ~found.ok & jnp.all(jnp.isfinite(b), axis=1)
    found = in_chunks(jax.vmap(again), needed, (systems.rows, b), found)
    return units[:, None] * found.value, found._replace(value=None)


def _transposed(systems: Systems) -> Systems:
    """Returns the systems whose operators are transposed."""

    def turned(operator: Operator) -> Operator:
        def transpose(row: PyTree) -> Callable[[Vector], Vector]:
            product = operator(row)
            return lambda v: jax.linear_transpose(product, v)(v)[0]

        return transpose

    return Systems(
        operator=turned(systems.operator),
        inverse=None if systems.inverse is None else turned(systems.inverse),
        rows=systems.rows,
    )
