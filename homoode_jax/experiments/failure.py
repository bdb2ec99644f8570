"""A step that cannot be taken: what it leaves in WORKDIR/failure, and how it is repeated.

Skipped steps change no weight, so the state before the last of them is the state after it but
for its counts.
"""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from rich.table import Table

from homoode_jax.experiments import files, workdir
from homoode_jax.experiments.batches import Batch
from homoode_jax.experiments.console import console
from homoode_jax.experiments.errors import UserError, first_line
from homoode_jax.experiments.optimiser import make_optimisers
from homoode_jax.experiments.processes import is_first, wait_for_all
from homoode_jax.experiments.run import Run, keep_programs, use_precision
from homoode_jax.experiments.state import TrainState, draw_state
from homoode_jax.experiments.step import Gradient, gradient, make_classifier
from homoode_jax.mathematics.solution import Result

NAME = "failure"


def leave(run: Run, state: TrainState, batch: Batch) -> UserError:
    """Writes the batch of a skipped step and the state before it; returns what to raise."""
    folder = run.workdir / NAME
    if is_first():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    wait_for_all("a folder for a failure")
    before = state._replace(step=state.step - 1, skipped=state.skipped - 1, totals=run.no_totals())
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((folder / "state").absolute(), before)
    whole = multihost_utils.process_allgather(batch, tiled=True)  # also what others have
    if is_first():
        with files.replaced(folder / "batch.npz") as stream:
            np.savez(stream, **whole._asdict())
    facts = {"step": int(state.step), "early_steps": run.early_steps(int(before.step))}
    workdir.write_json(folder / "facts.json", facts)
    return UserError(
        f"{int(state.skipped)} steps in a row changed no weight, the last one step "
        f"{facts['step']}: no solve succeeded, or the gradient was not finite. {folder} holds its "
        f"batch and state; look into it with: python train.py --mode=replay --workdir={run.workdir}"
    )


def replay(path: str) -> dict[str, Any]:
    """Takes the gradient of a step that was skipped again, and shows what is wrong with it."""
    folder = Path(path) / NAME
    config = workdir.stored_config(Path(path)) if path else None
    if config is None or not (folder / "facts.json").exists():
        raise UserError(
            f"--mode=replay needs --workdir of a run that left a folder {NAME}, got {path!r}."
        )
    use_precision(config.model.dtype)
    keep_programs()
    facts, classifier = workdir.read_json(folder / "facts.json"), make_classifier(config)
    like = draw_state(classifier, make_optimisers(config, 1), 0, config.model.dtype)
    try:
        with np.load(folder / "batch.npz") as arrays:
            batch = Batch(**{name: jax.numpy.asarray(arrays[name]) for name in Batch._fields})
        with ocp.StandardCheckpointer() as checkpointer:
            state = checkpointer.restore((folder / "state").absolute(), like)
    except Exception as error:
        raise UserError(f"{folder} cannot be read: {first_line(error)[:200]}") from error
    take = jax.jit(partial(gradient, config, classifier, early_steps=facts["early_steps"]))
    found = _explain(facts["step"], take(state, batch))
    _show(found)
    return found


def _explain(step: int, found: Gradient) -> dict[str, Any]:
    """What a gradient looks like."""
    results = np.broadcast_to(found.output.solution.result, found.counts.shape)
    evaluations = np.asarray(found.output.solution.stats.evaluations)
    leaves = jax.tree_util.tree_leaves_with_path(found.network)
    return {
        "step": step,
        "usable": bool(found.usable),
        "loss": float(found.loss),
        "solves": {Result(int(code)).name: int(np.sum(results == code))
                   for code in np.unique(results)},
        "failed backward solves": int(np.sum(np.asarray(found.vjps) < 0)),
        "evaluations": [int(evaluations.min()), int(evaluations.max())],
        "largest entry of the gradient": max(float(np.abs(leaf).max()) for _, leaf in leaves),
        "gradient not finite in": [
            ".".join(str(key.key) for key in path) for path, leaf in leaves
            if not np.all(np.isfinite(leaf))
        ],
    }  # fmt: skip


def _show(found: dict[str, Any]) -> None:
    table = Table(title=f"step {found['step']} again", show_header=False)
    for key, value in found.items():
        table.add_row(key, str(value))
    console.print(table)
