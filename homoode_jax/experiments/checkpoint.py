"""Checkpoints, by Orbax: the latest state to resume from, and the best weights.

Both are atomic: a save that was cut short is not there.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from homoode_jax.experiments.errors import UserError, first_line
from homoode_jax.experiments.state import TrainState
from homoode_jax.networks.classifier import Weights


class Checkpoints(NamedTuple):
    """The two managers of a workdir."""

    latest: ocp.CheckpointManager
    best: ocp.CheckpointManager


def open_checkpoints(workdir: Path) -> Checkpoints:
    """Opens `checkpoints/latest` (the last two) and `checkpoints/best` (one) in a workdir."""

    def manager(name: str, keep: int) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        return ocp.CheckpointManager((workdir / "checkpoints" / name).absolute(), options=options)

    return Checkpoints(manager("latest", 2), manager("best", 1))


def save_latest(checkpoints: Checkpoints, step: int, state: TrainState, facts: dict) -> None:
    """Starts saving the state under its step, with JSON facts beside it."""
    if step not in checkpoints.latest.all_steps():
        _save(checkpoints.latest, step, state, facts)


def save_best(checkpoints: Checkpoints, step: int, weights: Weights, facts: dict) -> None:
    """Saves the best weights, to the end: the latest state must not know of better ones.

    A resumed run meets the same best step again, and leaves it.
    """
    if step not in checkpoints.best.all_steps():
        _save(checkpoints.best, step, weights, facts)
        _finish(checkpoints.best)


def restore_latest(checkpoints: Checkpoints, like: TrainState) -> tuple[TrainState, dict] | None:
    """Returns the latest state and its facts, or None where there is none."""
    return _restore(checkpoints.latest, like)


def restore_best(checkpoints: Checkpoints, like: Weights) -> tuple[Weights, dict] | None:
    """Returns the best weights and their facts, or None where there are none."""
    return _restore(checkpoints.best, like)


def finish(checkpoints: Checkpoints) -> None:
    """Waits until everything is on disk."""
    for manager in checkpoints:
        _finish(manager)


def _finish(manager: ocp.CheckpointManager) -> None:
    try:
        manager.wait_until_finished()
    except Exception as error:
        raise _failed(manager, error) from error


def _save(manager: ocp.CheckpointManager, step: int, tree: Any, facts: dict) -> None:
    args = ocp.args.Composite(state=ocp.args.StandardSave(tree), facts=ocp.args.JsonSave(facts))
    try:
        manager.save(step, args=args)
    except Exception as error:
        raise _failed(manager, error) from error


def _restore(manager: ocp.CheckpointManager, like: Any) -> tuple[Any, dict] | None:
    step = manager.latest_step()
    if step is None:
        return None
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(shapes), facts=ocp.args.JsonRestore())
    try:
        restored = manager.restore(step, args=args)
    except Exception as error:
        raise UserError(
            f"checkpoint {manager.directory}/{step} is damaged and cannot be read: "
            f"{first_line(error)[:200]} If there is one before it, removing this folder goes on "
            "from there."
        ) from error
    return restored["state"], restored["facts"]


def _failed(manager: ocp.CheckpointManager, error: Exception) -> UserError:
    return UserError(f"cannot save a checkpoint in {manager.directory}: {first_line(error)[:200]}")
