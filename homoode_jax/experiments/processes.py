"""Many processes as one program: joining them, and which one speaks and writes.

Each process drives its own devices; `jax.distributed` makes them one mesh. All of them need the
same command, and a --workdir and data that all of them see.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from homoode_jax.experiments.console import console
from homoode_jax.experiments.devices import check_devices
from homoode_jax.experiments.errors import UserError, first_line
from homoode_jax.experiments.rendezvous import (
    COME_SECONDS,
    Meeting,
    MeetingFlags,
    meet,
    own_address,
    split_address,
)

WAIT_SECONDS = 3600  # that they wait for each other, to compile or write
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE)
TOGETHER = (0, *(128 + number for number in STOPS))  # exit codes of all processes at the same time
DEAD_SECONDS = 60  # after which one that is silent is taken for dead
LET_GO_SECONDS = 5  # that the first stays after an error, which all may have
LEAVE_SECONDS = 60  # that one waits at the end for the others, the first of which draws and writes
TOLD_AT_ONCE = 2**13  # rows of an array; each process holds those of all for a moment
LISTEN = "JAX_COORDINATOR_BIND_ADDRESS"  # says where the coordinator listens, instead of us


def join(flags: MeetingFlags, told: dict[str, str] | None = None) -> None:
    """Joins the other processes, if flags or the environment say that there are some.

    Args:
        flags: where they meet.
        told: how this one was started, by name; all of them must have been started alike.

    Raises:
        UserError: if what they say is not complete, the others do not come, or are not alike.
    """
    if flags[:3] != MeetingFlags()[:3]:
        _check_flags(flags)
        meeting = _given_meeting(flags)
        meet(meeting, told or {})
        _initialize(
            coordinator_address=flags.coordinator,
            num_processes=flags.processes,
            process_id=flags.process,
            coordinator_bind_address=_bind_address(meeting),
        )
    elif _is_called_for():
        found = _found_meeting(flags.seconds)
        if found is not None:
            meet(found, told or {})
        _initialize()
    check_devices()
    console.quiet = not is_first()


def leave(code: int) -> NoReturn:
    """Ends this process; if the others may be gone, or go on, without waiting for them."""
    if code not in TOGETHER:
        _let_others_go()
        abandon(code)
    sys.exit(code)


def _let_others_go() -> None:
    """Waits for others that end with the same error.

    JAX's coordinator ends with the first process, and JAX then kills those that are still there,
    who have not told their error yet.
    """
    if not jax.distributed.is_initialized():
        return
    with suppress(RuntimeError):  # where there is no device
        if is_first() and are_many():
            time.sleep(LET_GO_SECONDS)


def abandon(code: int) -> int:
    """Ends this process at once where there are others, which it would wait for."""
    # Asking for the number of processes would fail again where there is no device.
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def is_first() -> bool:
    """Returns True for the process that prints, and writes all files but others' checkpoints."""
    return jax.process_index() == 0


def are_many() -> bool:
    """Returns True where there is more than one process."""
    return jax.process_count() > 1


def wait_for_all(name: str) -> None:
    """Returns once every process has come here; `name` is used once."""
    if are_many():
        everyone = set(range(jax.process_count()))
        ocp.multihost.sync_global_processes(name, timeout=WAIT_SECONDS, processes=everyone)


def compiled_together(name: str, function: Any) -> Callable[..., Any]:
    """Returns a jitted function that no process runs before all have compiled it.

    CPU devices of different processes give up on each other after half a minute, and one may have
    the program in its cache and another not. Its arguments must have the same shapes at each call.
    """
    programs = []

    def call(*args):
        if not programs:
            programs.append(function.lower(*args).compile())
            wait_for_all(f"compiled: {name}")
        return programs[0](*args)

    return call if are_many() else function


def maximum_over_processes(array: np.ndarray) -> np.ndarray:
    """Returns the element-wise maximum over all processes; entries have at most 32 bits."""
    if not are_many():
        return array
    blocks = np.split(array, range(TOLD_AT_ONCE, len(array), TOLD_AT_ONCE))
    return np.concatenate(
        [np.max(multihost_utils.process_allgather(block), axis=0) for block in blocks]
    )


