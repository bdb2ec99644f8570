"""One run at a time in a workdir: a lock that the system lets go when its process ends."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from homoode_jax.experiments import files
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.processes import is_first

NAME = "run.lock"


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the lock of a folder, which is made if it is not there; of many processes the first.

    Raises:
        UserError: if another process has it, or the folder cannot be written in.
    """
    if not is_first():
        yield
        return
    file = workdir / NAME
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        files.refuse_link(file)
        lock = filelock.FileLock(file)
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise UserError(
            f"{workdir} is in use by {_holder(file)}; wait until it ends, or use another --workdir."
        ) from error
    except OSError as error:
        raise UserError(f"cannot write in workdir {workdir}: {error.strerror}.") from error
    try:
        files.overwrite_text(file, f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        lock.release()


def _holder(file: Path) -> str:
    try:
        return file.read_text().strip() or "another run"
    except OSError:
        return "another run"
