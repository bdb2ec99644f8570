"""An Arnoldi factorisation, over whose basis GMRES minimises a residual (Saad & Schultz 1986).

    A P V[:k] = V[:k+1] H,     V[0] = r / |r|,     V orthonormal

Of many examples all take as many turns. So no turn copies the basis to freeze the examples that are
done, which costs more than a product; to theirs it adds zeros.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from homoode_jax.mathematics.cells.basis import Basis, add_vector, empty_basis, orthogonalise
from homoode_jax.mathematics.cells.vectors import Vector
from homoode_jax.mathematics.common.examples import any_example
from homoode_jax.mathematics.common.trees import choose


class Cycle(NamedTuple):
    """A factorisation under way.

    Attributes:
        basis: V.
        hessenberg: H.
        left: spans the left null space of H; its norm gives the residual's: |r| / |left|.
        k: products taken.
        broken: whether the space that V spans holds all its products.
    """

    basis: Basis
    hessenberg: Float[Array, "m+1 m"]
    left: Float[Array, " m+1"]
    k: Int[Array, ""]
    broken: Bool[Array, ""]


def factorise(
    product: Callable[[Vector], Vector],
    r: Vector,
    size: Float[Array, ""],
    target: Float[Array, ""],
    most: Int[ArrayLike, ""],
    places: int,
) -> Cycle:
    """Factorises until a residual r, of that size, would fall to the target.

    Takes at most `most` products, and as many as there are places.
    """

    def goes_on(cycle: Cycle) -> Bool[Array, ""]:
        small = size <= target * jnp.linalg.norm(cycle.left)
        return (cycle.k < places) & (cycle.k < most) & ~small & ~cycle.broken

    def turn(cycle: Cycle) -> Cycle:
        return _expand(cycle, product, goes_on(cycle))

    start = Cycle(
        basis=add_vector(empty_basis(r, places + 1), r / size),
        # Unused columns are independent of all others, so that least squares keeps full rank.
        hessenberg=jnp.eye(places + 1, places, -1, r.dtype),
        left=jnp.zeros(places + 1, r.dtype).at[0].set(1),
        k=jnp.asarray(0),
        broken=jnp.asarray(False),
    )
    return lax.while_loop(lambda cycle: any_example(goes_on(cycle)), turn, start)


def _expand(cycle: Cycle, product: Callable, goes_on: Bool[Array, ""]) -> Cycle:
    """Adds one vector to the basis, and its column to H, for one product; zeros if it is done."""
    k = cycle.k
    unit, size, shares = orthogonalise(product(cycle.basis.last), cycle.basis)
    column = shares.at[k + 1].set(size)
    overlap = cycle.left @ column
    # The basis grows for all: what it has is never chosen by example, and its count is one number.
    basis = add_vector(cycle.basis, jnp.where(goes_on, unit, 0))
    grown = (
        cycle.hessenberg.at[:, k].set(column),
        cycle.left.at[k + 1].set(-overlap / size),
        k + 1,
        cycle.broken | ~(size > 0),
    )
    return Cycle(basis, *choose(goes_on, grown, tuple(cycle[1:])))


def least_squares(cycle: Cycle, size: Float[Array, ""]) -> Float[Array, " m"]:
    """Returns the coefficients of the step with the least residual; not finite if there is none."""
    q, r = jnp.linalg.qr(cycle.hessenberg)
    return jax.scipy.linalg.solve_triangular(r, q[0] * size)
