"""Trains or evaluates an image classifier: `python train.py --config=configs/digits.py`.

Any setting can be changed on the command line: `--config.train.epochs=3`. Running the same
command again on the same --workdir resumes it. `--describe` shows the model and all settings.
"""

import logging
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import logging as absl_logging

from homoode_jax.experiments import command, processes
from homoode_jax.experiments.errors import UserError, explain_os_error
from homoode_jax.experiments.stopping import Stopped

GO_ON = "the same command with the same --workdir goes on"


def main(arguments: list[str]) -> int:
    """Runs one command; returns the exit code."""
    # What goes wrong in Orbax's threads is raised too, and then told in one line.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        command.run(command.parse(arguments))
    except UserError as error:
        tell(f"error: {error}")
    except OSError as error:
        tell(f"error: {explain_os_error(error)}")
    except Stopped as stop:
        tell(f"stopped by {stop}; {GO_ON}")
        return 128 + stop.number
    except KeyboardInterrupt:
        tell(f"stopped; {GO_ON}")
        return processes.abandon(130)
    else:
        return 0
    return 2


def tell(line: str) -> None:
    """Prints a line on standard error, if somebody is still there to read it."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


if __name__ == "__main__":
    processes.leave(main(sys.argv))
