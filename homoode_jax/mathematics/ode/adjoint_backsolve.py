"""The continuous adjoint: gradients from a second solve, backwards in time.

    da/dt = -(dF/dz)^T a,   dL/dx = int a^T dF/dx dt,   dL/dtheta likewise,   dL/dz0 = a(t0)

z(t) is recomputed by the same backward solve, so that memory does not grow with the number of
steps (Pontryagin 1962; Chen et al. 2018, arXiv 1806.07366). The equations are linear in a; a is
solved for at the norm `SCALE` and scaled back, so that the tolerance means the same for every loss.
At that scale a's own error adds little to the gradient's from that of z (results/speed.json has
both). The error norm is over (z, a) alone (the seminorm of Kidger et al. 2021, arXiv 2009.09457).

A field that contracts forwards expands backwards: the z(t0) that the backward solve arrives at is
then not z0, and its gradient may be anything. An error dz of the state enters the gradient at time
t as a(t)^T (dF/dz) dz, and a^T dz is the same at all times to first order. So where z(t0) misses
z0, its share in the gradient is estimated at t0 alone, by the entries of a F,

    share = |t1 - t0| sum |a (F(z(t0)) - F(z0))| / int sum |a F| dt,

and a solve with a share above `SHARE` has failed. z(t0) - z0 itself says little: where the field
contracts fast, a is tiny where the state is most wrong. Steps that are too long for the integrals
of a^T dF/d(theta, x), which have no part in the error norm, are not seen by it.

Examples that have steps of their own are solved for (z, a) first, and taken together through the
same steps for the integrals after: solved with them, that over theta would be held once for each.
"""

from collections.abc import Callable
from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from homoode_jax.mathematics.common.plan import Pullback, mend
from homoode_jax.mathematics.common.solution import Result
from homoode_jax.mathematics.common.trees import (
    cast,
    cast_like,
    common_dtype,
    drop_axis,
    map_examples,
    real_dtype,
    scale_rows,
    select_rows,
    shapes,
)
from homoode_jax.mathematics.ode.explicit import as_scanned
from homoode_jax.mathematics.ode.solve import Raw, Stepping, reverse, solve_ode
from homoode_jax.mathematics.ode.stepping import Norm, count_stages

SCALE = 0.1
MISS = 1e-3  # of the state's size: z(t0) is then near enough to z0 not to ask further
SHARE = 0.1  # of the gradient that may be due to a wrong state


class AdjointNorm(eqx.Module):
    """The larger of the norms of z and a; parameter and input gradients do not count."""

    norm: Norm

    def __call__(self, state: PyTree[Array]) -> Float[Array, ""]:
        """Returns the error norm of (z, a, ...)."""
        z, a, *_ = state
        return jnp.maximum(self.norm(z), self.norm(a))


def backsolve(
    field: Callable,
    stepping: Stepping,
    params: PyTree,
    z0: PyTree[Array],
    z1: PyTree[Array],
    x: PyTree,
    cotangent: PyTree[Array],
    mask: Bool[Array, " batch"] | None,
) -> Pullback:
    """Pulls the cotangent of z(t1) of a joint batch back to params, z0 and x.

    `field(params, t, z, x)` as `integrate` has it; gradients of non-float leaves are None. All
    are zero, and the count is negative, where the backward solve failed or does not lead back to
    z0.
    """
    inputs, fixed = eqx.partition((params, x), eqx.is_inexact_array)
    dtype = common_dtype((z1, inputs))
    like = shapes(z1)

    def rhs(t, state, args):  # closes over no array: Diffrax keeps it as a key of its programs
        inputs, fixed = args
        z, a, _, _ = state
        dz, g_z, g_inputs = _products(
            field=field, like=like, inputs=inputs, fixed=fixed, t=t, z=z, a=a
        )
        return cast((dz, *_negative((g_z, _size(a, dz), g_inputs))), dtype)

    norm = Norm(mask)
    a1, scale = _scaled(cotangent, norm)
    nothing = jnp.zeros((), real_dtype(z1))
    state = cast((z1, a1, nothing, jax.tree.map(jnp.zeros_like, inputs)), dtype)
    raw = solve_ode(rhs, reverse(stepping), state, (inputs, fixed), AdjointNorm(norm))
    z, a, size, gradient = raw.z
    evaluate = partial(_evaluate, field, z1, params, x, stepping.t0)
    leads_back = _leads_back(
        evaluate=evaluate, stepping=stepping, norm=norm, z0=z0, z1=z1, z=z, a=a, size=size
    )
    ok = (raw.result == Result.ok) & leads_back
    scaled = jax.tree.map(lambda g: jnp.where(ok, g * scale.astype(g.dtype), 0), (a, gradient))
    a0, (g_params, g_x) = cast_like(scaled, (z1, inputs))
    return Pullback(g_params, a0, g_x, jnp.where(ok, raw.nfe, -jnp.abs(raw.nfe)))


