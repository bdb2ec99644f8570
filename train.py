"""Trains or evaluates an image classifier; `python train.py --help` says how."""

import logging
import os
import sys
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import logging as absl_logging

from homoode_jax.experiments import command, processes
from homoode_jax.experiments.console import (
    accept_any_encoding,
    complain,
    pass_over_closed_loops,
    tell,
)
from homoode_jax.experiments.errors import UserError, explain_os_error
from homoode_jax.experiments.stopping import Stopped

GO_ON = "the same command with the same --workdir goes on"


def main(arguments: list[str]) -> int:
    """Runs one command; returns the exit code."""
    # What goes wrong in Orbax's threads is raised too, and then told in one line.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    pass_over_closed_loops()
    warnings.filterwarnings("ignore", "overflow encountered in cast")  # a step that fails says so
    accept_any_encoding()
    try:
        command.execute(command.parse(arguments))
    except UserError as error:
        complain(error)
    except OSError as error:
        complain(explain_os_error(error))
    except Stopped as stop:
        tell(f"stopped by {stop}; {GO_ON}")
        return 128 + stop.number
    except KeyboardInterrupt:
        tell(f"stopped; {GO_ON}")
        return processes.abandon(130)
    else:
        return 0
    return 2


if __name__ == "__main__":
    processes.leave(main(sys.argv))
