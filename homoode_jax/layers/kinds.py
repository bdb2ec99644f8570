"""The kinds of layers: which function solves them, how their module is called, where they begin.

    HomoODE              dz/dt = field(t, z, x),  z(0) = z0
    NeuralODE            dz/dt = field(t, z),     z(0) = x
    AugmentedNeuralODE   dz/dt = field(t, z),     z(0) = [x, 0]     (Dupont et al. 2019)
    DEQ                  z = cell(z, x),          by an iteration from z0
    HomotopyDEQ          z = cell(z, x),          along a homotopy from z0

A field need not take t. A field that takes x sees it as a condition, also where it is the start.
"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from homoode_jax.mathematics.cells.adjoints import IMPLICIT_ADJOINTS
from homoode_jax.mathematics.common.checks import BATCHINGS
from homoode_jax.mathematics.equilibria.continuation import PATHS, continuation
from homoode_jax.mathematics.equilibria.equilibrium import EQUILIBRIUM_SOLVERS, equilibrium
from homoode_jax.mathematics.homotopy.equations import HOMOTOPIES
from homoode_jax.mathematics.ode.integrate import integrate
from homoode_jax.mathematics.ode.plan import ADJOINTS
from homoode_jax.mathematics.ode.solvers import SOLVERS
from homoode_jax.mathematics.ode.stepping import CONTROLLERS

Form = tuple[str, ...]


class Kind(NamedTuple):
    """What sets one kind of layer apart.

    Attributes:
        name: as its users write it.
        solve: the public function behind it.
        role: what its module is to that function: "field" or "cell".
        forms: the arguments that its module may take.
        start: "point" (z0), "input" (x), or "augmented" (x and zeros).
        choices: what some of its options may be, by name.
    """

    name: str
    solve: Callable
    role: str
    forms: tuple[Form, ...]
    start: str
    choices: Mapping[str, Collection[str]]


CELL: tuple[Form, ...] = (("z", "x"),)
FIELD: tuple[Form, ...] = (("z", "x"), ("t", "z", "x"))
FREE_FIELD: tuple[Form, ...] = (("z",), ("z", "x"), ("t", "z"), ("t", "z", "x"))

OF_ODE = {
    "solver": SOLVERS,
    "controller": CONTROLLERS,
    "adjoint": ADJOINTS,
    "batching": BATCHINGS,
}
OF_DEQ = {
    "solver": EQUILIBRIUM_SOLVERS,
    "adjoint": IMPLICIT_ADJOINTS,
    "batching": BATCHINGS,
}
OF_HOMOTOPY = {
    "homotopy": HOMOTOPIES,
    "path": PATHS,
    "adjoint": IMPLICIT_ADJOINTS,
    "batching": BATCHINGS,
}

HOMO_ODE = Kind(
    name="HomoODE",
    solve=integrate,
    role="field",
    forms=FIELD,
    start="point",
    choices=OF_ODE,
)
NEURAL_ODE = Kind(
    name="NeuralODE",
    solve=integrate,
    role="field",
    forms=FREE_FIELD,
    start="input",
    choices=OF_ODE,
)
AUGMENTED_NEURAL_ODE = Kind(
    name="AugmentedNeuralODE",
    solve=integrate,
    role="field",
    forms=FREE_FIELD,
    start="augmented",
    choices=OF_ODE,
)
DEQ = Kind(
    name="DEQ",
    solve=equilibrium,
    role="cell",
    forms=CELL,
    start="point",
    choices=OF_DEQ,
)
HOMOTOPY_DEQ = Kind(
    name="HomotopyDEQ",
    solve=continuation,
    role="cell",
    forms=CELL,
    start="point",
    choices=OF_HOMOTOPY,
)
