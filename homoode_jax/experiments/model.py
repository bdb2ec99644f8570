"""The model of a run: its classifier, and the solve of its layer, as the configuration has them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
from jaxtyping import Array, Float

from homoode_jax.experiments.config import Config
from homoode_jax.experiments.settings import (
    ContinuationSettings,
    EquilibriumSettings,
    SolverSettings,
)
from homoode_jax.mathematics.cells.adjoints import IMPLICIT_ADJOINTS, Implicit
from homoode_jax.mathematics.common.solution import Solution
from homoode_jax.mathematics.equilibria.continuation import continuation
from homoode_jax.mathematics.equilibria.equilibrium import equilibrium
from homoode_jax.mathematics.ode.integrate import integrate
from homoode_jax.networks.classifier import Architecture, ImageClassifier
from homoode_jax.networks.family import LAYERS
from homoode_jax.networks.member import call_once

# Training counts the products of a backward pass, and "implicit_jvp" does not.
CELL_ADJOINTS = tuple(name for name in IMPLICIT_ADJOINTS if name != "implicit_jvp")


def make_classifier(config: Config) -> ImageClassifier:
    """Builds the classifier that a configuration describes."""
    info = config.data.info
    model = config.model
    sizes = Architecture(
        image_channels=info.shape[2],
        classes=info.classes,
        channels=model.channels,
        width=model.width,
        groups=model.groups,
        stride=model.stride,
        dropout=model.dropout,
        layer=model.layer,
        initial_point=config.initial_point.kind,
        field_dtype=None if model.field_dtype == "same" else model.field_dtype,
    )
    terms = {"kinetic": config.regularise.kinetic, "jacobian": config.regularise.jacobian}
    regulariser = next((name for name, weight in terms.items() if weight), None)
    return ImageClassifier(sizes, make_solve(config), regulariser)


def make_solve(config: Config) -> Callable[..., Solution]:
    """Binds the options that a configuration has for its layer."""
    if config.model.layer == "euler":
        options = {"solver": "euler", "controller": "constant", "dt0": 1.0, "max_steps": 1}
        return partial(integrate, batching=config.solver.batching, **options)
    makers = {
        "integrate": _bind_integrate,
        "equilibrium": _bind_equilibrium,
        "continuation": _bind_continuation,
        "once": lambda config: partial(call_once, nfe=LAYERS[config.model.layer].blocks),
    }
    return makers[LAYERS[config.model.layer].solve](config)


def is_per_example(config: Config) -> bool:
    """Returns True if each image is solved by itself."""
    section = _solve_settings(config)
    return section is not None and section.batching == "per_example"


def counts_backward(config: Config) -> bool:
    """Returns True if the backward pass says how many products it took; -1 is then a failure."""
    section = _solve_settings(config)
    return section is not None and section.adjoint != "unrolled"


def step_limit(config: Config) -> tuple[str, int] | None:
    """Returns the setting that bounds the steps of a solve and its value; None if nothing does.

    The rungs of "robust" are bounded by evaluations.
    """
    section = _solve_settings(config)
    if section is None or config.model.layer == "euler":
        return None
    solve = LAYERS[config.model.layer].solve
    if config.model.layer == "deq" and config.equilibrium.solver == "robust":
        return None
    name = "solver" if solve == "integrate" else solve
    return f"config.{name}.max_steps", section.max_steps


def _solve_settings(
    config: Config,
) -> SolverSettings | EquilibriumSettings | ContinuationSettings | None:
    """Returns the settings of the layer's solve."""
    sections = {
        "integrate": config.solver,
        "equilibrium": config.equilibrium,
        "continuation": config.continuation,
    }
    return sections.get(LAYERS[config.model.layer].solve)


def early_options(config: Config, looseness: Float[Array, ""] | None) -> dict[str, Any]:
    """Returns the options of the solve in the first epochs.

    Args:
        config: the configuration.
        looseness: factor on all tolerances; None: they are left as they are.
    """
    schedule = config.schedule
    solve = LAYERS[config.model.layer].solve
    options: dict[str, Any] = {}
    if schedule.adjoint != "same":
        options["adjoint"] = schedule.adjoint
    if looseness is not None:
        tolerances = _tolerances(config, solve)
        options |= {name: looseness * value for name, value in tolerances.items()}
    return options


def _tolerances(config: Config, solve: str) -> dict[str, float]:
    if solve == "equilibrium":
        return {"tol": config.equilibrium.tol}
    if solve == "continuation":
        return {"rtol": config.continuation.rtol}
    return {"rtol": config.solver.rtol, "atol": config.solver.atol}


def _bind_integrate(config: Config) -> Callable[..., Solution]:
    solver = config.solver
    adaptive = config.solver.controller == "pid"
    return partial(
        integrate,
        solver=solver.method,
        controller=solver.controller,
        rtol=solver.rtol if adaptive else None,
        atol=solver.atol if adaptive else None,
        dt0=solver.dt0 or None,
        max_steps=solver.max_steps,
        adjoint=make_adjoint(solver),
        batching=solver.batching,
    )


def make_adjoint(solver: SolverSettings) -> str | diffrax.AbstractAdjoint:
    """Returns the adjoint, as `integrate` takes it."""
    if solver.adjoint != "checkpointed":
        return solver.adjoint
    return diffrax.RecursiveCheckpointAdjoint(min(solver.checkpoints, solver.max_steps))


def _bind_equilibrium(config: Config) -> Callable[..., Solution]:
    chosen = config.equilibrium
    return partial(
        equilibrium,
        solver="ode" if config.model.layer == "continuous_deq" else chosen.solver,
        tol=chosen.tol,
        max_steps=chosen.max_steps,
        max_evaluations=chosen.max_evaluations or None,
        batching=chosen.batching,
        adjoint=_route(chosen.adjoint, chosen.backward_tol),
    )


def _bind_continuation(config: Config) -> Callable[..., Solution]:
    chosen = config.continuation
    return partial(
        continuation,
        homotopy=chosen.homotopy,
        path=chosen.path,
        rtol=chosen.rtol,
        max_steps=chosen.max_steps,
        max_evaluations=chosen.max_evaluations,
        linear_tol=chosen.linear_tol,
        batching=chosen.batching,
        adjoint=_route(chosen.adjoint, chosen.backward_tol),
    )


def _route(adjoint: str, tol: float) -> str | Implicit:
    return Implicit(tol) if adjoint == "implicit" else adjoint
