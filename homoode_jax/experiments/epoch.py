"""One epoch: its steps, its evaluation, its line on record, and what is saved of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from homoode_jax.experiments import checkpoint, failure, report, workdir
from homoode_jax.experiments.batches import training_batches
from homoode_jax.experiments.console import say
from homoode_jax.experiments.model import step_limit
from homoode_jax.experiments.progress import Advance
from homoode_jax.experiments.report import Log
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.state import Means, TrainState, means
from homoode_jax.experiments.stopping import Pause, Stopped

REFRESH_SECONDS = 0.5  # the moving figures are fetched from the device at most this often
NEAR_THE_LIMIT = 0.75  # share of the steps allowed that is near their end


class Facts(NamedTuple):
    """What is known of a run beside its state; saved with it as JSON.

    `row` is the last one on record, for a metrics.jsonl whose end is lost. `seconds` are those of
    the run, and `epoch_seconds` what of them the epoch under way has had. `data` is a digest.
    """

    best_accuracy: float | None = None
    best_loss: float | None = None
    seconds: float = 0.0
    row: dict[str, Any] | None = None
    epoch_seconds: float = 0.0
    data: str | None = None

    def after(self, began: float) -> "Facts":
        """Returns the facts after the time since `began`."""
        spent = time.monotonic() - began
        return self._replace(seconds=self.seconds + spent, epoch_seconds=self.epoch_seconds + spent)


def is_unrecorded(run: Run, state: TrainState) -> bool:
    """Returns True if an epoch's steps are all taken, and it is not yet validated and on record."""
    return int(state.step) % run.epoch_steps == 0 and int(state.totals.images) > 0


def train_epoch(
    run: Run, state: TrainState, facts: Facts, advance: Advance, log: Log, pause: Pause
) -> tuple[TrainState, Facts]:
    """Trains to the end of the epoch under way; validates, records and saves."""
    began = time.monotonic()
    if not is_unrecorded(run, state):
        state = _take_steps(run, state, facts, advance, pause)
    step = int(state.step)
    trained = means(state.totals)
    advance(step, report.moving(step // run.epoch_steps, trained))
    with _saved_if_stopped(run, state, facts, began):
        validated, tested = _evaluate_splits(run, state, pause)
    state = state._replace(totals=run.no_totals())
    facts = facts.after(began)
    row = _row(
        run=run,
        step=step,
        trained=trained,
        validated=validated,
        tested=tested,
        seconds=facts.epoch_seconds,
    )
    workdir.append_metrics(run.workdir, row)
    say(report.epoch_line(row, run.config.train.epochs))
    log(row)
    _warn_of_limit(run, row)
    facts = facts._replace(epoch_seconds=0.0, row=row)
    if validated is not None and _better(validated, facts):
        facts = facts._replace(best_accuracy=validated.accuracy, best_loss=validated.loss)
        found = {"epoch": row["epoch"], "validation_accuracy": validated.accuracy}
        checkpoint.save_best(run.checkpoints, step, state.weights, found)
    checkpoint.save_latest(run.checkpoints, step, state, facts._asdict())
    return state, facts


def _evaluate_splits(
    run: Run, state: TrainState, pause: Pause
) -> tuple[Means | None, Means | None]:
    """Evaluates on the validation split, and on the test split if asked to."""
    data = run.data
    train = run.config.train
    validated = (
        run.evaluate(state.weights, data.validation, pause) if len(data.validation.labels) else None
    )
    tested = run.evaluate(state.weights, data.test, pause) if train.test_each_epoch else None
    return validated, tested


@contextmanager
def _saved_if_stopped(run: Run, state: TrainState, facts: Facts, began: float) -> Iterator[None]:
    """Saves the state before a stop, with the time since `began`."""
    try:
        yield
    except Stopped:
        now = facts.after(began)
        checkpoint.save_latest(run.checkpoints, int(state.step), state, now._asdict())
        checkpoint.finish(run.checkpoints)
        say(f"saved after step {int(state.step)} of {run.total_steps}")
        raise


def _warn_of_limit(run: Run, row: dict[str, Any]) -> None:
    """Says so when solves come near the steps that they may take."""
    limit = step_limit(run.config)
    if limit is not None and row["longest"] > NEAR_THE_LIMIT * limit[1]:
        say(
            f"warning: a solve took {row['longest']} steps of {limit[0]}={limit[1]}; beyond them "
            "it fails. Raise it, loosen the tolerance, or regularise (config.regularise)."
        )


def _better(validated: Means, facts: Facts) -> bool:
    """Compares by accuracy, and by loss where that is equal: None if no solve succeeded."""
    if facts.best_accuracy is None or validated.accuracy != facts.best_accuracy:
        return facts.best_accuracy is None or validated.accuracy > facts.best_accuracy
    if validated.loss is None or facts.best_loss is None:
        return validated.loss is not None
    return validated.loss < facts.best_loss


def _take_steps(
    run: Run, state: TrainState, facts: Facts, advance: Advance, pause: Pause
) -> TrainState:
    """Takes the steps that the epoch under way still has."""
    train = run.config.train
    step = int(state.step)
    epoch, done = divmod(step, run.epoch_steps)
    take = run.steps.early if run.early_steps(step) else run.steps.train
    began = shown = time.monotonic()
    batches = training_batches(
        split=run.data.train,
        size=train.batch_size,
        seed=train.seed,
        epoch=epoch,
        start=done,
        mesh=run.mesh,
    )
    following = next(batches, None)
    while following is not None:
        with _saved_if_stopped(run, state, facts, began):
            pause()
        batch = following
        state = take(state, batch, run.hyperparameters)
        following = next(batches, None)  # while the device computes
        step += 1
        if int(state.skipped) >= train.max_skipped:
            raise failure.write_failure(run, state, batch)
        if time.monotonic() - shown > REFRESH_SECONDS:
            advance(step, report.moving(epoch + 1, means(state.totals)))
            shown = time.monotonic()
        # The end of an epoch is saved by `train_epoch`, once it is validated and on record.
        if train.checkpoint_every and step % train.checkpoint_every == 0 and following is not None:
            now = facts.after(began)
            checkpoint.save_latest(run.checkpoints, step, state, now._asdict())
    return state


def _row(
    run: Run,
    step: int,
    trained: Means,
    validated: Means | None,
    tested: Means | None,
    seconds: float,
) -> dict[str, Any]:
    return {
        "epoch": step // run.epoch_steps,
        "step": step,
        "train_loss": trained.loss,
        "train_accuracy": trained.accuracy,
        "validation_loss": None if validated is None else validated.loss,
        "validation_accuracy": None if validated is None else validated.accuracy,
        "test_accuracy": None if tested is None else tested.accuracy,
        "nfe_forward": trained.nfe_forward,
        "nfe_backward": trained.nfe_backward,
        "failed": trained.failed,
        "failed_backward": trained.failed_backward,
        "skipped": trained.skipped,
        "longest": trained.longest,
        "residual": trained.residual,
        "learning_rate": run.learning_rate(step - 1),
        "seconds": seconds,
    }
