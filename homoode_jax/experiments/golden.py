"""The golden step of a run: by it, a record of training can be held against later code.

It is the first training step of the run's model at its seed, in float32, on a batch that is the
same for ever. Another processor rounds otherwise, and one step magnifies rounding little, so that a
difference beyond `RTOL` is due to the code.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from homoode_jax.experiments.batches import Batch
from homoode_jax.experiments.config import Config, from_dict, to_dict
from homoode_jax.experiments.hyperparameters import make_hyperparameters
from homoode_jax.experiments.model import make_classifier
from homoode_jax.experiments.state import draw_state
from homoode_jax.experiments.step import gradient

IMAGES = 8
EPOCH_STEPS = 100  # the first step hardly knows how long its run is
RTOL = 1e-3


def golden_step(config: Config) -> dict[str, Any]:
    """Returns the configuration, and the loss, gradient norm and NFE of its first step."""
    model = dataclasses.replace(config.model, dtype="float32")
    config = dataclasses.replace(config, model=model)
    classifier = make_classifier(config)
    hyper = make_hyperparameters(config, EPOCH_STEPS)
    step = jax.jit(functools.partial(gradient, config, classifier, early=False))
    state = draw_state(classifier, "float32", hyper)
    found = jax.device_get(step(state=state, batch=_batch(config), hyper=hyper))
    return {
        "config": to_dict(config),
        "loss": float(found.loss),
        "gradient_norm": float(optax.tree.norm(found.network)),
        "nfe": float(np.mean(found.output.solution.stats.evaluations)),
    }


def _batch(config: Config) -> Batch:
    """Returns noise with labels, the same for every configuration of a data set."""
    info = config.data.info
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, *info.shape), np.uint8)
    labels = np.arange(IMAGES, dtype=np.int32) % info.classes
    return Batch(jnp.asarray(images), jnp.asarray(labels), jnp.ones(IMAGES, bool))


def compare(recorded: dict[str, Any]) -> list[str]:
    """Takes a recorded golden step again; returns what differs beyond rounding, a phrase each."""
    now = golden_step(from_dict(recorded["config"]))
    return [
        f"{name} {recorded[name]:.6g} is now {now[name]:.6g}"
        for name in ("loss", "gradient_norm", "nfe")
        if not np.isclose(now[name], recorded[name], rtol=RTOL, atol=0)
    ]
