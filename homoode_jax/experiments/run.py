"""A run: its configuration, folder, data, and the functions compiled for them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from homoode_jax.experiments.batches import (
    count_batches,
    count_evaluation_batches,
    evaluation_batches,
)
from homoode_jax.experiments.checkpoint import Checkpoints, open_checkpoints
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.dataset import Dataset, Split
from homoode_jax.experiments.devices import (
    check_batch_size,
    make_mesh,
    put,
    replicated,
    split_parameters,
)
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.hyperparameters import (
    Hyperparameters,
    make_hyperparameters,
    rate_at,
)
from homoode_jax.experiments.model import make_classifier
from homoode_jax.experiments.processes import compiled_together
from homoode_jax.experiments.progress import progress_bar
from homoode_jax.experiments.state import (
    Means,
    Tally,
    Totals,
    TrainState,
    draw_state,
    empty_totals,
    init_state,
    means,
)
from homoode_jax.experiments.step import CompiledSteps, make_steps
from homoode_jax.networks.classifier import ImageClassifier, Weights


@dataclass(frozen=True)
class Run:
    """Everything that training and evaluation share."""

    config: Config
    workdir: Path
    data: Dataset

    def __post_init__(self):
        train = self.config.train
        images = len(self.data.train.labels)
        check_batch_size("config.train.batch_size", train.batch_size, self.mesh)
        check_batch_size("config.train.eval_batch_size", train.eval_batch_size, self.mesh)
        if not self.epoch_steps:
            shares = self.config.data.shares
            dealt = f" in config.data.shares={shares} parts" if shares > 1 else ""
            raise UserError(
                f"config.train.batch_size={train.batch_size} is larger than the training split, "
                f"{images} images{dealt}."
            )

    @cached_property
    def mesh(self) -> Mesh:
        """Returns the mesh of all devices."""
        return make_mesh()

    @cached_property
    def classifier(self) -> ImageClassifier:
        """Returns the model."""
        return make_classifier(self.config)

    @cached_property
    def hyperparameters(self) -> Hyperparameters:
        """Returns the numbers that the compiled steps take, on every device."""
        numbers = make_hyperparameters(self.config, self.epoch_steps)
        return jax.tree.map(lambda a: put(a, replicated(self.mesh)), numbers)

    def learning_rate(self, step: int) -> float:
        """Returns the network's learning rate at a step."""
        rate = make_hyperparameters(self.config, self.epoch_steps).learning_rate
        return float(rate_at(rate, step / self.total_steps))

    @cached_property
    def steps(self) -> CompiledSteps:
        """Returns the compiled steps."""
        steps = make_steps(self.config, self.classifier, self.layout)
        return CompiledSteps(*map(compiled_together, CompiledSteps._fields, steps))

    @cached_property
    def layout(self) -> Any:
        """Returns how the state lies on the mesh: a copy on every device, unless it is split."""
        if not self.config.train.split_parameters:
            return replicated(self.mesh)
        draw = partial(init_state, self.classifier, self.config.model.dtype)
        return split_parameters(self.mesh, jax.eval_shape(draw, self.hyperparameters))

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """Returns the checkpoints in the workdir."""
        return open_checkpoints(self.workdir)

    def early_steps(self, step: int) -> int:
        """Returns the steps of the schedule's first epochs if this is one of them, or else 0."""
        early = self.epoch_steps * self.config.schedule.epochs
        return early if step < early else 0

    @cached_property
    def epoch_steps(self) -> int:
        """Returns the number of steps of one epoch."""
        return count_batches(self.data.train, self.config.train.batch_size)

    @property
    def total_steps(self) -> int:
        """Returns the number of steps of the whole run."""
        return self.epoch_steps * self.config.train.epochs

    def initial_state(self) -> TrainState:
        """Draws the state of step 0."""
        return draw_state(
            classifier=self.classifier,
            dtype=self.config.model.dtype,
            hyper=self.hyperparameters,
            layout=self.layout,
        )

    def no_totals(self) -> Totals:
        """Returns sums of nothing, on every device."""
        totals = empty_totals(self.config.model.dtype, self.classifier.layer)
        return jax.tree.map(lambda a: put(np.asarray(a), replicated(self.mesh)), totals)

    def evaluate(
        self, weights: Weights, split: Split, pause: Callable[[], None] = lambda: None
    ) -> Means:
        """Evaluates weights on a split, in a fixed order; calls `pause` between batches."""
        return means(self.tally(weights, split, pause).totals)

    def tally(
        self, weights: Weights, split: Split, pause: Callable[[], None] = lambda: None
    ) -> Tally:
        """Evaluates weights on a split, as `evaluate` does, and counts what is taken for what."""
        size = self.config.train.eval_batch_size
        classes = self.config.data.info.classes
        nothing = np.zeros((classes, classes + 1), np.int32)
        tally = Tally(self.no_totals(), put(nothing, replicated(self.mesh)))
        batches = evaluation_batches(split, size, self.mesh)
        following = next(batches, None)
        count = count_evaluation_batches(split, size)
        done = 0
        with progress_bar(count, done, doing="evaluating", unit="batches") as advance:
            while following is not None:
                pause()
                tally = self.steps.evaluate(weights, following, tally)
                following = next(batches, None)  # while the device computes
                # Without this all batches would queue up, and a stop would wait for the last.
                jax.block_until_ready(tally)
                done += 1
                advance(done, "evaluating")
        return tally
