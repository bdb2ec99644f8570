"""Evaluation of a run from its checkpoint alone."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from homoode_jax.experiments import report, workdir
from homoode_jax.experiments.compilation import keep_programs
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.confusion import (
    Confusion,
    by_class,
    draw_confusion,
    show_confusion,
)
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.devices import use_precision
from homoode_jax.experiments.errors import UserError, explain_os_error
from homoode_jax.experiments.inference import restore_weights
from homoode_jax.experiments.processes import deaths_told, is_first
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.state import means


def evaluate(path: str, command: Config, only: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluates the best weights of a run, or its latest, on the test split.

    Writes evaluation.json and confusion.png in the workdir. `command` is the configuration asked
    for: it must be the run's own (in the settings `only`, if given), but may say where the data is
    now.
    """
    folder = Path(path)
    config = _config(path, command.data.data_dir)
    workdir.check_same(folder, command, config, only)
    use_precision(config.model.dtype)
    keep_programs()
    with deaths_told():
        result, confusion = _evaluated(Run(config, folder, load(config.data)))
    report.show_summary(result, folder)
    show_confusion(confusion)
    result["accuracy_by_class"] = by_class(confusion)
    try:
        workdir.write_json(folder / "evaluation.json", result)
        if is_first():
            report.is_drawn(draw_confusion, confusion, folder / "confusion.png")
    except OSError as error:
        raise UserError(
            f"the evaluation is complete, but {folder}/evaluation.json cannot be written: "
            f"{explain_os_error(error)}"
        ) from error
    return result


def _evaluated(run: Run) -> tuple[dict[str, Any], Confusion]:
    """Evaluates the best weights of a run, or its latest, and says what is taken for what."""
    weights, facts = restore_weights(run.workdir, run.checkpoints, run.initial_state())
    tally = run.tally(weights, run.data.test)
    test = means(tally.totals)
    confusion = Confusion(run.config.data.info.names, jax.device_get(tally.confusion))
    result = {
        "dataset": run.config.data.dataset,
        "layer": run.config.model.layer,
        **facts,
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
        "nfe_forward": test.nfe_forward,
        "failed_solves": test.failed,
        "residual": test.residual,
    }
    return result, confusion


def _config(path: str, data_dir: str) -> Config:
    stored = workdir.config_of_run(path, "evaluate")
    if not data_dir:
        return stored
    return dataclasses.replace(stored, data=dataclasses.replace(stored.data, data_dir=data_dir))
