"""The continuous adjoint: gradients from a second solve, backwards in time.

    da/dt = -(dF/dz)^T a,   dL/dx = int a^T dF/dx dt,   dL/dtheta likewise,   dL/dz0 = a(t0)

z(t) is recomputed by the same backward solve, so that memory does not grow with the number of
steps (Pontryagin 1962; Chen et al. 2018, arXiv 1806.07366). The equations are linear in a; a is
solved for at the norm `SCALE` and scaled back, so that the tolerance means the same for every loss.
At that scale a's own error adds little to the gradient's from that of z (results/speed.json has
both). The error norm is over (z, a) alone (the seminorm of Kidger et al. 2021, arXiv 2009.09457).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from homoode_jax.mathematics.dtypes import cast, cast_like, common_dtype
from homoode_jax.mathematics.guard import Pullback
from homoode_jax.mathematics.ode import Stepping, reverse, solve_ode
from homoode_jax.mathematics.solution import Result
from homoode_jax.mathematics.stepping import Norm

SCALE = 0.1


class AdjointNorm(eqx.Module):
    """The larger of the norms of z and a; parameter and input gradients do not count."""

    norm: Norm

    def __call__(self, state: PyTree[Array]) -> Float[Array, ""]:
        """Returns the error norm of (z, a, g_params, g_x)."""
        z, a, *_ = state
        return jnp.maximum(self.norm(z), self.norm(a))


def backsolve(
    field: Callable, stepping: Stepping, params: PyTree, z1: PyTree[Array], x: PyTree,
    cotangent: PyTree[Array], mask: Bool[Array, " batch"] | None,
) -> Pullback:  # fmt: skip
    """Pulls the cotangent of z(t1) back to params, z0 and x.

    `field(params, t, z, x)` as `integrate` has it; gradients of non-float leaves are None. All
    are zero, and the count is negative, where the backward solve failed.
    """
    params, fixed_params = eqx.partition(params, eqx.is_inexact_array)
    x, fixed_x = eqx.partition(x, eqx.is_inexact_array)
    norm = Norm(mask)
    like = z1, z1, params, x
    dtype = common_dtype(like)

    def rhs(t, state, args):
        z, a, *_ = cast_like(state, like)
        params, fixed_params, x, fixed_x = args

        def evaluate(params, z, x):
            return field(eqx.combine(params, fixed_params), t, z, eqx.combine(x, fixed_x))

        dz, pull = jax.vjp(evaluate, params, z, x)
        g_params, g_z, g_x = pull(a)
        return cast((dz, *jax.tree.map(jnp.negative, (g_z, g_params, g_x))), dtype)

    scale = norm(cotangent) / SCALE
    scale = jnp.where(scale > 0, scale, 1)
    a1 = jax.tree.map(lambda a: a / scale.astype(a.dtype), cotangent)
    zeros = jax.tree.map(jnp.zeros_like, (params, x))
    state, args = cast((z1, a1, *zeros), dtype), (params, fixed_params, x, fixed_x)
    raw = solve_ode(rhs, reverse(stepping), state, args, AdjointNorm(norm))
    ok = raw.result == Result.ok
    scaled = jax.tree.map(lambda g: jnp.where(ok, g * scale.astype(g.dtype), 0), raw.z)
    _, a0, g_params, g_x = cast_like(scaled, like)
    return Pullback(g_params, a0, g_x, jnp.where(ok, raw.nfe, -jnp.abs(raw.nfe)))
