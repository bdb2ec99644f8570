"""How `integrate` solves a batch and how that is differentiated (see `common.plan`)."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from homoode_jax.mathematics.common.examples import drop_axis, map_examples, times_first
from homoode_jax.mathematics.common.plan import Inputs, Pullback
from homoode_jax.mathematics.ode.adjoint_backsolve import backsolve, backsolve_examples
from homoode_jax.mathematics.ode.adjoint_reversible import undo
from homoode_jax.mathematics.ode.solve import Raw, RightHandSide, Stepping, solve_ode
from homoode_jax.mathematics.ode.stepping import Norm, count_vjps

ADJOINTS = {
    "checkpointed": diffrax.RecursiveCheckpointAdjoint,
    "direct": diffrax.DirectAdjoint,
    "backsolve": None,
    "reversible": None,
}


class FieldPlan(eqx.Module):
    """All that defines the solve of a batch but what it is differentiated by."""

    field: Callable
    stepping: Stepping
    ts: Float[Array, "*batch times"] | None
    mask: Bool[Array, " batch"] | None
    adjoint: str | diffrax.AbstractAdjoint
    per_example: bool = eqx.field(static=True)

    @property
    def backpropagates(self) -> bool:
        """Returns True if the gradient is Diffrax's own, of the solver's steps."""
        return self.adjoint not in ("backsolve", "reversible")

    @property
    def second_derivatives_by(self) -> str:
        """Returns the adjoint to use for second derivatives, if this one has none; else nothing."""
        checkpointed = isinstance(self.adjoint, diffrax.RecursiveCheckpointAdjoint)
        known = self.adjoint in ("checkpointed", "reversible")
        return "adjoint='direct'" if known or checkpointed else ""

    def run(self, inputs: Inputs) -> Raw:
        """Solves the batch."""
        rhs = RightHandSide(self.field)

        def one(z0, x, mask=None, ts=self.ts) -> Raw:
            return solve_ode(
                rhs=rhs,
                stepping=self.stepping,
                z0=z0,
                args=(inputs.params, x),
                norm=Norm(mask),
                ts=ts,
                adjoint=self._diffrax_adjoint(),
                keeps_times=self.adjoint == "reversible",
            )

        if not self.per_example:
            return one(inputs.z0, inputs.x, self.mask)
        if self.ts is not None and self.ts.ndim == 2:
            own = lambda z0, x, ts: one(z0, x, ts=ts[0])  # noqa: E731
            raw = map_examples(own, inputs.z0, inputs.x, self.ts)
        else:
            raw = map_examples(one, inputs.z0, inputs.x)
        steps = raw.steps and raw.steps._replace(partner=drop_axis(raw.steps.partner))
        return raw._replace(z=drop_axis(raw.z), zs=times_first(raw.zs), steps=steps)

    def memory(self, raw: Raw) -> PyTree[Array]:
        """Returns the final state; for a solve that is taken back its steps too."""
        return raw.z if self.adjoint == "backsolve" else raw._replace(zs=None)

    def pull_back(self, inputs: Inputs, memory: Any, cotangents: Raw) -> Pullback:
        """Pulls back by a second solve, or through the steps of the first."""
        cotangent = cotangents.z
        if self.adjoint == "reversible":
            solved = inputs.params, inputs.z0, inputs.x, memory
            return undo(self.field, self.stepping, *solved, cotangent, self.per_example)
        problem = (self.field, self.stepping, inputs.params, inputs.z0, memory, inputs.x, cotangent)
        return backsolve_examples(*problem) if self.per_example else backsolve(*problem, self.mask)

    def count_vjps(self, raw: Raw) -> Int[Array, "*batch"]:
        """Returns one product per evaluation; -1 for most of Diffrax's adjoint objects."""
        known = isinstance(self.adjoint, str | diffrax.RecursiveCheckpointAdjoint)
        vjps = count_vjps(self.stepping.solver, raw.num_steps)
        return jnp.where(known & (raw.nfe >= 0), vjps, -1)

    def _diffrax_adjoint(self) -> diffrax.AbstractAdjoint | None:
        if isinstance(self.adjoint, diffrax.AbstractAdjoint):
            return self.adjoint
        route = ADJOINTS[self.adjoint]
        return None if route is None else route()
