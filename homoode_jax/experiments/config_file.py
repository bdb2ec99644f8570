"""Configuration files: Python with a function `get_config`, or the config.json of a run."""

import dataclasses
import os
import sys
import traceback
import types
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from homoode_jax.experiments.config import Config, from_dict
from homoode_jax.experiments.errors import UserError, nearest, shown
from homoode_jax.experiments.files import read_json

MODULE = "homoode_configuration"


def _configs() -> Path:
    """Returns the folder of configurations: in the package of a wheel, else beside it."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


CONFIGS = _configs()


def find_file(given: str, folder: Path = CONFIGS) -> Path:
    """Returns the file that a user names: its path, or the name of one in `folder`.

    Raises:
        UserError: if there is none; it says which there are.
    """
    there = {path.stem: path for path in sorted(folder.glob("*.py"))}
    if given in there:
        return there[given]
    file = Path(os.path.expanduser(given))
    if file.is_file():
        return file
    raise UserError(
        f"configuration file {given} does not exist.{nearest(file.stem, there)} There are "
        f"{', '.join(there)}; or give the path of a file of your own, or of a run's config.json."
    )


def load_file(file: Path) -> ConfigDict:
    """Returns the settings of a file, to be changed by name; missing ones have their defaults.

    Raises:
        UserError: if it cannot be read, or is no configuration; it says why, and in which line.
    """
    if file.suffix == ".json":
        return ConfigDict(dataclasses.asdict(from_dict(read_json(file))))
    try:
        content = _run_file(file)
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        raise UserError(
            f"configuration file {file} cannot be loaded: {_place(error, file)}{_explained(error)}."
        ) from error
    if not isinstance(content, ConfigDict):
        raise UserError(
            f"get_config() of {file} must return what `defaults()` returned, got {shown(content)}."
        )
    return _complete(content)


def _run_file(file: Path) -> Any:
    """Runs a file; nothing of it is kept, neither in memory nor beside the file."""
    module = types.ModuleType(MODULE)
    module.__file__ = str(file)
    sys.modules[MODULE] = module  # where dataclasses look for it
    try:
        exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
        if not callable(module.__dict__.get("get_config")):
            raise AttributeError("it defines no function get_config()")
        return module.get_config()
    finally:
        del sys.modules[MODULE]


def _complete(content: ConfigDict) -> ConfigDict:
    """Adds the settings that a file leaves out."""
    with content.unlocked():
        for name, section in dataclasses.asdict(Config()).items():
            if name not in content:
                content[name] = section
            given: Any = content[name]
            for key, value in section.items():
                if isinstance(given, ConfigDict) and key not in given:
                    given[key] = value
    return content


def _place(error: BaseException, file: Path) -> str:
    """Returns "line 12: " for the line of the file that an error comes from, or nothing."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    return f"line {lines[-1]}: " if lines else ""


def _explained(error: BaseException) -> str:
    """Returns kind and text of an error in one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    if isinstance(error, AttributeError) and isinstance(error.__context__, KeyError):
        text = str(error.__context__.args[0])  # ml_collections gives its quoted form
    name = type(error).__name__
    return f"{name}: {' '.join(text.split())[:300].rstrip('.?!')}" if text else name
