"""A cell on a batch of pytrees, seen as a map of one flat vector: z = f(z).

Solvers of equilibria and homotopies are written for vectors; this is where pytrees, batches
and padding end. A joint solve has the whole batch in one vector, a per-example solve one example.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from homoode_jax.mathematics.rows import root
from homoode_jax.mathematics.stepping import select_rows

Vector = Float[Array, " n"]

# Residuals are relative to |f|, but not to less than this: a root at 0 can be found, too.
FLOOR = 1e-3


class Cost(NamedTuple):
    """Evaluations of the cell, Jacobian-vector and vector-Jacobian products."""

    nfe: Int[Array, ""]
    num_jvp: Int[Array, ""]
    num_vjp: Int[Array, ""]

    def plus(self, nfe: Any = 0, num_jvp: Any = 0, num_vjp: Any = 0) -> "Cost":
        """The cost after some more work."""
        return Cost(self.nfe + nfe, self.num_jvp + num_jvp, self.num_vjp + num_vjp)

    def add(self, other: "Cost") -> "Cost":
        """The cost of both."""
        return self.plus(*other)

    @property
    def total(self) -> Int[Array, ""]:
        """Evaluations and products together."""
        return self.nfe + self.num_jvp + self.num_vjp


class Equation(NamedTuple):
    """The equation z = f(z) on vectors, and where to start.

    Attributes:
        f: the cell, float32 or better inside and out.
        z0: the starting point.
        precondition: `(z, lam, v) -> v'`, near the inverse of dH/dz at (z, lam); or None.
        unrolled: True if its solution is to be backpropagated, step by step.
        eps: the precision that the cell is evaluated in, where it is less than that of vectors.
    """

    f: Callable[[Vector], Vector]
    z0: Vector
    precondition: Callable[[Vector, Float[Array, ""], Vector], Vector] | None = None
    unrolled: bool = False
    eps: float = 0.0


def no_cost() -> Cost:
    """No work at all."""
    zero = jnp.zeros((), jnp.int32)
    return Cost(zero, zero, zero)


def flatten_cell(
    cell: Callable, params: PyTree, z0: PyTree[Array], x: PyTree,
    mask: Bool[Array, " batch"] | None = None, preconditioner: Callable | None = None,
    unrolled: bool = False,
) -> tuple[Equation, Callable[[Vector], PyTree[Array]]]:  # fmt: skip
    """Returns the equation on vectors, and the way back to z0's structure.

    Rows that `mask` leaves out are zero and have a cell that is zero: they count in no norm and
    never move.
    """
    zeros = jax.tree.map(jnp.zeros_like, z0)
    z0 = z0 if mask is None else select_rows(mask, z0, zeros)
    start, restore = ravel_pytree(z0)

    def f(z: Vector) -> Vector:
        value = cell(params, restore(z), x)
        value = value if mask is None else select_rows(mask, value, zeros)
        return ravel_pytree(value)[0]

    def precondition(z: Vector, lam, v: Vector) -> Vector:
        assert preconditioner is not None
        w = preconditioner(params, restore(z), x, lam, restore(v))
        w = w if mask is None else select_rows(mask, w, restore(v))
        return ravel_pytree(w)[0]

    return Equation(f, start, precondition if preconditioner else None, unrolled), restore


def rms(v: Vector) -> Float[Array, ""]:
    """Returns the root mean square, 0 of nothing; its gradient at 0 is 0."""
    if not v.size:
        return jnp.zeros((), v.dtype)
    return root(jnp.mean(jnp.square(v)))


def relative_residual(z: Vector, f: Vector) -> Float[Array, ""]:
    """|z - f| / max(|f|, 1e-3), root mean squares; never differentiated."""
    z, f = lax.stop_gradient((z, f))
    return rms(z - f) / jnp.maximum(rms(f), FLOOR)


def finite(*vectors: Vector) -> Bool[Array, ""]:
    """True if all entries are finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(v)) for v in vectors]))


def repeat(goes_on: Callable, body: Callable, start: PyTree, most: int, unrolled: bool) -> PyTree:
    """A while loop; `unrolled`, one of `most` turns at the most that can be backpropagated."""
    if not unrolled:
        return lax.while_loop(goes_on, body, start)

    def turn(state: PyTree, _):
        return lax.cond(goes_on(state), body, lambda same: same, state), None

    return lax.scan(turn, start, length=most)[0]
