"""Training: from the start, or from where a run was cut off, to its summary."""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import jax

from homoode_jax.experiments import checkpoint, report, workdir
from homoode_jax.experiments.compilation import (
    hand_back_after_compiling,
    keep_programs,
    leave_imports_uncollected,
)
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.console import say
from homoode_jax.experiments.dataset import digest, load
from homoode_jax.experiments.devices import use_precision
from homoode_jax.experiments.epoch import Facts, is_unrecorded, train_epoch
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.processes import deaths_told, is_first, wait_for_all
from homoode_jax.experiments.progress import progress_bar
from homoode_jax.experiments.record import write_environment
from homoode_jax.experiments.report import draw_curves, is_drawn, open_log
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.state import TrainState
from homoode_jax.experiments.stopping import Pause, stoppable
from homoode_jax.networks.classifier import Weights

REDRAW_SECONDS = 30  # and curves.png is drawn anew
AHEAD = 2  # epochs that may be on record before the first checkpoint is saved


def train(config: Config, path: str, init: str = "", allow_restart: bool = False) -> dict[str, Any]:
    """Trains a run to its end, resuming it if it was begun; returns its summary.

    Args:
        config: what to train.
        path: the folder of the run.
        init: the folder of another run, whose weights a new run starts from; "" for none.
        allow_restart: start at step 0 if all checkpoints were damaged.

    Raises:
        UserError: if it cannot be begun or gone on with.
        Stopped: if a signal asked it to stop; its state is saved.
    """
    use_precision(config.model.dtype)
    keep_programs()
    hand_back_after_compiling()
    leave_imports_uncollected()
    folder = workdir.find_workdir(path, config)
    if init:
        check_init(init)
    summary = workdir.finished_summary(folder, config)
    if summary is None:
        with deaths_told():
            run = Run(config, folder, load(config.data))
        with workdir.locked(folder), stoppable() as pause, deaths_told():
            changed = workdir.claim_workdir(folder, config)
            if changed:
                say(changed)
            write_environment(folder)
            with checkpoint.finished_in_the_end(run.checkpoints):
                start = _restore_or_draw(run, init, allow_restart)
                summary = _summary(run, *_train_epochs(run, *start, pause), pause)
            workdir.write_json(folder / "summary.json", summary)
            _draw(folder)
    report.show_summary(summary, folder)
    return summary


def _restore_or_draw(run: Run, init: str, allow_restart: bool) -> tuple[TrainState, Facts]:
    """Restores the latest state, or makes the first one."""
    state = run.initial_state()
    facts = Facts()
    wait_for_all("the data are read")  # CPU devices give each other half a minute from here on
    restored = checkpoint.restore_latest(run.checkpoints, state, mend=True, restart=allow_restart)
    if restored is None and not allow_restart:
        _check_nothing_recorded(run)
    if restored is not None:
        state = restored[0]
        facts = Facts(**restored[1])
        _check_length(run, int(state.step))
        _check_data(run, facts)
        if init:
            say(f"--init={init} is left aside: the run goes on from its own checkpoint")
    elif init:
        state = state._replace(weights=weights_of(init, run, state.weights))
    checkpoint.leave_later_best(run.checkpoints, int(state.step))
    recorded = int(state.step) - is_unrecorded(run, state)
    workdir.mend_metrics(run.workdir, recorded, facts.row)
    return state, facts._replace(data=digest(run.data))


def _check_length(run: Run, step: int) -> None:
    if step > run.total_steps:
        raise UserError(
            f"the latest checkpoint in {run.workdir} is of step {step}, beyond the "
            f"{run.total_steps} steps of this run; use another --workdir, or move it away."
        )


def _check_nothing_recorded(run: Run) -> None:
    """Refuses to begin where epochs are on record: what they led to is gone."""
    recorded = len(workdir.read_metrics(run.workdir))
    if recorded > AHEAD:
        raise UserError(
            f"{run.workdir} has {recorded} epochs on record and no checkpoint; bring its folder "
            "checkpoints back, use another --workdir, or begin anew with --allow_restart."
        )


def _check_data(run: Run, facts: Facts) -> None:
    """Refuses other data than the run began with: what was validated on would be trained on."""
    if facts.data not in (None, digest(run.data)):
        raise UserError(
            f"the data are not those that the run in {run.workdir} began with: there are more or "
            f"fewer images, or other classes. Use another --workdir; --init={run.workdir} starts "
            "from its weights."
        )


