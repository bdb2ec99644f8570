"""Solvers made of an explicit Runge-Kutta method: its steps with their stages written out.

Diffrax's own step runs its stages in a loop, whose backpropagation evaluates each stage once more
than that of stages written out. The program is longer.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree


class OfMethod(diffrax.AbstractAdaptiveSolver):
    """What a solver has of the method that it is made of: all but its step.

    Attributes:
        base: the explicit Runge-Kutta method.
    """

    base: diffrax.AbstractERK
    term_structure: ClassVar = diffrax.AbstractTerm

    @property
    def tableau(self) -> diffrax.ButcherTableau:
        """That of the method."""
        return self.base.tableau  # pyright: ignore

    @property
    def interpolation_cls(self) -> Callable[..., diffrax.AbstractLocalInterpolation]:  # pyright: ignore
        """That of the method."""
        return self.base.interpolation_cls

    def order(self, terms):
        """That of the method."""
        return self.base.order(terms)

    def error_order(self, terms):
        """That of the method."""
        return self.base.error_order(terms)

    def func(self, terms, t0, y0, args):
        """The slope at a point."""
        return terms.vf(t0, y0, args)


class Unrolled(OfMethod):
    """The method itself, step for step; for controllers without jumps.

    Where the method reuses its last stage, the state of the solver is the slope at the start of
    the step.
    """

    def init(self, terms, t0, t1, y0, args):
        """The slope at the start, if it is to be handed on."""
        del t1
        return terms.vf(t0, y0, args) if self.tableau.fsal else None

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """One step, its error estimate, and its stages for the interpolation."""
        del made_jump
        tableau, control, y = self.tableau, terms.contr(t0, t1), y0
        slope = solver_state if tableau.fsal else terms.vf(t0, y0, args)
        stages = [terms.prod(slope, control)]
        for weights, node in zip(tableau.a_lower, tableau.c, strict=True):
            y = _moved(y0, weights, stages)
            slope = terms.vf(t0 + node * (t1 - t0), y, args)
            stages.append(terms.prod(slope, control))
        y1 = y if tableau.fsal else _moved(y0, tableau.b_sol, stages)
        zero = jax.tree.map(jnp.zeros_like, y0)
        error = _moved(zero, tableau.b_error, stages)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stages)
        dense_info = {"y0": y0, "y1": y1, "k": stacked}
        state = slope if tableau.fsal else None
        return y1, error, dense_info, state, diffrax.RESULTS.successful


def as_written_out(solver: diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """The explicit method itself, or that which a solver is made of; others as they are."""
    base = solver.base if isinstance(solver, OfMethod) else solver
    return Unrolled(base) if isinstance(base, diffrax.AbstractERK) else base


def _moved(y: PyTree[Array], weights: np.ndarray, stages: Sequence[PyTree[Array]]) -> PyTree[Array]:
    """y and the weighted sum of the stages."""

    def total(leaf: Array, *slopes: Array) -> Array:
        real = jnp.finfo(leaf.dtype).dtype
        terms = (jnp.asarray(w, real) * k for w, k in zip(weights, slopes, strict=False) if w)
        return leaf + sum(terms, start=jnp.zeros_like(leaf))

    return jax.tree.map(total, y, *stages)
