"""The public names of the mathematics, which `import homoode_jax` finds here once one is used."""

from homoode_jax.mathematics import audit, regularisers
from homoode_jax.mathematics.cells.adjoints import Implicit, Phantom
from homoode_jax.mathematics.cells.gmres import GMRES
from homoode_jax.mathematics.common.solution import Result, Solution, Stats
from homoode_jax.mathematics.equilibria.continuation import continuation
from homoode_jax.mathematics.equilibria.equilibrium import equilibrium
from homoode_jax.mathematics.equilibria.robust import Robust
from homoode_jax.mathematics.iterations.fixed_point import Anderson, Broyden, Picard
from homoode_jax.mathematics.iterations.newton_krylov import NewtonKrylov
from homoode_jax.mathematics.iterations.relaxation import Relaxation
from homoode_jax.mathematics.ode.integrate import integrate
from homoode_jax.mathematics.ode.solvers import Reversible

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
    "Robust",
    "Solution",
    "Stats",
    "audit",
    "continuation",
    "equilibrium",
    "integrate",
    "regularisers",
]