def _train_epochs(
    run: Run, state: TrainState, facts: Facts, pause: Pause
) -> tuple[TrainState, Facts]:
    """Trains epoch by epoch to the end."""
    say(_greeting(run, int(state.step)))
    log = open_log(run.config, run.workdir, int(state.step))
    drawn = time.monotonic()
    with progress_bar(run.total_steps, int(state.step)) as advance:
        while int(state.step) < run.total_steps or is_unrecorded(run, state):
            state, facts = train_epoch(
                run=run, state=state, facts=facts, advance=advance, log=log, pause=pause
            )
            if time.monotonic() - drawn > REDRAW_SECONDS:
                drawn = time.monotonic() if _draw(run.workdir) else math.inf
    checkpoint.finish(run.checkpoints)
    return state, facts


def _summary(run: Run, state: TrainState, facts: Facts, pause: Pause) -> dict[str, Any]:
    """Evaluates the best weights on the test split, once, or the latest where those are lost."""
    best = checkpoint.restore_best(run.checkpoints, state.weights, mend=True)
    if best is None:
        weights = state.weights
        validation = _validate_latest(run, state, pause)
    else:
        weights = best[0]
        validation = best[1]["validation_accuracy"]
    test = run.evaluate(weights, run.data.test, pause)
    return {
        "dataset": run.config.data.dataset,
        "layer": run.config.model.layer,
        "parameters": report.count_parameters(state.weights.network),
        "initial_point_parameters": report.count_parameters(state.weights.initial_point),
        "weights": "latest" if best is None else "best",
        "validation_accuracy": validation,
        "test_accuracy": test.accuracy,
        "epochs": run.config.train.epochs,
        "nfe_forward": test.nfe_forward,
        "failed_solves": test.failed,
        "residual": test.residual,
        "seconds": facts.seconds,
    }


def _validate_latest(run: Run, state: TrainState, pause: Pause) -> float | None:
    """Returns the accuracy of the latest weights, and says that they take the best ones' place.

    Without a validation split there are no best weights, and nothing is lost.
    """
    if not len(run.data.validation.labels):
        return None
    say(
        f"warning: the best weights in {run.workdir}/checkpoints/best are lost; the run ends with "
        "the latest ones."
    )
    return run.evaluate(state.weights, run.data.validation, pause).accuracy


def _draw(folder: Path) -> bool:
    """Draws the curves of a run; returns False, and says why, where they cannot be drawn."""
    if not is_first():
        return True
    return is_drawn(draw_curves, workdir.read_metrics(folder), folder / "curves.png")


def _greeting(run: Run, step: int) -> str:
    train, validation, test = (len(split.labels) for split in run.data)
    at = f"resuming after step {step} of {run.total_steps}" if step else f"{run.total_steps} steps"
    return (
        f"{run.config.model.layer} on {run.config.data.dataset} · {train} training, {validation} "
        f"validation, {test} test images · {jax.device_count()} {jax.default_backend()} device(s) "
        f"· {at} · workdir {run.workdir}"
    )


def check_init(path: str) -> None:
    """Refuses a folder that holds no run with a checkpoint, before anything is computed."""
    if workdir.stored_config(Path(path)) is None:
        raise UserError(
            f"--init={path} must be the folder of a run, with its config.json; it has none."
        )
    if not (Path(path) / "checkpoints" / "latest").is_dir():
        raise UserError(f"--init={path}: that run has no checkpoint yet.")


def weights_of(path: str, run: Run, like: Weights) -> Weights:
    """Returns the best weights of the run in a folder, or its latest where it has no best ones.

    Args:
        path: the folder, as `check_init` lets it pass; nothing is written there.
        run: the run that is to start from them.
        like: weights of that run.

    Raises:
        UserError: if it has no whole checkpoint, or weights of another model.
    """
    folder = Path(path)
    try:
        return _restored(folder, run, like)
    except UserError as error:
        raise UserError(f"--init={path}: {error}") from error


def _restored(folder: Path, run: Run, like: Weights) -> Weights:
    checkpoints = checkpoint.open_checkpoints(folder, create=False)
    best = checkpoint.restore_best(checkpoints, like)
    if best is not None:
        say(f"starting from the best weights of {folder}, of epoch {best[1]['epoch']}")
        return best[0]
    config = workdir.stored_config(folder) or run.config
    # The data are this run's, and may hold fewer images than a batch of the other one.
    train = dataclasses.replace(config.train, batch_size=run.config.train.batch_size)
    other = Run(dataclasses.replace(config, train=train), folder, run.data)
    latest = checkpoint.restore_latest(checkpoints, other.initial_state())
    if latest is None:
        raise UserError("that run has no checkpoint yet.")
    weights = latest[0].weights
    if _forms(weights) != _forms(like):
        raise UserError("its weights are of another model: a layer, channels, classes or a dtype.")
    say(f"starting from the latest weights of {folder}, of step {int(latest[0].step)}")
    return weights


def _forms(weights: Weights) -> Any:
    """Returns the shape and dtype of each array."""
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), weights)
