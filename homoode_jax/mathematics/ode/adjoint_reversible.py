"""Exact gradients of a reversible solve, without stored states.

Each step of `solvers.Reversible` is undone, last one first, and the cotangents a of y and b of z
are pulled back through it, with those of params and x:

    a <- a - (dPsi_{-h}(t1, y1)/dy1)^T b
    b <- b + (1 - kappa) a + (dPsi_h(t0, z0)/dz0)^T a        a <- kappa a

Step sizes have no gradient. The evaluations that undo a step are also those that it is pulled back
through: twice the stages, each with one vector-Jacobian product. Only the final pair and the times
of the steps are stored in the forward solve (McCallum & Foster 2024, arXiv 2410.11648).
"""

from collections.abc import Callable
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from homoode_jax.mathematics.common.plan import Pullback
from homoode_jax.mathematics.common.trees import all_finite, cast_like, select_rows, wide_zeros
from homoode_jax.mathematics.ode.solve import Raw, RightHandSide, Stepping
from homoode_jax.mathematics.ode.solvers import Reversible
from homoode_jax.mathematics.ode.stepping import Norm

Increment = Callable[[PyTree, Array, Array, PyTree[Array]], PyTree[Array]]


class Pair(NamedTuple):
    """The state of a reversible solve, or its cotangent."""

    y: PyTree[Array]
    z: PyTree[Array]


class Undone(NamedTuple):
    """How far a solve is undone: the state there, its cotangent, and the gradient from beyond.

    `gradient` is that of (params, x), in float32 or better.
    """

    state: Pair
    cotangent: Pair
    gradient: PyTree[Array]


def undo(
    field: Callable,
    stepping: Stepping,
    params: PyTree,
    z0: PyTree[Array],
    x: PyTree,
    raw: Raw,
    cotangent: PyTree[Array],
    per_example: bool,
) -> Pullback:
    """Pulls the cotangent of z(t1) back to params, z0 and x, through the solve with outcome `raw`.

    `field(params, t, z, x)` is as `integrate` has it; gradients of non-float leaves are None. All
    are zero, and the count is negative, where the steps undone do not lead back to z0.
    """
    solver = stepping.solver
    steps = raw.steps
    assert isinstance(solver, Reversible) and steps is not None
    inputs, fixed = eqx.partition((params, x), eqx.is_inexact_array)
    increment = (_increments if per_example else _increment)(field, solver, fixed)
    span = jax.vmap(_span, (0, None, 0)) if per_example else _span
    accepted = raw.num_steps - raw.num_rejected

    def body(count: Int[Array, ""], after: Undone) -> Undone:
        n = accepted - 1 - count
        before = _undo_step(
            increment, solver.coupling, inputs, span(steps.ends, stepping.t0, n), after
        )
        if not per_example:
            return before
        # An example with fewer steps stays at its start: a step of size zero adds nothing.
        state, cotangent = select_rows(n >= 0, before[:2], after[:2])
        return Undone(state, cotangent, before.gradient)

    zeros = jax.tree.map(jnp.zeros_like, cotangent)
    end = Undone(Pair(raw.z, steps.partner), Pair(cotangent, zeros), wide_zeros(inputs))
    start = lax.fori_loop(0, jnp.max(accepted), body, end)
    g_z0 = jax.tree.map(jnp.add, *start.cotangent)  # both y and z start at z0
    back = jax.vmap(_leads_back) if per_example else _leads_back
    ok = all_finite((g_z0, start.gradient)) & jnp.all(back(start.state.y, z0, raw.z))
    g_z0, gradient = jax.tree.map(lambda g: jnp.where(ok, g, 0), (g_z0, start.gradient))
    g_params, g_x = cast_like(gradient, inputs)
    vjps = 2 * solver.stages * accepted
    return Pullback(g_params, g_z0, g_x, jnp.where(ok, vjps, -vjps))


def _undo_step(
    increment: Increment, kappa: float, inputs: PyTree, times: tuple[Array, Array], after: Undone
) -> Undone:
    """Undoes one step from t0 to t1."""
    t0, t1 = times
    y1, z1 = after.state
    a, b = after.cotangent
    back, pull = jax.vjp(lambda inputs, y: increment(inputs, t1, t0, y), inputs, y1)
    z0 = jax.tree.map(jnp.add, z1, back)
    from_back, a_back = pull(jax.tree.map(jnp.negative, b))
    a = jax.tree.map(jnp.add, a, a_back)
    own, pull = jax.vjp(lambda inputs, z: increment(inputs, t0, t1, z), inputs, z0)
    y0 = jax.tree.map(lambda z, y, own: z + (y - z - own) / kappa, z0, y1, own)
    from_own, b_own = pull(a)
    b = jax.tree.map(lambda a, b, own: b + (1 - kappa) * a + own, a, b, b_own)
    gradient = jax.tree.map(
        lambda g, *new: g + sum(n.astype(g.dtype) for n in new),
        after.gradient,
        from_back,
        from_own,
    )
    return Undone(Pair(y0, z0), Pair(jax.tree.map(lambda a: kappa * a, a), b), gradient)


def _increment(field: Callable, solver: Reversible, fixed: PyTree) -> Increment:
    """Returns Psi as a function of the inputs that have a gradient; the others are fixed."""

    def increment(inputs, t0, t1, z):
        term = diffrax.ODETerm(RightHandSide(field))  # pyright: ignore
        return solver.increment(term, t0, t1, z, eqx.combine(inputs, fixed))

    return increment


def _increments(field: Callable, solver: Reversible, fixed: PyTree) -> Increment:
    """Returns the same for a batch in which each example has its own times."""
    fixed_params, fixed_x = fixed

    def increment(inputs, t0, t1, z):
        def one(x, fixed_x, t0, t1, z):
            x, fixed_x, z = jax.tree.map(lambda a: a[None], (x, fixed_x, z))
            of = _increment(field, solver, (fixed_params, fixed_x))
            return jax.tree.map(lambda a: a[0], of((inputs[0], x), t0, t1, z))

        return jax.vmap(one)(inputs[1], fixed_x, t0, t1, z)

    return increment


def _span(
    ends: Float[Array, " max_steps"], start: Float[Array, ""], n: Int[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the times at which step n started and ended; both are the start for n < 0."""
    before, end = (jnp.where(i < 0, start, ends[jnp.maximum(i, 0)]) for i in (n - 1, n))
    return before, end


def _leads_back(y0: PyTree[Array], z0: PyTree[Array], z1: PyTree[Array]) -> Bool[Array, ""]:
    """Returns False if rounding grew so much that the undone states are not those of the solve."""
    norm = Norm()
    y0, z0, z1 = jax.tree.map(lambda leaf: leaf[None], (y0, z0, z1))
    miss = norm(jax.tree.map(jnp.subtract, y0, z0))
    return miss <= 0.01 * jnp.maximum(norm(z0), norm(z1))
