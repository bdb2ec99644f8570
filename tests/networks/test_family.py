"""The family: its sizes, and each layer beside its definition written out again."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import homoode_jax
from homoode_jax.networks.classifier import Architecture, ImageClassifier
from homoode_jax.networks.family import LAYERS
from homoode_jax.networks.field import Condition, FieldNetwork
from homoode_jax.networks.initial_point import MODULES, REGRESSED, move_centre
from homoode_jax.networks.member import call_once

SIZES = {
    "digits": Architecture(1, 10, 32, 128, 8),
    "cifar10": Architecture(3, 10, 64, 256, 32),
    "cifar100": Architecture(3, 100, 128, 512, 32),
}
SOLVES = {
    "integrate": partial(
        homoode_jax.integrate, solver="heun", controller="constant", dt0=0.25, max_steps=4
    ),
    "equilibrium": partial(homoode_jax.equilibrium, tol=1e-6),
    "continuation": partial(homoode_jax.continuation, rtol=1e-6),
}

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # runs once


def make(layer: str, **options):
    """A small classifier, its weights, and a batch of images."""
    solve = SOLVES.get(LAYERS[layer].solve, partial(call_once, nfe=LAYERS[layer].blocks))
    sizes = Architecture(1, 4, 8, 12, 4, dropout=0.0, layer=layer, **options)
    classifier = ImageClassifier(sizes, solve)
    images = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    return classifier, classifier.init(jax.random.key(0)), images


def count(tree) -> int:
    """Entries of all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.quick(1)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_layers_have_as_many_parameters_within_two_per_cent(sizes):
    counts = {}
    for layer in LAYERS:
        one = ImageClassifier(Architecture(**{**vars(sizes), "layer": layer}), call_once)
        counts[layer] = count(jax.eval_shape(one.init, jax.random.key(0)).network)
    for layer in set(LAYERS) - {"none", "resnet"}:
        assert abs(counts[layer] / counts["homoode"] - 1) < 0.02, counts
    assert counts["none"] < counts["homoode"] < counts["resnet"]


def written_out(layer: str, f, features, z0):
    """The final state, by the definition of each layer; `f(z, x)` is its module."""

    def heun(z, x):
        for _ in range(4):
            slope = f(z, x)
            z = z + 0.125 * (slope + f(z + 0.25 * slope, x))
        return z

    def relaxed(z, x):
        return jax.lax.fori_loop(0, 400, lambda _, z: 0.5 * (z + f(z, x)), z)

    zero = jnp.zeros_like(features)
    return {
        "homoode": lambda: heun(z0, features),
        "neural_ode": lambda: heun(features, None),
        "augmented_neural_ode": lambda: heun(jnp.concatenate([features, zero], -1), None),
        "euler": lambda: z0 + f(z0, features),
        "none": lambda: features,
    }.get(layer, lambda: relaxed(z0, features))()


@pytest.mark.quick(1)
@pytest.mark.parametrize("layer", sorted(set(LAYERS) - {"resnet"}))
def test_a_layer_is_its_definition(layer):
    classifier, weights, images = make(layer)
    if layer == "euler":
        classifier.solve = partial(classifier.solve, solver="euler", dt0=1.0, max_steps=1)
    output = jit(classifier)(weights, images)
    function, params = classifier.function(weights)

    def f(z, x):
        return function(params, z, Condition(x, None))

    z0 = jnp.zeros_like(output.features)
    if LAYERS[layer].has_point:
        z0 = z0 + classifier.initial_point(weights.initial_point, output.features)
    want = jit(partial(written_out, layer, f))(output.features, z0)
    assert output.solution.success
    np.testing.assert_allclose(output.solution.z, want, atol=2e-4)
    assert np.all(np.isfinite(output.logits))


@pytest.mark.slow
def test_residual_blocks_are_sums():
    classifier, weights, _ = make("resnet")
    module, params = classifier.function(weights)
    features = jax.random.normal(jax.random.key(3), (3, 4, 4, 8))
    none = Condition(None, None)
    graph, one = nnx.split(FieldNetwork(8, 4, nnx.Rngs(0)))

    def summed(params):
        z = features
        for i in range(6):
            z = z + nnx.merge(graph, params["blocks"][i])(z, none)
        return z

    got = jit(lambda params: module(params, features, none))(params)
    np.testing.assert_allclose(got, jit(summed)(params), atol=1e-5)
    assert count(params) == 6 * count(one)


