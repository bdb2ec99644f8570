"""The state of a training run: one pytree, everything that a resume needs."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from homoode_jax.experiments.batches import Batch
from homoode_jax.experiments.hyperparameters import Hyperparameters
from homoode_jax.experiments.optimiser import make_optimisers
from homoode_jax.networks.classifier import ImageClassifier, Output, Weights
from homoode_jax.networks.family import Layer


class Totals(NamedTuple):
    """Sums over the images so far; `Means` of them are what people see.

    `nfe_forward` counts products with the Jacobian too: each costs about an evaluation. `skipped`
    counts the steps that changed no weight, `failed_backward` the images whose solve succeeded but
    not the way back, so that they gave no gradient; they are among `failed` too. `longest` is not a
    sum: the most steps that a solve has taken.
    """

    images: Int[Array, ""]
    correct: Int[Array, ""]
    failed: Int[Array, ""]
    loss: Float[Array, ""]
    nfe_forward: Float[Array, ""]
    nfe_backward: Float[Array, ""]
    skipped: Int[Array, ""]
    longest: Int[Array, ""]
    failed_backward: Int[Array, ""]
    residual: Float[Array, ""] | None  # None for layers that solve no equation


class Means(NamedTuple):
    """Averages of `Totals` over images; `failed` counts the images whose solve failed.

    The images of a step that was skipped count as failed too. The loss is over the others, None
    where there is none.
    """

    loss: float | None
    accuracy: float
    nfe_forward: float
    nfe_backward: float
    failed: int
    skipped: int
    longest: int
    failed_backward: int
    residual: float | None


class Tally(NamedTuple):
    """What an evaluation has found so far.

    Attributes:
        totals: the sums.
        confusion: how many images of a class (row) were taken for a class (column); the last column
            has those whose solve failed.
    """

    totals: Totals
    confusion: Int[Array, "classes choices"]


class TrainState(NamedTuple):
    """Weights, optimisers, the step reached, and the sums of the epoch under way.

    `skipped` counts the steps up to this one that changed no weight, one after the other.
    """

    step: Int[Array, ""]
    skipped: Int[Array, ""]
    weights: Weights
    optimiser: Any
    initial_point_optimiser: Any
    totals: Totals


def empty_totals(dtype: str, layer: Layer) -> Totals:
    """Returns sums of nothing."""
    count = jnp.zeros((), jnp.int32)
    total = jnp.zeros((), dtype)
    solves_equation = layer.solve in ("equilibrium", "continuation")
    return Totals(
        images=count,
        correct=count,
        failed=count,
        loss=total,
        nfe_forward=total,
        nfe_backward=total,
        skipped=count,
        longest=count,
        failed_backward=count,
        residual=total if solves_equation else None,
    )


def add_batch(
    totals: Totals,
    batch: Batch,
    output: Output,
    loss: Float[Array, ""],
    solved: Bool[Array, " n"],
    vjps: Float[Array, "*batch"],
) -> Totals:
    """Adds a batch to the sums; rows that are padding count nowhere.

    Args:
        totals: the sums so far.
        batch: images and labels.
        output: what the classifier gave for them.
        loss: the sum of the loss over the rows in `solved`.
        solved: the rows whose solves succeeded.
        vjps: the products that their backward solves took.
    """
    right = (jnp.argmax(output.logits, axis=-1) == batch.labels) & solved
    images = jnp.sum(batch.mask)
    # By image: the NFE of its batch, or its own where each example is solved by itself.
    forward, backward = (
        jnp.sum(jnp.where(batch.mask, count, 0))
        for count in (output.solution.stats.evaluations, vjps)
    )
    failed = images - jnp.sum(solved)
    residual = output.solution.stats.residual
    if residual is not None:
        residual = jnp.sum(jnp.where(batch.mask, residual, 0))
    none = jnp.zeros((), jnp.int32)
    added = Totals(
        images=images,
        correct=jnp.sum(right),
        failed=failed,
        loss=loss,
        nfe_forward=forward,
        nfe_backward=backward,
        skipped=none,
        longest=none,
        failed_backward=none,
        residual=residual,
    )
    sums = jax.tree.map(lambda a, b: a + b.astype(a.dtype), totals, added)
    longest = jnp.max(jnp.where(batch.mask, output.solution.stats.num_steps, 0))
    return sums._replace(longest=jnp.maximum(totals.longest, longest))


def confuse(
    confusion: Int[Array, "classes choices"],
    batch: Batch,
    logits: Float[Array, "n classes"],
    solved: Bool[Array, " n"],
) -> Int[Array, "classes choices"]:
    """Adds a batch to the counts of `Tally`; rows that are padding count nowhere."""
    classes = confusion.shape[0]
    chosen = jnp.where(solved, jnp.argmax(logits, axis=-1), classes)
    rows = jax.nn.one_hot(jnp.where(batch.mask, batch.labels, classes), classes, dtype=jnp.int32)
    columns = jax.nn.one_hot(chosen, classes + 1, dtype=jnp.int32)
    return confusion + rows.T @ columns


def means(totals: Totals) -> Means:
    """Fetches sums from the device and divides them."""
    t = jax.device_get(totals)
    images = int(t.images)
    solved = int(t.images) - int(t.failed)
    accuracy, forward, backward = (
        float(total) / max(images, 1) for total in (t.correct, t.nfe_forward, t.nfe_backward)
    )
    return Means(
        loss=float(t.loss) / solved if solved else None,
        accuracy=accuracy,
        nfe_forward=forward,
        nfe_backward=backward,
        failed=int(t.failed),
        skipped=int(t.skipped),
        longest=int(t.longest),
        failed_backward=int(t.failed_backward),
        residual=None if t.residual is None else float(t.residual) / max(images, 1),
    )


def split_seed(seed: Int[ArrayLike, ""]) -> Key[Array, "2"]:
    """Returns the key of the weights and the key of the steps, independent of each other."""
    return jax.random.split(jax.random.key(seed))


def init_state(classifier: ImageClassifier, dtype: str, hyper: Hyperparameters) -> TrainState:
    """Draws weights and starts both optimisers."""
    key, _ = split_seed(hyper.seed)
    weights = jax.tree.map(lambda a: a.astype(dtype), classifier.init(key))
    optimisers = make_optimisers(hyper)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        weights=weights,
        optimiser=optimisers.network.init(weights.network),
        initial_point_optimiser=optimisers.initial_point.init(weights.initial_point),
        totals=empty_totals(dtype, classifier.layer),
    )


def draw_state(
    classifier: ImageClassifier, dtype: str, hyper: Hyperparameters, layout: Any = None
) -> TrainState:
    """Compiles and runs `init_state`; `layout` is the sharding of the state, or a tree of them."""
    draw = partial(init_state, classifier, dtype)
    # It runs once: on a CPU, compiling it with optimisation would take seconds longer.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(draw, out_shardings=layout, compiler_options=options)(hyper)
