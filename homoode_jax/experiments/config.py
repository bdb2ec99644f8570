"""Configuration: frozen, validated dataclasses, and their way in from `ml_collections`.

Each field says what it accepts in its metadata; `Config` is complete and valid once it exists.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from ml_collections import ConfigDict

from homoode_jax.experiments.errors import UserError, nearest
from homoode_jax.experiments.sources import INFO
from homoode_jax.mathematics.problem import BATCHINGS
from homoode_jax.mathematics.routes import ADJOINTS
from homoode_jax.mathematics.solvers import SOLVERS
from homoode_jax.mathematics.stepping import CONTROLLERS


def _setting(default: Any, low: float | None = None, high: float | None = None, of=None) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "of": of})


@dataclass(frozen=True)
class Model:
    """The network.

    Attributes:
        layer: the implicit layer.
        channels: channels C of condition and state.
        width: width D of the head.
        groups: the most groups of a GroupNorm: min(groups, channels) are used.
        stride: stride of the encoder's first convolution.
        dropout: rate of the field's channel dropout.
        dtype: precision of weights and states.
        field_dtype: precision that the field is evaluated in: the same, or bfloat16.
    """

    layer: str = _setting("homoode", of=("homoode",))
    channels: int = _setting(64, 1, 2**14)
    width: int = _setting(256, 1, 2**14)
    groups: int = _setting(32, 1, 2**14)
    stride: int = _setting(1, 1, 4)
    dropout: float = _setting(0.1, 0, 0.99)
    dtype: str = _setting("float32", of=("float32", "float64"))
    field_dtype: str = _setting("same", of=("same", "bfloat16"))


@dataclass(frozen=True)
class Solver:
    """The solve, as `homoode_jax.integrate` has it; `dt0` 0 selects the first step."""

    method: str = _setting("dopri5", of=tuple(SOLVERS))
    controller: str = _setting("pid", of=CONTROLLERS)
    rtol: float = _setting(1e-3, 0, 1)
    atol: float = _setting(1e-3, 0, 1)
    dt0: float = _setting(0.0, 0, 1)
    max_steps: int = _setting(64, 1, 100_000)
    adjoint: str = _setting("checkpointed", of=tuple(ADJOINTS))
    batching: str = _setting("joint", of=BATCHINGS)


@dataclass(frozen=True)
class InitialPoint:
    """The initial point: learned by SGD every few steps, or alternating -1, +1."""

    learned: bool = _setting(True)
    learning_rate: float = _setting(0.02, 0)
    every: int = _setting(20, 1, 10**6)


@dataclass(frozen=True)
class Data:
    """Images and their augmentation.

    Attributes:
        dataset: the data set.
        data_dir: where it is; "" is the data set's usual place.
        validation: number of training images held out to select the best weights.
        split_seed: seed of that choice.
        flip: probability of a horizontal flip.
        crop_padding: zero padding before a random crop; 0: no crop.
        mean: mean of each image channel in [0, 1], or one for all.
        std: standard deviation likewise.
    """

    dataset: str = _setting("digits", of=tuple(INFO))
    data_dir: str = _setting("")
    validation: int = _setting(0, 0, 10**8)
    split_seed: int = _setting(0, 0, 2**32 - 1)
    flip: float = _setting(0.0, 0, 1)
    crop_padding: int = _setting(0, 0, 64)
    mean: tuple[float, ...] = _setting((0.5,), 0, 1)
    std: tuple[float, ...] = _setting((0.5,), 1e-6, 10)


@dataclass(frozen=True)
class Train:
    """The recipe; learning rates decay along a cosine over all epochs.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step, over all devices; the last, smaller batch is dropped.
        eval_batch_size: images a batch in evaluation.
        learning_rate: Adam's, at the start.
        final_learning_rate: at the end; the initial point's rate too ends there.
        weight_decay: decoupled weight decay.
        gradient_clip: largest global norm of a gradient; 0: no clipping.
        seed: of weights, order, augmentation and dropout.
        checkpoint_every: steps between checkpoints; 0: at the end of each epoch only.
        tensorboard: write TensorBoard event files too.
    """

    epochs: int = _setting(30, 1, 10**5)
    batch_size: int = _setting(64, 1, 2**16)
    eval_batch_size: int = _setting(256, 1, 2**16)
    learning_rate: float = _setting(1e-3, 0)
    final_learning_rate: float = _setting(1e-6, 0)
    weight_decay: float = _setting(0.0, 0)
    gradient_clip: float = _setting(0.0, 0)
    seed: int = _setting(0, 0, 2**31 - 1)
    checkpoint_every: int = _setting(0, 0, 10**9)
    tensorboard: bool = _setting(False)


@dataclass(frozen=True)
class Config:
    """A whole run."""

    model: Model = Model()
    solver: Solver = Solver()
    initial_point: InitialPoint = InitialPoint()
    data: Data = Data()
    train: Train = Train()

    def __post_init__(self):
        _check_solver(self.solver)
        _check_images(self.data)
        groups = min(self.model.groups, self.model.channels)
        if self.model.channels % groups:
            raise UserError(
                f"config.model.channels={self.model.channels} must be a multiple of the number "
                f"of groups, min(config.model.groups, channels) = {groups}."
            )


def _check_solver(solver: Solver) -> None:
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


def _check_images(data: Data) -> None:
    height, width, channels = INFO[data.dataset].shape
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


SECTIONS = {
    "model": Model,
    "solver": Solver,
    "initial_point": InitialPoint,
    "data": Data,
    "train": Train,
}


def defaults() -> ConfigDict:
    """Returns every setting at its default, for a config file to change."""
    return ConfigDict(dataclasses.asdict(Config()))


def from_dict(raw: dict[str, Any]) -> Config:
    """Validates nested settings; missing ones take their defaults."""
    if not isinstance(raw, dict):
        raise UserError(f"a configuration must hold sections of settings, got {raw!r}.")
    _check_keys("config", raw, SECTIONS)
    return Config(
        **{name: _section(name, kind, raw.get(name, {})) for name, kind in SECTIONS.items()}
    )


def to_dict(config: Config) -> dict[str, Any]:
    """Returns nested settings as JSON has them."""
    return {name: {k: list(v) if isinstance(v, tuple) else v for k, v in section.items()}
            for name, section in dataclasses.asdict(config).items()}  # fmt: skip


def differences(a: Config, b: Config, ignore: tuple[str, ...] = ()) -> list[str]:
    """Lists the settings in which two configurations differ, as "key: a, not b"."""
    left, right = to_dict(a), to_dict(b)
    return [
        f"{section}.{key}: {left[section][key]!r}, not {right[section][key]!r}"
        for section in left
        for key in left[section]
        if left[section][key] != right[section][key] and f"{section}.{key}" not in ignore
    ]


def _section(name: str, kind: type, raw: Any) -> Any:
    if not isinstance(raw, dict):
        raise UserError(f"config.{name} must be a section of settings, got {raw!r}.")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    _check_keys(f"config.{name}", raw, fields)
    return kind(
        **{key: _value(f"config.{name}.{key}", fields[key], value) for key, value in raw.items()}
    )


def _check_keys(where: str, raw: dict, known: dict) -> None:
    for key in raw:
        if key not in known:
            raise UserError(
                f"{where}.{key} is not a setting.{nearest(key, known)} "
                f"Settings of {where}: {', '.join(known)}."
            )


def _value(name: str, f: dataclasses.Field, value: Any) -> Any:
    """Checks type and range of one setting."""
    many = isinstance(f.default, tuple)
    kind = float if many else type(f.default)
    values = [_scalar(name, kind, v) for v in (_items(name, value) if many else (value,))]
    low, high, of = (f.metadata[key] for key in ("low", "high", "of"))
    for v in values:
        if of and v not in of:
            raise UserError(f"{name}={v!r} is not one of {', '.join(of)}.{nearest(str(v), of)}")
        if (low is not None and not v >= low) or (high is not None and not v <= high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise UserError(f"{name}={v!r} is out of range; it must be {bounds}.")
    return tuple(values) if many else values[0]


def _items(name: str, value: Any) -> list:
    if not isinstance(value, list | tuple) or not value:
        raise UserError(f"{name}={value!r} must be a list of numbers.")
    return list(value)


def _scalar(name: str, kind: type, value: Any) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1000 else math.inf
    if type(value) is float and not math.isfinite(value):
        raise UserError(f"{name}={value!r} must be a finite number.")
    if type(value) is not kind:
        raise UserError(f"{name}={value!r} must be {_article(kind)}, got {type(value).__name__}.")
    return value


def _article(kind: type) -> str:
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
    return names[kind]
