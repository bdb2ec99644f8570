"""What a solve returns: the state, how it ended, and what it cost.

Failure is data: a solve that fails returns its last finite state and a code; it never raises
inside `jit`. Joint solves carry scalars, per-example solves arrays of shape `[batch]`.
"""

import enum
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree


class Result(enum.IntEnum):
    """How a solve ended. Compares with the arrays in `Solution.result`.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: a * x * z + 1
        >>> z0 = jnp.zeros((2, 1))
        >>> x = jnp.array([[0.1], [2.0]])  # the second example runs away
        >>> options = dict(solver="picard", batching="per_example", max_steps=20)
        >>> solution = homoode_jax.equilibrium(cell, 1.0, z0, x, **options)
        >>> print([homoode_jax.Result(int(code)).name for code in solution.result])
        ['ok', 'max_steps']
        >>> print(solution.result == homoode_jax.Result.max_steps)
        [False  True]
    """

    ok = 0
    max_steps = 1  # the end was not reached in `max_steps` steps
    nonfinite = 2  # a step produced NaN or infinity; or times were not finite, or out of order
    fold = 3  # the path turns back in lambda: sigma_min(dH/dz) = 0
    bifurcation = 4  # rank [dH/dz, dH/dlambda] < n
    unbounded_path = 5  # the path runs to infinity
    linear_solve = 6  # an inner linear solve failed
    stagnated = 7  # no further progress was possible


SHOWN = 5  # examples that an error names
RUNNING = -1  # the result of what has not ended yet


class Stats(NamedTuple):
    """Cost of a solve.

    Attributes:
        nfe: evaluations of the function in the forward solve; -1 where they cannot be counted.
        num_steps: steps tried, accepted and rejected together.
        num_rejected: steps tried and rejected.

    Homotopies and equilibria have these too; they are None for `integrate`:
        residual: |z - f(z)| / max(|f(z)|, 1e-3), root mean squares.
        lam: how far the homotopy has come; 1 for equilibria.
        num_jvp: Jacobian-vector products of the cell; -1 where they cannot be counted.
        num_vjp: vector-Jacobian products in the forward solve.
        num_folds: how often lam turned.

    "robust" has these by rung (iteration, broyden, mixing, search, newton_path, fixed_point,
    newton_path_z0, newton):
        rung_evaluations: evaluations of the cell and products with its Jacobian.
        rung_results: codes of `Result`; -1 for a rung that was not needed, or has not ended.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: a * z + x
        >>> z0 = jnp.zeros((1, 1))
        >>> x = jnp.ones((1, 1))
        >>> stats = homoode_jax.equilibrium(cell, 0.5, z0, x, solver="picard", max_steps=3).stats
        >>> print(f"{stats.nfe} evaluations in {stats.num_steps} steps")
        4 evaluations in 3 steps
        >>> print(f"residual {stats.residual:.3f}")
        residual 0.067
    """

    nfe: Int[Array, "*batch"]
    num_steps: Int[Array, "*batch"]
    num_rejected: Int[Array, "*batch"]
    residual: Float[Array, "*batch"] | None = None
    lam: Float[Array, "*batch"] | None = None
    num_jvp: Int[Array, "*batch"] | None = None
    num_vjp: Int[Array, "*batch"] | None = None
    num_folds: Int[Array, "*batch"] | None = None
    rung_evaluations: Int[Array, "*batch rungs"] | None = None
    rung_results: Int[Array, "*batch rungs"] | None = None

    @property
    def evaluations(self) -> Int[Array, "*batch"]:
        """Returns `nfe` and the products with the Jacobian taken together; -1 where unknown."""
        if self.num_jvp is None or self.num_vjp is None:
            return jnp.asarray(self.nfe)
        known = (self.nfe >= 0) & (self.num_jvp >= 0) & (self.num_vjp >= 0)
        return jnp.where(known, self.nfe + self.num_jvp + self.num_vjp, -1)


class Solution(NamedTuple):
    """Outcome of a solve.

    Attributes:
        z: final state, in the structure of `z0`; the last finite state where the solve failed.
        ts: the times asked for by `save_at`, or None.
        zs: states at `ts`, with a leading time axis, or None. Times that a failed solve did not
            reach hold its last finite state.
        result: codes of `Result`.
        stats: what it cost.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> decay = lambda k, t, z, x: -k * z
        >>> times = jnp.array([0.5, 1.0])
        >>> solution = homoode_jax.integrate(decay, 1.0, jnp.ones((1, 1)), None, save_at=times)
        >>> print(bool(solution.success), solution.check().zs.shape)
        True (2, 1, 1)
        >>> print(solution.zs[:, 0, 0].round(2))  # exp(-1 / 2) and exp(-1)
        [0.61 0.37]
    """

    z: PyTree[Array]
    ts: Float[Array, " times"] | None
    zs: PyTree[Array] | None
    result: Int[Array, "*batch"]
    stats: Stats

    @property
    def success(self) -> Bool[Array, "*batch"]:
        """Returns True where `result` is `Result.ok`."""
        return jnp.equal(self.result, int(Result.ok))

    def check(self) -> "Solution":
        """Returns the solution itself, or raises if a solve failed; for calls outside of `jit`.

        Raises:
            RuntimeError: if a solve failed; it says which, and how they ended.
            ValueError: if it is called within `jit` or `vmap`, where nothing can be raised.
        """
        if isinstance(self.result, Tracer):
            raise ValueError(
                "check() is for calls outside of jit and vmap; inside, use solution.success."
            )
        codes = np.ravel(self.result)
        failed = np.flatnonzero(codes != Result.ok)
        if not failed.size:
            return self
        kinds = ", ".join(dict.fromkeys(Result(code).name for code in codes[failed].tolist()))
        if codes.size == 1:
            raise RuntimeError(f"the solve failed: {kinds}.")
        first = ", ".join(map(str, failed[:SHOWN])) + (", ..." if failed.size > SHOWN else "")
        raise RuntimeError(
            f"{failed.size} of {codes.size} solves failed (examples {first}): {kinds}."
        )
