"""A cell on a batch of pytrees, seen as a map of one flat vector: z = f(z).

Solvers of equilibria and homotopies are written for vectors; this is where pytrees, batches
and padding end. A joint solve has the whole batch in one vector, a per-example solve one example.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from homoode_jax.mathematics.common.plan import mend
from homoode_jax.mathematics.common.trees import is_at_most, root, select_rows

Vector = Float[Array, " n"]

# Residuals are relative to |f|, but not to less than this: a root at 0 can be found, too.
FLOOR = 1e-3

# Entries from which on a pass over a vector costs more than what is compiled to save it.
LONG = 2048


class Cost(NamedTuple):
    """Evaluations of the cell, Jacobian-vector and vector-Jacobian products."""

    nfe: Int[Array, ""]
    num_jvp: Int[Array, ""]
    num_vjp: Int[Array, ""]

    def plus(self, nfe: Any = 0, num_jvp: Any = 0, num_vjp: Any = 0) -> "Cost":
        """Returns the cost after some more work."""
        return Cost(self.nfe + nfe, self.num_jvp + num_jvp, self.num_vjp + num_vjp)

    def add(self, other: "Cost") -> "Cost":
        """Returns the cost of both."""
        return self.plus(*other)

    @property
    def total(self) -> Int[Array, ""]:
        """Returns the number of evaluations and products together."""
        return self.nfe + self.num_jvp + self.num_vjp


class Equation(NamedTuple):
    """The equation z = f(z) on vectors, and where to start.

    Attributes:
        f: the cell, float32 or better inside and out.
        z0: the starting point.
        precondition: `(z, lam, v) -> v'`, near the inverse of dH/dz at (z, lam); or None.
        unrolled: True if its solution is to be backpropagated, step by step.
        eps: the precision that the cell is evaluated in, where it is less than that of vectors.
        homotopy: `(z, lam) -> H`, of the caller's; or None.
        mapped: True if it is one example of many, each solved by itself.
    """

    f: Callable[[Vector], Vector]
    z0: Vector
    precondition: Callable[[Vector, Float[Array, ""], Vector], Vector] | None = None
    unrolled: bool = False
    eps: float = 0.0
    homotopy: Callable[[Vector, Float[Array, ""]], Vector] | None = None
    mapped: bool = False


def no_cost() -> Cost:
    """Returns the cost of no work."""
    zero = jnp.zeros((), jnp.int32)
    return Cost(zero, zero, zero)


class FlatCell(eqx.Module):
    """A cell, its preconditioner or its homotopy, of one problem, on vectors.

    It is a pytree, and no closure, so that other libraries may take it for a function of theirs
    and compile it with its arrays as inputs.
    """

    function: Callable
    params: PyTree
    x: PyTree
    mask: Bool[Array, " batch"] | None
    restore: Callable[[Vector], PyTree[Array]]

    def rows(self, z: Vector) -> PyTree[Array]:
        """Returns the states, with a row that counts in the place of those that do not.

        They are zero in z, where a derivative may be infinite; times a cotangent of zero it is NaN.
        """
        z = self.restore(z)
        return z if self.mask is None else mend(self.mask, z=z)["z"]

    def __call__(self, z: Vector) -> Vector:
        """Returns the cell at z."""
        value = self.function(self.params, self.rows(z), self.x)
        if self.mask is not None:
            value = select_rows(self.mask, value, jax.tree.map(jnp.zeros_like, value))
        return ravel_pytree(value)[0]


class FlatPreconditioner(FlatCell):
    """A preconditioner of one problem, on vectors."""

    def __call__(self, z: Vector, lam: Float[Array, ""], v: Vector) -> Vector:
        """Returns the preconditioner at (z, lam), applied to v."""
        own = self.restore(v)
        w = self.function(self.params, self.rows(z), self.x, lam, own)
        w = w if self.mask is None else select_rows(self.mask, w, own)
        return ravel_pytree(w)[0]


class FlatHomotopy(FlatCell):
    """A homotopy of one problem, on vectors."""

    def __call__(self, z: Vector, lam: Float[Array, ""]) -> Vector:
        """Returns the homotopy at (z, lam); rows that are left out have H = z."""
        own = self.restore(z)
        value = self.function(self.params, lam, self.rows(z), self.x)
        value = value if self.mask is None else select_rows(self.mask, value, own)
        return ravel_pytree(value)[0]


def flatten_cell(
    cell: Callable,
    params: PyTree,
    z0: PyTree[Array],
    x: PyTree,
    mask: Bool[Array, " batch"] | None = None,
    preconditioner: Callable | None = None,
    unrolled: bool = False,
    homotopy: Callable | None = None,
) -> tuple[Equation, Callable[[Vector], PyTree[Array]]]:
    """Returns the equation on vectors, and the way back to z0's structure.

    Rows that `mask` leaves out are zero and have a cell that is zero: they count in no norm and
    never move.
    """
    z0 = z0 if mask is None else select_rows(mask, z0, jax.tree.map(jnp.zeros_like, z0))
    start, restore = ravel_pytree(z0)
    f = FlatCell(cell, params, x, mask, restore)
    precondition = None
    if preconditioner is not None:
        precondition = FlatPreconditioner(preconditioner, params, x, mask, restore)
    path = None
    if homotopy is not None:
        path = FlatHomotopy(homotopy, params, x, mask, restore)
    return Equation(f, start, precondition, unrolled, homotopy=path), restore


def dot(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns a @ b in full precision, which is not the default of every accelerator."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def weighted_sum(
    weights: Float[Array, " vectors"], vectors: Float[Array, "vectors n"]
) -> Float[Array, " n"]:
    """Returns weights @ vectors; if long vector by vector, in one pass with what it is added to.

    XLA:CPU's product of a small vector and a long matrix takes twice as long.
    """
    if is_at_most(vectors.shape[1], LONG - 1):
        return dot(weights, vectors)
    return sum(weights[i] * vectors[i] for i in range(len(vectors)))  # pyright: ignore


def rms(v: Vector) -> Float[Array, ""]:
    """Returns the root mean square, 0 of nothing; its gradient at 0 is 0."""
    if not v.size:
        return jnp.zeros((), v.dtype)
    return root(jnp.mean(jnp.square(v)))


def norm(v: Vector) -> Float[Array, ""]:
    """Returns the root mean square of v, whatever its scale."""
    if not v.size:
        return jnp.zeros((), v.dtype)
    largest = jnp.max(jnp.abs(v))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    # XLA multiplies by the reciprocal, which near the end of the range is rounded to zero.
    part = jnp.where(scale > 1, 2.0**-64, 1).astype(v.dtype)
    return scale * rms((part * v) / (part * scale))


def relative_residual(z: Vector, f: Vector) -> Float[Array, ""]:
    """Returns |z - f| / max(|f|, 1e-3), root mean squares, with no gradient."""
    z, f = lax.stop_gradient((z, f))
    return norm(z - f) / jnp.maximum(norm(f), FLOOR)


def repeat(goes_on: Callable, body: Callable, start: PyTree, most: int, unrolled: bool) -> PyTree:
    """Runs a while loop; if `unrolled` as a scan of `most` turns, which can be backpropagated."""
    if not unrolled:
        return lax.while_loop(goes_on, body, start)

    def turn(state: PyTree, _):
        return lax.cond(goes_on(state), body, lambda same: same, state), None

    return lax.scan(turn, start, length=most)[0]
