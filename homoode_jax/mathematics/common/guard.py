"""The guard that keeps failed examples out of every gradient.

Example i, with the derivative D_i of its outcome and its cotangent c_i, contributes D_i^T c_i to
the gradient; a failed one has to contribute exactly zero:

1.  Its c_i is set to zero. That is not enough: where D_i has a NaN, 0 NaN = NaN.
2.  So before the way back its inputs, and its outcome, are replaced by those of an example g that
    succeeded (`mend`): D_g^T 0 = 0, since D_g is finite. Backpropagation has recorded D_i on the
    way forward, so that the solve is then run again with the mended inputs (`backpropagation`).
3.  Where nothing succeeded (also a joint batch, which fails as one) nothing is run: all is zero.
4.  The gradient of `probe` is the number of vector-Jacobian products: zero for an example whose
    solve failed, negative for one whose way back failed.
"""

from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from homoode_jax.mathematics.common.backpropagation import (
    Recorded,
    differentiable,
    pull_back_recorded,
    record,
)
from homoode_jax.mathematics.common.checks import as_arrays, check_not_mapped
from homoode_jax.mathematics.common.plan import (
    Inputs,
    Plan,
    Pullback,
    constant,
    keep_ok,
    mend,
    zeros_like,
)
from homoode_jax.mathematics.common.solution import Result
from homoode_jax.mathematics.common.trees import select_rows, signed_total


@eqx.filter_custom_vjp
def solve(inputs: Inputs, plan: Plan, recorded: Recorded | None = None) -> Any:
    """Solves the batch; its gradient follows the plan and ignores failed examples.

    For a solve that was recorded it returns that outcome. So a second derivative is that of this
    function and never of the record, where zero cotangents of failed examples would meet a NaN.
    """
    return plan.run(inputs) if recorded is None else recorded.raw


def solve_unpadded(
    inputs: Inputs, plan: Plan, counts: Iterable[str], solver: Callable = solve
) -> Any:
    """Solves with every masked row overwritten by a valid one, then restores the masked rows.

    `counts` names the fields of an outcome that are set to zero in masked rows.
    """
    plan = constant(plan)
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
    return raw._replace(**jax.tree.map(lambda leaf: _where_rows(mask, leaf), numbers))


def _where_rows(mask: Bool[Array, " batch"], leaf: Array) -> Array:
    """Returns the leaf with zeros in the rows that are masked."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (leaf.ndim - 1)), leaf, 0)


@solve.def_fwd
def _forward(perturbed, inputs: Inputs, plan: Plan, recorded: Recorded | None = None):
    del perturbed
    inputs = as_arrays(inputs)
    if not plan.backpropagates:
        raw = solve(inputs, plan)  # itself again: a second derivative takes the same formula
        return raw, (raw, None)
    if plan.adjoint == "checkpointed":
        check_not_mapped("adjoint='checkpointed'", instead="'reversible', 'direct' or 'backsolve'")
    if recorded is None:
        recorded = record(constant(inputs), plan)
    return solve(inputs, plan, recorded), recorded


@solve.def_bwd
def _backward(
    residuals, cotangents: Any, perturbed, inputs: Inputs, plan: Plan, recorded=None
) -> Inputs:
    del perturbed, recorded
    inputs = as_arrays(inputs)
    raw, pull = residuals
    ok = raw.result == Result.ok
    z = keep_ok(ok, cotangents.z, raw.z)  # step 1
    if pull is not None:
        zs = keep_ok(ok, cotangents.zs, raw.zs, axis=1)
        gradients = differentiable(plan, pull_back_recorded((inputs, (z, zs)), pull, ok, plan))
        vjps = plan.count_vjps(raw)
    else:
        if jax.tree.leaves(cotangents.zs):
            raise ValueError(
                f"adjoint={plan.adjoint!r} has no gradient through the saved states `zs`; "
                "use a route that backpropagates through the solve, or take the loss of `z` alone."
            )
        back = _by_formula(ok, cotangents._replace(z=z), raw, inputs, plan)
        back = differentiable(plan, back)
        gradients = Inputs(back.params, back.z0, back.x, inputs.probe)
        vjps = back.vjps
    vjps = jnp.where(ok, vjps, 0).astype(inputs.probe.dtype)  # step 4
    return gradients._replace(probe=vjps if inputs.probe.ndim else signed_total(vjps))


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


def _nothing(ok: Bool[Array, "*batch"], inputs: Inputs) -> Pullback:
    zeros = zeros_like(inputs)
    return Pullback(zeros.params, zeros.z0, zeros.x, jnp.zeros(ok.shape, jnp.int32))
