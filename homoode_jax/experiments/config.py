"""Configuration: frozen, validated dataclasses, and their way in from `ml_collections`.

Each field says what it accepts in its metadata; `Config` is complete and valid once it exists.
"""

import dataclasses
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from homoode_jax.experiments.errors import UserError, shown
from homoode_jax.experiments.image_folder import list_classes
from homoode_jax.experiments.settings import (
    ContinuationSettings,
    DataSettings,
    EquilibriumSettings,
    InitialPointSettings,
    ModelSettings,
    RegulariserSettings,
    ScheduleSettings,
    SolverSettings,
    TrainSettings,
)
from homoode_jax.experiments.sources import FOLDER
from homoode_jax.experiments.values import check_keys, checked_section
from homoode_jax.networks.family import LAYERS

OF_FOLDERS = ("size", "colour", "class_names", "held_out")  # settings of `data`


@dataclass(frozen=True)
class Config:
    """A whole run."""

    model: ModelSettings = field(default_factory=ModelSettings)
    solver: SolverSettings = field(default_factory=SolverSettings)
    equilibrium: EquilibriumSettings = field(default_factory=EquilibriumSettings)
    continuation: ContinuationSettings = field(default_factory=ContinuationSettings)
    initial_point: InitialPointSettings = field(default_factory=InitialPointSettings)
    regularise: RegulariserSettings = field(default_factory=RegulariserSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    data: DataSettings = field(default_factory=DataSettings)
    train: TrainSettings = field(default_factory=TrainSettings)

    def __post_init__(self):
        _check_solver(self.solver)
        _check_images(self.data)
        _check_shares(self)
        _check_for_layer(self)
        _check_reachable(self)
        groups = min(self.model.groups, self.model.channels)
        if self.model.channels % groups:
            raise UserError(
                f"config.model.channels={self.model.channels} must be a multiple of the number "
                f"of groups, min(config.model.groups, channels) = {groups}."
            )


def _check_solver(solver: SolverSettings) -> None:
    if solver.controller == "constant" and solver.dt0 * solver.max_steps < 1:
        raise UserError(
            "config.solver.controller='constant' needs config.solver.dt0 of at least "
            f"1/config.solver.max_steps = {1 / solver.max_steps:.4g}, got {solver.dt0}."
        )
    if solver.controller == "pid" and solver.method == "euler":
        raise UserError(
            "config.solver.method='euler' has no error estimate; set "
            "config.solver.controller=constant and config.solver.dt0, or another method."
        )
    if solver.rtol == solver.atol == 0:
        raise UserError("config.solver.rtol and config.solver.atol must not both be 0.")


def _check_reachable(config: Config) -> None:
    """Refuses a tolerance of the residual below the rounding of states."""
    solve = LAYERS[config.model.layer].solve
    tolerances = {"equilibrium": "tol", "continuation": "rtol"}
    if solve not in tolerances:
        return
    eps = float(np.finfo(config.model.dtype).eps)
    name = tolerances[solve]
    tol = getattr(getattr(config, solve), name)
    if tol < eps:
        raise UserError(
            f"config.{solve}.{name}={tol:g} cannot be reached in config.model.dtype="
            f"{config.model.dtype}, whose precision is {eps:.1e}: raise it."
        )


def _check_for_layer(config: Config) -> None:
    """Refuses options that the layer does not have, or that would do nothing."""
    for name, why in _unfit({key: getattr(config, key) for key in SECTIONS}):
        raise UserError(f"{why}: set it to {_default(name)!r}.")
    unrolled = "unrolled" in (config.equilibrium.adjoint, config.schedule.adjoint)
    if unrolled and config.model.layer == "deq" and config.equilibrium.solver == "robust":
        raise UserError(
            "config.equilibrium.solver='robust' has no gradient through its steps; set "
            "config.equilibrium.adjoint (and config.schedule.adjoint) to another than 'unrolled'."
        )
    if config.schedule != ScheduleSettings() and not config.schedule.epochs:
        raise UserError("config.schedule needs config.schedule.epochs of at least 1, got 0.")


def _unfit(sections: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields the names of settings that do nothing for the layer, and why."""
    layer = sections["model"].layer
    solve = LAYERS[layer].solve
    ode = solve == "integrate"
    cell = solve in ("equilibrium", "continuation")
    adaptive = ode and layer != "euler" and sections["solver"].controller == "pid"
    for name, has, kind in (
        ("regularise.kinetic", ode, "integrate"),
        ("regularise.jacobian", cell, "solve for an equilibrium"),
        ("schedule.adjoint", cell, "solve for an equilibrium"),
        ("schedule.loosen", cell or adaptive, "solve to a tolerance"),
        ("regularise.scale", ode or cell, "solve"),
    ):
        section, key = name.split(".")
        if getattr(sections[section], key) != _default(name) and not has:
            yield name, f"config.{name} is for layers that {kind}; {layer} does not"


def _default(name: str) -> Any:
    section, key = name.split(".")
    return getattr(SECTIONS[section](), key)


def _check_images(data: DataSettings) -> None:
    for name in OF_FOLDERS:
        got = getattr(data, name)
        if data.dataset != FOLDER and got != _default(f"data.{name}"):
            raise UserError(
                f"config.data.{name}={shown(got)} is for config.data.dataset={FOLDER!r}, "
                f"not {data.dataset!r}: set it to {_default(f'data.{name}')!r}."
            )
    named = data.class_names
    if len(set(named)) < len(named):
        raise UserError(f"config.data.class_names must name each class once, got {shown(named)}.")
    height, width, channels = data.info.shape
    for name in ("mean", "std"):
        given = len(getattr(data, name))
        if given not in (1, channels):
            raise UserError(
                f"config.data.{name} has {given} values; {data.dataset} takes one, or one for "
                f"each of its {channels} channels."
            )
    if data.crop_padding > min(height, width) // 2:
        raise UserError(
            f"config.data.crop_padding={data.crop_padding} is more than half the image, "
            f"{height}x{width}."
        )


def _check_shares(config: Config) -> None:
    shares = config.data.shares
    for name in ("batch_size", "eval_batch_size"):
        size = getattr(config.train, name)
        if size % shares:
            raise UserError(
                f"config.train.{name}={size} must be a multiple of config.data.shares={shares}: "
                "a batch has as many images of each part."
            )


SECTIONS = {
    "model": ModelSettings,
    "solver": SolverSettings,
    "equilibrium": EquilibriumSettings,
    "continuation": ContinuationSettings,
    "initial_point": InitialPointSettings,
    "regularise": RegulariserSettings,
    "schedule": ScheduleSettings,
    "data": DataSettings,
    "train": TrainSettings,
}


def name_classes(config: Config) -> Config:
    """Returns the configuration with the names of the classes that a folder of pictures has."""
    data = config.data
    if data.dataset != FOLDER or data.class_names:
        return config
    named = dataclasses.replace(data, class_names=list_classes(data.data_dir))
    return dataclasses.replace(config, data=named)


def defaults() -> ConfigDict:
    """Returns every setting at its default, for a config file to change."""
    return ConfigDict(dataclasses.asdict(Config()))


def from_dict(raw: dict[str, Any]) -> Config:
    """Validates nested settings; missing ones take their defaults."""
    if not isinstance(raw, dict):
        raise UserError(f"a configuration must hold sections of settings, got {shown(raw)}.")
    return Config(**_sections(raw))


def fit_to_layer(raw: dict[str, Any], named: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """Fits the settings of a file to another layer, which the command line chose.

    Args:
        raw: nested settings.
        named: those that the command line names, as "section.key"; they stay as they are.

    Returns:
        The settings, where those of the file that do nothing for the layer have their defaults,
        and a line for each of these.
    """
    if "model.layer" not in named:
        return raw, []
    fitted = {name: dict(section) for name, section in raw.items()}
    notes = []
    for name, why in _unfit(_sections(raw)):
        if name not in named:
            section, key = name.split(".")
            fitted[section][key] = _default(name)
            notes.append(f"{why}: the configuration's {raw[section][key]!r} is left out.")
    return fitted, notes


def _sections(raw: dict[str, Any]) -> dict[str, Any]:
    """Validates each setting by itself."""
    check_keys("config", raw, SECTIONS)
    return {name: checked_section(name, kind, raw.get(name, {})) for name, kind in SECTIONS.items()}


def to_dict(config: Config) -> dict[str, Any]:
    """Returns nested settings as JSON has them."""
    return {
        name: {k: list(v) if isinstance(v, tuple) else v for k, v in section.items()}
        for name, section in dataclasses.asdict(config).items()
    }


def differing_settings(a: Config, b: Config, ignore: tuple[str, ...] = ()) -> list[str]:
    """Lists the settings in which two configurations differ, as "key: a, not b"."""
    left = to_dict(a)
    right = to_dict(b)
    return [
        f"{section}.{key}: {left[section][key]!r}, not {right[section][key]!r}"
        for section in left
        for key in left[section]
        if left[section][key] != right[section][key] and f"{section}.{key}" not in ignore
    ]