@contextmanager
def deaths_told() -> Iterator[None]:
    """Says in a line that another process has died: what is computed together then fails.

    Raises:
        UserError: if it did.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not are_many():
            raise
        raise death(error) from error


def is_of_a_death(error: BaseException) -> bool:
    """Returns True for the error of a barrier, or sum, that another process does not come to."""
    if not are_many():
        return False
    causes = error.__cause__ or error.__context__
    return isinstance(error, jax.errors.JaxRuntimeError) or (
        causes is not None and is_of_a_death(causes)
    )


def death(error: Exception) -> UserError:
    """Returns what to say when an error shows that another process has died."""
    return UserError(
        f"another process has died, or cannot be reached ({first_line(error)[:200]}). "
        "Starting all of them again goes on from the last checkpoint."
    )


def _is_called_for() -> bool:
    """Returns True on slices of several TPU hosts, in Slurm steps and MPI runs of several tasks."""
    # Of the step, not of the job: a job's script is a task by itself.
    names = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    explicit = bool(os.environ.get("JAX_COORDINATOR_ADDRESS"))
    return explicit or "," in hosts or any(_tasks(name) > 1 for name in names)


def _tasks(name: str) -> int:
    """Returns the number of tasks that a variable of the environment tells; unset and empty: 1."""
    told = os.environ.get(name) or "1"
    if not told.isdecimal():
        raise UserError(f"{name}={told!r} in the environment must be a number of tasks; unset it.")
    return int(told)


def _found_meeting(seconds: int) -> Meeting | None:
    """Returns the meeting that JAX would find in the environment, or None where it finds none.

    Slurm and its like name a host that may resolve to a loopback address on itself, so process 0
    listens on every address, as JAX does then.
    """
    from jax._src import clusters  # which has no public door

    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    try:
        found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            address, None, None, None, None, seconds
        )
    except Exception as error:  # of whatever reads the environment
        raise _apart(error) from error
    address, processes, process, _ = found
    if address is None or processes is None or process is None:
        return None
    host, port = split_address(address)
    return Meeting(
        host=host, port=port, listen="", processes=processes, process=process, seconds=seconds
    )


def _given_meeting(flags: MeetingFlags) -> Meeting:
    """Returns the meeting that the flags describe; process 0 listens there and nowhere else."""
    host, port = split_address(flags.coordinator)
    listen = ""
    if flags.process == 0:
        given = os.environ.get(LISTEN)
        listen, port = split_address(given) if given else (own_address(host, port), port)
    return Meeting(
        host=host,
        port=port,
        listen=listen,
        processes=flags.processes,
        process=flags.process,
        seconds=flags.seconds,
    )


def _bind_address(meeting: Meeting) -> str | None:
    """Returns where JAX's coordinator listens; only process 0 has one."""
    if not meeting.listen:
        return None
    host = f"[{meeting.listen}]" if ":" in meeting.listen else meeting.listen
    return f"{host}:{meeting.port}"


def _check_flags(flags: MeetingFlags) -> None:
    if not flags.coordinator or flags.processes < 1 or not 0 <= flags.process < flags.processes:
        raise UserError(
            f"--coordinator={flags.coordinator!r} --processes={flags.processes} "
            f"--process={flags.process} do not go together: the address HOST:PORT of process 0, "
            "how many there are, and which one this is, from 0 on."
        )


def _initialize(**given) -> None:
    # Its thread would take SIGTERM, also where nothing is there yet to be saved; see `stopping`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=COME_SECONDS,
            heartbeat_timeout_seconds=DEAD_SECONDS,
            shutdown_timeout_seconds=LEAVE_SECONDS,
        )
    except Exception as error:
        raise _apart(error) from error


def _apart(error: Exception) -> UserError:
    return UserError(f"the processes did not come together: {first_line(error)[:300]}")
