"""One test problem g(z) = 0: where it starts, and how it becomes an equilibrium map."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A square system g(z) = 0 as the equilibrium z = f(z) of f(z) = z - s g(z).

    g is defined in the function that the problem is named after. s is fixed, with its sign, from
    the Jacobian of g and never from how a solver fares. sigma is the smallest singular value of
    s g' at the solution, to one digit: from theory, or by SVD at the root that SciPy finds; 0 where
    g' is singular there.
    """

    g: Callable[[Float[Array, " n"]], Float[Array, " n"]]
    z_start: Float[np.ndarray, " n"]  # the standard one of the reference
    s: float
    sigma: float
    solution: Float[np.ndarray, " n"] | None = None  # a known root; others may exist
    parameter: str = ""  # as the name shows it

    @property
    def name(self) -> str:
        """Returns the name of the problem and its parameter, without n."""
        return f"{self.g.__qualname__.split('.')[0]} {self.parameter}".strip()

    @property
    def n(self) -> int:
        """Returns the number of equations and unknowns."""
        return len(self.z_start)

    @property
    def tol(self) -> float:
        """Returns the relative residual asked of every solver.

        1e-4 sigma, since the relative error in z is up to the residual over sigma; at most 1e-8;
        at least 1e-12, as rounding alone leaves 1e-16 and a solver needs room. Where sigma is 0
        no residual bounds the error, and 1e-8 is asked.
        """
        return float(np.clip(1e-4 * self.sigma, 1e-12, 1e-8)) if self.sigma else 1e-8

    def f(self, z: Float[Array, " n"]) -> Float[Array, " n"]:
        """Returns the equilibrium map."""
        return z - self.s * self.g(z)

    def residual(self, z: Float[Array, " n"]) -> float:
        """Returns |s g(z)| relative to |f(z)|, of which 1e-3 an entry is taken at least."""
        scale = np.maximum(np.linalg.norm(self.f(z)), 1e-3 * np.sqrt(self.n))
        return float(np.linalg.norm(self.s * self.g(z)) / scale)

    def start(self, factor: float = 1.0) -> Float[np.ndarray, " n"]:
        """Returns multiples of the standard start; of ones where that is zero, as MINPACK does."""
        if factor != 1 and not self.z_start.any():
            return np.full(self.n, float(factor))
        return factor * self.z_start
