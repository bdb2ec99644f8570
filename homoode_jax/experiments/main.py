"""The program: `homoode`, or `python train.py`. A command that is not right ends here.

What needs JAX is imported once a command is known to be right: that takes seconds.
"""

import os
import sys
import traceback
from pathlib import Path

from homoode_jax.experiments import command
from homoode_jax.experiments.comparison import compare, list_choices
from homoode_jax.experiments.console import accept_any_encoding, complain, tell
from homoode_jax.experiments.errors import UserError, explain_os_error, first_line

CLOSED = 141  # 128 and SIGPIPE: what a shell says of a program whose reader has gone
# What needs no JAX and no configuration.
OF_FILES = {"compare": compare, "list": list_choices}


def main(arguments: list[str]) -> int:
    """Runs one command, of arguments like `sys.argv`; returns the exit code."""
    accept_any_encoding()
    try:
        return _run(arguments)
    except BrokenPipeError:  # `homoode list | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED


def _run(arguments: list[str]) -> int:
    if command.asks_for_help(arguments):
        print(command.HELP)
        return 0
    try:
        action, *paths = arguments[1:] or [""]
        if action in OF_FILES and not any(path.startswith("-") for path in paths):
            OF_FILES[action](paths)
            return 0
        asked = command.parse(arguments)
        from homoode_jax.experiments import execution  # seconds: all that needs JAX
    except UserError as error:
        complain(error)
        return 2
    except ValueError as error:
        if not _is_of_settings_of_jax(error):
            raise
        complain(f"JAX refuses a variable of the environment: {first_line(error)}")
        return 2
    except BrokenPipeError:
        raise
    except OSError as error:
        complain(explain_os_error(error))
        return 2
    except KeyboardInterrupt:
        tell("stopped")
        return 130
    return execution.run(asked)


def _is_of_settings_of_jax(error: ValueError) -> bool:
    """Returns whether JAX raised an error while it read its settings, as it does when imported."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).parts[-3:] == ("jax", "_src", "config.py") for frame in frames)


def leave(code: int) -> None:
    """Ends this process with an exit code, and with the others where there are some."""
    processes = sys.modules.get("homoode_jax.experiments.processes")
    if processes is None:
        sys.exit(code)
    processes.leave(code)


def homoode() -> None:
    """Runs the command `homoode`."""
    leave(main(["homoode", *(sys.argv[1:] or ["--help"])]))
