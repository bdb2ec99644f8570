"""Doing what a command asks for, and saying in a line how it ended."""

import logging
import warnings

import jax
from absl import logging as absl_logging

from homoode_jax.experiments import processes
from homoode_jax.experiments.command import Command
from homoode_jax.experiments.config import name_classes
from homoode_jax.experiments.console import complain, pass_over_closed_loops, say, tell
from homoode_jax.experiments.devices import check_devices, check_settings
from homoode_jax.experiments.errors import UserError, explain_os_error, shown
from homoode_jax.experiments.evaluation import evaluate
from homoode_jax.experiments.exporting import export_run
from homoode_jax.experiments.failure import replay
from homoode_jax.experiments.image_folder import left_out
from homoode_jax.experiments.prediction import predict
from homoode_jax.experiments.record import how_started
from homoode_jax.experiments.report import describe
from homoode_jax.experiments.settings import DataSettings
from homoode_jax.experiments.stopping import Stopped
from homoode_jax.experiments.training import train

OF_DATA = ("train", "evaluate", "describe")  # what looks at the data that a configuration names
OUT_OF_MEMORY = (
    "the device's memory does not suffice. Lower config.train.batch_size or config.model.channels; "
    "config.solver.adjoint=backsolve keeps no steps of an ODE solve."
)
GO_ON = "the same command with the same --workdir goes on"


def run(command: Command) -> int:
    """Does what the user asked for; returns the exit code."""
    # What goes wrong in Orbax's threads is raised too, and then told in one line.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    pass_over_closed_loops()
    warnings.filterwarnings("ignore", "overflow encountered in cast")  # a step that fails says so
    try:
        _execute(command)
    except UserError as error:
        complain(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        complain(explain_os_error(error))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        complain(OUT_OF_MEMORY)
    except Stopped as stop:
        tell(f"stopped by {stop}; {GO_ON}")
        return 128 + stop.number
    except KeyboardInterrupt:
        tell(f"stopped; {GO_ON}")
        return processes.abandon(130)
    else:
        return 0
    return 2


def _execute(command: Command) -> None:
    check_settings()
    config = name_classes(command.config) if command.action in OF_DATA else command.config
    if command.action != "describe":
        started = how_started(command.action, config, command.workdir, command.init)
        processes.join(command.meeting, started)
    of_data = _notes(config.data) if command.action in ("train", "describe") else []
    for note in [*command.notes, *of_data]:
        say(note)
    if command.action == "describe":
        check_devices()
        describe(config, command.workdir)
    elif command.action == "evaluate":
        evaluate(command.workdir, config, command.changed)
    elif command.action == "predict":
        predict(command.workdir, command.paths, command.as_json)
    elif command.action == "export":
        export_run(command.workdir)
    elif command.action == "replay":
        replay(command.workdir)
    else:
        train(config, command.workdir, command.init, command.allow_restart)


def _notes(data: DataSettings) -> list[str]:
    """Returns what of the data that a command names is not used."""
    if data.dataset == "folder" and data.data_dir:
        return left_out(data.data_dir)
    if data.dataset == "digits" and data.data_dir:
        return [f"config.data.data_dir={shown(data.data_dir)} is not used: digits need none"]
    return []
