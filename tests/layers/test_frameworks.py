"""A layer of any framework solves what the function behind it solves, with the same gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import homoode_jax
from tests.compilations import programs
from tests.layers.cases import FRAMEWORKS, KERNEL, WIDTH, X, as_function, cell, field, make

BATCHED = {"equinox": {"batched": True}}
ZERO = jnp.zeros_like(X)


def by_hand(name, kernel, x):
    if name == "DEQ":
        return homoode_jax.equilibrium(cell, kernel, ZERO, x, solver="broyden").z
    if name == "HomotopyDEQ":
        return homoode_jax.continuation(cell, kernel, ZERO, x, path="arclength").z
    return homoode_jax.integrate(field, kernel, ZERO, x, solver="tsit5").z


OPTIONS = {
    "DEQ": {"solver": "broyden"},
    "HomotopyDEQ": {"path": "arclength"},
    "HomoODE": {"solver": "tsit5"},
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", ["DEQ", "HomoODE", "HomotopyDEQ"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_layer_solves_what_its_function_solves(framework, name):
    layer = make(framework, name, (WIDTH,), **OPTIONS[name], **BATCHED.get(framework, {}))
    solve = as_function(framework, layer, X)

    def loss(kernel, x):
        return jnp.sum(jnp.sin(solve(kernel, x).z))

    def reference(kernel, x):
        return jnp.sum(jnp.sin(by_hand(name, kernel, x)))

    got = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(KERNEL, X)
    want = jax.jit(jax.value_and_grad(reference, argnums=(0, 1)))(KERNEL, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)
    assert float(jnp.abs(got[1][0]).max()) > 0.01


@pytest.mark.quick(1)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_options_of_a_call_go_before_those_of_the_layer(framework):
    options = {"max_steps": 1, "solver": "picard", **BATCHED.get(framework, {})}
    layer = make(framework, "DEQ", (WIDTH,), **options)
    solve = as_function(framework, layer, X)
    assert not solve(KERNEL, X).success
    found = solve(KERNEL, X, max_steps=100, tol=1e-5)
    assert found.success
    warm = solve(KERNEL, X, z0=found.z)
    assert warm.success and warm.stats.nfe <= 2  # a warm start needs no more


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", ["NeuralODE", "AugmentedNeuralODE"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_neural_odes_begin_at_the_input(framework, name):
    module = __import__("homoode_jax." + framework, fromlist=["x"])
    args = (2,) if name == "AugmentedNeuralODE" else ()
    # dz/dt = -z: z(1) = exp(-1) [x, 0].
    layer = getattr(module, name)(lambda t, z: -z, *args, **BATCHED.get(framework, {}))
    z = layer.apply({}, X) if framework == "linen" else layer(X)
    want = np.exp(-1) * np.pad(X, ((0, 0), (0, sum(args))))
    np.testing.assert_allclose(z, want, rtol=2e-3)


def test_an_equinox_layer_takes_one_example_and_a_batch_by_vmap():
    layer = make("equinox", "DEQ", (WIDTH,))
    z = jax.vmap(layer)(X)
    np.testing.assert_allclose(z, by_hand("DEQ", KERNEL, X), atol=1e-4)
    np.testing.assert_allclose(layer(X[0]), z[0], atol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_nothing_is_compiled_from_the_third_eager_call_on(framework):
    layer = make(framework, "DEQ", (WIDTH,), **BATCHED.get(framework, {}))
    solve = as_function(framework, layer, X)
    call = lambda scale: solve(scale * KERNEL, scale * X)  # noqa: E731
    programs(call, 1.0)
    programs(call, 2.0)
    assert programs(call, 0.5) == 0


@pytest.mark.quick(1)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_homotopy_and_a_preconditioner_are_given_the_module(framework):
    options = BATCHED.get(framework, {})
    homotopy = lambda cell, lam, z, x: z - lam * cell(z, x)  # noqa: E731
    layer = make(framework, "HomotopyDEQ", (WIDTH,), homotopy=homotopy, **options)
    z = as_function(framework, layer, X)(KERNEL, X).z
    np.testing.assert_allclose(z, by_hand("HomotopyDEQ", KERNEL, X), atol=1e-4)

    def inverse(cell, z, x, lam, v):
        _, push = jax.linearize(lambda z: cell(z, x), z)
        return v + lam * push(v)  # the first two terms of Neumann's series

    layer = make(framework, "DEQ", (WIDTH,), solver="newton", preconditioner=inverse, **options)
    solve = as_function(framework, layer, X)
    np.testing.assert_allclose(solve(KERNEL, X).z, z, atol=1e-4)
    plain = as_function(framework, make(framework, "DEQ", (WIDTH,), solver="newton", **options), X)
    assert solve(KERNEL, X).stats.num_jvp < plain(KERNEL, X).stats.num_jvp


def test_a_layer_is_exported_for_any_batch_size():
    layer = make("nnx", "DEQ", (WIDTH,), solver="picard")
    call = jax.jit(layer)
    like = jax.ShapeDtypeStruct((*export.symbolic_shape("rows"), WIDTH), X.dtype)
    exported = export.export(call)(like)
    for x in (X, X[:1]):
        np.testing.assert_allclose(exported.call(x), call(x), rtol=1e-4, atol=1e-5)
