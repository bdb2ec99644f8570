"""One test problem g(z) = 0: where it starts, and how it becomes an equilibrium map."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A square system g(z) = 0 as the equilibrium z = f(z) of f(z) = z - s g(z).

    Attributes:
        name: of the problem and its parameters, without n.
        g: the system; pure, works on traced and batched (`vmap`) arrays. float64 wants `x64`.
        z_start: the standard starting point of the reference.
        s: scaling with its sign, fixed from the Jacobian of g and never from how a solver fares.
        sigma: smallest singular value of s g' at the solution, to one digit: from theory, or by
            SVD at the root that SciPy finds; 0 where g' is singular there.
        reference: where the problem is stated.
        solution: a known root, or None. Others may exist.
    """

    name: str
    g: Callable[[Float[Array, " n"]], Float[Array, " n"]]
    z_start: Float[np.ndarray, " n"]
    s: float
    sigma: float
    reference: str
    solution: Float[np.ndarray, " n"] | None = None

    @property
    def n(self) -> int:
        """Number of equations and unknowns."""
        return len(self.z_start)

    @property
    def tol(self) -> float:
        """Relative residual asked of every solver.

        1e-4 sigma, since the relative error in z is up to the residual over sigma; at most 1e-8;
        at least 1e-12, as rounding alone leaves 1e-16 and a solver needs room. Where sigma is 0
        no residual bounds the error, and 1e-8 is asked.
        """
        return float(np.clip(1e-4 * self.sigma, 1e-12, 1e-8)) if self.sigma else 1e-8

    def f(self, z: Float[Array, " n"]) -> Float[Array, " n"]:
        """Returns the equilibrium map."""
        return z - self.s * self.g(z)

    def start(self, factor: float = 1.0) -> Float[np.ndarray, " n"]:
        """Multiples of the standard start; of ones where that is zero, as MINPACK does."""
        if factor != 1 and not self.z_start.any():
            return np.full(self.n, float(factor))
        return factor * self.z_start

    def jacobian(self, z: Float[Array, " n"]) -> Float[Array, "n n"]:
        """Dense g', for tests and small n."""
        return jax.jacfwd(self.g)(z)
