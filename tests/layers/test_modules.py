"""Fields and cells as people write them: what they hold, share and read."""

from functools import partial

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
from homoode_jax import Implicit
from tests.compilations import programs
from tests.layers.cases import KERNEL, NnxCell, X

TIGHT = {"tol": 1e-12, "max_steps": 100, "adjoint": Implicit(1e-12)}
HALF = jnp.full(3, 0.5)


class Array(nnx.Module):
    def __init__(self):
        self.w = HALF  # a constant, such as a mask: no variable

    def __call__(self, z, x):
        return self.w * z + x


class Tree(nnx.Module):
    def __init__(self):
        self.w = nnx.Param({"a": HALF, "b": 0 * HALF})

    def __call__(self, z, x):
        return self.w.get_value()["a"] * z + x + self.w.get_value()["b"]


@pytest.mark.parametrize("cell", [Array, Tree])
def test_an_nnx_cell_may_hold_plain_arrays_and_pytrees(cell):
    layer = homoode_jax.nnx.DEQ(cell(), tol=1e-6)
    np.testing.assert_allclose(layer(X), 2 * X, rtol=1e-4)
    slope = nnx.grad(lambda layer: jnp.sum(layer(X)))(layer)  # z = x / (1 - w)
    if cell is Tree:
        np.testing.assert_allclose(
            slope["cell"]["w"].get_value()["a"], 4 * jnp.sum(X, axis=0), rtol=1e-3
        )


def step(linear, z, x):
    return jnp.tanh(0.5 * linear(z) + x)


class Model(nnx.Module):
    def __init__(self, form):
        self.linear = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
        forms = {
            "method": self.step,
            "lambda": lambda z, x: self.step(z, x),
            "partial": partial(step, self.linear),
        }
        self.deq = homoode_jax.nnx.DEQ(forms[form])

    def step(self, z, x):
        return step(self.linear, z, x)


@pytest.mark.parametrize("form", ["method", "lambda", "partial"])
def test_a_function_that_hides_parameters_from_gradients_is_refused(form):
    """NNX takes it for a constant, and the gradient of what it reads would be zero."""
    with pytest.raises(ValueError, match=r"the cell of DEQ is a function that reads a (Model|Lin)"):
        Model(form)


class EquinoxModel(eqx.Module):
    linear: eqx.nn.Linear
    deq: eqx.Module

    def __init__(self, form):
        self.linear = eqx.nn.Linear(3, 3, key=jax.random.key(0))
        forms = {
            "lambda": lambda z, x: step(self.linear, z, x),
            "partial": partial(step, self.linear),
            "jit": jax.jit(lambda z, x: step(self.linear, z, x)),
        }
        self.deq = homoode_jax.equinox.DEQ(forms[form])


@pytest.mark.parametrize("form", ["lambda", "partial", "jit"])
def test_equinox_does_not_know_of_such_parameters_either(form):
    with pytest.raises(
        ValueError, match=r"reads a (Equinox|Linear).* make the cell an eqx\.Module"
    ):
        EquinoxModel(form)


class Slots:
    __slots__ = ("rate",)

    def __init__(self):
        self.rate = 0.5

    def __call__(self, z, x):
        return self.rate * z + x


@pytest.mark.parametrize("cell", [Slots(), jax.jit(lambda z, x: 0.5 * z + x)], ids=["slots", "jit"])
def test_any_callable_is_a_cell(cell):
    for layer in (
        homoode_jax.nnx.DEQ(cell),
        partial(homoode_jax.linen.DEQ(cell).apply, {}),
        homoode_jax.equinox.DEQ(cell, batched=True),
    ):
        np.testing.assert_allclose(layer(X), 2 * X, atol=1e-3)


class LinenCell(nn.Module):
    parts: list
    last: nn.Module

    def __call__(self, z, x):
        return jnp.tanh(0.3 * self.last(self.parts[1](self.parts[0](z))) + x)


class Compact(nn.Module):
    is_shared: bool

    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(3)
        x = dense(x) if self.is_shared else x
        cell = LinenCell([dense, nn.Dense(3)], nn.Dense(3))
        return homoode_jax.linen.DEQ(cell, z0=(3,), **TIGHT)(x)


