"""Checkpoints, by Orbax: the latest states to resume from, and the best weights.

They are atomic: a save that was cut short is not there. Each holds a checksum of what was saved;
one that cannot be read back as it was is set aside, and the one before it is used.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.options import AsyncOptions

from homoode_jax.experiments.console import say
from homoode_jax.experiments.damage import (
    Diagnosis,
    Kind,
    agreed,
    checksum,
    diagnose,
    inspect,
    label,
)
from homoode_jax.experiments.errors import UserError, first_line, is_out_of_room, no_room
from homoode_jax.experiments.processes import (
    WAIT_SECONDS,
    are_many,
    death,
    is_first,
    is_of_a_death,
    wait_for_all,
)
from homoode_jax.experiments.state import TrainState
from homoode_jax.networks.classifier import Weights

KEPT = 2  # the newest, and one to fall back on
ASIDE = "damaged"
# Orbax measures its waits by the clock of the day: set forward, that would end a save that is well.
# Where it makes folders behind the run's back, it waits for them too, within a limit of its own.
NO_LIMIT = 10**9  # seconds


class Checkpoints(NamedTuple):
    """The two managers of a workdir."""

    latest: ocp.CheckpointManager
    best: ocp.CheckpointManager


def open_checkpoints(workdir: Path, create: bool = True) -> Checkpoints:
    """Opens `checkpoints/latest` and `checkpoints/best` in a workdir; makes them if asked to."""
    limit = WAIT_SECONDS if are_many() else NO_LIMIT

    def manager(name: str) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT,
            create=create,
            async_options=AsyncOptions(timeout_secs=limit, create_directories_asynchronously=False),
        )
        return ocp.CheckpointManager((workdir / "checkpoints" / name).absolute(), options=options)

    return Checkpoints(manager("latest"), manager("best"))


def save_latest(checkpoints: Checkpoints, step: int, state: TrainState, facts: dict) -> None:
    """Starts saving the state under its step, with JSON facts beside it."""
    if step not in checkpoints.latest.all_steps():
        _save_step(checkpoints.latest, step, state, facts)


def save_best(checkpoints: Checkpoints, step: int, weights: Weights, facts: dict) -> None:
    """Saves the best weights, to the end: the latest state must not know of better ones.

    A resumed run meets the same best step again, and leaves it.
    """
    if step not in checkpoints.best.all_steps():
        _save_step(checkpoints.best, step, weights, facts)
        _finish_manager(checkpoints.best)


def restore_latest(
    checkpoints: Checkpoints, like: TrainState, mend: bool = False, restart: bool = False
) -> tuple[TrainState, dict] | None:
    """Returns the latest state and its facts, or None where there is none.

    Damaged checkpoints are passed over, and where `mend` is True, for whoever has the folder's
    lock, set aside. Where `restart` is True, None is returned also if all of them were damaged.

    Raises:
        UserError: if one cannot be read for another reason than damage, or none is whole.
    """
    manager = checkpoints.latest
    there = bool(manager.all_steps())
    found = _restore(manager, like, mend)
    if found is not None:
        step, state, facts = found
        _check_step(Path(manager.directory) / str(step), state)
        return state, facts
    if there and not mend:
        raise UserError(f"none of the checkpoints in {manager.directory} can be read.")
    aside = Path(manager.directory).parent / ASIDE
    if mend and not restart and any(aside.glob(f"{manager.directory.name}-*")):
        raise UserError(
            f"all checkpoints of this run were damaged; they are in {aside}. To go on from "
            f"one that you mended, move it back into {manager.directory}, named by its step; "
            "--allow_restart starts at step 0."
        )
    return None


def restore_best(
    checkpoints: Checkpoints, like: Weights, mend: bool = False
) -> tuple[Weights, dict] | None:
    """Returns the best weights and their facts, likewise; None also where they were damaged."""
    found = _restore(checkpoints.best, like, mend)
    return None if found is None else found[1:]


def leave_later_best(checkpoints: Checkpoints, step: int) -> None:
    """Moves best weights of later steps than the one a run goes on from out of the way.

    They would keep it from saving its own, and it comes by their steps again.
    """
    later = [found for found in checkpoints.best.all_steps() if found > step]
    if is_first():
        for found in later:
            _move(Path(checkpoints.best.directory) / str(found), "later")
    if later:
        wait_for_all(f"later ones than {step} are out of the way")
        checkpoints.best.reload()


def finish(checkpoints: Checkpoints) -> None:
    """Waits until everything is on disk."""
    for manager in checkpoints:
        _finish_manager(manager)


@contextmanager
def finished_in_the_end(checkpoints: Checkpoints) -> Iterator[None]:
    """Waits for saves under way also where a run ends by an error, before its lock is let go.

    The next run would take their unfinished files for those of a run that died, and clear them
    away under their writers. Of many processes one may be dead, and nobody waits.
    """
    try:
        yield
    except BaseException:
        if not are_many():
            with suppress(Exception):  # the run ends by the first error
                finish(checkpoints)
        raise


def _finish_manager(manager: ocp.CheckpointManager) -> None:
    try:
        manager.wait_until_finished()
    except Exception as error:
        raise _failed(manager, error) from error


def _save_step(manager: ocp.CheckpointManager, step: int, tree: Any, facts: dict) -> None:
    if not Path(manager.directory).is_dir():  # Orbax would make it anew
        raise UserError(f"{manager.directory} was removed while the run was going on.")
    kept = label(tree, facts)
    args = ocp.args.Composite(state=ocp.args.StandardSave(tree), facts=ocp.args.JsonSave(kept))
    try:
        saved = manager.save(step, args=args)
    except Exception as error:
        raise _failed(manager, error) from error
    if not saved:
        raise UserError(
            f"the checkpoint of step {step} cannot be saved in {manager.directory}, because there "
            f"is one of step {manager.latest_step()}; move that one away."
        )


def _restore(manager: ocp.CheckpointManager, like: Any, mend: bool) -> tuple[int, Any, dict] | None:
    """Returns the newest one that is whole: its step, its content and its facts."""
    for step in sorted(manager.all_steps(), reverse=True):
        folder = Path(manager.directory) / str(step)
        found, diagnosis = _read_step(manager, step, like)
        if found is not None:
            return step, *found
        if diagnosis.kind != Kind.DAMAGED:
            raise UserError(
                f"checkpoint {folder} cannot be used: {diagnosis.why}. It is left as it is"
                f"{_advice(diagnosis.kind)}"
            )
        wait_for_all(f"{folder} is damaged")
        moved = f" and set aside in {_move(folder, ASIDE)}" if mend and is_first() else ""
        wait_for_all(f"{folder} is set aside")
        say(f"warning: checkpoint {folder} is damaged ({diagnosis.why}){moved}.")
        manager.reload()
    return None


def _advice(kind: Kind) -> str:
    if kind == Kind.OTHER:
        return "; it takes the program and the settings that wrote it, or use another --workdir."
    return "; once it can be read again, the same command goes on from it."


def _read_step(
    manager: ocp.CheckpointManager, step: int, like: Any
) -> tuple[tuple[Any, dict] | None, Diagnosis]:
    """Returns state and facts, or why there are none; all processes return alike."""
    kept, diagnosis = inspect(Path(manager.directory) / str(step), like)
    diagnosis = agreed(diagnosis)
    if diagnosis.kind != Kind.WHOLE:
        return None, diagnosis
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(shapes), facts=ocp.args.JsonRestore())
    state = None
    try:
        state = manager.restore(step, args=args)["state"]
    except Exception as error:
        diagnosis = diagnose(error, kept)
    diagnosis = agreed(diagnosis)
    if diagnosis.kind != Kind.WHOLE:
        return None, diagnosis
    if kept["checksum"] != checksum(state, kept["facts"]):
        return None, Diagnosis(Kind.DAMAGED, "its checksum is another one")
    return (state, kept["facts"]), diagnosis


def _check_step(folder: Path, state: TrainState) -> None:
    """Refuses a state in a folder of another step's name, which later saves would stay behind."""
    if folder.name != str(int(state.step)):
        raise UserError(
            f"checkpoint {folder} holds the state of step {int(state.step)}; rename it so, "
            "or move it away."
        )


def _move(folder: Path, where: str) -> Path:
    """Moves a checkpoint to where nobody looks for one."""
    name = f"{folder.parent.name}-{folder.name}-{time.time():.0f}"
    to = folder.parent.parent / where / name
    to.parent.mkdir(exist_ok=True)
    folder.rename(to)
    return to


def _failed(manager: ocp.CheckpointManager, error: Exception) -> UserError:
    if is_of_a_death(error):
        return death(error)
    if is_out_of_room(error):
        return UserError(no_room(str(manager.directory)))
    return UserError(f"cannot save a checkpoint in {manager.directory}: {first_line(error)[:200]}")
