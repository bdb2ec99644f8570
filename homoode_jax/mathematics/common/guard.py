"""The guard that keeps failed examples out of every gradient.

A plan says how to solve, and how to go back: by backpropagation through `run`, or by a formula
of its own (`pull_back`) that needs the outcome alone, as implicit gradients and the continuous
adjoint do. Example i, with the derivative D_i of its outcome and its cotangent c_i, contributes
D_i^T c_i to the gradient; a failed one has to contribute exactly zero:

1.  Its c_i is set to zero. That is not enough: where D_i has a NaN, 0 NaN = NaN.
2.  So before the way back its inputs, and its outcome, are replaced by those of an example g that
    succeeded (`mend`): D_g^T 0 = 0, since D_g is finite. Backpropagation has recorded D_i on the
    way forward, so that the solve is then run again with the mended inputs.
3.  Where nothing succeeded (also a joint batch, which fails as one) nothing is run: all is zero.
4.  The gradient of `probe` is the number of vector-Jacobian products: zero for an example whose
    solve failed, negative for one whose way back failed.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from homoode_jax.mathematics.common.checks import as_arrays, check_not_mapped
from homoode_jax.mathematics.common.solution import Result
from homoode_jax.mathematics.common.trees import drop_axis, map_examples, select_rows, signed_total


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
    def pulls_back_saved(self) -> bool:
        """Returns True if `pull_back` takes cotangents of saved states."""
        ...

    @property
    def once(self) -> str:
        """Returns what has second derivatives if this adjoint has none; else an empty string."""
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


@eqx.filter_custom_vjp
def solve(inputs: Inputs, plan: Plan) -> Any:
    """Solves the batch; its gradient follows the plan and ignores failed examples."""
    return plan.run(inputs)


def solve_unpadded(
    inputs: Inputs, plan: Plan, counts: Iterable[str], solver: Callable = solve
) -> Any:
    """Solves with every masked row overwritten by a valid one, then restores the masked rows.

    `counts` names the fields of an outcome that are set to zero in masked rows.
    """
    plan = _constant(plan)
    mask = plan.mask
    z0 = lax.stop_gradient(inputs.z0)
    if mask is None:
        return solver(inputs, plan)
    raw = solver(inputs._replace(**mend(mask, z0=inputs.z0, x=inputs.x)), plan)
    zs = None if raw.zs is None else jax.vmap(lambda z: select_rows(mask, z, z0))(raw.zs)
    result = jnp.where(mask if plan.per_example else jnp.any(mask), raw.result, Result.ok.value)
    raw = raw._replace(z=select_rows(mask, raw.z, z0), zs=zs, result=result)
    if not plan.per_example:
        return raw
    numbers = {name: getattr(raw, name) for name in counts}
    return raw._replace(**jax.tree.map(lambda leaf: jnp.where(mask, leaf, 0), numbers))


def _constant(plan: Plan) -> Plan:
    """Returns the plan with no gradient: tolerances, times and settings may be traced."""
    numbers, rest = eqx.partition(plan, eqx.is_inexact_array)
    return eqx.combine(lax.stop_gradient(numbers), rest)


@solve.def_fwd
def _forward(perturbed, inputs: Inputs, plan: Plan):
    del perturbed
    inputs = as_arrays(inputs)
    if not plan.backpropagates:
        raw = solve(inputs, plan)  # itself again: a second derivative takes the same formula
        return raw, (raw, None)
    if plan.adjoint == "checkpointed":
        check_not_mapped("adjoint='checkpointed'", instead="'reversible', 'direct' or 'backsolve'")
    raw, pull = _vjp(inputs, plan)
    return raw, (raw, pull)


@solve.def_bwd
def _backward(residuals, cotangents: Any, perturbed, inputs: Inputs, plan: Plan) -> Inputs:
    del perturbed
    inputs = as_arrays(inputs)
    raw, pull = residuals
    ok = raw.result == Result.ok
    z = _kept(ok, cotangents.z, raw.z)  # step 1
    if pull is not None:
        cts = z, _kept(ok, cotangents.zs, raw.zs, axis=1)
        gradients = _backwards(_recorded, plan, pull, cts, ok, inputs)
        vjps = plan.count_vjps(raw)
    else:
        has_zs = bool(jax.tree.leaves(cotangents.zs))
        if has_zs and not plan.pulls_back_saved:
            raise ValueError(
                f"adjoint={plan.adjoint!r} has no gradient through the saved states `zs`; "
                "use a route that backpropagates through the solve, or take the loss of `z` alone."
            )
        zs = _kept(ok, cotangents.zs, raw.zs, axis=1) if has_zs else None
        back = _backwards(_by_formula, plan, ok, cotangents._replace(z=z, zs=zs), raw, inputs)
        gradients = Inputs(back.params, back.z0, back.x, inputs.probe)
        vjps = back.vjps
    vjps = jnp.where(ok, vjps, 0).astype(inputs.probe.dtype)  # step 4
    return gradients._replace(probe=vjps if inputs.probe.ndim else signed_total(vjps))


def _vjp(inputs: Inputs, plan: Plan):
    """Returns the outcome of the solve and the pullback of its (z, zs)."""
    diff, fixed = eqx.partition(inputs, eqx.is_inexact_array)

    def states(diff):
        raw = plan.run(eqx.combine(diff, fixed))
        return (raw.z, raw.zs), raw

    _, pull, raw = jax.vjp(states, diff, has_aux=True)
    return raw, pull


def _backwards(run: Callable, plan: Plan, *args: Any) -> Any:
    """Runs a backward pass; to differentiate it again raises where `plan.once` says what can."""
    back = run(*args, plan)
    if not plan.once:
        return back
    gradients, rest = eqx.partition(back, eqx.is_inexact_array)
    message = f"adjoint={plan.adjoint!r} has no second derivatives; use {plan.once}."
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


def _recorded(pull, cts, ok: Bool[Array, "*batch"], inputs: Inputs, plan: Plan) -> Inputs:
    """Backpropagates through the recorded solve if all succeeded, else through a mended one (2)."""

    def recorded():
        return pull(cts)[0]

    def mended():
        return _vjp(inputs._replace(**mend(ok, z0=inputs.z0, x=inputs.x)), plan)[1](cts)[0]

    def nothing():
        return jax.tree.map(jnp.zeros_like, eqx.filter(inputs, eqx.is_inexact_array))

    if not plan.per_example:
        return lax.cond(ok, recorded, nothing)
    case = jnp.where(jnp.all(ok), 0, jnp.where(jnp.any(ok), 1, 2))
    return lax.switch(case, [recorded, mended, nothing])


def _by_formula(ok, cotangents, raw, inputs: Inputs, plan: Plan) -> Pullback:
    """Pulls back by the formula of the plan if anything has succeeded (3)."""
    args = ok, cotangents, raw, inputs, plan
    return lax.cond(jnp.any(ok), lambda: _mended(*args), lambda: _nothing(ok, inputs))


def _mended(ok, cotangents, raw, inputs: Inputs, plan: Plan) -> Pullback:
    """Pulls back by the formula, with an example that succeeded in the place of failed ones (2)."""
    memory = plan.memory(raw)
    if plan.per_example:
        good = mend(ok, memory=memory, z0=inputs.z0, x=inputs.x)
        memory = good["memory"]
        inputs = inputs._replace(z0=good["z0"], x=good["x"])
    return plan.pull_back(inputs, memory, cotangents)


def pull_back_by_problem(
    one: Callable, plan: Plan, memory: PyTree, x: PyTree, cotangent: PyTree
) -> Pullback:
    """Pulls back by `one(memory, x, cotangent, mask=None)`, a formula for a single problem.

    A problem is a joint batch, or an example as a batch of one.
    """
    if not plan.per_example:
        return one(memory, x, cotangent, plan.mask)
    back = map_examples(one, memory, x, cotangent)
    params = jax.tree.map(lambda g: jnp.sum(g, axis=0), back.params)
    return Pullback(params, drop_axis(back.z0), drop_axis(back.x), back.vjps)


def _nothing(ok: Bool[Array, "*batch"], inputs: Inputs) -> Pullback:
    zeros = jax.tree.map(jnp.zeros_like, eqx.filter(inputs, eqx.is_inexact_array))
    return Pullback(zeros.params, zeros.z0, zeros.x, jnp.zeros(ok.shape, jnp.int32))


def mend(ok: Bool[Array, " batch"], **trees: PyTree) -> dict[str, PyTree]:
    """Replaces the rows that are not `ok` by the first that is."""
    good = jnp.argmax(ok)
    copies = jax.tree.map(lambda a: jnp.broadcast_to(a[good], a.shape), trees)
    return select_rows(ok, trees, copies)


def _kept(ok, cotangent: PyTree, like: PyTree, axis: int = 0) -> PyTree:
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
