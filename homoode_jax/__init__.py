"""HomoODE in JAX: homotopy continuation between deep equilibrium models and neural ODEs.

This has the mathematics, which needs JAX, Diffrax, Optimistix, Lineax and Equinox only, and imports
it once a name is used. Import the networks (`homoode_jax.networks`) and the experiments
(`homoode_jax.experiments`) by name; they need the `train` extra.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from homoode_jax.mathematics.public import *

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
    "Robust",
    "Solution",
    "Stats",
    "audit",
    "continuation",
    "equilibrium",
    "integrate",
    "regularisers",
]


def __getattr__(name: str) -> Any:
    """Imports the mathematics when one of its names is used for the first time."""
    if name not in __all__:
        raise AttributeError(f"module 'homoode_jax' has no attribute {name!r}")
    import jax

    # Perhaps while a function is traced: what the modules hold must be no part of its trace.
    with jax.ensure_compile_time_eval():
        public = importlib.import_module("homoode_jax.mathematics.public")
    globals().update({known: getattr(public, known) for known in __all__})
    return globals()[name]


def __dir__() -> list[str]:
    return [*globals(), *__all__]
