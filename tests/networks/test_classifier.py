"""The reference model: its sizes, and its parts beside Flax's own layers."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import homoode_jax
from homoode_jax.networks.classifier import Architecture, ImageClassifier
from homoode_jax.networks.field import Condition, FieldNetwork, draw_dropout
from homoode_jax.networks.initial_point import InitialPoint, alternating

REFERENCE = {
    "cifar10": (Architecture(3, 10, 64, 256, 32), 132_938, 192),
    "cifar100": (Architecture(3, 100, 128, 512, 32), 565_988, 384),
    "tiny_imagenet": (Architecture(3, 200, 128, 512, 8, stride=2), 617_288, 384),
}


@pytest.fixture(scope="module")
def small():
    """A small classifier with its weights and a batch."""
    solve = partial(homoode_jax.integrate, max_steps=32)
    classifier = ImageClassifier(Architecture(1, 4, 8, 12, 4, dropout=0.5), solve)
    images = jax.random.normal(jax.random.key(1), (6, 8, 8, 1))
    return classifier, classifier.init(jax.random.key(0)), images


@pytest.mark.parametrize("name", REFERENCE)
def test_parameter_counts_are_the_references(name):
    sizes, network, point = REFERENCE[name]
    weights = jax.eval_shape(ImageClassifier(sizes, homoode_jax.integrate).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(weights.network)) == network
    assert sum(leaf.size for leaf in jax.tree.leaves(weights.initial_point)) == point


def flax_field(field, z, x):
    """F(z; x) by Flax's convolution and group normalisation."""

    def conv(layer, z):
        other = nnx.Conv(8, 8, (3, 3), padding=((1, 1), (1, 1)), rngs=nnx.Rngs(0))
        other.kernel[...], other.bias[...] = layer.kernel[...], layer.bias[...]
        return other(z)

    def norm(layer, z):
        other = nnx.GroupNorm(8, num_groups=4, epsilon=1e-5, rngs=nnx.Rngs(0))
        other.scale[...], other.bias[...] = layer.scale[...], layer.bias[...]
        return other(z)

    hidden = nnx.relu(norm(field.norm1, conv(field.conv1, z))) + x.features
    return norm(field.norm2, x.dropout * conv(field.conv2, hidden))


def test_field_is_the_formula():
    field = FieldNetwork(8, 4, nnx.Rngs(0))
    keys = jax.random.split(jax.random.key(0), 3)
    z, features = (jax.random.normal(key, (5, 4, 4, 8)) for key in keys[:2])
    x = Condition(features, draw_dropout(keys[2], 0.3, features))
    np.testing.assert_allclose(field(z, x), flax_field(field, z, x), atol=2e-5)


def test_dropout_masks_whole_channels_and_keeps_the_mean():
    mask = draw_dropout(jax.random.key(0), 0.2, jnp.zeros((500, 3, 3, 20)))
    assert mask is not None and mask.shape == (500, 1, 1, 20)
    assert set(np.unique(mask)) == {0.0, np.float32(1.25)}
    assert abs(float(mask.mean()) - 1) < 4 * np.sqrt(0.25 / 10_000)
    assert draw_dropout(jax.random.key(0), 0.0, jnp.zeros((5, 3, 3, 2))) is None


def test_initial_point_is_a_convolution_of_ones():
    point = InitialPoint(8, 4, nnx.Rngs(3))
    whole_map = np.ones((2, 5, 5, 1)) @ np.asarray(point.kernel[...], np.float64)[0]
    groups = whole_map.reshape(2, 25, 4, 2)
    mean = groups.mean((1, 3), keepdims=True)
    variance = groups.var((1, 3), keepdims=True)
    normalised = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(whole_map.shape)
    np.testing.assert_allclose(
        jnp.broadcast_to(point(jnp.asarray(whole_map)), (2, 5, 5, 8)), normalised, atol=1e-5
    )
    np.testing.assert_array_equal(alternating(4), [-1, 1, -1, 1])


@pytest.mark.slow
def test_the_task_does_not_move_the_initial_point(small):
    classifier, weights, images = small

    def loss(point):
        output = classifier(weights._replace(initial_point=point), images, key=jax.random.key(2))
        return jnp.sum(jnp.square(output.logits))

    gradient = jax.grad(loss)(weights.initial_point)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_evaluation_repeats_itself_and_training_updates_the_statistics(small):
    classifier, weights, images = small
    evaluate = jax.jit(classifier)
    train = jax.jit(partial(classifier, key=jax.random.key(2)))
    first = evaluate(weights, images)
    second = evaluate(weights, images)
    trained = train(weights, images)
    np.testing.assert_array_equal(first.logits, second.logits)
    jax.tree.map(np.testing.assert_array_equal, first.batch_stats, weights.batch_stats)
    batch = np.asarray(images)
    kernel = np.asarray(weights.network["encoder"]["conv1"]["kernel"])
    bias = weights.network["encoder"]["conv1"]["bias"]
    hidden = jax.lax.conv(batch.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), (1, 1), "SAME")
    mean = 0.1 * (
        np.mean(hidden, axis=(0, 2, 3)) + bias
    )  # 0.9 of the old mean, zero, and 0.1 of this
    np.testing.assert_allclose(trained.batch_stats["encoder"]["norm1"]["mean"], mean, atol=1e-5)


@pytest.mark.slow
def test_padding_rows_change_nothing(small):
    classifier, weights, images = small
    padded = jnp.concatenate([images, jnp.full((2, 8, 8, 1), 1e6)])
    call = jax.jit(classifier)
    whole = call(weights, padded, mask=jnp.arange(8) < 6)
    alone = call(weights, images)
    np.testing.assert_allclose(whole.logits[:6], alone.logits, atol=1e-5)
    assert whole.solution.stats == alone.solution.stats


@pytest.mark.slow
def test_a_field_in_bfloat16_differs_by_its_rounding_and_leaves_all_else_in_float32(small):
    """Its precision is 0.4 %."""
    classifier, weights, images = small
    options = {"solver": "heun", "controller": "constant", "dt0": 0.5, "max_steps": 4}
    whole, half = (
        ImageClassifier(
            replace(classifier.sizes, field_dtype=dtype),
            partial(homoode_jax.integrate, **options),
        )
        for dtype in (None, "bfloat16")
    )

    def loss(network, classifier):
        output = classifier(weights._replace(network=network), images)
        return jnp.mean(jnp.square(output.solution.z)), output

    (want, exact), (got, rounded) = (
        jax.jit(jax.grad(partial(loss, classifier=c), has_aux=True))(weights.network)
        for c in (whole, half)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((got, rounded.solution.z))} == {
        jnp.dtype("float32")
    }
    assert rounded.solution.success
    apart = jnp.linalg.norm(rounded.solution.z - exact.solution.z)
    assert 1e-4 < apart / jnp.linalg.norm(exact.solution.z) < 0.02
    error = optax.tree.norm(jax.tree.map(jnp.subtract, got, want)) / optax.tree.norm(want)
    assert 1e-4 < error < 0.05
