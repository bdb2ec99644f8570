"""HomoODE in JAX: homotopy continuation between deep equilibrium models and neural ODEs.

The mathematics floor is imported here; it needs JAX, Diffrax, Optimistix, Lineax and Equinox only.
Networks (`homoode_jax.networks`) and experiments (`homoode_jax.experiments`) are imported by
name, and need the `train` extra.
"""

from homoode_jax.mathematics import audit, regularisers
from homoode_jax.mathematics.continuation import continuation
from homoode_jax.mathematics.equilibrium import equilibrium
from homoode_jax.mathematics.fixed_point import Anderson, Broyden, Picard
from homoode_jax.mathematics.implicit import Implicit, Phantom
from homoode_jax.mathematics.integrate import integrate
from homoode_jax.mathematics.krylov import GMRES
from homoode_jax.mathematics.newton_krylov import NewtonKrylov
from homoode_jax.mathematics.relaxation import Relaxation
from homoode_jax.mathematics.solution import Result, Solution, Stats
from homoode_jax.mathematics.solvers import Reversible

__version__ = "0.1.0"

__all__ = [
    "GMRES",
    "Anderson",
    "Broyden",
    "Implicit",
    "NewtonKrylov",
    "Phantom",
    "Picard",
    "Relaxation",
    "Result",
    "Reversible",
    "Solution",
    "Stats",
    "audit",
    "continuation",
    "equilibrium",
    "integrate",
    "regularisers",
]
