"""One step of training and one of evaluation: pure, jitted functions on a pytree state.

They run on a mesh with one data axis: batches are split over it, the state is on every device,
and means (BatchNorm, error norms, losses) are over the global batch, which is what a jitted
function of a sharded array means.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from homoode_jax.experiments.augmentation import augment, normalise
from homoode_jax.experiments.batches import Batch
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.losses import cross_entropy, initial_point_loss
from homoode_jax.experiments.optimiser import Optimisers
from homoode_jax.experiments.sources import INFO
from homoode_jax.experiments.state import Totals, TrainState, split_seed
from homoode_jax.mathematics.integrate import integrate
from homoode_jax.networks.classifier import Architecture, ImageClassifier, Output, Weights


class Steps(NamedTuple):
    """The compiled functions of a run."""

    train: Callable[[TrainState, Batch], TrainState]
    evaluate: Callable[[Weights, Batch, Totals], Totals]


def make_classifier(config: Config) -> ImageClassifier:
    """Builds the classifier that a configuration describes."""
    info, model, solver = INFO[config.data.dataset], config.model, config.solver
    sizes = Architecture(
        info.shape[2], info.classes, model.channels, model.width, model.groups, model.stride,
        model.dropout, config.initial_point.learned,
        None if model.field_dtype == "same" else model.field_dtype,
    )  # fmt: skip
    adaptive = solver.controller == "pid"
    solve = partial(
        integrate, solver=solver.method, controller=solver.controller,
        rtol=solver.rtol if adaptive else None, atol=solver.atol if adaptive else None,
        dt0=solver.dt0 or None, max_steps=solver.max_steps, adjoint=solver.adjoint,
        batching=solver.batching,
    )  # fmt: skip
    return ImageClassifier(sizes, solve)


def make_steps(config: Config, classifier: ImageClassifier, optimisers: Optimisers) -> Steps:
    """Compiles the steps of a run; the training state's buffers are donated."""
    train = partial(train_step, config, classifier, optimisers)
    evaluate = partial(evaluation_step, config, classifier)
    return Steps(jax.jit(train, donate_argnums=0), jax.jit(evaluate, donate_argnums=2))


def train_step(
    config: Config, classifier: ImageClassifier, optimisers: Optimisers, state: TrainState,
    batch: Batch,
) -> TrainState:  # fmt: skip
    """Updates the network by the task's loss, and the initial point by its own."""
    key = jax.random.fold_in(split_seed(config.train.seed)[1], state.step)
    augment_key, dropout_key = jax.random.split(key)
    images = augment(augment_key, batch.images, config.data.flip, config.data.crop_padding)
    images = normalise(images, config.data.mean, config.data.std, config.model.dtype)

    def loss(network, probe):
        weights = state.weights._replace(network=network)
        output = classifier(weights, images, key=dropout_key, backward_probe=probe)
        counts = jnp.broadcast_to(output.solution.success, batch.labels.shape)
        return cross_entropy(output.logits, batch.labels, counts), (output, counts)

    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    per_example = config.solver.batching == "per_example"
    probe = jnp.zeros(batch.labels.shape if per_example else (), images.dtype)
    (value, (output, counts)), (grads, vjps) = gradient(state.weights.network, probe)
    new = _update_network(optimisers, state, grads, output, jnp.any(counts))
    network, batch_stats, optimiser = new
    point, point_optimiser = _update_initial_point(
        config, classifier, optimisers, state, output, counts
    )
    solved = counts & (vjps >= 0)  # negative where the backward solve failed
    totals = _add(state.totals, batch, output, value * jnp.sum(solved), solved, jnp.abs(vjps))
    weights = Weights(network, point, batch_stats)
    return TrainState(state.step + 1, weights, optimiser, point_optimiser, totals)


def evaluation_step(
    config: Config, classifier: ImageClassifier, weights: Weights, batch: Batch, totals: Totals
) -> Totals:
    """Adds one batch to the sums; padding rows count nowhere, failed solves as wrong answers."""
    images = normalise(batch.images, config.data.mean, config.data.std, config.model.dtype)
    output = classifier(weights, images, mask=batch.mask)
    losses = optax.softmax_cross_entropy_with_integer_labels(output.logits, batch.labels)
    solved = output.solution.success & batch.mask
    loss = jnp.sum(jnp.where(solved, losses, 0))
    return _add(totals, batch, output, loss, solved, jnp.zeros((), loss.dtype))


def _update_network(optimisers: Optimisers, state: TrainState, grads, output: Output, any_solved):
    """Returns network, batch statistics and optimiser; the old ones where no solve succeeded."""
    old = state.weights.network, state.weights.batch_stats, state.optimiser
    updates, optimiser = optimisers.network.update(grads, state.optimiser, old[0])
    new = optax.apply_updates(old[0], updates), output.batch_stats, optimiser
    return jax.tree.map(lambda a, b: jnp.where(any_solved, a, b), new, old)


def _update_initial_point(config, classifier, optimisers, state, output: Output, counts):
    """Regresses the initial point on z(1), every few steps."""
    point, optimiser = state.weights.initial_point, state.initial_point_optimiser
    if not config.initial_point.learned:
        return point, optimiser

    def update():
        def loss(params):
            return initial_point_loss(classifier.initial_point(params), output.solution.z, counts)

        updates, new = optimisers.initial_point.update(jax.grad(loss)(point), optimiser, point)
        return optax.apply_updates(point, updates), new

    due = state.step % config.initial_point.every == 0
    return lax.cond(due, update, lambda: (point, optimiser))


def _add(totals: Totals, batch: Batch, output: Output, loss, solved, vjps) -> Totals:
    """Adds a batch to the sums; `solved` marks the rows whose solves succeeded."""
    right = (jnp.argmax(output.logits, axis=-1) == batch.labels) & solved
    images = jnp.sum(batch.mask)
    # By image: the NFE of its batch, or its own where each example is solved by itself.
    forward, backward = (
        jnp.sum(jnp.where(batch.mask, nfe, 0)) for nfe in (output.solution.stats.nfe, vjps)
    )
    failed = images - jnp.sum(solved)
    added = Totals(images, jnp.sum(right), failed, loss, forward, backward)
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), totals, added)
