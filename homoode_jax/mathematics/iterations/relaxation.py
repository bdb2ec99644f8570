"""Continuous DEQ: dz/dt = f(z) - z, integrated by Diffrax until it is at rest.

Converges where every eigenvalue of J has a real part below 1, however negative. A pair that
reuses its last stage knows f at every accepted point, so that the residual costs nothing.
"""

from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from homoode_jax.mathematics.cells.vectors import Equation, Vector, no_cost, rms
from homoode_jax.mathematics.common.options import real_field
from homoode_jax.mathematics.iterations.iterate import Move
from homoode_jax.mathematics.ode.solvers import make_solver
from homoode_jax.mathematics.ode.step_size import StepSize, adapt, first_size
from homoode_jax.mathematics.ode.stepping import reuses_last_stage


class _Memory(NamedTuple):
    t: Float[Array, ""]
    size: StepSize


class Relaxation(eqx.Module):
    """Integration of f(z) - z to its steady state (Pal et al. 2022, arXiv 2201.12240).

    Attributes:
        accuracy: how far a step may err, relative to |f - z| before it. Tolerances of the usual
            kind would leave the state hovering about its rest at their own size.
        solver: "bosh3", "tsit5", "dopri5", or a Diffrax pair that reuses its last stage.

    Raises:
        ValueError: if a setting is not as above; the message names it.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: a * z + x  # slope -3: plain iteration would run away
        >>> z0 = jnp.zeros((1, 1))
        >>> x = jnp.ones((1, 1))
        >>> solver = homoode_jax.Relaxation(solver="tsit5")
        >>> solution = homoode_jax.equilibrium(cell, -3.0, z0, x, solver=solver)
        >>> print(f"{solution.z[0, 0]:.4f}")
        0.2500
    """

    accuracy: Real[ArrayLike, ""] = real_field("accuracy", 0.1, "a positive number")
    solver: str | diffrax.AbstractSolver = "bosh3"

    def start(self, equation: Equation, f0: Vector) -> _Memory:
        """Starts at time 0, with a first step of 0.5."""
        if not reuses_last_stage(make_solver(self.solver)):
            raise ValueError(
                f"Relaxation(solver={self.solver!r}) must be an explicit pair that reuses its "
                "last stage: 'bosh3', 'tsit5' or 'dopri5'."
            )
        return _Memory(jnp.zeros((), f0.dtype), first_size(jnp.full((), 0.5, f0.dtype)))

    def move(self, equation: Equation, z: Vector, f: Vector, memory: _Memory) -> Move:
        """Tries one step, and stays where it was if that is refused."""
        solver = make_solver(self.solver)
        term = diffrax.ODETerm(lambda t, z, args: equation.f(z) - z)  # pyright: ignore
        known = (jnp.asarray(False), f - z)
        t1 = memory.t + memory.size.h
        new, error, _, state, _ = solver.step(term, memory.t, t1, z, None, known, False)  # pyright: ignore
        error = rms(error) / (self.accuracy * rms(f - z))  # pyright: ignore
        keep, size = adapt(memory.size, memory.size.h, error, float(solver.order(term)))  # pyright: ignore
        stages = solver.tableau.num_stages - 1  # pyright: ignore
        new, f_new = jax.tree.map(
            lambda a, b: jnp.where(keep, a, b),
            (new, new + state[1]),
            (z, f),  # pyright: ignore
        )
        cost = no_cost().plus(nfe=stages)
        after = _Memory(jnp.where(keep, t1, memory.t), size)
        return Move(
            z=new, f=f_new, memory=after, cost=cost, rejected=~keep, failed=jnp.asarray(False)
        )
