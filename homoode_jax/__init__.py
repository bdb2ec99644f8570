"""HomoODE in JAX: homotopy continuation between deep equilibrium models and neural ODEs.

The mathematics floor is imported here; it needs JAX, Diffrax and Equinox only.
Networks (`homoode_jax.networks`) and experiments (`homoode_jax.experiments`) are imported by
name, and need the `train` extra.
"""

from homoode_jax.mathematics.integrate import integrate
from homoode_jax.mathematics.solution import Result, Solution, Stats
from homoode_jax.mathematics.solvers import Reversible

__version__ = "0.1.0"

__all__ = ["Result", "Reversible", "Solution", "Stats", "integrate"]
