"""The command line: flags, a configuration file, and settings changed by name."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from homoode_jax.experiments.config import SECTIONS, Config, fit_to_layer, from_dict
from homoode_jax.experiments.config_file import find_file, load_file
from homoode_jax.experiments.console import say
from homoode_jax.experiments.devices import check_devices, check_settings
from homoode_jax.experiments.errors import UserError, first_line, nearest
from homoode_jax.experiments.evaluation import evaluate
from homoode_jax.experiments.exporting import export_run
from homoode_jax.experiments.failure import replay
from homoode_jax.experiments.files import local_folder
from homoode_jax.experiments.processes import COME_SECONDS, MeetingFlags, join
from homoode_jax.experiments.record import how_started
from homoode_jax.experiments.report import describe
from homoode_jax.experiments.training import train

HELP = """usage: python train.py [--config=NAME] [--config.SECTION.KEY=VALUE ...]
                       [--workdir=DIR] [--mode=train|evaluate|export|replay] [--describe]

  --config=NAME     a configuration: the name of one in configs/ (digits if none is given),
                    the path of another file, or of a run's config.json
  --config.A.B=V    changes a setting; --describe lists them all
  --workdir=DIR     folder of the run; running again on the same folder resumes it
  --init=DIR        starts from the weights of the run in DIR
  --allow_restart   starts at step 0 where all checkpoints of the run were damaged
  --mode=evaluate   evaluates the best weights in --workdir on the test images
  --mode=export     writes the best weights in --workdir as a program that needs JAX only
  --mode=replay     repeats the step that a run in --workdir stopped at, and says what is wrong
  --describe        shows the model, its parameter counts and all settings, and exits

Many processes (docs/cloud.md): TPU slices, Slurm and MPI say themselves who is who; elsewhere
  --coordinator=HOST:PORT --processes=N --process=I
They wait for each other for --join_seconds=120."""

MODES = ["train", "evaluate", "export", "replay"]


class _Reads(NamedTuple):
    """What reads a value, and what the value must be."""

    parser: flags.ArgumentParser
    what: str


READS: dict[type, _Reads] = {
    int: _Reads(flags.IntegerParser(), "a whole number"),
    float: _Reads(flags.FloatParser(), "a number"),
    bool: _Reads(flags.BooleanParser(), "true or false"),
}


class Command(NamedTuple):
    """What the user asked for.

    `changed` are the settings that the command line names, or None if it names a whole file.
    `notes` are what the user should know about it before it is done.
    """

    action: str
    config: Config
    changed: list[str] | None
    workdir: str
    meeting: MeetingFlags
    init: str
    allow_restart: bool
    notes: Sequence[str] = ()


def parse(arguments: list[str]) -> Command:
    """Reads `sys.argv`.

    Raises:
        UserError: if a flag, a setting or the configuration file is not right.
    """
    values = _define()
    _check_names(values, arguments[1:])
    files = [given for given in arguments[1:] if _flag_name(given) == "config"]
    file = files[-1].partition("=")[2] if files else "digits"
    content = load_file(find_file(file, Path(arguments[0]).parent / "configs"))
    _read_arguments(values, content, [given for given in arguments if given not in files])
    names = map(_flag_name, arguments[1:])
    changed = [name.removeprefix("config.") for name in names if name.startswith("config.")]
    raw, notes = fit_to_layer(content.to_dict(), changed)
    return Command(
        action="help" if values.help else "describe" if values.describe else values.mode,
        config=from_dict(raw),
        changed=None if files else changed,
        workdir=str(local_folder(values.workdir, "--workdir")) if values.workdir else "",
        meeting=MeetingFlags(
            coordinator=values.coordinator,
            processes=values.processes,
            process=values.process,
            seconds=values.join_seconds,
        ),
        init=values.init,
        allow_restart=values.allow_restart,
        notes=notes,
    )


def execute(command: Command) -> None:
    """Does what the user asked for."""
    if command.action == "help":
        print(HELP)
        return
    check_settings()
    if command.action != "describe":
        started = how_started(command.action, command.config, command.workdir, command.init)
        join(command.meeting, started)
    for note in command.notes:
        say(note)
    if command.action == "describe":
        check_devices()
        describe(command.config, command.workdir)
    elif command.action == "evaluate":
        evaluate(command.workdir, command.config, command.changed)
    elif command.action == "export":
        export_run(command.workdir)
    elif command.action == "replay":
        replay(command.workdir)
    else:
        train(command.config, command.workdir, command.init, command.allow_restart)


def _define() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    flags.DEFINE_enum("mode", "train", MODES, "", flag_values=values)
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


def _flag_name(argument: str) -> str:
    """Returns the flag or setting that an argument names."""
    return argument.lstrip("-").split("=")[0]


def _setting_types() -> dict[str, type]:
    """Returns the type of every setting, by its name as a flag."""
    return {
        f"config.{section}.{setting.name}": type(setting.default)
        for section, kind in SECTIONS.items()
        for setting in fields(kind)
    }


def _check_names(values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Refuses unknown flags and settings, naming the nearest one, and those without a value."""
    settings = _setting_types()
    sections = [f"config.{section}" for section in SECTIONS]
    switches = [name for name in values if values[name].boolean]
    switches += [f"no{name}" for name in switches]
    known = [*values, *switches, "config", *sections, *settings]
    for argument in arguments:
        if not argument.startswith("-"):
            raise UserError(
                f"unexpected argument {argument!r}; a setting is --config.section.key=value."
            )
        name = _flag_name(argument)
        if name not in known:
            raise UserError(
                f"--{name} is not a flag or setting.{nearest(name, known)} "
                "See --help and --describe."
            )
        # Without "=", the next argument would be its value, another flag too.
        if "=" not in argument and name not in switches and settings.get(name) is not bool:
            raise UserError(f"--{name} needs a value: --{name}=VALUE.")


def _read_arguments(values: flags.FlagValues, content: ConfigDict, arguments: list[str]) -> None:
    """Sets the flags, and the settings in `content`, that the arguments name."""
    try:
        config_flags.DEFINE_config_dict("config", content, flag_values=values, sys_argv=arguments)
        values(arguments)
    except flags.IllegalFlagValueError as error:
        raise UserError(_wrong_type(values, arguments) or first_line(error)) from error
    except flags.Error as error:
        raise UserError(first_line(error)) from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:  # of a setting's type
        raise UserError(f"the settings cannot be read: {first_line(error)}.") from error


def _wrong_type(values: flags.FlagValues, arguments: Sequence[str]) -> str:
    """Returns one line about the first argument that its flag cannot read, or nothing."""
    settings = _setting_types()
    for argument in arguments[1:]:
        name = _flag_name(argument)
        kind = settings[name] if name in settings else type(values[name].default)
        reads = READS.get(kind)
        _, given, text = argument.partition("=")
        if reads is None or not given:
            continue
        try:
            reads.parser.parse(text)
        except (TypeError, ValueError):
            return f"--{name}={text!r} must be {reads.what}."
    return ""