class Setup(nn.Module):
    def setup(self):
        self.dense = nn.Dense(3)
        cell = LinenCell([self.dense, nn.Dense(3)], nn.Dense(3))
        self.deq = homoode_jax.linen.DEQ(cell, z0=(3,), **TIGHT)

    def __call__(self, x):
        return self.deq(self.dense(x))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "model", [Compact(False), Compact(True), Setup()], ids=["compact", "shared", "setup"]
)
def test_a_linen_cell_may_hold_modules_of_the_model_around_it(model):
    """Their variables are elsewhere. The gradient is held against finite differences."""
    x = X.astype(float)
    variables = jax.tree.map(lambda a: a.astype(float), model.init(jax.random.key(0), x))
    loss = jax.jit(lambda variables: jnp.sum(jnp.sin(model.apply(variables, x))))
    slope = jax.grad(loss)(variables)
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(variables)))
    along = jax.tree.unflatten(
        jax.tree.structure(variables),
        [
            jax.random.normal(key, leaf.shape, float)
            for key, leaf in zip(keys, jax.tree.leaves(variables), strict=True)
        ],
    )
    up, down = (
        loss(jax.tree.map(lambda a, b, h=h: a + h * b, variables, along)) for h in (1e-5, -1e-5)
    )
    got = sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), slope, along)))
    np.testing.assert_allclose(got, (up - down) / 2e-5, rtol=1e-5)


class Masked(nn.Module):
    mask: np.ndarray

    @nn.compact
    def __call__(self, z, x):
        return 0.5 * self.mask * z + x


def test_linen_cells_with_arrays_as_fields_are_told_apart():
    masks = [np.array(mask) for mask in ([1.0, 0, 1], [0.0, 1, 1], [0.0, 1, 1])]
    call = lambda mask: homoode_jax.linen.DEQ(Masked(mask)).apply({}, X)  # noqa: E731
    for mask in masks:
        np.testing.assert_allclose(call(mask), X / (1 - 0.5 * mask), atol=1e-3)
    assert programs(call, masks[2]) == 0


def test_a_linen_state_of_several_arrays():
    cell = lambda z, x: {"a": 0.5 * z["a"] + x, "b": z["a"][:, :1]}  # noqa: E731
    z = homoode_jax.linen.DEQ(cell, z0={"a": (3,), "b": (1,)}).apply({}, X)
    np.testing.assert_allclose(z["a"], 2 * X, atol=1e-3)


@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_saved_lams_of_one_example_have_no_batch_axis(batching):
    layer = homoode_jax.equinox.HomotopyDEQ(
        lambda z, x: 0.5 * z + x, batching=batching, save_at=[0.5, 1.0]
    )
    one = layer.solve(X[0])
    np.testing.assert_allclose(one.ts, [0.5, 1.0])
    np.testing.assert_allclose(one.zs[-1], 2 * X[0], atol=1e-3)
    assert jax.vmap(layer.solve)(X).ts.shape == (4, 2)


def homotopy(cell, lam, z, x):
    return z - lam * cell(z, x)


def inverse(cell, z, x, lam, v):
    return v


LAYERS = {
    "nnx": lambda **options: homoode_jax.nnx.HomotopyDEQ(NnxCell(), **options),
    "linen": lambda **options: partial(
        homoode_jax.linen.HomotopyDEQ(lambda z, x: jnp.tanh(z @ KERNEL + x), **options).apply, {}
    ),
    "equinox": lambda **options: homoode_jax.equinox.HomotopyDEQ(
        lambda z, x: jnp.tanh(z @ KERNEL + x), batched=True, **options
    ),
}


@pytest.mark.parametrize("framework", LAYERS)
@pytest.mark.parametrize("own", [{"homotopy": homotopy}, {"preconditioner": inverse}])
def test_a_layer_with_a_function_of_its_own_is_compiled_once(framework, own):
    layer = LAYERS[framework](**own)
    layer(X)
    assert programs(layer, X) == 0


RATE = 0.5


def by_global(z, x):
    return RATE * z + x


class ByGlobal(nnx.Module):
    def __call__(self, z, x):
        return self.scaled(z) + x

    def scaled(self, z):
        return RATE * z


class LinenByGlobal(nn.Module):
    def __call__(self, z, x):
        return RATE * z + x


class EquinoxByGlobal(eqx.Module):
    def __call__(self, z, x):
        return RATE * z + x


READERS = {
    "nnx, function": homoode_jax.nnx.DEQ(by_global),
    "nnx, module": homoode_jax.nnx.DEQ(ByGlobal()),
    "linen, function": partial(homoode_jax.linen.DEQ(by_global).apply, {}),
    "linen, module": partial(homoode_jax.linen.DEQ(LinenByGlobal()).apply, {}),
    "equinox, function": homoode_jax.equinox.DEQ(by_global, batched=True),
    "equinox, module": homoode_jax.equinox.DEQ(EquinoxByGlobal(), batched=True),
}


@pytest.mark.parametrize("reader", READERS)
def test_what_a_cell_reads_is_part_of_its_program(reader, monkeypatch):
    np.testing.assert_allclose(READERS[reader](X), 2 * X, atol=1e-3)
    monkeypatch.setattr("tests.layers.test_modules.RATE", 0.25)
    np.testing.assert_allclose(READERS[reader](X), X / 0.75, atol=1e-3)
    assert programs(READERS[reader], X) == 0
