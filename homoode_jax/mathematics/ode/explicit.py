"""Solvers made of an explicit Runge-Kutta method: its steps with their stages in a scan.

Diffrax's own step runs its stages in a loop. To backpropagate that, each stage is evaluated once
more than in a scan. Without a loop, stage by stage, the program would be half as long again.
"""

from collections.abc import Callable
from typing import ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from homoode_jax.mathematics.ode.stages import combine, run_stages


class OfMethod(diffrax.AbstractAdaptiveSolver):
    """Base class of solvers made of an explicit method: all that they take over from it.

    Attributes:
        base: the explicit Runge-Kutta method.
    """

    base: diffrax.AbstractERK
    term_structure: ClassVar = diffrax.AbstractTerm

    @property
    def tableau(self) -> diffrax.ButcherTableau:
        """Returns the tableau of the base method."""
        return self.base.tableau  # pyright: ignore

    @property
    def stages(self) -> int:
        """Returns how many stages a step's answer needs; its error estimate may need more."""
        return int(np.flatnonzero(self.tableau.b_sol)[-1]) + 1

    @property
    def interpolation_cls(self) -> Callable[..., diffrax.AbstractLocalInterpolation]:  # pyright: ignore
        """Returns the interpolation of the base method."""
        return self.base.interpolation_cls

    def order(self, terms):
        """Returns the order of the base method."""
        return self.base.order(terms)

    def error_order(self, terms):
        """Returns the order of the error estimate of the base method."""
        return self.base.error_order(terms)

    def func(self, terms, t0, y0, args):
        """Returns the slope at a point."""
        return terms.vf(t0, y0, args)


class Scanned(OfMethod):
    """The base method with its stages in a scan; its steps are the same.

    Not for controllers with jumps, nor for forward mode.

    Where the method reuses its last stage, the state of the solver is the slope at the start of
    the step.
    """

    def init(self, terms, t0, t1, y0, args):
        """Returns the slope at the start if the method reuses its last stage, else None."""
        del t1
        return terms.vf(t0, y0, args) if self.tableau.fsal else None

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Takes one step; returns also its error estimate, and its stages for the interpolation."""
        del made_jump
        tableau = self.tableau
        y1, slopes, last = run_stages(
            tableau=tableau,
            count=tableau.num_stages,
            terms=terms,
            t0=t0,
            t1=t1,
            y0=y0,
            args=args,
            first=solver_state,
        )
        error = combine(jax.tree.map(jnp.zeros_like, y0), tableau.b_error, slopes)
        dense_info = {"y0": y0, "y1": y1, "k": slopes}
        return y1, error, dense_info, last, diffrax.RESULTS.successful


def as_scanned(solver: diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """Returns an explicit method, or that of an `OfMethod`, as `Scanned`; passes others through."""
    base = solver.base if isinstance(solver, OfMethod) else solver
    return Scanned(base) if isinstance(base, diffrax.AbstractERK) else base
