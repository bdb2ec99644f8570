"""The continuous adjoint: gradients from a second solve, backwards in time.

With dz/dt = F(t, z; x, theta), a(t) = dL/dz(t) and a(t1) given (Pontryagin 1962; Chen et al. 2018,
arXiv 1806.07366), four quantities are solved for together, from t1 back to t0:

1.  dz/dt = F, from z(t1): the state is recomputed, so that memory does not grow with the steps;
2.  da/dt = -(dF/dz)^T a, which ends in dL/dz0 = a(t0);
3.  dg/dt = -a^T dF/d(theta, x) from 0, which ends in g(t0) = int a^T dF/d(theta, x) dt, the
    gradient of theta and x;
4.  dS/dt = -sum |a F| from 0, over all entries: the size that step 6 compares with.

The error norm is over (z, a) alone (the seminorm of Kidger et al. 2021, arXiv 2009.09457).

5.  Steps 2 to 4 are linear in a. So a(t1) is scaled to the norm `SCALE`, and the gradients are
    scaled back: the tolerance means the same for every loss. At that scale the error of a itself
    adds little to the error that comes from z (results/speed.json has both).
6.  A field that contracts forwards expands backwards: the z(t0) that is arrived at is then not z0,
    and the gradient may be anything. An error dz of the state enters the gradient at time t as
    a(t)^T (dF/dz) dz, and a^T dz is the same at all times to first order. So its share in the
    gradient is estimated at t0 alone, and a solve with a share above `SHARE` has failed:

        share = |t1 - t0| sum |a (F(z(t0)) - F(z0))| / |S(t0)|

    z(t0) - z0 itself says little: where the field contracts fast, a is tiny where the state is
    most wrong. Steps too long for the integrals of 3, which have no part in the error norm, are
    not seen by it.

Examples with steps of their own are solved in two passes. In one pass, each would need its own g,
and that of theta is as large as theta:

7.  Each example is solved for (z, a, S) by itself; the times of its steps are kept.
8.  All are taken through the same steps together, for (z, a, g). Step n of an example, from t_n to
    t_n + h_n, becomes one step of s from 0 to 1 with t = t_n + s h_n. Its equations, 1 to 3, gain
    the factor h_n, which is 0 where it has no step n. One g sums over the examples.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from homoode_jax.mathematics.common.examples import drop_axis, map_examples
from homoode_jax.mathematics.common.plan import Pullback, mend
from homoode_jax.mathematics.common.solution import Result
from homoode_jax.mathematics.common.trees import (
    cast,
    cast_like,
    common_dtype,
    largest,
    real_dtype,
    scale_rows,
    select_rows,
    shapes,
)
from homoode_jax.mathematics.ode.explicit import as_scanned
from homoode_jax.mathematics.ode.solve import Raw, Stepping, reverse, solve_ode
from homoode_jax.mathematics.ode.stepping import AdjointNorm, Norm, count_stages, in_adjoint_norm

SCALE = 0.1
MISS = 1e-3  # a z(t0) as near to z0, relative to the state's size, passes step 6 unseen
SHARE = 0.1  # of the gradient may be due to a wrong state


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
    """Pulls the cotangent of z(t1) of a joint batch back to params, z0 and x (1 to 6).

    `field(params, t, z, x)` is as `integrate` has it; gradients of non-float leaves are None. All
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
        return cast((dz, *_negative((g_z, _size(a, dz), g_inputs))), dtype)  # steps 1, 2, 4, 3

    norm = Norm(mask)
    a1, scale = _scaled(cotangent, norm)
    nothing = jnp.zeros((), real_dtype(z1))
    state = cast((z1, a1, nothing, jax.tree.map(jnp.zeros_like, inputs)), dtype)
    raw = solve_ode(rhs, _back(stepping), state, (inputs, fixed), AdjointNorm(norm))
    z, a, size, gradient = raw.z
    evaluate = partial(_evaluate, field=field, like=z1, params=params, x=x, t=stepping.t0)
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
    """Pulls the cotangents of examples with steps of their own back (7, 8).

    Gradients of z0 and x, counts and failures are each example's own.
    """
    inputs, fixed = eqx.partition((params, x), eqx.is_inexact_array)
    dtype = common_dtype((z1, inputs))
    like = shapes(z1)
    back = _back(stepping)

    def alone(z0, z1, x, fixed_x, cotangent) -> tuple[Raw, Array, Array]:  # step 7
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
        whole = eqx.combine(x, fixed_x)
        evaluate = partial(_evaluate, field=field, like=z1, params=params, x=whole, t=stepping.t0)
        z, a, size = raw.z
        leads_back = _leads_back(
            evaluate=evaluate, stepping=stepping, norm=Norm(), z0=z0, z1=z1, z=z, a=a, size=size
        )
        return raw._replace(z=(z, a)), scale, leads_back

    raw, scale, leads_back = map_examples(alone, z0, z1, inputs[1], fixed[1], cotangent)
    ok = (raw.result == Result.ok) & leads_back
    a0 = scale_rows(scale, cast_like(drop_axis(raw.z[1]), z1))
    a0, a1 = (select_rows(ok, a, jax.tree.map(jnp.zeros_like, a)) for a in (a0, cotangent))
    assert raw.steps is not None
    steps = jnp.where(ok, raw.num_steps - raw.num_rejected, 0)
    good = mend(ok, z1=z1, x=inputs[1], fixed=fixed[1])
    inputs = inputs[0], good["x"]
    fixed = fixed[0], good["fixed"]
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


