"""The kinds of layers: which function solves them, how their module is called, where they begin.

    HomoODE              dz/dt = field(t, z, x),  z(0) = z0
    NeuralODE            dz/dt = field(t, z),     z(0) = x
    AugmentedNeuralODE   dz/dt = field(t, z),     z(0) = [x, 0]     (Dupont et al. 2019)
    DEQ                  z = cell(z, x),          by an iteration from z0
    HomotopyDEQ          z = cell(z, x),          along a homotopy from z0

A field need not take t. A field that takes x sees it as a condition, also where it is the start.
"""

from collections.abc import Callable
from typing import NamedTuple

from homoode_jax.mathematics.equilibria.continuation import continuation
from homoode_jax.mathematics.equilibria.equilibrium import equilibrium
from homoode_jax.mathematics.ode.integrate import integrate

Form = tuple[str, ...]


class Kind(NamedTuple):
    """What sets one kind of layer apart.

    Attributes:
        name: as its users write it.
        solve: the public function behind it.
        role: what its module is to that function: "field" or "cell".
        forms: the arguments that its module may take.
        start: "point" (z0), "input" (x), or "augmented" (x and zeros).
    """

    name: str
    solve: Callable
    role: str
    forms: tuple[Form, ...]
    start: str


CELL: tuple[Form, ...] = (("z", "x"),)
FIELD: tuple[Form, ...] = (("z", "x"), ("t", "z", "x"))
FREE_FIELD: tuple[Form, ...] = (("z",), ("z", "x"), ("t", "z"), ("t", "z", "x"))

HOMO_ODE = Kind("HomoODE", integrate, "field", FIELD, "point")
NEURAL_ODE = Kind("NeuralODE", integrate, "field", FREE_FIELD, "input")
AUGMENTED_NEURAL_ODE = Kind("AugmentedNeuralODE", integrate, "field", FREE_FIELD, "augmented")
DEQ = Kind("DEQ", equilibrium, "cell", CELL, "point")
HOMOTOPY_DEQ = Kind("HomotopyDEQ", continuation, "cell", CELL, "point")
