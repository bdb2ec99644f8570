"""A trained model of a study, opened for a closer look at some images."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from benchmarks.compare.measure import open_run
from homoode_jax.experiments.augmentation import normalise
from homoode_jax.experiments.dataset import Split
from homoode_jax.experiments.run import Run
from homoode_jax.networks.classifier import Output, Weights
from homoode_jax.networks.field import Condition


class Trained(NamedTuple):
    """A finished run, with the weights of its last step."""

    run: Run
    weights: Weights

    def look(self, split: Split, count: int | None = None) -> Output:
        """Classifies the first images of a split."""
        data = self.run.config.data
        images = normalise(jnp.asarray(split.images[:count]), data.mean, data.std, "float32")
        return jax.jit(self.run.classifier)(self.weights, images)

    def field(self):
        """Returns F as field(params, t, z, x), and its params."""
        function, params = self.run.classifier.function(self.weights)
        return lambda params, t, z, x: function(params, z, x), params

    def cell(self) -> tuple[Any, PyTree[Array]]:
        """Returns F as cell(params, z, x), and its params."""
        return self.run.classifier.function(self.weights)

    def problem(self, output: Output) -> tuple[Float[Array, "n h w c"], Condition]:
        """Returns z0 (for all pixels) and the condition."""
        z0 = self.run.classifier.initial_point(self.weights.initial_point, output.features)
        return jnp.broadcast_to(z0, output.features.shape), Condition(output.features, None)


def open_trained(workdir: Path) -> Trained:
    """Opens a finished run."""
    run, state = open_run(workdir)
    return Trained(run, state.weights)
