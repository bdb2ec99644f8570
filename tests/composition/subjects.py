"""What is composed: every function by every adjoint or solver, and every layer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from homoode_jax import continuation, equilibrium, integrate
from tests.layers.cases import FRAMEWORKS, as_function, make

WIDTH = 3
KERNEL = 0.3 * jnp.eye(WIDTH)
X = jnp.linspace(-1, 1, 8 * WIDTH).reshape(8, WIDTH)
Z0 = 0.1 * jnp.ones((8, WIDTH))
FORWARD = ("jvp", "jacfwd", "linearize", "hessian")
ODE = {"solver": "bosh3", "rtol": 1e-4, "atol": 1e-4, "max_steps": 16}
HAS_NO_TIME = "An equilibrium has no time."
USE_FORWARD_ODE = "adjoint=diffrax.ForwardMode()"
USE_FORWARD_CELL = "adjoint='implicit_jvp'"


# JAX linearises for backward mode too, and says only where tangents are pushed that there are none.
BY_JAX = "custom_vjp"
NO_SHARD_MAP = {"shard_map": "'reversible', 'direct' or 'backsolve'"}
NO_FORWARD_ODE = dict.fromkeys(FORWARD, USE_FORWARD_ODE) | {"linearize": BY_JAX}
NO_FORWARD_CELL = dict.fromkeys(FORWARD, USE_FORWARD_CELL) | {"linearize": BY_JAX}


class Subject(NamedTuple):
    """A solve to be composed.

    Attributes:
        solve: the final states as a function of (params, z0, x).
        of_time: that of (params, z0, x, t1), or None.
        refuses: what is raised, by the name of the column: a part of the message that says what to
            use instead.
        params: its arrays.
    """

    solve: Callable
    of_time: Callable | None
    refuses: dict[str, str]
    params: Any = KERNEL


def cell(kernel, z, x):
    return jnp.tanh(jnp.matmul(z, kernel)) + x


def field(kernel, t, z, x):
    return t * cell(kernel, z, x) - z


def of_field(refuses, **options):
    def of_time(kernel, z0, x, t1):
        return integrate(field, kernel, z0, x, t1=t1, **ODE, **options).z

    return Subject(lambda kernel, z0, x: of_time(kernel, z0, x, 1.0), of_time, refuses)


def of_cell(function, refuses, **options):
    def solve(kernel, z0, x):
        return function(cell, kernel, z0, x, **options).z

    return Subject(solve, None, refuses)


def of_layer(framework, name):
    """A layer around the framework's own module, as a function of its kernel."""
    is_ode = "ODE" in name
    options = dict(ODE) if is_ode else {}
    if framework == "equinox":
        options["batched"] = True
    args = {"AugmentedNeuralODE": (2,), "NeuralODE": ()}.get(name, ((WIDTH,),))
    layer = make(framework, name, *args, **options)
    solve = as_function(framework, layer, X)
    takes_z0 = not name.endswith("NeuralODE")

    def of_time(kernel, z0, x, **options):
        return solve(kernel, x, **({"z0": z0} if takes_z0 else {}), **options).z

    timed = (lambda kernel, z0, x, t1: of_time(kernel, z0, x, t1=t1)) if is_ode else None
    refuses = NO_FORWARD_ODE | NO_SHARD_MAP if is_ode else NO_FORWARD_CELL
    width = WIDTH + 2 if name == "AugmentedNeuralODE" else WIDTH
    return Subject(of_time, timed, refuses, 0.3 * jnp.eye(width))


SUBJECTS = {
    **{
        f"`integrate`, {adjoint}": of_field(NO_FORWARD_ODE, adjoint=adjoint)
        for adjoint in ("direct", "backsolve", "reversible")
    },
    "`integrate`, checkpointed": of_field(NO_FORWARD_ODE | NO_SHARD_MAP),
    **{
        f"`equilibrium`, {solver}": of_cell(equilibrium, NO_FORWARD_CELL, solver=solver)
        for solver in ("anderson", "broyden", "newton", "picard", "ode", "robust")
    },
    "`equilibrium`, implicit_jvp": of_cell(equilibrium, {}, adjoint="implicit_jvp"),
    **{
        f"`continuation`, {path}": of_cell(continuation, NO_FORWARD_CELL, path=path)
        for path in ("natural", "arclength")
    },
    "`continuation`, implicit_jvp": of_cell(continuation, {}, adjoint="implicit_jvp"),
    **{
        f"`{framework}.{name}`": of_layer(framework, name)
        for framework in FRAMEWORKS
        for name in ("HomoODE", "NeuralODE", "AugmentedNeuralODE", "DEQ", "HomotopyDEQ")
    },
}
