"""Backpropagation through a recorded solve, without the failed examples, to any order.

The record of a failed example has NaN (see `guard`). So the record is used only where all examples
succeeded. It is also a constant: to differentiate the backward pass again, the solve is run anew
with failed examples replaced, and its backward pass is differentiated.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, PyTree

from homoode_jax.mathematics.common.plan import Inputs, Plan, keep_ok, mend, zeros_like


class Recorded(NamedTuple):
    """The outcome of a solve and the pullback of its (z, zs), for the backward pass; constants."""

    raw: Any
    pull: Callable


def record(inputs: Inputs, plan: Plan) -> Recorded:
    """Runs the solve and records what its backpropagation needs."""
    diff, fixed = eqx.partition(inputs, eqx.is_inexact_array)

    def states(diff):
        raw = plan.run(eqx.combine(diff, fixed))
        return (raw.z, raw.zs), raw

    _, pull, raw = jax.vjp(states, diff, has_aux=True)
    return Recorded(raw, pull)


@eqx.filter_custom_vjp
def pull_back_recorded(arguments, pull: Callable, ok: Bool[Array, "*batch"], plan: Plan) -> Inputs:
    """Backpropagates through the recorded solve if all succeeded, else through a mended one.

    The arguments are the inputs and the cotangents of (z, zs).
    """
    inputs, cotangents = arguments

    def recorded():
        return pull(cotangents)[0]

    if not plan.per_example:
        return lax.cond(ok, recorded, lambda: zeros_like(inputs))
    anew = partial(_pull_anew, inputs, cotangents, ok, plan)
    return lax.cond(jnp.all(ok), recorded, anew)


def _pull_anew(inputs: Inputs, cotangents, ok: Bool[Array, "*batch"], plan: Plan) -> Inputs:
    """Backpropagates through a mended solve; this can be differentiated as often as the solve."""

    def mended():
        fine = inputs
        if plan.per_example:
            fine = inputs._replace(**mend(ok, z0=inputs.z0, x=inputs.x))
        return record(fine, plan).pull(cotangents)[0]

    return lax.cond(jnp.any(ok), mended, lambda: zeros_like(inputs))


@pull_back_recorded.def_fwd
def _forward_pull(perturbed, arguments, pull, ok, plan: Plan):
    del perturbed
    return pull_back_recorded(arguments, pull, ok, plan), None


@pull_back_recorded.def_bwd
def _backward_pull(residuals, of_gradients, perturbed, arguments, pull, ok, plan: Plan):
    """Differentiates the backward pass."""
    del residuals, perturbed, pull
    diff, fixed = eqx.partition(arguments, eqx.is_inexact_array)

    def anew(diff):
        inputs, cotangents = eqx.combine(diff, fixed)
        return _pull_anew(inputs, cotangents, ok, plan)

    gradients, pull_again = jax.vjp(anew, diff)
    return pull_again(keep_ok(jnp.array(True), of_gradients, gradients))[0]


def differentiable(plan: Plan, back: Any) -> Any:
    """Returns the gradients; if they have no derivatives, to differentiate them raises an error."""
    if not plan.second_derivatives_by:
        return back
    gradients, rest = eqx.partition(back, eqx.is_inexact_array)
    message = (
        f"adjoint={plan.adjoint!r} has no second derivatives; use {plan.second_derivatives_by}."
    )
    return eqx.combine(_last(gradients, message), rest)


@eqx.filter_custom_vjp
def _last(gradients: PyTree[Array], message: str) -> PyTree[Array]:
    """Returns the gradients; raises where they are differentiated, before their loops are."""
    return gradients


@_last.def_fwd
def _forward_last(perturbed, gradients: PyTree[Array], message: str):
    del perturbed
    return gradients, None


@_last.def_bwd
def _backward_last(residuals, cotangents, perturbed, gradients: PyTree[Array], message: str):
    raise ValueError(message)