@pytest.mark.slow
def test_an_augmented_ode_with_its_features_frozen_is_homoode():
    """The paper's reading of Augmented Neural ODEs: what is augmented is the equilibrium."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 2)
        x, a0 = (jax.random.normal(key, (4, 6, 6, 8), float) for key in keys)
        graph, params = nnx.split(FieldNetwork(8, 4, nnx.Rngs(0)))
        params = jax.tree.map(lambda leaf: leaf.astype(float), nnx.to_pure_dict(params))

        def homoode(params, t, z, x):
            return nnx.merge(graph, params)(z, Condition(x, None))

        def frozen(params, t, z, _):
            x, a = jnp.split(z, 2, axis=-1)
            return jnp.concatenate([jnp.zeros_like(x), homoode(params, t, a, x)], axis=-1)

        options = {"solver": "heun", "controller": "constant", "dt0": 0.25, "max_steps": 4}
        joined = jnp.concatenate([x, a0], axis=-1)
        solve = partial(homoode_jax.integrate, **options)
        augmented = jit(lambda *args: solve(frozen, *args, None).z)(params, joined)
        z = jit(lambda *args: solve(homoode, *args).z)(params, a0, x)
        np.testing.assert_allclose(augmented[..., 8:], z, atol=1e-10)
        np.testing.assert_array_equal(augmented[..., :8], x)
        assert float(jnp.max(jnp.abs(z - a0))) > 0.1


def test_augmented_channels_start_at_zero():
    classifier, weights, images = make("augmented_neural_ode")
    classifier.solve = partial(call_once, nfe=0)
    start = []
    classifier.solve = lambda f, params, z0, x, **_: (
        start.append(z0) or call_once(lambda params, z, x: z, params, z0, x, nfe=0)
    )
    output = classifier(weights, images)
    np.testing.assert_array_equal(start[0][..., :8], output.features)
    np.testing.assert_array_equal(start[0][..., 8:], 0)


@pytest.mark.parametrize("kind", ["learned", "alternating", "huber", "predicted"])
def test_the_task_moves_no_initial_point(kind):
    classifier, weights, images = make("homoode", initial_point=kind)

    def loss(point):
        output = classifier(weights._replace(initial_point=point), images)
        return jnp.sum(jnp.square(output.logits))

    gradient = jit(jax.grad(loss))(weights.initial_point)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))
    assert count(gradient) == {"learned": 24, "alternating": 0, "huber": 8, "predicted": 88}[kind]
    assert set(MODULES) - {"huber"} == set(REGRESSED)


def test_the_running_centre_is_hubers():
    """Beside the minimiser of Optax's Huber loss, found by plain gradient descent."""
    z1 = jax.random.normal(jax.random.key(0), (50, 3, 3, 4)) ** 3 + jnp.arange(4.0)
    counts = jnp.arange(50) < 40
    centre = jnp.full(4, -5.0)
    move = jit(move_centre)
    for _ in range(300):
        centre = move(centre, z1, counts)

    def loss(m):
        return jnp.sum(optax.huber_loss(jnp.broadcast_to(m, (40, 3, 3, 4)), z1[:40])) / 360

    want = jnp.zeros(4)
    slope = jit(jax.grad(loss))
    for _ in range(500):
        want = want - 0.5 * slope(want)
    np.testing.assert_allclose(centre, want, atol=1e-4)
    spoilt = z1.at[45].set(jnp.nan)
    np.testing.assert_array_equal(
        move_centre(centre, spoilt, counts), move_centre(centre, z1, counts)
    )


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "term"), [("homoode", "kinetic"), ("deq", "jacobian")])
def test_a_regulariser_is_measured_along_the_solve_and_in_training_only(layer, term):
    plain, weights, images = make(layer)
    classifier = ImageClassifier(plain.sizes, plain.solve, term)
    trained = jit(partial(classifier, key=jax.random.key(2)))(weights, images)
    function, params = plain.function(weights)
    x = Condition(trained.features, None)
    if term == "kinetic":
        z = jnp.zeros_like(trained.features) + plain.initial_point(
            weights.initial_point, x.features
        )
        energy = 0.0
        dt = 0.25
        f = jit(lambda z: function(params, z, x))
        for _ in range(4):  # Heun's rule for the energy too
            slope = f(z)
            other = f(z + dt * slope)
            energy += dt * jnp.mean(jnp.square(slope) + jnp.square(other)) / 2
            z = z + dt * (slope + other) / 2
        np.testing.assert_allclose(trained.penalty, energy, rtol=1e-3)
    else:
        z = trained.solution.z
        jacobian = jit(jax.jacfwd(lambda z: function(params, z, x)))(z)
        # One random direction: near the mean square size, but not that.
        want = np.sum(np.square(jacobian)) / z.size
        np.testing.assert_allclose(trained.penalty, want, rtol=0.3)
    assert jit(classifier)(weights, images).penalty == 0
