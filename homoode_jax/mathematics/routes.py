"""Gradient routes of `integrate`, and the guard that keeps failed examples out of them.

A failed example has cotangent zero, but zero times the NaN that a backward pass meets in its
last step is NaN. So the failed examples of a per-example batch are replaced by one that
succeeded before the backward pass runs, and a batch without success is not run backwards.
"""

from collections.abc import Callable
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from homoode_jax.mathematics.backsolve import Pullback, backsolve
from homoode_jax.mathematics.ode import Raw, Stepping, solve_ode
from homoode_jax.mathematics.problem import as_arrays
from homoode_jax.mathematics.reversible import undo
from homoode_jax.mathematics.solution import Result
from homoode_jax.mathematics.stepping import Norm, count_vjps, select_rows

ADJOINTS = {
    "checkpointed": diffrax.RecursiveCheckpointAdjoint,
    "direct": diffrax.DirectAdjoint,
    "backsolve": None,
    "reversible": None,
}


class Inputs(NamedTuple):
    """What `integrate` is differentiated by."""

    params: PyTree
    z0: PyTree[Array]
    x: PyTree
    probe: Float[Array, "*batch"]


class Plan(eqx.Module):
    """All else that defines a solve."""

    field: Callable
    stepping: Stepping
    ts: Float[Array, " times"] | None
    mask: Bool[Array, " batch"] | None
    adjoint: str | diffrax.AbstractAdjoint
    per_example: bool = eqx.field(static=True)


def run(inputs: Inputs, plan: Plan, keep_steps: bool = False) -> Raw:
    """Solves the batch, differentiable as Diffrax has it: no guard, no NFE."""

    def rhs(t, z, args):
        return plan.field(args[0], t, z, args[1])

    def one(z0, x, mask=None):
        args, norm = (inputs.params, x), Norm(mask)
        adjoint = _diffrax_adjoint(plan)
        return solve_ode(rhs, plan.stepping, z0, args, norm, plan.ts, adjoint, keep_steps)

    if not plan.per_example:
        return one(inputs.z0, inputs.x, plan.mask)
    raw = _per_example(one, inputs.z0, inputs.x)
    zs = jax.tree.map(lambda leaf: jnp.moveaxis(leaf[:, :, 0], 1, 0), raw.zs)
    steps = raw.steps and raw.steps._replace(partner=_drop_axis(raw.steps.partner))
    return raw._replace(z=_drop_axis(raw.z), zs=zs, steps=steps)


@eqx.filter_custom_vjp
def solve(inputs: Inputs, plan: Plan) -> Raw:
    """Solves the batch; its gradient follows `plan.adjoint` and ignores failed examples."""
    return run(inputs, plan)


@solve.def_fwd
def _forward(perturbed, inputs: Inputs, plan: Plan):
    del perturbed
    inputs = as_arrays(inputs)
    if plan.adjoint in ("backsolve", "reversible"):
        raw = run(inputs, plan, keep_steps=plan.adjoint == "reversible")
        return raw._replace(steps=None), (raw, None)
    raw, pull = _vjp(inputs, plan)
    return raw, (raw, pull)


@solve.def_bwd
def _backward(residuals, cotangents: Raw, perturbed, inputs: Inputs, plan: Plan) -> Inputs:
    del perturbed
    inputs = as_arrays(inputs)
    raw, pull = residuals
    ok = raw.result == Result.ok
    if pull is not None:
        cts = _kept(ok, cotangents.z, raw.z), _kept(ok, cotangents.zs, raw.zs, axis=1)
        gradients = _pull_back(pull, cts, ok, inputs, plan)
        vjps = count_vjps(plan.stepping.solver, raw.num_steps)
    else:
        if jax.tree.leaves(cotangents.zs):
            raise ValueError(
                f"adjoint={plan.adjoint!r} has no gradient through the saved states `zs`; "
                "use adjoint='checkpointed' or 'direct', or take the loss of `z` alone."
            )
        args = ok, _kept(ok, cotangents.z, raw.z), raw, inputs, plan
        back = lax.cond(jnp.any(ok), lambda: _solve_back(*args), lambda: _no_backsolve(*args))
        gradients, vjps = Inputs(back.params, back.z0, back.x, inputs.probe), back.nfe
    if not isinstance(plan.adjoint, str):
        vjps = -1
    vjps = jnp.where(raw.nfe < 0, -1, vjps)
    vjps = jnp.where(ok, vjps, 0).astype(inputs.probe.dtype)
    probe = vjps if inputs.probe.ndim else jnp.sum(vjps)
    return gradients._replace(probe=probe)


def _vjp(inputs: Inputs, plan: Plan):
    """Runs the solve and returns its outcome and the pullback of (z, zs)."""
    diff, fixed = eqx.partition(inputs, eqx.is_inexact_array)

    def states(diff):
        raw = run(eqx.combine(diff, fixed), plan)
        return (raw.z, raw.zs), raw

    _, pull, raw = jax.vjp(states, diff, has_aux=True)
    return raw, pull


def _pull_back(pull, cts, ok: Bool[Array, "*batch"], inputs: Inputs, plan: Plan) -> Inputs:
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


def _solve_back(ok, cotangent, raw: Raw, inputs: Inputs, plan: Plan) -> Pullback:
    if plan.per_example:
        mended = mend(ok, raw=raw._replace(zs=None), z0=inputs.z0, x=inputs.x)
        raw, inputs = mended["raw"], inputs._replace(z0=mended["z0"], x=mended["x"])
    if plan.adjoint == "reversible":
        solved = inputs.params, inputs.z0, inputs.x, raw
        return undo(plan.field, plan.stepping, *solved, cotangent, plan.per_example)
    return _backsolve(cotangent, raw.z, inputs, plan)


def _backsolve(cotangent, z1, inputs: Inputs, plan: Plan) -> Pullback:
    def one(z1, x, cotangent, mask=None):
        return backsolve(plan.field, plan.stepping, inputs.params, z1, x, cotangent, mask)

    if not plan.per_example:
        return one(z1, inputs.x, cotangent, plan.mask)
    back = _per_example(one, z1, inputs.x, cotangent)
    params = jax.tree.map(lambda g: jnp.sum(g, axis=0), back.params)
    return Pullback(params, _drop_axis(back.z0), _drop_axis(back.x), back.nfe)


def _no_backsolve(ok, cotangent, raw, inputs: Inputs, plan: Plan) -> Pullback:
    del cotangent, raw, plan
    diff = eqx.filter(inputs, eqx.is_inexact_array)
    zeros = jax.tree.map(jnp.zeros_like, diff)
    return Pullback(zeros.params, zeros.z0, zeros.x, jnp.zeros(ok.shape, jnp.int32))


def _diffrax_adjoint(plan: Plan) -> diffrax.AbstractAdjoint | None:
    if isinstance(plan.adjoint, diffrax.AbstractAdjoint):
        return plan.adjoint
    route = ADJOINTS[plan.adjoint]
    return None if route is None else route()


def _per_example(function: Callable, *batched: PyTree) -> PyTree:
    """Maps a function of size-1 batches over the leading axis."""
    return jax.vmap(lambda *rows: function(*jax.tree.map(lambda a: a[None], rows)))(*batched)


def _drop_axis(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[:, 0], tree)


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
