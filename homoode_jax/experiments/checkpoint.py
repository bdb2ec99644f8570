"""Checkpoints, by Orbax: the latest states to resume from, and the best weights.

They are atomic: a save that was cut short is not there. Each holds a checksum of what was saved;
one that cannot be read back as it was is set aside, and the one before it is used.
"""

import json
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import Array, PyTree, UInt32

from homoode_jax.experiments.console import say
from homoode_jax.experiments.errors import UserError, first_line, is_out_of_room, no_room
from homoode_jax.experiments.processes import is_first, wait_for_all
from homoode_jax.experiments.state import TrainState
from homoode_jax.networks.classifier import Weights

KEPT = 2  # the newest, and one to fall back on


class Checkpoints(NamedTuple):
    """The two managers of a workdir."""

    latest: ocp.CheckpointManager
    best: ocp.CheckpointManager


def open_checkpoints(workdir: Path) -> Checkpoints:
    """Opens `checkpoints/latest` and `checkpoints/best` in a workdir."""

    def manager(name: str) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, create=True)
        return ocp.CheckpointManager((workdir / "checkpoints" / name).absolute(), options=options)

    return Checkpoints(manager("latest"), manager("best"))


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


def restore_latest(
    checkpoints: Checkpoints, like: TrainState, mend: bool = False
) -> tuple[TrainState, dict] | None:
    """Returns the latest state and its facts, or None where there is none.

    Damaged checkpoints are passed over, and where `mend` is True, for whoever has the folder's
    lock, set aside.

    Raises:
        UserError: if there are some, and none can be read.
    """
    return _restore(checkpoints.latest, like, mend)


def restore_best(
    checkpoints: Checkpoints, like: Weights, mend: bool = False
) -> tuple[Weights, dict] | None:
    """Returns the best weights and their facts, likewise."""
    return _restore(checkpoints.best, like, mend)


def finish(checkpoints: Checkpoints) -> None:
    """Waits until everything is on disk."""
    for manager in checkpoints:
        _finish(manager)


def checksum(tree: PyTree[Array], facts: dict) -> int:
    """A number that any one changed bit of arrays or facts changes, on any number of devices."""
    sums = [int(total) for total in jax.device_get(_sums(jax.tree.leaves(tree)))]
    return zlib.crc32(json.dumps([sums, facts], sort_keys=True).encode())


@jax.jit
def _sums(leaves: list[Array]) -> list[UInt32[Array, ""]]:
    """Sums of the leaves' bits modulo 2^32, each entry with an odd factor of its own."""

    def total(leaf: Array) -> UInt32[Array, ""]:
        bits = jax.lax.bitcast_convert_type(leaf, jnp.uint32).ravel()
        factors = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
        return jnp.sum(bits * factors, dtype=jnp.uint32)

    return [total(leaf) for leaf in leaves]


def _finish(manager: ocp.CheckpointManager) -> None:
    try:
        manager.wait_until_finished()
    except Exception as error:
        raise _failed(manager, error) from error


def _save(manager: ocp.CheckpointManager, step: int, tree: Any, facts: dict) -> None:
    if not Path(manager.directory).is_dir():  # Orbax would make it anew
        raise UserError(f"{manager.directory} was removed while the run was going on.")
    kept = {**facts, "checksum": checksum(tree, facts)}
    args = ocp.args.Composite(state=ocp.args.StandardSave(tree), facts=ocp.args.JsonSave(kept))
    try:
        manager.save(step, args=args)
    except Exception as error:
        raise _failed(manager, error) from error


def _restore(manager: ocp.CheckpointManager, like: Any, mend: bool) -> tuple[Any, dict] | None:
    steps = sorted(manager.all_steps(), reverse=True)
    for step in steps:
        try:
            return _read(manager, step, like)
        except Exception as error:
            folder = Path(manager.directory) / str(step)
            wait_for_all(f"{folder} is damaged")
            moved = f" and set aside in {_set_aside(folder)}" if mend and is_first() else ""
            wait_for_all(f"{folder} is set aside")
            say(f"warning: checkpoint {folder} is damaged ({first_line(error)[:200]}){moved}.")
            manager.reload()
    if steps:
        raise UserError(
            f"none of the checkpoints in {manager.directory} can be read"
            + ("; without them, the same command starts from the beginning." if mend else ".")
        )
    return None


def _read(manager: ocp.CheckpointManager, step: int, like: Any) -> tuple[Any, dict]:
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(shapes), facts=ocp.args.JsonRestore())
    restored = manager.restore(step, args=args)
    facts = dict(restored["facts"])
    if facts.pop("checksum", None) != checksum(restored["state"], facts):
        raise ValueError("its checksum is another one")
    return restored["state"], facts


def _set_aside(folder: Path) -> Path:
    """Moves a checkpoint to where nobody looks for one."""
    name = f"{folder.parent.name}-{folder.name}-{time.time():.0f}"
    aside = folder.parent.parent / "damaged" / name
    aside.parent.mkdir(exist_ok=True)
    folder.rename(aside)
    return aside


def _failed(manager: ocp.CheckpointManager, error: Exception) -> UserError:
    if is_out_of_room(error):
        return UserError(no_room(str(manager.directory)))
    return UserError(f"cannot save a checkpoint in {manager.directory}: {first_line(error)[:200]}")
