"""A step that cannot be taken: what it leaves in WORKDIR/failure, and how it is repeated.

Skipped steps change no weight, so the state before the last of them is the state after it but
for its counts.
"""

import shutil
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import Array, Bool
from rich.table import Table

from homoode_jax.experiments import files, workdir
from homoode_jax.experiments.batches import Batch
from homoode_jax.experiments.compilation import keep_programs
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.console import console
from homoode_jax.experiments.devices import use_precision
from homoode_jax.experiments.errors import UserError, first_line
from homoode_jax.experiments.hyperparameters import Hyperparameters, make_hyperparameters
from homoode_jax.experiments.model import make_classifier
from homoode_jax.experiments.optimiser import make_optimisers
from homoode_jax.experiments.processes import compiled_together, is_first, wait_for_all
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.state import TrainState, draw_state
from homoode_jax.experiments.step import Gradient, gradient, update_network
from homoode_jax.mathematics.common.solution import Result
from homoode_jax.networks.classifier import ImageClassifier

FOLDER = "failure"


class RetakenStep(NamedTuple):
    """A step that was skipped, seen again.

    Attributes:
        found: its gradient.
        solved: whether some solve succeeded.
        taken: whether the update that the gradient gives is finite.
    """

    found: Gradient
    solved: Bool[Array, ""]
    taken: Bool[Array, ""]


def write_failure(run: Run, state: TrainState, batch: Batch) -> UserError:
    """Writes the batch of a skipped step and the state before it; returns what to raise."""
    folder = run.workdir / FOLDER
    if is_first():
        _make_anew(folder)
    wait_for_all("a folder for a failure")
    before = state._replace(step=state.step - 1, skipped=state.skipped - 1, totals=run.no_totals())
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((folder / "state").absolute(), before)
    whole = multihost_utils.process_allgather(batch, tiled=True)  # also what others have
    if is_first():
        with files.replaced(folder / "batch.npz") as stream:
            np.savez(stream, **whole._asdict())
    early_steps = run.early_steps(int(before.step))
    facts = {
        "step": int(state.step),
        "early_steps": early_steps,
        "total_steps": run.total_steps,
    }
    workdir.write_json(folder / "facts.json", facts)
    look = jax.jit(partial(_retake, run.config, run.classifier, early=early_steps > 0))
    seen = compiled_together("a look at a failure", look)(before, batch, run.hyperparameters)
    why = _why_skipped(run.config, seen)
    return UserError(
        f"{int(state.skipped)} steps in a row changed no weight; in the last one, step "
        f"{facts['step']}, {why}. {folder} holds its batch and state; look "
        f"into it with: homoode replay --workdir={run.workdir}"
    )


def replay(path: str) -> dict[str, Any]:
    """Takes a step that was skipped again, update included, and shows what is wrong with it."""
    folder = Path(path) / FOLDER
    config = workdir.stored_config(Path(path)) if path else None
    if config is None or not (folder / "facts.json").exists():
        raise UserError(
            f"replay needs --workdir of a run that left a folder {FOLDER}, got {path!r}."
        )
    use_precision(config.model.dtype)
    keep_programs()
    facts = files.read_json(folder / "facts.json", step=int, early_steps=int, total_steps=int)
    classifier = make_classifier(config)
    hyper = make_hyperparameters(config, 1)._replace(
        early_steps=np.asarray(facts["early_steps"], config.model.dtype),
        total_steps=np.asarray(facts["total_steps"], config.model.dtype),
    )
    like = draw_state(classifier, config.model.dtype, hyper)
    try:
        with np.load(folder / "batch.npz") as arrays:
            batch = Batch(**{name: jax.numpy.asarray(arrays[name]) for name in Batch._fields})
        with ocp.StandardCheckpointer() as checkpointer:
            state = checkpointer.restore((folder / "state").absolute(), like)
    except Exception as error:
        raise UserError(f"{folder} cannot be read: {first_line(error)[:200]}") from error
    take = jax.jit(partial(_retake, config, classifier, early=facts["early_steps"] > 0))
    found = _facts_of(config, facts["step"], take(state, batch, hyper))
    _show(found)
    return found


def _make_anew(folder: Path) -> None:
    """Makes an empty folder in place of what is there, a link too."""
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _retake(
    config: Config,
    classifier: ImageClassifier,
    state: TrainState,
    batch: Batch,
    hyper: Hyperparameters,
    early: bool,
) -> RetakenStep:
    """Takes a step's gradient and update again, and keeps neither."""
    found = gradient(
        config=config, classifier=classifier, state=state, batch=batch, hyper=hyper, early=early
    )
    _, taken = update_network(make_optimisers(hyper), state, found)
    return RetakenStep(found=found, solved=jax.numpy.any(found.counts), taken=taken)


def _why_skipped(config: Config, seen: RetakenStep) -> str:
    """Says why a step was skipped."""
    if not seen.solved:
        return "no solve succeeded"
    if not seen.found.usable:
        return "the gradient was not finite"
    if not seen.taken:
        rate = config.train.learning_rate
        return f"the update of the weights overflowed (config.train.learning_rate={rate})"
    return "nothing is wrong when it is taken again"


def _facts_of(config: Config, step: int, seen: RetakenStep) -> dict[str, Any]:
    """Returns what a step looks like."""
    found = seen.found
    results = np.broadcast_to(found.output.solution.result, found.counts.shape)
    evaluations = np.asarray(found.output.solution.stats.evaluations)
    leaves = jax.tree_util.tree_leaves_with_path(found.network)
    return {
        "step": step,
        "verdict": _why_skipped(config, seen),
        "usable": bool(found.usable),
        "update finite": bool(seen.taken),
        "loss": float(found.loss),
        "solves": {
            Result(int(code)).name: int(np.sum(results == code)) for code in np.unique(results)
        },
        "failed backward solves": int(np.sum(np.asarray(found.vjps) < 0)),
        "evaluations": [int(evaluations.min()), int(evaluations.max())],
        "largest entry of the gradient": max(float(np.abs(leaf).max()) for _, leaf in leaves),
        "gradient not finite in": [
            ".".join(str(key.key) for key in path)
            for path, leaf in leaves
            if not np.all(np.isfinite(leaf))
        ],
    }


def _show(found: dict[str, Any]) -> None:
    table = Table(title=f"step {found['step']} again", show_header=False)
    for key, value in found.items():
        table.add_row(key, str(value))
    console.print(table)
