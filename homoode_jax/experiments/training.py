"""Training: from the start, or from where a run was cut off, to its summary."""

import time
from pathlib import Path
from typing import Any

import jax

from homoode_jax.experiments import checkpoint, lock, report, workdir
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.console import say
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.epoch import Facts, is_unrecorded, train_epoch
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.memory import (
    hand_back_after_compiling,
    leave_imports_uncollected,
)
from homoode_jax.experiments.plots import draw_curves
from homoode_jax.experiments.processes import deaths_told, is_first
from homoode_jax.experiments.progress import progress_bar
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.run import Run, keep_programs, use_precision
from homoode_jax.experiments.state import TrainState
from homoode_jax.experiments.stopping import Pause, stoppable
from homoode_jax.experiments.tensorboard import open_log

REDRAW_SECONDS = 30  # and curves.png is drawn anew


def train(config: Config, path: str) -> dict[str, Any]:
    """Trains a run to its end, resuming it if it was begun; returns its summary.

    Raises:
        UserError: if it cannot be begun or gone on with.
        Stopped: if a signal asked it to stop; its state is saved.
    """
    use_precision(config.model.dtype)
    keep_programs()
    hand_back_after_compiling()
    leave_imports_uncollected()
    folder = workdir.find_workdir(path, config)
    finished = folder / "summary.json"
    if finished.exists():
        summary = workdir.read_json(finished, layer=str, dataset=str)
    else:
        with deaths_told():
            run = Run(config, folder, load(config.data))
        with lock.locked(folder), stoppable() as pause, deaths_told():
            workdir.claim_workdir(folder, config)
            workdir.write_json(folder / "environment.json", environment())
            summary = _summary(run, *_train(run, *_restore(run), pause), pause)
            workdir.write_json(finished, summary)
            _draw(folder)
    report.show_summary(summary, folder)
    return summary


def _restore(run: Run) -> tuple[TrainState, Facts]:
    """Restores the latest state, or draws the first one."""
    state, facts = run.initial_state(), Facts()
    restored = checkpoint.restore_latest(run.checkpoints, state, mend=True)
    if restored is not None:
        state, facts = restored[0], Facts(**restored[1])
    workdir.truncate_metrics(run.workdir, int(state.step) - is_unrecorded(run, state))
    return state, facts


def _train(run: Run, state: TrainState, facts: Facts, pause: Pause) -> tuple[TrainState, Facts]:
    """Trains epoch by epoch to the end."""
    say(_greeting(run, int(state.step)))
    log, drawn = open_log(run.config, run.workdir, int(state.step)), time.monotonic()
    with progress_bar(run.total_steps, int(state.step)) as advance:
        while int(state.step) < run.total_steps or is_unrecorded(run, state):
            state, facts = train_epoch(run, state, facts, advance, log, pause)
            if time.monotonic() - drawn > REDRAW_SECONDS:
                _draw(run.workdir)
                drawn = time.monotonic()
    checkpoint.finish(run.checkpoints)
    return state, facts


def _summary(run: Run, state: TrainState, facts: Facts, pause: Pause) -> dict[str, Any]:
    """Evaluates the best weights on the test split, once."""
    best = checkpoint.restore_best(run.checkpoints, state.weights, mend=True)
    if best is None and facts.best_accuracy is not None:
        raise UserError(f"{run.workdir}/checkpoints/best is gone; the best weights are lost.")
    weights = state.weights if best is None else best[0]
    test = run.evaluate(weights, run.data.test, pause)
    return {
        "dataset": run.config.data.dataset,
        "layer": run.config.model.layer,
        "parameters": report.count_parameters(state.weights.network),
        "initial_point_parameters": report.count_parameters(state.weights.initial_point),
        "validation_accuracy": best and best[1]["validation_accuracy"],
        "test_accuracy": test.accuracy,
        "epochs": run.config.train.epochs,
        "nfe_forward": test.nfe_forward,
        "failed_solves": test.failed,
        "residual": test.residual,
        "seconds": facts.seconds,
    }


def _draw(folder: Path) -> None:
    if is_first():
        draw_curves(workdir.read_metrics(folder), folder / "curves.png")


def _greeting(run: Run, step: int) -> str:
    train, validation, test = (len(split.labels) for split in run.data)
    at = f"resuming after step {step} of {run.total_steps}" if step else f"{run.total_steps} steps"
    return (
        f"{run.config.model.layer} on {run.config.data.dataset} · {train} training, {validation} "
        f"validation, {test} test images · {jax.device_count()} {jax.default_backend()} device(s) "
        f"· {at} · workdir {run.workdir}"
    )
