"""The command line: what to do, flags, a configuration file, and settings changed by name.

It imports nothing that needs JAX, so that it answers at once where a command is not right.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from homoode_jax.experiments.config import SECTIONS, Config, fit_to_layer, from_dict
from homoode_jax.experiments.config_file import CONFIGS, find_file, load_file
from homoode_jax.experiments.errors import UserError, first_line, nearest
from homoode_jax.experiments.files import expanded, local_folder
from homoode_jax.experiments.rendezvous import COME_SECONDS, MeetingFlags

HELP = """usage: homoode ACTION [--config=NAME] [--config.SECTION.KEY=VALUE ...] [--workdir=DIR]

  train                 trains a classifier, or goes on with the run in --workdir
  evaluate              evaluates the best weights in --workdir on the test images
  predict IMAGE ...     tells the classes of images, or of those in folders, by the weights in
                        --workdir; --json: a line of JSON for each
  export                writes the best weights in --workdir as a program that needs JAX only
  compare RUN RUN ...   shows runs beside each other, and in which settings they differ
  replay                repeats the step at which the run in --workdir stopped, and says why
  list                  lists configurations, layers and data sets
  describe              shows the model, its parameter counts and all settings

  --config=NAME     a configuration: one that `list` names (digits if none is given), the path
                    of a file, or of a run's config.json
  --config.A.B=V    changes a setting; describe lists them all
  --workdir=DIR     folder of the run; running again on the same folder resumes it
  --init=DIR        starts from the weights of the run in DIR
  --allow_restart   starts at step 0 where all checkpoints of the run were damaged

`python train.py` is the same program; it trains if no action is named. --mode=ACTION names one too.
Many processes (docs/cloud.md): TPU slices, Slurm and MPI say themselves who is who; elsewhere
  --coordinator=HOST:PORT --processes=N --process=I
They wait for each other for --join_seconds=120."""

ACTIONS = ["train", "evaluate", "predict", "export", "compare", "replay", "list", "describe"]
# Flags of one action alone.
OWN_FLAGS = {"json": "predict", "init": "train", "allow_restart": "train"}
OF_FILES = {"compare": " RUN RUN ...", "list": ""}  # they look at files alone


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

    `paths` are the images to predict.
    `changed` are the settings that the command line names, or None if it names a whole file.
    `notes` are what the user should know about it before it is done.
    """

    action: str
    paths: Sequence[str]
    config: Config
    changed: list[str] | None
    workdir: str
    meeting: MeetingFlags
    init: str
    allow_restart: bool
    as_json: bool = False
    notes: Sequence[str] = ()


def parse(arguments: list[str]) -> Command:
    """Reads `sys.argv`.

    Raises:
        UserError: if a flag, a setting or the configuration file is not right.
    """
    values = _define()
    program, *rest = arguments
    words = [given for given in rest if not given.startswith("-")]
    given = [given for given in rest if given.startswith("-")]
    _check_names(values, given)
    files = [argument for argument in given if _flag_name(argument) == "config"]
    file = files[-1].partition("=")[2] if files else "digits"
    content = load_file(find_file(file))
    _read_arguments(values, content, [program, *(flag for flag in given if flag not in files)])
    action, paths = _action(values, words)
    names = [_flag_name(argument) for argument in given]
    _check_belong(action, names)
    changed = [name.removeprefix("config.") for name in names if name.startswith("config.")]
    raw, notes = fit_to_layer(content.to_dict(), changed)
    return Command(
        action=action,
        paths=paths,
        config=from_dict(raw),
        changed=None if files else changed,
        workdir=str(local_folder(values.workdir, "--workdir")) if values.workdir else "",
        meeting=MeetingFlags(
            coordinator=values.coordinator,
            processes=values.processes,
            process=values.process,
            seconds=values.join_seconds,
        ),
        init=str(expanded(values.init)) if values.init else "",
        allow_restart=values.allow_restart,
        as_json=values.json,
        notes=notes,
    )


def asks_for_help(arguments: list[str]) -> bool:
    """Returns whether the arguments, or one of them, ask for help."""
    flags = (argument for argument in arguments[1:] if argument.startswith("-"))
    return any(_flag_name(flag) in ("help", "h") for flag in flags)


def _action(values: flags.FlagValues, words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Returns what is to be done, and to what paths."""
    named = values.mode or ("describe" if values.describe else "")
    if named:
        action, paths = named, words
        if words and words[0] in ACTIONS:
            raise UserError(f"{words[0]!r} and {named!r} are both named as what to do; name one.")
    else:
        action, *paths = words or ["train"]
    if action not in ACTIONS:
        is_config = (CONFIGS / f"{action}.py").exists()
        hint = f" Did you mean --config={action}?" if is_config else nearest(action, ACTIONS)
        raise UserError(
            f"unexpected argument {action!r}.{hint} What to do is one of {', '.join(ACTIONS)}; a "
            "setting is --config.section.key=value."
        )
    if action in OF_FILES:
        raise UserError(f"{action} takes no flags: homoode {action}{OF_FILES[action]}")
    if paths and action != "predict":
        raise UserError(
            f"unexpected argument {paths[0]!r}; a setting is --config.section.key=value."
        )
    if action == "predict" and not paths:
        raise UserError("predict needs images, or folders of images: homoode predict PATH ...")
    return action, paths


def _check_belong(action: str, names: Sequence[str]) -> None:
    """Refuses flags and settings that the action would not look at."""
    for name in names:
        owner = OWN_FLAGS.get(name, action)
        if owner != action:
            raise UserError(f"--{name} belongs to {owner}; {action} does not look at it.")
    of_run = action in ("predict", "export", "replay")
    settings = [name for name in names if name.partition(".")[0] == "config"]
    if of_run and settings:
        raise UserError(
            f"{action} takes all settings from the run in --workdir: drop --{settings[0]}."
        )


def _define() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    flags.DEFINE_enum("mode", "", ["", *ACTIONS], "", flag_values=values)
    flags.DEFINE_string("coordinator", "", "", flag_values=values)
    flags.DEFINE_integer("processes", 0, "", flag_values=values)
    flags.DEFINE_integer("process", -1, "", flag_values=values)
    flags.DEFINE_integer(
        "join_seconds", COME_SECONDS, "", lower_bound=1, upper_bound=86400, flag_values=values
    )
    flags.DEFINE_string("init", "", "", flag_values=values)
    flags.DEFINE_boolean("allow_restart", False, "", flag_values=values)
    flags.DEFINE_boolean("describe", False, "", flag_values=values)
    flags.DEFINE_boolean("json", False, "", flag_values=values)
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
        name = _flag_name(argument)
        if name not in known:
            raise UserError(
                f"--{name} is not a flag or setting.{nearest(name, known)} "
                "See --help, and describe for the settings."
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
