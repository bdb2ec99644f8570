"""Where the state of a layer begins, and how a start learns."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import homoode_jax.equinox
import homoode_jax.nnx
from homoode_jax.layers import start as starts
from tests.layers.cases import KERNEL, WIDTH, EquinoxCell, NnxCell, X, layer_class


def one_evaluation(z0, x=X, **given):
    """The state after Picard's first step of z = z + 1 tells where it began: one less."""
    layer = homoode_jax.nnx.DEQ(lambda z, x: z + 1, z0, solver="picard", max_steps=1)
    return layer(x, **given) - 1


@pytest.mark.parametrize(
    ("z0", "want"),
    [
        (None, np.zeros((4, WIDTH))),
        ((2, 5), np.zeros((4, 2, 5))),
        (np.arange(2.0), np.tile([0.0, 1.0], (4, 1))),
        (nnx.Param(jnp.arange(2.0)), np.tile([0.0, 1.0], (4, 1))),
        (nnx.Linear(WIDTH, 2, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0)), None),
    ],
    ids=["none", "shape", "array", "param", "module"],
)
def test_a_start_is_what_it_was_given_as(z0, want):
    want = np.tile(np.sum(X, axis=1, keepdims=True), (1, 2)) if want is None else want
    np.testing.assert_allclose(one_evaluation(z0), want, atol=1e-6)


def test_a_state_of_several_arrays_has_a_start_of_several_shapes():
    layer = homoode_jax.nnx.DEQ(
        lambda z, x: {"a": 0.5 * z["a"] + x, "b": z["a"][:, :1]}, z0={"a": (WIDTH,), "b": (1,)}
    )
    z = layer(X)
    np.testing.assert_allclose(z["a"], 2 * X, atol=1e-4)
    np.testing.assert_allclose(z["b"], 2 * X[:, :1], atol=1e-4)