def _back(stepping: Stepping) -> Stepping:
    """Returns the steps from t1 to t0, with errors measured of (z, a) alone."""
    back = reverse(stepping)
    return replace(back, controller=in_adjoint_norm(back.controller))


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
    """Integrates a^T dF/d(params, x) over the steps that each example took (8)."""
    method = as_scanned(back.solver)
    dtype = common_dtype((z1, inputs))

    def together(params, t, z, x):
        def one(t, z, x):
            alone = jax.tree.map(lambda leaf: leaf[None], (z, x))
            return jax.tree.map(lambda leaf: leaf[0], field(params, t, *alone))

        return jax.vmap(one)(t, z, x)

    def rhs(s, state, args):
        start, size = args
        z, a, _ = state
        dz, g_z, g_inputs = _products(
            field=together,
            like=z1,
            inputs=inputs,
            fixed=fixed,
            t=start + s * size,
            z=z,
            a=scale_rows(size, a),  # the products are linear in a: all gain the factor h_n
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
    """Returns when step n of each example started, and its size: zero after its last."""
    before = jnp.where(n > 0, ends[:, jnp.maximum(n - 1, 0)], start)
    within = n < steps
    before = jnp.where(within, before, start)
    return before, jnp.where(within, ends[:, n] - before, 0)


def _products(field, like, inputs, fixed, t, z, a) -> tuple[PyTree, PyTree, PyTree]:
    """Returns F, a^T dF/dz and a^T dF/d(params, x)."""
    z, a = cast_like((z, a), (like, like))

    def evaluate(inputs, z):
        params, x = eqx.combine(inputs, fixed)
        return field(params, t, z, x)

    dz, pull = jax.vjp(evaluate, inputs, z)
    g_inputs, g_z = pull(a)
    return dz, g_z, g_inputs


def _evaluate(z: PyTree[Array], *, field: Callable, like, params, x, t) -> PyTree[Array]:
    return field(params, t, cast_like(z, like), x)


def _size(a: PyTree[Array], dz: PyTree[Array]) -> Float[Array, ""]:
    """Returns the sum of |a dz| over all entries."""
    parts = jax.tree.map(lambda a, dz: jnp.sum(jnp.abs(a * dz)), a, dz)
    return jnp.asarray(sum(jax.tree.leaves(parts)))


def _leads_back(
    evaluate: Callable, stepping: Stepping, norm: Norm, z0, z1, z, a, size
) -> Bool[Array, ""]:
    """Returns whether z is z0, or its share in the gradient is small (6).

    The share takes two evaluations: in a loop, which makes no turn where the states agree.
    """
    z0, z1 = cast_like((z0, z1), (z, z))
    miss = norm(jax.tree.map(jnp.subtract, z, z0))
    near = miss <= MISS * jnp.maximum(norm(z0), norm(z1))

    def look(carry):
        # The loop's state has z and z0, and changes them. Otherwise XLA would move their
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
    """Returns the cotangent at norm `SCALE`, and the factor that scales it back (5)."""
    # At size 1 first: the squares of a loss in large or small units leave the dtype's range.
    unit = largest(cotangent)
    unit = jnp.where((unit > 0) & jnp.isfinite(unit), unit, 1)
    a1 = jax.tree.map(lambda a: a / unit.astype(a.dtype), cotangent)
    scale = norm(a1) / SCALE
    scale = jnp.where(scale > 0, scale, 1)
    return jax.tree.map(lambda a: a / scale.astype(a.dtype), a1), unit * scale


def _negative(tree: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(jnp.negative, tree)
