"""A cell's equilibrium for a batch: how it is found, how it is differentiated, what is returned.

`equilibrium` and `continuation` share this. An algorithm is a pytree with
`solve(equation) -> Outcome`. This module maps it over examples, or gives it the batch as one
vector, and passes it to the guard with its adjoint.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Bool, Int, PyTree

from homoode_jax.mathematics.cells import adjoints
from homoode_jax.mathematics.cells.adjoints import (
    Implicit,
    Phantom,
    Route,
    Unrolled,
    make_route,
)
from homoode_jax.mathematics.cells.chunks import in_chunks
from homoode_jax.mathematics.cells.forward import solve_forward
from homoode_jax.mathematics.cells.outcome import Algorithm, Outcome
from homoode_jax.mathematics.cells.precision import (
    CellInPrecision,
    HomotopyInPrecision,
    PreconditionerInPrecision,
    precision,
)
from homoode_jax.mathematics.cells.vectors import flatten_cell
from homoode_jax.mathematics.common.checks import (
    as_arrays,
    batch_size,
    check_batching,
    check_function,
    check_mask,
    check_placement,
    check_probe,
    problem_like,
)
from homoode_jax.mathematics.common.examples import drop_axis, map_examples, times_first
from homoode_jax.mathematics.common.functions import Function, compiled
from homoode_jax.mathematics.common.guard import solve as solve_guarded
from homoode_jax.mathematics.common.guard import solve_unpadded
from homoode_jax.mathematics.common.options import is_concrete
from homoode_jax.mathematics.common.plan import Inputs, Pullback
from homoode_jax.mathematics.common.solution import Result, Solution, Stats
from homoode_jax.mathematics.common.trees import cast, cast_like, common_dtype, real_dtype, shapes

Cell = Callable[[PyTree, PyTree[Array], PyTree], PyTree[Array]]
CELL_COUNTS = "residual", "num_folds", "num_steps", "num_rejected", "cost", "rungs"


class CellPlan(eqx.Module):
    """All that defines the solve of a batch but its gradient (see `common.guard`)."""

    cell: Callable
    algorithm: Any
    adjoint: Route
    mask: Bool[Array, " batch"] | None
    preconditioner: Callable | None
    homotopy: Callable | None
    per_example: bool = eqx.field(static=True)
    eps: float = eqx.field(static=True, default=0.0)

    @property
    def backpropagates(self) -> bool:
        """Returns True if the gradient is that of the solver's steps."""
        return isinstance(self.adjoint, Unrolled)

    @property
    def second_derivatives_by(self) -> str:
        """Returns an empty string: these adjoints have derivatives of every order."""
        return ""

    def run(self, inputs: Inputs) -> Outcome:
        """Solves the batch."""
        algorithm: Any = self.algorithm
        if not self.per_example:
            return self._one(algorithm.solve, inputs.params, inputs.z0, inputs.x, self.mask)
        solve = getattr(algorithm, "begin", algorithm.solve)
        begin = partial(self._one, solve, inputs.params, mapped=True)
        out = map_examples(begin, inputs.z0, inputs.x)
        if hasattr(algorithm, "go_on"):
            out = self._go_on(inputs, out)
        zs = times_first(out.zs)
        ts = None if out.ts is None else jnp.moveaxis(out.ts, 1, 0)
        return out._replace(z=drop_axis(out.z), zs=zs, ts=ts)

    def _one(self, solve: Callable, params, z0, x, mask=None, mapped=False) -> Outcome:
        """Solves one problem: a joint batch, or an example as a batch of one."""
        equation, restore = flatten_cell(
            cell=self.cell,
            params=params,
            z0=z0,
            x=x,
            mask=mask,
            preconditioner=self.preconditioner,
            homotopy=self.homotopy,
            unrolled=self.backpropagates,
        )
        out = solve(equation._replace(eps=self.eps, mapped=mapped))
        zs = None if out.zs is None else jax.vmap(restore)(out.zs)
        return out._replace(z=restore(out.z), zs=zs)

    def _go_on(self, inputs: Inputs, out: Outcome) -> Outcome:
        """Lets the algorithm go on with the examples that it has failed so far."""
        algorithm: Any = self.algorithm

        def again(z0, x, out: Outcome, needed) -> Outcome:
            flat = out._replace(z=ravel_pytree(out.z)[0])
            go_on = partial(algorithm.go_on, out=flat, needed=needed)
            return self._one(go_on, inputs.params, z0, x, mapped=True)

        rows = jax.tree.map(lambda leaf: leaf[:, None], (inputs.z0, inputs.x))
        return in_chunks(jax.vmap(again), out.result != Result.ok, rows, out)

    def memory(self, raw: Outcome) -> PyTree[Array]:
        """Returns the equilibrium, which is all that its gradient needs."""
        return raw.z

    def pull_back(self, inputs: Inputs, memory: PyTree[Array], cotangents: Outcome) -> Pullback:
        """Pulls back by the formula of the adjoint."""
        route = self.adjoint
        assert isinstance(route, Implicit | Phantom)

        back = adjoints.pull_back_examples
        if not self.per_example:
            back = partial(adjoints.pull_back, mask=self.mask)
        return back(
            cell=self.cell,
            route=route,
            params=inputs.params,
            z=memory,
            x=inputs.x,
            cotangent=cotangents.z,
            preconditioner=self.preconditioner,
        )

    def count_vjps(self, raw: Outcome) -> Int[Array, "*batch"]:
        """Returns -1 (unknown): nothing counts the products of backpropagated linear solves."""
        return jnp.full_like(raw.num_steps, -1)


