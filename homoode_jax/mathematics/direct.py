"""Backpropagation through the accepted steps of an explicit method, from their stored starts.

With z' = Phi(z; theta, x) for a step and a the cotangent of z, last step first:

    a <- (dPhi/dz)^T a        g <- g + (dPhi/d(theta, x))^T a

Step sizes are held fixed. Each step is taken again, and pulled back through its stages, those that
its answer needs; rejected steps cost nothing.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from homoode_jax.mathematics.dtypes import cast_like, wide_zeros
from homoode_jax.mathematics.explicit import Scanned, as_scanned
from homoode_jax.mathematics.guard import Inputs, Pullback
from homoode_jax.mathematics.ode import Raw, Stepping, Steps
from homoode_jax.mathematics.scan import scan
from homoode_jax.mathematics.stepping import count_stages, select_rows


class Span(NamedTuple):
    """When a step began and ended, and which of the saved times lie within: first <= i < last."""

    t0: Float[Array, "..."]
    t1: Float[Array, "..."]
    first: Int[Array, "..."]
    last: Int[Array, "..."]


class Method(NamedTuple):
    """A solver's step for the inputs (params, x).

    Attributes:
        advance: (inputs, span, z) to the state at the end, and what the step is interpolated by;
            None where no states are saved.
        gather: the cotangent of the latter, from those of the states saved within the step.
        stages: evaluations of a step.
    """

    advance: Callable
    gather: Callable
    stages: int


class Given(NamedTuple):
    """What is the same for all steps."""

    inputs: PyTree
    end: PyTree[Array]
    ts: Float[Array, " times"] | None
    of_zs: PyTree[Array] | None


class Gone(NamedTuple):
    """The cotangent of the state at the start of a step, and the gradient from there on.

    `gradient` is that of (params, x), in float32 or better.
    """

    of_z: PyTree[Array]
    gradient: PyTree[Array]


def backpropagate(
    field: Callable, stepping: Stepping, ts: Float[Array, " times"] | None, inputs: Inputs,
    raw: Raw, cotangents: Raw, per_example: bool,
) -> Pullback:  # fmt: skip
    """Pulls the cotangents of z(t1), and of saved states, back to params, z0 and x.

    `field(params, t, z, x)` as `integrate` has it; gradients of non-float leaves are None. `raw`
    has kept the states of its steps, whose own cotangents count where there are any.
    """
    assert raw.steps is not None
    accepted = raw.num_steps - raw.num_rejected
    if not jax.tree.leaves(cotangents.zs):
        ts = None
    method, spans = _method(field, stepping.solver, ts), partial(_spans, stepping.t0, ts)
    states, of_states = raw.steps.states, _states_of(cotangents.steps)
    if per_example:
        method, spans = _by_example(method), jax.vmap(spans, out_axes=1)
        states, of_states = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (states, of_states))
    given = Given((inputs.params, inputs.x), raw.z, ts, cotangents.zs)
    floats = eqx.filter(given.inputs, eqx.is_inexact_array)
    start, _ = scan(
        partial(_pull_back, method, per_example), given, Gone(cotangents.z, wide_zeros(floats)),
        (spans(raw.steps.ends, accepted), states, of_states), 0, jnp.max(accepted), reverse=True,
    )  # fmt: skip
    g_params, g_x = cast_like(start.gradient, floats)
    return Pullback(g_params, start.of_z, g_x, method.stages * accepted)


def _pull_back(method: Method, per_example: bool, given: Given, after: Gone, x) -> tuple:
    """Pulls one step back."""
    span, z, of_start = x
    if per_example:  # an example that has arrived rests there, in steps of size zero
        z = select_rows(span.t0 != span.t1, z, given.end)
    (_, dense), pull = eqx.filter_vjp(
        lambda inputs, z: method.advance(inputs, span, z), given.inputs, z
    )
    of_dense = dense if dense is None else method.gather(span, dense, given.ts, given.of_zs)
    from_step, of_z = pull((after.of_z, of_dense))
    if of_start is not None:
        of_z = jax.tree.map(jnp.add, of_z, of_start)
    gradient = jax.tree.map(lambda g, new: g + new.astype(g.dtype), after.gradient, from_step)
    return Gone(of_z, gradient), None


def _method(field: Callable, solver: diffrax.AbstractSolver, ts) -> Method:
    """The steps of one problem."""
    taken = as_scanned(solver)
    short = taken if ts is None and isinstance(taken, Scanned) else None

    def rhs(t, z, args):
        return field(args[0], t, z, args[1])

    term = diffrax.ODETerm(rhs)  # pyright: ignore

    def advance(inputs, span: Span, z):
        problem = span.t0, span.t1, z, inputs
        if short:
            return short.move(term, *problem), None
        begun = taken.init(term, *problem)
        z1, _, dense, _, _ = taken.step(term, *problem, begun, jnp.array(False))
        return z1, None if ts is None else dense

    def gather(span: Span, dense, ts, of_zs):
        zeros = jax.tree.map(jnp.zeros_like, dense)
        read = partial(_pull_back_saved, taken.interpolation_cls)
        return scan(read, (span.t0, span.t1, dense), zeros, (ts, of_zs), span.first, span.last)[0]

    return Method(advance, gather, short.stages if short else count_stages(solver))


def _pull_back_saved(interpolation: Callable, step: tuple, total: PyTree, x) -> tuple:
    """Adds what one saved state says to the cotangent of what the step is interpolated by."""
    (t0, t1, dense), (t, of_z) = step, x
    _, pull = jax.vjp(lambda dense: interpolation(t0=t0, t1=t1, **dense).evaluate(t), dense)
    return jax.tree.map(jnp.add, total, pull(of_z)[0]), None


def _by_example(one: Method) -> Method:
    """The steps of a batch whose examples have their own times."""

    def row(tree):
        return jax.tree.map(lambda leaf: leaf[None], tree)

    def advance(inputs, span, z):
        def alone(x, span, z):
            z1, dense = one.advance((inputs[0], row(x)), span, row(z))
            return jax.tree.map(lambda leaf: leaf[0], z1), dense

        return jax.vmap(alone)(inputs[1], span, z)

    def gather(span, dense, ts, of_zs):
        def alone(span, dense, of_zs):
            return one.gather(span, dense, ts, jax.tree.map(lambda a: a[:, None], of_zs))

        return jax.vmap(alone, (0, 0, 1))(span, dense, of_zs)

    return Method(advance, gather, one.stages)


def _spans(
    start: Float[Array, ""], ts: Float[Array, " times"] | None, ends: Float[Array, " max_steps"],
    accepted: Int[Array, ""],
) -> Span:  # fmt: skip
    """All steps, and after the last one some of size zero."""
    at = jnp.minimum(jnp.arange(len(ends) + 2), accepted)
    times = jnp.append(start, ends)[at]
    if ts is None:
        passed = jnp.zeros(len(times), jnp.int32)
    else:
        sign = jnp.where(ends[0] < start, -1, 1)
        passed = jnp.searchsorted(sign * ts, sign * times, side="right").at[0].set(0)
    return Span(times[:-1], times[1:], passed[:-1], passed[1:])


def _states_of(steps: Steps | None) -> PyTree[Array] | None:
    """Cotangents of the states of steps, None where there are none."""
    return steps.states if steps is not None and jax.tree.leaves(steps.states) else None
