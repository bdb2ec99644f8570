"""Backpropagation through the accepted steps of an explicit method, from their stored starts.

With z' = Phi(z; theta, x) for a step and a the cotangent of z, last step first:

    a <- (dPhi/dz)^T a        g <- g + (dPhi/d(theta, x))^T a

Step sizes are held fixed. Each step is taken again, and pulled back through its stages: those that
its answer needs, or all of them where states are saved. Rejected steps cost nothing.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from homoode_jax.mathematics.common.guard import Inputs, Pullback
from homoode_jax.mathematics.common.trees import cast_like, select_rows
from homoode_jax.mathematics.ode.explicit import Scanned, as_scanned
from homoode_jax.mathematics.ode.scan import Swept, scan
from homoode_jax.mathematics.ode.solve import Raw, Stepping, Steps
from homoode_jax.mathematics.ode.stepping import count_stages


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
    z0: PyTree[Array]
    ts: Float[Array, " times"] | None
    of_zs: PyTree[Array] | None


def backpropagate(
    field: Callable,
    stepping: Stepping,
    ts: Float[Array, " times"] | None,
    inputs: Inputs,
    raw: Raw,
    cotangents: Raw,
    per_example: bool,
) -> Pullback:
    """Pulls the cotangents of z(t1), and of saved states, back to params, z0 and x.

    `field(params, t, z, x)` as `integrate` has it; gradients of non-float leaves are None. `raw`
    has kept the states of its steps, whose own cotangents count where there are any.
    """
    assert raw.steps is not None
    accepted = raw.num_steps - raw.num_rejected
    of_zs = cotangents.zs
    ts = None if of_zs is None else ts
    method = _method(field, stepping.solver, saves=ts is not None)
    spans = partial(_spans, stepping.t0, ts)
    states = raw.steps.states
    of_states = _states_of(cotangents.steps)
    if per_example:
        method = _by_example(method)
        spans = jax.vmap(spans, out_axes=1)
        states, of_states = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (states, of_states))
    given = Given((inputs.params, inputs.x), inputs.z0, ts, of_zs)
    of_z0, _, gradient = scan(
        body=partial(_pull_back, method, per_example),
        consts=given,
        carry=_at_end(cotangents, accepted),
        xs=(spans(raw.steps.ends, accepted), states, of_states),
        start=0,
        stop=jnp.max(accepted),
        reverse=True,
    )
    g_params, g_x = cast_like(gradient, eqx.filter(given.inputs, eqx.is_inexact_array))
    return Pullback(g_params, of_z0, g_x, method.stages * accepted)


def _at_end(cotangents: Raw, accepted: Int[Array, "*batch"]) -> PyTree[Array]:
    """The cotangent of the last state; without a step, t0 = t1, all saved ones are that too."""
    if cotangents.zs is None:
        return cotangents.z

    def add(of_z, of_zs):
        here = (accepted == 0).reshape(accepted.shape + (1,) * (of_z.ndim - accepted.ndim))
        return of_z + jnp.where(here, jnp.sum(of_zs, axis=0), 0)

    return jax.tree.map(add, cotangents.z, cotangents.zs)


def _pull_back(method: Method, per_example: bool, given: Given, of_z: PyTree[Array], x) -> Swept:
    """Pulls one step back; the term is the gradient of (params, x)."""
    span, z, of_start = x
    if per_example:  # an example that has arrived rests at its start, in steps of size zero
        z = select_rows(span.t0 != span.t1, z, given.z0)
    (_, dense), pull = eqx.filter_vjp(
        lambda inputs, z: method.advance(inputs, span, z), given.inputs, z
    )
    of_dense = dense if dense is None else method.gather(span, dense, given.ts, given.of_zs)
    gradient, of_z = pull((of_z, of_dense))
    if of_start is not None:
        of_z = jax.tree.map(jnp.add, of_z, of_start)
    return Swept(of_z, None, gradient)


def _method(field: Callable, solver: diffrax.AbstractSolver, saves: bool) -> Method:
    """Returns the steps of one problem."""
    taken = as_scanned(solver)
    short = taken if isinstance(taken, Scanned) and not saves else None

    def rhs(t, z, args):
        return field(args[0], t, z, args[1])

    term = diffrax.ODETerm(rhs)  # pyright: ignore

    def advance(inputs, span: Span, z):
        problem = span.t0, span.t1, z, inputs
        if short:
            return short.move(term, *problem), None
        begun = taken.init(term, *problem)
        z1, _, dense, _, _ = taken.step(term, *problem, begun, jnp.array(False))
        return z1, dense if saves else None

    def gather(span: Span, dense, ts, of_zs):
        read = partial(_pull_back_saved, taken.interpolation_cls)
        step = (span.t0, span.t1, dense)
        saved = (ts, of_zs)
        return cast_like(
            scan(
                body=read, consts=step, carry=None, xs=saved, start=span.first, stop=span.last
            ).total,
            dense,
        )

    return Method(advance, gather, short.stages if short else count_stages(solver))


def _pull_back_saved(interpolation: Callable, step: tuple, carry: None, x) -> Swept:
    """The term is the cotangent, from one saved state, of what the step is interpolated by."""
    (t0, t1, dense), (t, of_z) = step, x
    _, pull = jax.vjp(lambda dense: interpolation(t0=t0, t1=t1, **dense).evaluate(t), dense)
    return Swept(carry, None, pull(of_z)[0])


def _by_example(one: Method) -> Method:
    """Returns the steps of a batch whose examples have their own times."""

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
    start: Float[Array, ""],
    ts: Float[Array, " times"] | None,
    ends: Float[Array, " max_steps"],
    accepted: Int[Array, ""],
) -> Span:
    """All steps, and after the last one some of size zero, at the start."""
    times = jnp.append(start, ends)
    passed = jnp.zeros(len(times), jnp.int32)
    if ts is not None:
        sign = jnp.where(ends[0] < start, -1, 1)
        passed = jnp.searchsorted(sign * ts, sign * times, side="right").at[0].set(0)
    live = jnp.arange(len(times)) < accepted
    t0, t1 = (jnp.where(live, t, start) for t in (times, jnp.append(ends, start)))
    first, last = (jnp.where(live, i, 0) for i in (passed, jnp.append(passed[1:], 0)))
    return Span(t0, t1, first, last)


def _states_of(steps: Steps | None) -> PyTree[Array] | None:
    """Cotangents of the states of steps, None where there are none."""
    return steps.states if steps is not None and jax.tree.leaves(steps.states) else None