class CellFunctions(NamedTuple):
    """The functions of the caller."""

    cell: Function
    preconditioner: Function | None
    homotopy: Function | None


class CellOptions(NamedTuple):
    """How the solve of a batch is done, checked."""

    algorithm: Algorithm
    adjoint: Route
    mask: Bool[Array, " batch"] | None
    per_example: bool


def solve_cells(
    cell: Cell,
    params: PyTree,
    z0: PyTree[ArrayLike],
    x: PyTree,
    algorithm: Callable,
    *,
    adjoint: str | Route,
    batching: str,
    mask: Any,
    preconditioner: Callable | None,
    backward_probe: Any,
    homotopy: Callable | None = None,
) -> Solution:
    """Checks the problem, solves it, and returns the `Solution`.

    `algorithm(z0)` makes the algorithm for states of these dtypes; `homotopy` is one of the
    caller's, in place of the algorithm's.
    """
    params, z0, x = as_arrays((params, z0, x))
    check_placement((params, z0, x))
    batch = batch_size(z0, x)
    per_example = check_batching(batching)
    dtype = common_dtype(z0)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError("z0 must be real: split complex states into real and imaginary parts.")
    options = CellOptions(
        algorithm=algorithm(z0),
        adjoint=make_route(adjoint),
        mask=check_mask(mask, batch),
        per_example=per_example,
    )
    probe = check_probe(backward_probe, per_example, batch, dtype)
    if adjoints.is_forward(options.adjoint) and not _is_zero(backward_probe):
        raise ValueError(
            "adjoint='implicit_jvp' does not count the products of its backward pass: give no "
            "backward_probe, or adjoint='implicit'."
        )
    functions = CellFunctions(
        cell=Function(cell),
        preconditioner=None if preconditioner is None else Function(preconditioner),
        homotopy=None if homotopy is None else Function(homotopy),
    )
    return _solve(functions, options, Inputs(params, z0, x, probe))


@compiled
def _solve(functions: CellFunctions, options: CellOptions, inputs: Inputs) -> Solution:
    """Solves a problem whose options are known to be right."""
    params, z0, x, _ = inputs
    like = problem_like(z0, x, options.per_example)
    check_function("cell", functions.cell, (params, *like), like[0])
    lam = jax.ShapeDtypeStruct((), real_dtype(z0))
    inverse, homotopy = functions.preconditioner, functions.homotopy
    if inverse is not None:
        check_function("preconditioner", inverse, (params, *like, lam, like[0]), like[0])
        inverse = PreconditionerInPrecision(inverse, shapes(z0))
    if homotopy is not None:
        check_function("homotopy", homotopy, (params, lam, *like), like[0])
        homotopy = HomotopyInPrecision(homotopy, shapes(z0))
    plan = CellPlan(
        cell=CellInPrecision(functions.cell, shapes(z0)),
        preconditioner=inverse,
        homotopy=homotopy,
        eps=precision(z0),
        **options._asdict(),
    )
    inputs = inputs._replace(z0=cast(z0, common_dtype(z0)))
    guard = solve_forward if adjoints.is_forward(options.adjoint) else solve_guarded
    return _solution(solve_unpadded(inputs, plan, CELL_COUNTS, guard), z0)


def _is_zero(probe: Any) -> bool:
    """Returns whether a probe is that of a call which does not ask for the count."""
    return is_concrete(probe) and not np.any(np.asarray(probe))


def _solution(raw: Outcome, z0: PyTree[Array]) -> Solution:
    z = cast_like(raw.z, z0)
    zs = None if raw.zs is None else cast_like(raw.zs, z0)
    stats = Stats(
        nfe=raw.cost.nfe,
        num_steps=raw.num_steps,
        num_rejected=raw.num_rejected,
        residual=lax.stop_gradient(raw.residual),
        lam=lax.stop_gradient(raw.lam),
        num_jvp=raw.cost.num_jvp,
        num_vjp=raw.cost.num_vjp,
        num_folds=raw.num_folds,
        rung_evaluations=None if raw.rungs is None else raw.rungs.evaluations,
        rung_results=None if raw.rungs is None else raw.rungs.results,
    )
    ts = None if raw.ts is None else lax.stop_gradient(raw.ts)
    return Solution(z, ts, zs, raw.result, stats)
