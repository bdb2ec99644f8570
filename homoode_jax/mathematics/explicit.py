"""Solvers made of an explicit Runge-Kutta method: its steps with their stages in a scan.

Diffrax's own step runs its stages in a loop whose backpropagation evaluates each stage once more
than that of a scan. Stages written out would take the same time, and a longer program.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree


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
    def stages(self) -> int:
        """Stages that a step's answer needs; error estimate and interpolation may need more."""
        return int(np.flatnonzero(self.tableau.b_sol)[-1]) + 1

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


class Scanned(OfMethod):
    """The method itself, step for step; for controllers without jumps, and not for forward mode.

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
        tableau = self.tableau
        first = solver_state if tableau.fsal else terms.vf(t0, y0, args)
        slopes, y, last = self._run(tableau.num_stages, terms, t0, t1, y0, first, args)
        y1 = y if tableau.fsal else _moved(y0, tableau.b_sol, slopes)
        error = _moved(jax.tree.map(jnp.zeros_like, y0), tableau.b_error, slopes)
        dense_info = {"y0": y0, "y1": y1, "k": slopes}
        return y1, error, dense_info, last if tableau.fsal else None, diffrax.RESULTS.successful

    def move(self, terms, t0, t1, y0, args) -> PyTree[Array]:
        """The state after a step, from the stages that it needs."""
        slopes, _, _ = self._run(self.stages, terms, t0, t1, y0, terms.vf(t0, y0, args), args)
        return _moved(y0, self.tableau.b_sol[: self.stages], slopes)

    def _run(self, count: int, terms, t0, t1, y0, first, args):
        """The first stages, h f each; where the last of them was taken, and f there."""
        control = terms.contr(t0, t1)

        def stage(carry, at):
            row, node, i = at
            y = _moved(y0, row, carry[0])
            slope = terms.vf(t0 + node * (t1 - t0), y, args)
            slopes = jax.tree.map(
                lambda ks, k: ks.at[i].set(k), carry[0], terms.prod(slope, control)
            )
            return (slopes, y, slope), None

        weights, nodes = _rows(self.tableau)[: count - 1, :count], self.tableau.c[: count - 1]
        begun = jax.tree.map(partial(_begun, count - 1), terms.prod(first, control))
        rest = weights, nodes.astype(jnp.result_type(t0)), np.arange(1, count)
        return lax.scan(stage, (begun, y0, first), rest)[0]


def as_scanned(solver: diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """The explicit method itself, or that which a solver is made of; others as they are."""
    base = solver.base if isinstance(solver, OfMethod) else solver
    return Scanned(base) if isinstance(base, diffrax.AbstractERK) else base


def _rows(tableau: diffrax.ButcherTableau) -> np.ndarray:
    """The weights of all stages but the first: a row for each, with zeros after it."""
    rows = np.zeros((len(tableau.c), len(tableau.b_sol)))
    for row, weights in zip(rows, tableau.a_lower, strict=True):
        row[: len(weights)] = weights
    return rows


def _begun(further: int, first: Array) -> Array:
    """Room for all stages, with the first in its place."""
    return jnp.zeros((1 + further, *first.shape), first.dtype).at[0].set(first)


def _moved(y: PyTree[Array], weights: ArrayLike, stages: PyTree[Array]) -> PyTree[Array]:
    """y and the weighted sum of the stages."""

    def total(leaf: Array, slopes: Array) -> Array:
        real = jnp.finfo(leaf.dtype).dtype
        return leaf + _combined(jnp.asarray(weights, real), slopes)

    return jax.tree.map(total, y, stages)


@jax.custom_vjp
def _combined(weights: Float[Array, " stages"], slopes: Array) -> Array:
    """The weighted sum; the gradient of all slopes is one product, not a sum of padded ones."""
    return sum((w * k for w, k in zip(weights, slopes, strict=True)), jnp.zeros((), slopes.dtype))


def _pull_back(weights: Array, cotangent: Array) -> tuple[None, Array]:
    return None, weights.reshape(-1, *(1,) * cotangent.ndim) * cotangent


_combined.defvjp(lambda weights, slopes: (_combined(weights, slopes), weights), _pull_back)