def backsolve_examples(
    field: Callable,
    stepping: Stepping,
    params: PyTree,
    z0: PyTree[Array],
    z1: PyTree[Array],
    x: PyTree,
    cotangent: PyTree[Array],
) -> Pullback:
    """The same for examples that are solved by themselves: counts and failures are by example."""
    inputs, fixed = eqx.partition((params, x), eqx.is_inexact_array)
    dtype = common_dtype((z1, inputs))
    like = shapes(z1)
    back = reverse(stepping)

    def alone(z0, z1, x, fixed_x, cotangent) -> tuple[Raw, Array, Array]:
        own = (inputs[0], x), (fixed[0], fixed_x)

        def rhs(t, state, args):
            inputs, fixed = args
            z, a, _ = state
            dz, g_z, _ = _products(
                field=field, like=like, inputs=inputs, fixed=fixed, t=t, z=z, a=a
            )
            return cast((dz, *_negative((g_z, _size(a, dz)))), dtype)

        a1, scale = _scaled(cotangent, Norm())
        state = cast((z1, a1, jnp.zeros((), real_dtype(z1))), dtype)
        raw = solve_ode(rhs, back, state, own, AdjointNorm(Norm()), keeps_times=True)
        evaluate = partial(_evaluate, field, z1, params, eqx.combine(x, fixed_x), stepping.t0)
        leads_back = _leads_back(evaluate, stepping, Norm(), z0, z1, *raw.z)
        return raw._replace(z=raw.z[:2]), scale, leads_back

    raw, scale, leads_back = map_examples(alone, z0, z1, inputs[1], fixed[1], cotangent)
    ok = (raw.result == Result.ok) & leads_back
    a0 = scale_rows(scale, cast_like(drop_axis(raw.z[1]), z1))
    a0, a1 = (select_rows(ok, a, jax.tree.map(jnp.zeros_like, a)) for a in (a0, cotangent))
    assert raw.steps is not None
    steps = jnp.where(ok, raw.num_steps - raw.num_rejected, 0)
    good = mend(ok, z1=z1, x=inputs[1])
    inputs = inputs[0], good["x"]
    g_params, g_x = _integrals(
        field=field,
        back=back,
        inputs=inputs,
        fixed=fixed,
        z1=good["z1"],
        a1=a1,
        ends=raw.steps.ends,
        steps=steps,
    )
    nfe = raw.nfe + count_stages(stepping.solver) * steps
    return Pullback(g_params, a0, g_x, jnp.where(ok, nfe, -jnp.abs(nfe)))


