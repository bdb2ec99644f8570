"""What a solve and its gradient consist of, before anything is known of fields or cells.

A plan says how to solve and how to go back: by its own formula (`pull_back`: one that needs the
outcome alone, such as an implicit gradient or a continuous adjoint), or by backpropagation
through `run` itself.
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
    """All else that defines a solve; a pytree.

    Outcomes are NamedTuples with at least `z`, `zs` and `result`.
    """

    @property
    def per_example(self) -> bool:
        """True if each example is a problem of its own."""
        ...

    @property
    def mask(self) -> Bool[Array, " batch"] | None:
        """The rows of a joint batch that count."""
        ...

    @property
    def adjoint(self) -> Any:
        """The route, as errors name it."""
        ...

    @property
    def backpropagates(self) -> bool:
        """True if the gradient is that of `run`, False if `pull_back` has it."""
        ...

    @property
    def second_derivatives_by(self) -> str:
        """Returns what has second derivatives where this route has none; else nothing."""
        ...

    def run(self, inputs: Inputs) -> Any:
        """Solves the batch."""
        ...

    def memory(self, raw: Any) -> PyTree:
        """What `pull_back` needs of an outcome."""
        ...

    def pull_back(self, inputs: Inputs, memory: PyTree, cotangents: Any) -> Pullback:
        """Gradients of the batch, all of whose examples have succeeded.

        `cotangents` is as an outcome; all but `z` is None where there is no cotangent.
        """
        ...

    def count_vjps(self, raw: Any) -> Int[Array, "*batch"]:
        """Vector-Jacobian products when `run` is backpropagated; negative if unknown."""
        ...


def constant(tree: PyTree) -> PyTree:
    """Returns the tree without a gradient: tolerances, times, settings of methods may be traced."""
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
    """Cotangents with failed examples at zero; None stands for no cotangent at all."""

    def keep(leaf, ct):
        zero = jnp.zeros_like(leaf)
        if ct is None:
            return zero
        rows = ok.reshape((1,) * (axis * ok.ndim) + ok.shape + (1,) * (leaf.ndim - axis - 1))
        return jnp.where(rows if ok.ndim else ok, ct, zero)

    if cotangent is None:
        return jax.tree.map(jnp.zeros_like, like)
    return jax.tree.map(keep, like, cotangent, is_leaf=lambda leaf: leaf is None)