def test_the_state_has_the_dtype_of_the_input():
    layer = homoode_jax.nnx.DEQ(lambda z, x: 0.5 * z + x, z0=(WIDTH,))
    assert layer(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_the_loss_of_a_start_is_the_smooth_l1_distance_from_a_constant():
    point = homoode_jax.nnx.LearnedPoint((2,))
    layer = homoode_jax.nnx.DEQ(lambda z, x: z, z0=point)
    z = jnp.array([[0.5, 3.0]])  # 0.5^2 / 2 and 3 - 0.5
    assert float(layer.start_loss(z)) == pytest.approx((0.125 + 2.5) / 2)
    gradient = nnx.grad(lambda layer: layer.start_loss(z))(layer)
    np.testing.assert_allclose(gradient["z0"]["point"][...], [-0.25, -0.5])
    assert np.all(jax.grad(lambda z: layer.start_loss(z))(z) == 0)


@pytest.mark.parametrize("height", [1.0, 0.1])
def test_the_loss_of_a_start_is_no_sum_in_half_precision(height):
    """131,072 entries are more than float16 can count."""
    layer = homoode_jax.nnx.DEQ(lambda z, x: z, z0=nnx.Param(jnp.zeros(1024, jnp.float16)))
    z = jnp.full((128, 1024), height, jnp.float16)
    loss, slope = nnx.value_and_grad(lambda layer: layer.start_loss(z))(layer)
    np.testing.assert_allclose(loss, height**2 / 2, rtol=1e-2)
    np.testing.assert_allclose(slope["z0"][...], -height / 1024, rtol=2e-2)


class TwoPoints(eqx.Module):
    a: jax.Array
    b: jax.Array

    def __call__(self, x):
        return {"a": self.a, "b": self.b}


def test_the_loss_of_a_start_of_one_example_needs_no_batch_axis():
    cell = lambda z, x: {"a": 0.5 * z["a"] + x, "b": 0.5 * z["b"] + x[:1]}  # noqa: E731
    layer = homoode_jax.equinox.DEQ(cell, z0=TwoPoints(jnp.zeros(3), jnp.zeros(1)))
    x = jnp.ones(3)
    assert float(layer.start_loss(layer(x), x)) == pytest.approx(1.5, abs=1e-3)
    scalar = homoode_jax.equinox.DEQ(
        lambda z, x: 0.5 * z + x, z0=homoode_jax.equinox.LearnedPoint(())
    )
    assert float(scalar.start_loss(scalar(x[0]))) == pytest.approx(1.5, abs=1e-3)


def test_a_start_that_would_be_lost_is_refused():
    cell = lambda z, x: z  # noqa: E731
    with pytest.raises(ValueError, match=r"z0 is traced: make it z0=LearnedPoint"):
        nnx.jit(lambda: homoode_jax.nnx.DEQ(cell, z0=jnp.zeros(3)))()
    make = lambda key: homoode_jax.equinox.DEQ(cell, z0=jax.random.normal(key, (3,)))  # noqa: E731
    with pytest.raises(ValueError, match=r"z0 is traced: make it z0=LearnedPoint"):
        eqx.filter_vmap(make)(jax.random.split(jax.random.key(0), 4))
    with pytest.raises(ValueError, match=r"make it one of a pytree, nnx.Param\(\{...\}\)"):
        homoode_jax.nnx.DEQ(cell, z0={"a": nnx.Param(jnp.zeros(3))})
    point = nnx.Param({"a": jnp.zeros(3)})
    layer = homoode_jax.nnx.DEQ(lambda z, x: {"a": 0.5 * z["a"] + x}, z0=point)
    assert layer(jnp.ones((2, 3)))["a"].shape == (2, 3)
    assert len(jax.tree.leaves(nnx.state(layer, nnx.Param))) == 1


def test_a_start_that_follows_the_solutions_makes_them_cheaper():
    x = 0.3 + 0.05 * X
    layer = homoode_jax.nnx.DEQ(
        NnxCell(0.9 * jnp.eye(WIDTH)), z0=homoode_jax.nnx.LearnedPoint((WIDTH,)), solver="picard"
    )
    optimiser = nnx.Optimizer(layer, optax.adam(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(layer, optimiser):
        def loss(layer):
            solution = layer.solve(x)
            return layer.start_loss(solution.z), solution.stats.nfe

        (_, nfe), gradient = nnx.value_and_grad(loss, has_aux=True)(layer)
        optimiser.update(layer, gradient)
        return nfe

    spent = [int(step(layer, optimiser)) for _ in range(100)]
    assert spent[-1] <= spent[0] - 5
    # The loss knows only the start.
    np.testing.assert_array_equal(layer.cell.kernel[...], 0.9 * jnp.eye(WIDTH))


def test_a_point_learns_through_an_ode_as_well():
    layer = homoode_jax.nnx.HomoODE(lambda z, x: x - z, homoode_jax.nnx.LearnedPoint((WIDTH,)))
    gradient = nnx.grad(lambda layer: jnp.sum(layer(X)))(layer)
    np.testing.assert_allclose(gradient["z0"]["point"][...], 4 * np.exp(-1), rtol=1e-3)


def test_an_array_that_an_equinox_layer_begins_at_does_not_learn():
    layer = homoode_jax.equinox.DEQ(EquinoxCell(KERNEL), z0=jnp.ones(WIDTH))
    gradient = eqx.filter_grad(lambda layer: jnp.sum(layer(X[0])))(layer)
    assert len(jax.tree.leaves(gradient)) == 1


@pytest.mark.parametrize("framework", ["nnx", "equinox"])
def test_a_start_that_does_not_learn_has_no_loss(framework):
    layer = layer_class(framework, "DEQ")(lambda z, x: z, z0=(2,))
    with pytest.raises(ValueError, match="does not learn"):
        layer.start_loss(jnp.zeros((1, 2)))


@pytest.mark.parametrize("z0", ["zeros", 3, 2.5, (2.0,), (-1,), object()])
def test_what_is_no_start_is_said(z0):
    with pytest.raises(ValueError, match=r"^z0="):
        starts.keep_start(z0)
