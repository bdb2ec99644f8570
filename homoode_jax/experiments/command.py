"""The command line: flags, a configuration file, and settings changed by name."""

from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from homoode_jax.experiments.config import SECTIONS, Config, from_dict
from homoode_jax.experiments.errors import UserError, first_line, nearest
from homoode_jax.experiments.evaluation import evaluate
from homoode_jax.experiments.failure import replay
from homoode_jax.experiments.processes import COME_SECONDS, Place, join
from homoode_jax.experiments.report import describe
from homoode_jax.experiments.sameness import how_started
from homoode_jax.experiments.training import train

HELP = """usage: python train.py [--config=FILE] [--config.SECTION.KEY=VALUE ...]
                       [--workdir=DIR] [--mode=train|evaluate|replay] [--describe]

  --config=FILE     configuration file; configs/digits.py if none is given
  --config.A.B=V    changes a setting; --describe lists them all
  --workdir=DIR     folder of the run; running again on the same folder resumes it
  --init=DIR        starts from the weights of the run in DIR
  --allow_restart   starts at step 0 where all checkpoints of the run were damaged
  --mode=evaluate   evaluates the best weights in --workdir on the test images
  --mode=replay     repeats the step that a run in --workdir stopped at, and says what is wrong
  --describe        shows the model, its parameter counts and all settings, and exits

Many processes (docs/cloud.md): TPU slices, Slurm and MPI say themselves who is who; elsewhere
  --coordinator=HOST:PORT --processes=N --process=I
They wait for each other for --join_seconds=120."""


class Command(NamedTuple):
    """What the user asked for.

    `changed` are the settings that the command line names, or None if it names a whole file.
    """

    action: str
    config: Config
    changed: list[str] | None
    workdir: str
    place: Place
    init: str
    allow_restart: bool


def parse(arguments: list[str]) -> Command:
    """Reads `sys.argv`.

    Raises:
        UserError: if a flag, a setting or the configuration file is not right.
    """
    names = [argument.lstrip("-").split("=")[0] for argument in arguments[1:]]
    changed = [name.removeprefix("config.") for name in names if name.startswith("config.")]
    if "config" not in names:
        default = Path(arguments[0]).parent / "configs" / "digits.py"
        arguments = [arguments[0], f"--config={default}", *arguments[1:]]
    values = _define(arguments)
    _check_names(values, arguments)
    _read(values, arguments)
    action = "help" if values.help else "describe" if values.describe else values.mode
    return Command(
        action, from_dict(_load(values)), None if "config" in names else changed, values.workdir,
        Place(values.coordinator, values.processes, values.process, values.join_seconds),
        values.init, values.allow_restart,
    )  # fmt: skip


def run(command: Command) -> None:
    """Does what the user asked for."""
    if command.action == "help":
        print(HELP)
        return
    if command.action == "describe":
        describe(command.config)
        return
    started = how_started(command.action, command.config, command.workdir, command.init)
    join(command.place, started)
    if command.action == "evaluate":
        evaluate(command.workdir, command.config, command.changed)
    elif command.action == "replay":
        replay(command.workdir)
    else:
        train(command.config, command.workdir, command.init, command.allow_restart)


def _define(arguments: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    flags.DEFINE_enum("mode", "train", ["train", "evaluate", "replay"], "", flag_values=values)
    flags.DEFINE_string("coordinator", "", "", flag_values=values)
    flags.DEFINE_integer("processes", 0, "", flag_values=values)
    flags.DEFINE_integer("process", -1, "", flag_values=values)
    flags.DEFINE_integer(
        "join_seconds", COME_SECONDS, "", lower_bound=1, upper_bound=86400, flag_values=values
    )
    flags.DEFINE_string("init", "", "", flag_values=values)
    flags.DEFINE_boolean("allow_restart", False, "", flag_values=values)
    flags.DEFINE_boolean("describe", False, "", flag_values=values)
    flags.DEFINE_boolean("help", False, "", short_name="h", flag_values=values)
    return values


def _check_names(values: flags.FlagValues, arguments: list[str]) -> None:
    """Refuses unknown flags and settings, naming the nearest one."""
    settings = [f"config.{s}.{f.name}" for s, kind in SECTIONS.items() for f in fields(kind)]
    known = [
        *values,
        *settings,
        *(f"config.{section}" for section in SECTIONS),
        "nodescribe",
        "noallow_restart",
    ]
    for argument in arguments[1:]:
        if not argument.startswith("-"):
            raise UserError(
                f"unexpected argument {argument!r}; a setting is --config.section.key=value."
            )
        name = argument.lstrip("-").split("=")[0]
        if name not in known:
            raise UserError(
                f"--{name} is not a flag or setting.{nearest(name, known)} "
                "See --help and --describe."
            )


def _read(values: flags.FlagValues, arguments: list[str]) -> None:
    try:
        values(arguments)
    except flags.Error as error:
        raise UserError(first_line(error)) from error
    except Exception as error:  # whatever the user's configuration file raises
        file = next(argument for argument in arguments if argument.startswith("--config="))
        raise UserError(f"{file} cannot be loaded: {_cause(error)}.") from error


def _load(values: flags.FlagValues) -> dict[str, Any]:
    file = Path(config_flags.get_config_filename(values["config"]))
    if not file.is_file():
        there = ", ".join(sorted(str(path) for path in file.parent.glob("*.py")))
        raise UserError(
            f"configuration file {file} does not exist.{there and f' There are {there}.'}"
        )
    try:
        return values.config.to_dict()
    except Exception as error:  # whatever the user's configuration file raises
        raise UserError(f"configuration file {file} cannot be loaded: {_cause(error)}.") from error


def _cause(error: Exception) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {first_line(cause)}"
