"""The folder of a run: config.json, metrics.jsonl, summary.json, and the lock on it.

Whole files are replaced atomically; metrics are appended a line at a time. Of many processes the
first one writes.
"""

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from homoode_jax.experiments import files
from homoode_jax.experiments.config import Config, differing_settings, from_dict, to_dict
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.files import read_json
from homoode_jax.experiments.processes import are_many, is_first

# A data set may move between a run's start and its resume.
MAY_DIFFER = ("data.data_dir",)
LENGTH = "train.epochs"
UNFINISHED = ".orbax-checkpoint-tmp"  # in the names of folders that Orbax is still writing
LOCK = "run.lock"


def find_workdir(path: str, config: Config) -> Path:
    """Returns the folder of a run, new or to be resumed; writes nothing.

    Raises:
        UserError: if it is some other folder, or holds the run of another configuration.
    """
    if are_many() and not path:
        raise UserError("many processes need a --workdir that all of them see; none was given.")
    workdir = Path(path or time.strftime(f"runs/{config.data.dataset}-%Y%m%d-%H%M%S"))
    stored = stored_config(workdir)
    if stored is not None:
        if not _is_longer(config, stored):
            check_same(workdir, config, stored)
    elif workdir.is_dir() and any(map(_is_foreign, workdir.iterdir())):
        raise UserError(
            f"{workdir} is not empty and not the folder of a run; use another --workdir."
        )
    return workdir


def _is_longer(config: Config, stored: Config) -> bool:
    """Returns True if a configuration is a stored one but for more epochs."""
    others = differing_settings(config, stored, (*MAY_DIFFER, LENGTH))
    return not others and config.train.epochs > stored.train.epochs


def _is_foreign(file: Path) -> bool:
    return file.suffix != ".tmp" and file.name != LOCK


def check_same(
    workdir: Path, config: Config, stored: Config, only: Sequence[str] | None = None
) -> None:
    """Refuses a configuration other than the one stored, naming what differs.

    `only`, if given, are the settings that count, as "section.key".
    """
    changed = [
        difference
        for difference in differing_settings(config, stored, MAY_DIFFER)
        if only is None or difference.split(":")[0] in only
    ]
    if changed:
        raise UserError(
            f"{workdir} holds a run with another configuration: {'; '.join(changed)}. "
            "Use the same settings to go on with it, or another --workdir."
        )


def claim_workdir(workdir: Path, config: Config) -> str:
    """Writes the configuration of a run into its folder, unless another run was quicker.

    Returns:
        What changed, for a run that is to be longer than it was, or "".
    """
    find_workdir(str(workdir), config)
    stored = stored_config(workdir)
    before = None
    if stored is not None and _is_longer(config, stored):
        before = stored.train.epochs
    try:
        if before is not None:
            _keep_summary(workdir, before)
        write_json(workdir / "config.json", to_dict(config))
    except OSError as error:
        raise UserError(f"cannot write in workdir {workdir}: {error.strerror}.") from error
    remove_unfinished(workdir)
    if before is None:
        return ""
    return (
        f"config.train.epochs is {config.train.epochs}, not {before} as before: the run goes on, "
        f"from here on with the learning rates of {config.train.epochs} epochs"
    )


def finished_summary(workdir: Path, config: Config) -> dict[str, Any] | None:
    """Returns the summary of a run that has ended, or None if there is more of it to train."""
    file = workdir / "summary.json"
    stored = stored_config(workdir)
    if not file.exists() or (stored is not None and _is_longer(config, stored)):
        return None
    return read_json(file, layer=str, dataset=str)


def _keep_summary(workdir: Path, epochs: int) -> None:
    """Puts the summary of a shorter run away, under the number of its epochs."""
    file = workdir / "summary.json"
    if is_first() and file.exists():
        os.replace(file, workdir / f"summary-{epochs}-epochs.json")


def remove_unfinished(workdir: Path) -> None:
    """Removes what was being written when a process died; for whoever has the folder's lock."""
    if not is_first():
        return
    files.remove_leftovers(workdir)
    for folder in (workdir / "checkpoints").glob(f"*/*{UNFINISHED}*"):
        shutil.rmtree(folder, ignore_errors=True)


def stored_config(workdir: Path) -> Config | None:
    """Returns the configuration of the run in a folder, or None if there is none."""
    file = workdir / "config.json"
    if not file.exists():
        return None
    return from_dict(read_json(file))


def config_of_run(path: str, action: str) -> Config:
    """Returns the configuration of the run in a folder, for what needs that there is one."""
    stored = stored_config(Path(path)) if path else None
    if stored is None:
        raise UserError(
            f"{action} needs --workdir of a run (a folder with config.json), got {path!r}."
        )
    return stored


def write_json(file: Path, content: Any) -> None:
    """Replaces a JSON file; it is whole at every moment."""
    if not is_first():
        return
    files.replace_text(file, json.dumps(content, indent=2) + "\n")


def append_metrics(workdir: Path, row: dict[str, Any]) -> None:
    """Adds one line to metrics.jsonl."""
    if not is_first():
        return
    if not workdir.is_dir():
        raise UserError(f"{workdir} was removed while the run was going on.")
    files.append_text(workdir / "metrics.jsonl", json.dumps(row) + "\n")


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Returns the rows of metrics.jsonl; lines that were cut short are left out."""
    return files.read_rows(workdir / "metrics.jsonl")


def mend_metrics(workdir: Path, step: int, last: dict[str, Any] | None) -> None:
    """Removes the rows after a step, which a resumed run writes anew.

    `last` is the row that a checkpoint knows: it is put back where a line was cut short.
    """
    if not is_first():
        return
    kept = {row["step"]: row for row in read_metrics(workdir)}
    if last is not None:
        kept[last["step"]] = last
    text = "".join(json.dumps(kept[at]) + "\n" for at in sorted(kept) if at <= step)
    files.replace_text(workdir / "metrics.jsonl", text)


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the lock of a folder, which is made if it is not there; of many processes the first.

    Raises:
        UserError: if another process has it, or the folder cannot be written in.
    """
    if not is_first():
        yield
        return
    file = workdir / LOCK
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
