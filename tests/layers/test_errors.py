"""What does not go into a layer gets one line that names it."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import homoode_jax.equinox
import homoode_jax.linen
import homoode_jax.nnx
from tests.layers.cases import FRAMEWORKS, WIDTH, NnxCell, X, layer_class, make


class Holder(nnx.Module):
    def __init__(self, part):
        self.part = part

    def __call__(self, z, x):
        return self.part(z) + x


def says(call, *words):
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("name", "module", "words"),
    [
        ("DEQ", lambda z: z, ["cell(z, x)", "takes (z)"]),
        ("DEQ", lambda t, z, x: z, ["cell(z, x)", "takes (t, z, x)"]),
        ("DEQ", lambda x, z: z, ["cell(z, x)", "in this order", "takes (x, z)"]),
        ("HomoODE", lambda z, x, t: z, ["in this order", "takes (z, x, t)"]),
        ("HomoODE", lambda t, z: z, ["field(t, z, x) or field(z, x)", "takes (t, z)"]),
        ("NeuralODE", lambda: 0, ["field(t, z)", "field(z)", "takes ()"]),
        ("DEQ", NnxCell, ["the class NnxCell"]),
        ("DEQ", 3, ["cell(z, x)", "got 3"]),
    ],
)
def test_a_module_with_other_arguments(framework, name, module, words):
    says(lambda: layer_class(framework, name)(module), name, *words)


def test_an_option_that_is_misspelt():
    make_layer = lambda **options: homoode_jax.nnx.DEQ(NnxCell(), (WIDTH,), **options)  # noqa: E731
    says(lambda: make_layer(max_step=3), "max_step", "Did you mean 'max_steps'?")
    says(lambda: make_layer()(X, solvr="picard"), "solvr", "Did you mean 'solver'?")
    says(lambda: make_layer(mask=jnp.ones(4, bool)), "mask", "in the call")


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("name", "options", "near"),
    [
        ("DEQ", {"solver": "andersen"}, "anderson"),
        ("DEQ", {"adjoint": "implict"}, "implicit"),
        ("HomoODE", {"solver": "tsti5"}, "tsit5"),
        ("HomotopyDEQ", {"path": "arclenght"}, "arclength"),
    ],
)
def test_a_choice_that_is_misspelt_is_refused_when_the_layer_is_made(
    framework, name, options, near
):
    says(lambda: make(framework, name, (WIDTH,), **options), f"Did you mean {near!r}?")


def test_an_option_that_is_misspelt_in_init():
    layer = make("linen", "DEQ", (WIDTH,))
    says(lambda: layer.init(jax.random.key(0), X, tolerance=3), "option of DEQ='tolerance'")


@pytest.mark.wrong_types
def test_a_preconditioner_that_is_no_function():
    layer = make("nnx", "DEQ", (WIDTH,), preconditioner=3)
    says(lambda: layer(X), "the preconditioner must be a function, got 3")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_start_of_another_shape(framework):
    options = {"batched": True} if framework == "equinox" else {}
    layer = make(framework, "DEQ", (2,), **options)
    init = lambda: layer.init(jax.random.key(0), X)  # noqa: E731
    call = init if framework == "linen" else lambda: layer(X)
    says(call, "cell", "[4, 2]", "3")


def test_a_warm_start_of_another_shape():
    layer = make("nnx", "DEQ", (WIDTH,))
    says(lambda: layer(X, z0=jnp.zeros((4, 5))), "(4, 5)", "(4, 3)")
    says(lambda: layer(X, z0=jnp.zeros((2, WIDTH))), "(2, 3)", "(4, 3)")
    says(lambda: layer(X, z0=(WIDTH,)), "z0=(3,) of a call must be arrays")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_input_that_is_a_list(framework):
    layer = make(framework, "DEQ", (WIDTH,))
    call = layer if framework != "linen" else lambda x: layer.init(jax.random.key(0), x)
    says(lambda: call([[1.0, 2.0, 3.0]]), "DEQ needs an x of arrays", "jnp.asarray(x)")


class LinearCell(eqx.Module):
    linear: eqx.nn.Linear

    def __call__(self, z, x):
        return 0.5 * self.linear(z) + x


def test_a_batch_of_an_equinox_layer():
    cell = LinearCell(eqx.nn.Linear(WIDTH, WIDTH, key=jax.random.key(0)))
    for z0 in (None, (WIDTH,)):
        layer = homoode_jax.equinox.DEQ(cell, z0)
        says(lambda layer=layer: layer(X), "jax.vmap(layer)(x)", "batched=True")
    layer = homoode_jax.equinox.DEQ(cell, batched=True)
    says(lambda: layer(X[0]), "have a batch axis")


def test_an_error_ends_with_its_own_line():
    """JAX adds notes of its own to an error that passes through it."""
    with pytest.raises(ValueError) as caught:
        make("nnx", "DEQ", (WIDTH + 1,))(X)
    assert not getattr(caught.value, "__notes__", [])
    assert "z has the shape of z0" in str(caught.value)


def test_a_start_loss_of_what_it_cannot_take():
    layer = make("nnx", "DEQ", homoode_jax.nnx.LearnedPoint(WIDTH))
    says(lambda: layer.start_loss(layer.solve(X)), "give it solution.z")
    says(lambda: make("nnx", "DEQ", (WIDTH,)).start_loss(X), "does not learn", "LearnedPoint")


def test_a_start_like_an_input_that_is_no_state():
    layer = homoode_jax.nnx.DEQ(lambda z, x: z)
    says(lambda: layer(jnp.zeros((2, 3), jnp.uint8)), "z0=None", "uint8[2, 3]")
    says(lambda: layer(None), "DEQ", "batch axis")


def test_dropout_and_batch_norm_in_nnx():
    drop = Holder(nnx.Dropout(0.5, rngs=nnx.Rngs(0)))
    says(lambda: homoode_jax.nnx.DEQ(drop), "Dropout", "'part'", "VariationalDropout")
    norm = Holder(nnx.BatchNorm(WIDTH, rngs=nnx.Rngs(0)))
    says(lambda: homoode_jax.nnx.DEQ(norm), "BatchNorm", "'part'", "GroupNorm")


def test_dropout_and_batch_norm_that_do_not_change_are_taken():
    drop = Holder(nnx.Dropout(0.5, deterministic=True, rngs=nnx.Rngs(0)))
    assert homoode_jax.nnx.DEQ(drop, solver="picard", max_steps=1)(X).shape == X.shape
    norm = Holder(nnx.BatchNorm(WIDTH, use_running_average=True, rngs=nnx.Rngs(0)))
    assert homoode_jax.nnx.DEQ(norm, solver="picard", max_steps=1)(X).shape == X.shape


def test_a_module_that_changes_itself():
    class Counter(nnx.Module):
        def __init__(self):
            self.calls = nnx.Variable(jnp.zeros(()))

        def __call__(self, z, x):
            self.calls[...] += 1
            return 0.5 * z + x

    class Jitted(Counter):
        @nnx.jit
        def __call__(self, z, x):
            self.calls[...] += 1
            return 0.5 * z + x

    for counter in (Counter, Jitted):
        says(lambda counter=counter: homoode_jax.nnx.DEQ(counter())(X), "changes its calls")


@pytest.mark.parametrize("transform", [nnx.jit, nnx.remat])
def test_a_cell_may_transform_what_it_holds(transform):
    class Transformed(NnxCell):
        def __call__(self, z, x):
            inner = transform(lambda kernel, z, x: jnp.tanh(z @ kernel[...] + x))
            return inner(self.kernel, z, x)

    got = homoode_jax.nnx.DEQ(Transformed())(X)
    np.testing.assert_allclose(got, homoode_jax.nnx.DEQ(NnxCell())(X), atol=1e-6)


class LinenDrop(nn.Module):
    @nn.compact
    def __call__(self, z, x):
        return nn.Dropout(0.5, deterministic=False)(z) + x


class LinenNorm(nn.Module):
    @nn.compact
    def __call__(self, z, x):
        return nn.BatchNorm(use_running_average=False)(z) + x


@pytest.mark.parametrize(
    ("cell", "words"), [(LinenDrop, ["VariationalDropout"]), (LinenNorm, ["GroupNorm"])]
)
def test_dropout_and_batch_norm_in_linen(cell, words):
    layer = homoode_jax.linen.DEQ(cell())

    def call():
        variables = layer.init(jax.random.key(0), X)
        layer.apply(variables, X, rngs={"dropout": jax.random.key(1)})

    says(call, "DEQ", *words)


class EquinoxHolder(eqx.Module):
    part: eqx.Module

    def __call__(self, z, x):
        return z + x


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (lambda: eqx.nn.Dropout(0.5), ["Dropout", "VariationalDropout"]),
        (lambda: eqx.nn.BatchNorm(3, "batch", mode="ema"), ["BatchNorm", "GroupNorm"]),
    ],
)
def test_dropout_and_batch_norm_in_equinox(part, words):
    says(lambda: homoode_jax.equinox.DEQ(EquinoxHolder(part())), *words)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2])
def test_a_rate_of_dropout_that_is_none(rate):
    says(lambda: homoode_jax.nnx.VariationalDropout(rate, rngs=nnx.Rngs(0)), "rate", repr(rate))


def test_variational_dropout_outside_of_a_solve():
    drop = homoode_jax.nnx.VariationalDropout(0.5, rngs=nnx.Rngs(0))
    says(lambda: drop(X), "field or cell")