def _integrals(
    field: Callable,
    back: Stepping,
    inputs: PyTree,
    fixed: PyTree,
    z1: PyTree[Array],
    a1: PyTree[Array],
    ends: Float[Array, "batch max_steps"],
    steps: Int[Array, " batch"],
) -> PyTree[Array]:
    """Integrates a^T dF/d(params, x) over the steps that each example took.

    Step n of all examples is one step of size 1: each has its time run at its own rate, its step
    size, and this at zero where it has no step n.
    """
    method = as_scanned(back.solver)
    dtype = common_dtype((z1, inputs))

    def together(params, t, z, x):
        def one(t, z, x):
            alone = jax.tree.map(lambda leaf: leaf[None], (z, x))
            return jax.tree.map(lambda leaf: leaf[0], field(params, t, *alone))

        return jax.vmap(one)(t, z, x)

    def rhs(s, state, args):
        (start, size), (z, a, _) = args, state
        dz, g_z, g_inputs = _products(
            field=together,
            like=z1,
            inputs=inputs,
            fixed=fixed,
            t=start + s * size,
            z=z,
            a=scale_rows(size, a),
        )
        return cast((scale_rows(size, dz), *_negative((g_z, g_inputs))), dtype)

    def step(n, state):
        span = _span(ends, steps, back.t0, n)
        term = diffrax.ODETerm(rhs)  # pyright: ignore
        times = jnp.zeros_like(back.t0), jnp.ones_like(back.t0)
        begun = method.init(term, *times, state, span)
        return method.step(term, *times, state, span, begun, jnp.array(False))[0]

    state = cast((z1, a1, jax.tree.map(jnp.zeros_like, inputs)), dtype)
    _, _, integrals = lax.fori_loop(0, jnp.max(steps), step, state)
    return cast_like(integrals, inputs)


def _span(ends, steps, start, n) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """When step n of each example started, and its size: zero after its last."""
    before = jnp.where(n > 0, ends[:, jnp.maximum(n - 1, 0)], start)
    within = n < steps
    before = jnp.where(within, before, start)
    return before, jnp.where(within, ends[:, n] - before, 0)


def _products(field, like, inputs, fixed, t, z, a) -> tuple[PyTree, PyTree, PyTree]:
    """F, a^T dF/dz and a^T dF/d(params, x)."""
    z, a = cast_like((z, a), (like, like))

    def evaluate(inputs, z):
        params, x = eqx.combine(inputs, fixed)
        return field(params, t, z, x)

    dz, pull = jax.vjp(evaluate, inputs, z)
    g_inputs, g_z = pull(a)
    return dz, g_z, g_inputs


def _evaluate(field: Callable, like, params, x, t, z: PyTree[Array]) -> PyTree[Array]:
    return field(params, t, cast_like(z, like), x)


def _size(a: PyTree[Array], dz: PyTree[Array]) -> Float[Array, ""]:
    """Returns the sum of |a dz| over all entries."""
    parts = jax.tree.map(lambda a, dz: jnp.sum(jnp.abs(a * dz)), a, dz)
    return jnp.asarray(sum(jax.tree.leaves(parts)))


def _leads_back(
    evaluate: Callable, stepping: Stepping, norm: Norm, z0, z1, z, a, size
) -> Bool[Array, ""]:
    """Whether the state that the backward solve arrived at is z0, or its error hardly counts.

    The field is evaluated, twice, in a loop of no turn where the states agree.
    """
    z0, z1 = cast_like((z0, z1), (z, z))
    miss = norm(jax.tree.map(jnp.subtract, z, z0))
    near = miss <= MISS * jnp.maximum(norm(z0), norm(z1))

    def look(carry):
        # z and z0 are part of the loop's state, and changed by it: XLA would take their
        # evaluations out of the loop, and make them in every case.
        _, _, z, z0 = carry
        there = evaluate(z)
        here = evaluate(z0)
        wrong = _size(a, jax.tree.map(jnp.subtract, there, here))
        share = jnp.abs(stepping.t1 - stepping.t0) * wrong / jnp.abs(size)
        return jnp.asarray(False), share <= SHARE, there, here

    start = ~near & jnp.isfinite(miss), near, z, z0
    _, fine, _, _ = lax.while_loop(lambda carry: carry[0], look, start)
    return fine


def _scaled(cotangent: PyTree[Array], norm: Norm) -> tuple[PyTree[Array], Float[Array, ""]]:
    """Returns the cotangent at norm `SCALE`, and what brings it back."""
    scale = norm(cotangent) / SCALE
    scale = jnp.where(scale > 0, scale, 1)
    return jax.tree.map(lambda a: a / scale.astype(a.dtype), cotangent), scale


def _negative(tree: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(jnp.negative, tree)
