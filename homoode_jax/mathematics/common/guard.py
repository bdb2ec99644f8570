"""The guard that keeps failed examples out of every gradient.

A failed example has cotangent zero, but zero times the NaN that a backward pass meets in its
last step is NaN. So the failed examples of a per-example batch are replaced by one that
succeeded before the backward pass runs, and a batch without success is not run backwards.

A plan says how to solve and how to go back: by its own formula (`pull_back`: one that needs the
outcome alone, such as an implicit gradient or a continuous adjoint), or by backpropagation
through `run` itself.
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
    def pulls_back_saved(self) -> bool:
        """True if `pull_back` takes cotangents of saved states."""
        ...

    @property
    def once(self) -> str:
        """What to use for second derivatives, if there are none by this route; or nothing."""
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


@eqx.filter_custom_vjp
def solve(inputs: Inputs, plan: Plan) -> Any:
    """Solves the batch; its gradient follows the plan and ignores failed examples."""
    return plan.run(inputs)


def solve_unpadded(
    inputs: Inputs, plan: Plan, counts: Iterable[str], solver: Callable = solve
) -> Any:
    """Solves with copies of a row that counts in place of padding, and gives padding back as is.

    `counts` are the fields of an outcome that are zero for padding.
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
    """The plan without a gradient: tolerances, times and settings of methods may be traced."""
    numbers, rest = eqx.partition(plan, eqx.is_inexact_array)
    return eqx.combine(lax.stop_gradient(numbers), rest)


@solve.def_fwd
def _forward(perturbed, inputs: Inputs, plan: Plan):
    del perturbed
    inputs = as_arrays(inputs)
    if not plan.backpropagates:
        raw = solve(inputs, plan)  # itself again: a second derivative takes the same route
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
    z = _kept(ok, cotangents.z, raw.z)
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
    vjps = jnp.where(ok, vjps, 0).astype(inputs.probe.dtype)
    return gradients._replace(probe=vjps if inputs.probe.ndim else signed_total(vjps))


def _vjp(inputs: Inputs, plan: Plan):
    """Runs the solve and returns its outcome and the pullback of (z, zs)."""
    diff, fixed = eqx.partition(inputs, eqx.is_inexact_array)

    def states(diff):
        raw = plan.run(eqx.combine(diff, fixed))
        return (raw.z, raw.zs), raw

    _, pull, raw = jax.vjp(states, diff, has_aux=True)
    return raw, pull


def _backwards(run: Callable, plan: Plan, *args: Any) -> Any:
    """Runs a backward pass, which can itself be differentiated unless the plan says otherwise."""
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
    """Backpropagates through the recorded solve if all succeeded, else through a mended one."""

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
    """Pulls back by the formula of the plan, if anything has succeeded."""
    args = ok, cotangents, raw, inputs, plan
    return lax.cond(jnp.any(ok), lambda: _mended(*args), lambda: _nothing(ok, inputs))


def _mended(ok, cotangents, raw, inputs: Inputs, plan: Plan) -> Pullback:
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
