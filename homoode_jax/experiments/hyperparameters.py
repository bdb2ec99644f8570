"""The numbers of a run that its compiled steps take as arguments.

As constants they would be part of the programs, and a run with another seed, length or rate would
compile everything anew instead of finding its programs in the cache.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from homoode_jax.experiments.config import Config

Number = Float[Array, ""]
Count = Int[Array, ""]


class Cosine(NamedTuple):
    """A rate that decays from `start` to `end` along half a cosine."""

    start: Number
    end: Number


class Hyperparameters(NamedTuple):
    """Seed, lengths and rates of a run; None where its configuration leaves something out.

    What is None is not in the compiled program at all.

    Attributes:
        seed: of weights, augmentation and dropout.
        total_steps: steps of the whole run.
        early_steps: steps of the schedule's first epochs, 0 if there are none.
        loosen: factor on all tolerances at the start of the early steps.
        learning_rate: Adam's.
        weight_decay: decoupled weight decay.
        gradient_clip: largest global norm of a gradient.
        scale_decay: decoupled decay of the scale of the field's last GroupNorm.
        point_rate: learning rate of the initial point's SGD.
        point_every: steps between the initial point's updates.
        penalty: weight of the regulariser's term of the loss.
        flip: probability of a horizontal flip.
        dropout: rate of the field's channel dropout.
    """

    seed: Count
    total_steps: Number
    early_steps: Number
    loosen: Number | None
    learning_rate: Cosine
    weight_decay: Number | None
    gradient_clip: Number | None
    scale_decay: Number | None
    point_rate: Number
    point_every: Count
    penalty: Number | None
    flip: Number | None
    dropout: Number | None


def make_hyperparameters(config: Config, epoch_steps: int) -> Hyperparameters:
    """Takes the numbers from a configuration, as NumPy scalars of the model's precision."""

    def number(value: int | float) -> Any:
        with np.errstate(over="ignore", under="ignore"):  # beyond float32 it is inf, or 0
            return np.asarray(value, config.model.dtype)

    def count(value: int) -> Any:
        return np.asarray(value, np.int32)

    def if_any(value: float) -> Any:
        return number(value) if value else None

    train = config.train
    schedule = config.schedule
    regularise = config.regularise
    end = train.final_learning_rate if train.learning_rate else 0.0  # a rate of 0 stays 0
    return Hyperparameters(
        seed=count(train.seed),
        total_steps=number(epoch_steps * train.epochs),  # may be beyond int32, and is divided by
        early_steps=number(epoch_steps * schedule.epochs),
        loosen=number(schedule.loosen) if schedule.loosen != 1 else None,
        learning_rate=Cosine(number(train.learning_rate), number(end)),
        weight_decay=if_any(train.weight_decay),
        gradient_clip=if_any(train.gradient_clip),
        scale_decay=if_any(regularise.scale),
        point_rate=number(config.initial_point.learning_rate),
        point_every=count(config.initial_point.every),
        penalty=if_any(max(regularise.kinetic, regularise.jacobian)),  # one at most is there
        flip=if_any(config.data.flip),
        dropout=if_any(config.model.dropout),
    )


@jax.jit
def rate_at(rate: Cosine, progress: float | Number) -> Float[Array, ""]:
    """Returns a rate after a share of the run."""
    fall = (1 + jnp.cos(jnp.pi * jnp.minimum(progress, 1))) / 2
    return rate.end + (rate.start - rate.end) * fall


def looseness_at(hyper: Hyperparameters, step: int | Count) -> Float[Array, ""] | None:
    """Returns the factor on all tolerances at one of the early steps; it falls to 1."""
    if hyper.loosen is None:
        return None
    return hyper.loosen ** (1 - jnp.asarray(step) / hyper.early_steps)
