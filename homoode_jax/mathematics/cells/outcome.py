"""What an algorithm for z = f(z) is, and what it returns."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int

from homoode_jax.mathematics.cells.vectors import Cost, Equation


class Rungs(NamedTuple):
    """What each rung of a chain of methods cost, and how it ended.

    Attributes:
        evaluations: of the cell, and products with its Jacobian.
        results: codes of `Result`; -1 for a rung that was not needed, or has not ended.
    """

    evaluations: Int[Array, "*batch rungs"]
    results: Int[Array, "*batch rungs"]


class Outcome(NamedTuple):
    """Outcome of one problem on vectors; of a batch after structure is restored.

    Attributes:
        z: the final state.
        zs: points of the path, or None.
        ts: values of lam at `zs`, or None.
        result: codes of `Result`.
        residual: relative norm of z - f(z).
        lam: how far along the homotopy z lies.
        num_folds: turns of lam.
        num_steps: steps tried.
        num_rejected: steps refused.
        cost: work done.
        rungs: of a chain of methods, or None.
    """

    z: Any
    zs: Any
    ts: Array | None
    result: Int[Array, "*batch"]
    residual: Float[Array, "*batch"]
    lam: Float[Array, "*batch"]
    num_folds: Int[Array, "*batch"]
    num_steps: Int[Array, "*batch"]
    num_rejected: Int[Array, "*batch"]
    cost: Cost
    rungs: Rungs | None = None


@runtime_checkable
class Algorithm(Protocol):
    """Solves z = f(z) for one vector."""

    def solve(self, equation: Equation) -> Outcome:
        """Solves the equation from `equation.z0`.

        Where it also has `begin(equation)` and `go_on(equation, outcome, needed)`, a batch of
        examples begins together, and only those that fail go on.
        """
        ...
