"""A trained model of a study, opened for a closer look at some images."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from homoode_jax.experiments import checkpoint
from homoode_jax.experiments.batches import normalise
from homoode_jax.experiments.compilation import keep_programs
from homoode_jax.experiments.dataset import Split, load
from homoode_jax.experiments.devices import use_precision
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.state import TrainState
from homoode_jax.experiments.workdir import stored_config
from homoode_jax.networks.classifier import Output, Weights, as_field
from homoode_jax.networks.field import Condition


class Trained(NamedTuple):
    """A finished run, with the state of its last step."""

    run: Run
    state: TrainState

    @property
    def weights(self) -> Weights:
        """Returns the weights of the last step."""
        return self.state.weights

    def look(self, split: Split, count: int | None = None) -> Output:
        """Classifies the first images of a split."""
        data = self.run.config.data
        images = normalise(jnp.asarray(split.images[:count]), data.mean, data.std, "float32")
        return jax.jit(self.run.classifier)(self.weights, images)

    def field(self):
        """Returns F as the field(params, t, z, x) that it is in training, and its params."""
        function, params = self.cell()
        return as_field(function), params

    def cell(self) -> tuple[Any, PyTree[Array]]:
        """Returns F as cell(params, z, x), and its params."""
        return self.run.classifier.function(self.weights)

    def problem(self, output: Output) -> tuple[Float[Array, "n h w c"], Condition]:
        """Returns z0 (for all pixels) and the condition."""
        z0 = self.run.classifier.initial_point(self.weights.initial_point, output.features)
        return jnp.broadcast_to(z0, output.features.shape), Condition(output.features, None)


def open_trained(workdir: Path) -> Trained:
    """Opens a finished run."""
    config = stored_config(workdir)
    if config is None:
        raise UserError(f"{workdir} holds no run.")
    use_precision(config.model.dtype)
    keep_programs()
    run = Run(config, workdir, load(config.data))
    found = checkpoint.restore_latest(run.checkpoints, run.initial_state())
    if found is None:
        raise UserError(f"{workdir} holds no checkpoint yet; train it first.")
    return Trained(run, found[0])


def for_workdir(module: str, arguments: list[str], do: Callable[[Trained], None]) -> int:
    """Does something with the run that the one argument names; returns the exit code."""
    if len(arguments) != 2:
        print(f"usage: python -m {module} WORKDIR", file=sys.stderr)
        return 2
    try:
        do(open_trained(Path(arguments[1])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
