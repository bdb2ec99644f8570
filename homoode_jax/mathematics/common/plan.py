"""What a solve and its gradient consist of, whether it is of a field or of a cell.

A plan says how to solve, and how to go back: by backpropagation through `run`, or by a formula
of its own (`pull_back`) that needs the outcome alone, as implicit gradients and the continuous
adjoint do.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from homoode_jax.mathematics.common.trees import select_rows


class Inputs(NamedTuple):
    """What a solve is differentiated by."""

    params: PyTree
    z0: PyTree[Array]
    x: PyTree
    probe: Float[Array, "*batch"]


class Pullback(NamedTuple):
    """Gradients of one backward pass, and its vector-Jacobian products.

    `vjps` is negative where the backward pass failed.
    """

    params: PyTree[Array]
    z0: PyTree[Array]
    x: PyTree[Array]
    vjps: Int[Array, "*batch"]


@runtime_checkable
class Plan(Protocol):
    """Defines a solve, all but its inputs; a pytree.

    Outcomes are NamedTuples with at least `z`, `zs` and `result`.
    """

    @property
    def per_example(self) -> bool:
        """Returns True if each example is a problem of its own."""
        ...

    @property
    def mask(self) -> Bool[Array, " batch"] | None:
        """Returns True for the rows that are no padding; None if there is no padding."""
        ...

    @property
    def adjoint(self) -> Any:
        """Returns the adjoint, as errors name it."""
        ...

    @property
    def backpropagates(self) -> bool:
        """Returns True if `run` is backpropagated, False if `pull_back` has the gradient."""
        ...

    @property
    def second_derivatives_by(self) -> str:
        """Returns the adjoint to use for second derivatives, if this one has none; else nothing."""
        ...

    def run(self, inputs: Inputs) -> Any:
        """Solves the batch."""
        ...

    def memory(self, raw: Any) -> PyTree:
        """Returns what `pull_back` needs of an outcome."""
        ...

    def pull_back(self, inputs: Inputs, memory: PyTree, cotangents: Any) -> Pullback:
        """Returns the gradients of a batch all of whose examples have succeeded.

        `cotangents` is as an outcome; all but `z` is None where there is no cotangent.
        """
        ...

    def count_vjps(self, raw: Any) -> Int[Array, "*batch"]:
        """Returns the vector-Jacobian products of backpropagation; negative if unknown."""
        ...


def constant(tree: PyTree) -> PyTree:
    """Returns the tree with no gradient: tolerances, times and settings may be traced."""
    numbers, rest = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(lax.stop_gradient(numbers), rest)


def zeros_like(inputs: Inputs) -> Inputs:
    """Returns zeros for what has a gradient, None for the rest."""
    return jax.tree.map(jnp.zeros_like, eqx.filter(inputs, eqx.is_inexact_array))


def mend(ok: Bool[Array, " batch"], **trees: PyTree) -> dict[str, PyTree]:
    """Replaces the rows that are not `ok` by the first that is."""
    good = jnp.argmax(ok)
    copies = jax.tree.map(lambda a: jnp.broadcast_to(a[good], a.shape), trees)
    return select_rows(ok, trees, copies)


def keep_ok(ok, cotangent: PyTree, like: PyTree, axis: int = 0) -> PyTree:
    """Returns the cotangents, zero for failed examples; None is read as a cotangent of zero."""

    def keep(leaf, ct):
        zero = jnp.zeros_like(leaf)
        if ct is None:
            return zero
        rows = ok.reshape((1,) * (axis * ok.ndim) + ok.shape + (1,) * (leaf.ndim - axis - 1))
        return jnp.where(rows if ok.ndim else ok, ct, zero)

    if cotangent is None:
        return jax.tree.map(jnp.zeros_like, like)
    return jax.tree.map(keep, like, cotangent, is_leaf=lambda leaf: leaf is None)
