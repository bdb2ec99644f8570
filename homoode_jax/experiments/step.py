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
from jaxtyping import Array, Float

from homoode_jax.experiments.augmentation import augment, normalise
from homoode_jax.experiments.batches import Batch
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.losses import cross_entropy, initial_point_loss
from homoode_jax.experiments.optimiser import Optimisers
from homoode_jax.experiments.sources import INFO
from homoode_jax.experiments.state import Totals, TrainState
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
    key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
    augment_key, dropout_key = jax.random.split(key)
    images = augment(augment_key, batch.images, config.data.flip, config.data.crop_padding)
    images = normalise(images, config.data.mean, config.data.std, config.model.dtype)

    def loss(network, probe):
        weights = state.weights._replace(network=network)
        output = classifier(weights, images, key=dropout_key, backward_probe=probe)
        counts = jnp.broadcast_to(output.solution.success, batch.labels.shape)
        return cross_entropy(output.logits, batch.labels, counts), (output, counts)

    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    probe = jnp.zeros((), images.dtype)
    (value, (output, counts)), (grads, vjps) = gradient(state.weights.network, probe)
    updates, optimiser = optimisers.network.update(grads, state.optimiser, state.weights.network)
    point, point_optimiser = _update_initial_point(
        config, classifier, optimisers, state, output, counts
    )
    totals = _add(state.totals, batch, output, value * jnp.sum(counts), counts, vjps)
    network = optax.apply_updates(state.weights.network, updates)
    weights = Weights(network, point, output.batch_stats)  # pyright: ignore
    return TrainState(state.step + 1, weights, optimiser, point_optimiser, totals)


def evaluation_step(
    config: Config, classifier: ImageClassifier, weights: Weights, batch: Batch, totals: Totals
) -> Totals:
    """Adds one batch to the sums; padding rows count nowhere, failed solves as wrong answers."""
    images = normalise(batch.images, config.data.mean, config.data.std, config.model.dtype)
    output = classifier(weights, images, mask=batch.mask)
    losses = optax.softmax_cross_entropy_with_integer_labels(output.logits, batch.labels)
    loss = jnp.sum(jnp.where(batch.mask, losses, 0))
    counts = output.solution.success & batch.mask
    return _add(totals, batch, output, loss, counts, jnp.zeros((), loss.dtype))


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


def _add(
    totals: Totals, batch: Batch, output: Output, loss, counts, vjps: Float[Array, ""]
) -> Totals:
    """Adds a batch to the sums; `counts` marks the rows whose solve succeeded."""
    right = (jnp.argmax(output.logits, axis=-1) == batch.labels) & counts
    images = jnp.sum(batch.mask)
    nfe = output.solution.stats.nfe
    by_image = jnp.sum(jnp.where(batch.mask, nfe, 0))  # the batch's NFE, or each example's own
    added = Totals(
        images, jnp.sum(right), images - jnp.sum(counts), loss, by_image,
        vjps if nfe.ndim else vjps * images,
    )  # fmt: skip
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), totals, added)
