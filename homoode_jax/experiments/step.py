"""One step of training and one of evaluation: pure, jitted functions on a pytree state.

Numbers that change from run to run are arguments, `Hyperparameters`: what a step reads from the
configuration is a constant of its program.

They run on a mesh with one data axis: batches are split over it, the state is on every device,
and means (BatchNorm, error norms, losses) are over the global batch, which is what a jitted
function of a sharded array means.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from homoode_jax.experiments.batches import Batch, augment, normalise
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.hyperparameters import Hyperparameters, looseness_at
from homoode_jax.experiments.model import (
    counts_backward,
    early_options,
    is_per_example,
)
from homoode_jax.experiments.optimiser import Optimisers, make_optimisers
from homoode_jax.experiments.state import Tally, TrainState, add_batch, confuse, split_seed
from homoode_jax.networks.classifier import ImageClassifier, Output, Weights
from homoode_jax.networks.initial_point import move_centre


class Gradient(NamedTuple):
    """What the training images of a step give.

    Attributes:
        loss: mean of the task's loss over the images whose solve succeeded.
        output: logits and solution.
        counts: whether an image's solve succeeded.
        network: gradient of the loss, regularisers included, with respect to the network.
        vjps: products that the backward solve took, negative where it failed.
        usable: whether weights may be updated: some solve succeeded, and all is finite.
    """

    loss: Float[Array, ""]
    output: Output
    counts: Bool[Array, " n"]
    network: PyTree[Array]
    vjps: Float[Array, "*batch"]
    usable: Bool[Array, ""]


class CompiledSteps(NamedTuple):
    """The compiled functions of a run; `early` is the training step of its first epochs."""

    train: Callable[[TrainState, Batch, Hyperparameters], TrainState]
    early: Callable[[TrainState, Batch, Hyperparameters], TrainState]
    evaluate: Callable[[Weights, Batch, Tally], Tally]


def make_steps(config: Config, classifier: ImageClassifier, layout: Any = None) -> CompiledSteps:
    """Compiles the steps of a run; the training state's buffers are donated.

    `layout` is the sharding of the state, or a tree of them.
    """
    compiled = partial(jax.jit, donate_argnums=0, out_shardings=layout)
    step = partial(train_step, config, classifier)
    evaluate = partial(evaluation_step, config, classifier)
    return CompiledSteps(
        train=compiled(step),
        early=compiled(partial(step, early=True)),
        evaluate=jax.jit(evaluate, donate_argnums=2),
    )


def train_step(
    config: Config,
    classifier: ImageClassifier,
    state: TrainState,
    batch: Batch,
    hyper: Hyperparameters,
    early: bool = False,
) -> TrainState:
    """Updates the network by the task's loss, and the initial point by its own.

    Where the gradient cannot be used, nothing but the counts changes. `early` says that this is a
    step of the schedule's first epochs.
    """
    optimisers = make_optimisers(hyper)
    found = gradient(
        config=config, classifier=classifier, state=state, batch=batch, hyper=hyper, early=early
    )
    (network, batch_stats, optimiser), taken = update_network(optimisers, state, found)
    point, point_optimiser = _update_initial_point(
        classifier=classifier,
        optimiser=optimisers.initial_point,
        state=state,
        found=found,
        due=(state.step % hyper.point_every == 0) & taken,
    )
    solved = found.counts & (found.vjps >= 0) & taken
    loss = jnp.where(taken, found.loss, 0) * jnp.sum(solved)
    totals = add_batch(
        totals=state.totals,
        batch=batch,
        output=found.output,
        loss=loss,
        solved=solved,
        vjps=jnp.abs(found.vjps),
    )
    lost = found.counts & (found.vjps < 0)
    totals = totals._replace(
        skipped=totals.skipped + jnp.where(taken, 0, 1),
        failed_backward=totals.failed_backward + jnp.sum(lost, dtype=jnp.int32),
    )
    return TrainState(
        step=state.step + 1,
        skipped=jnp.where(taken, 0, state.skipped + 1),
        weights=Weights(network, point, batch_stats),
        optimiser=optimiser,
        initial_point_optimiser=point_optimiser,
        totals=totals,
    )


def gradient(
    config: Config,
    classifier: ImageClassifier,
    state: TrainState,
    batch: Batch,
    hyper: Hyperparameters,
    early: bool,
) -> Gradient:
    """Augments the images of a step, classifies them, and differentiates the loss."""
    key = jax.random.fold_in(split_seed(hyper.seed)[1], state.step)
    augment_key, dropout_key = jax.random.split(key)
    images = augment(augment_key, batch.images, hyper.flip, config.data.crop_padding)
    images = normalise(images, config.data.mean, config.data.std, config.model.dtype)

    options = early_options(config, looseness_at(hyper, state.step)) if early else None

    def loss(network, probe):
        weights = state.weights._replace(network=network)
        output = classifier(
            weights,
            images,
            key=dropout_key,
            dropout=hyper.dropout,
            backward_probe=probe,
            options=options,
        )
        counts = jnp.broadcast_to(output.solution.success, batch.labels.shape)
        task = cross_entropy(output.logits, batch.labels, counts)
        penalty = 0 if hyper.penalty is None else hyper.penalty * output.penalty
        return task + penalty, (task, output, counts)

    derive = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    probe = jnp.zeros(batch.labels.shape if is_per_example(config) else (), images.dtype)
    (total, (value, output, counts)), (network, vjps) = derive(state.weights.network, probe)
    if not counts_backward(config):
        vjps = jnp.zeros_like(vjps)
    return Gradient(
        loss=value,
        output=output,
        counts=counts,
        network=network,
        vjps=vjps,
        usable=jnp.any(counts) & _is_finite((total, network)),
    )


def evaluation_step(
    config: Config, classifier: ImageClassifier, weights: Weights, batch: Batch, tally: Tally
) -> Tally:
    """Adds one batch to the sums; padding rows count nowhere, failed solves as wrong answers."""
    images = normalise(batch.images, config.data.mean, config.data.std, config.model.dtype)
    output = classifier(weights, images, mask=batch.mask)
    losses = optax.softmax_cross_entropy_with_integer_labels(output.logits, batch.labels)
    solved = output.solution.success & batch.mask
    loss = jnp.sum(jnp.where(solved, losses, 0))
    totals = add_batch(
        totals=tally.totals,
        batch=batch,
        output=output,
        loss=loss,
        solved=solved,
        vjps=jnp.zeros((), loss.dtype),
    )
    return Tally(totals, confuse(tally.confusion, batch, output.logits, solved))


def update_network(optimisers: Optimisers, state: TrainState, found: Gradient):
    """Returns network, batch statistics and optimiser, and whether they are new.

    They are the old ones where the gradient cannot be used, or would overflow Adam's moments.
    """
    old = state.weights.network, state.weights.batch_stats, state.optimiser
    updates, optimiser = optimisers.network.update(found.network, state.optimiser, old[0])
    new = optax.apply_updates(old[0], updates), found.output.batch_stats, optimiser
    taken = found.usable & _is_finite(new)
    return jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, old), taken


def _is_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
    finite = jax.tree.map(lambda leaf: jnp.all(jnp.isfinite(leaf)), tree)
    return jax.tree.reduce(jnp.logical_and, finite)


def _update_initial_point(classifier, optimiser, state, found: Gradient, due):
    """Moves the initial point towards z(1) where it is due; returns it with its optimiser's state.

    Args:
        classifier: has the initial point.
        optimiser: the initial point's.
        state: the state before the step.
        found: what the step's images gave.
        due: whether this is a step that moves it.
    """
    output = found.output
    counts = found.counts
    point = state.weights.initial_point
    before = state.initial_point_optimiser
    if not point:
        return point, before
    z1 = output.solution.z

    def regress():
        def loss(params):
            z0 = classifier.initial_point(params, lax.stop_gradient(output.features))
            return initial_point_loss(z0, z1, counts)

        updates, after = optimiser.update(jax.grad(loss)(point), before, point)
        return optax.apply_updates(point, updates), after

    def follow():
        return jax.tree.map(lambda centre: move_centre(centre, z1, counts), point), before

    update = follow if classifier.sizes.initial_point == "huber" else regress
    return lax.cond(due, update, lambda: (point, before))


def cross_entropy(
    logits: Float[Array, "n classes"], labels: Int[Array, " n"], counts: Bool[Array, " n"]
) -> Float[Array, ""]:
    """Returns the mean cross-entropy over the rows that count (zero if none does)."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(jnp.where(counts, losses, 0)) / jnp.maximum(jnp.sum(counts), 1)


def initial_point_loss(
    point: Float[Array, "*point c"], z1: Float[Array, "n h w c"], counts: Bool[Array, " n"]
) -> Float[Array, ""]:
    """Returns the smooth-L1 distance (beta 1) of an initial point to z(1).

    The point has any shape that broadcasts; the final states are held fixed.
    """
    losses = optax.huber_loss(jnp.broadcast_to(point, z1.shape), lax.stop_gradient(z1), delta=1.0)
    means = jnp.mean(losses, axis=(1, 2, 3))
    return jnp.sum(jnp.where(counts, means, 0)) / jnp.maximum(jnp.sum(counts), 1)
