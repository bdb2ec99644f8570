"""Variational dropout: one mask a solve, the same in every evaluation, another for each example."""

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
from homoode_jax.layers.dropout import draw_keys, drop, evaluation
from tests.layers.cases import FRAMEWORKS

ONES = jnp.ones((8, 64))


class NnxCell(nnx.Module):
    def __init__(self):
        self.drop = homoode_jax.nnx.VariationalDropout(0.25, rngs=nnx.Rngs(0))

    def __call__(self, z, x):
        return x + 0.5 * self.drop(z)


class LinenCell(nn.Module):
    @nn.compact
    def __call__(self, z, x):
        return x + 0.5 * homoode_jax.linen.VariationalDropout(0.25)(z)


class EquinoxCell(eqx.Module):
    drop: eqx.Module

    def __call__(self, z, x):
        return x + 0.5 * self.drop(z)


def solver(framework, **options):
    """Returns a function of (key, x) that solves with dropout, or without if the key is None."""
    if framework == "linen":
        layer = homoode_jax.linen.DEQ(LinenCell(), **options)
        return lambda key, x: layer.apply({}, x, rngs={} if key is None else {"dropout": key})
    if framework == "equinox":
        cell = EquinoxCell(homoode_jax.equinox.VariationalDropout(0.25))
        layer = homoode_jax.equinox.DEQ(cell, batched=True, **options)
        return lambda key, x: layer(x, key=key)

    def solve(key, x):
        layer = homoode_jax.nnx.DEQ(NnxCell(), **options)
        layer.eval() if key is None else layer.train()
        if key is not None:
            layer.cell.drop.rngs.key.set_value(key)
        return layer(x)

    return solve


@pytest.mark.quick(2)
@pytest.mark.parametrize("batching", ["joint", "per_example"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_mask_is_one_for_the_solve_and_another_for_each_example(framework, batching):
    solve = solver(framework, batching=batching)
    key = jax.random.key(3)
    z = solve(key, ONES)
    # A dropped entry solves z = 1, a kept one z = 1 + z / (2 * 0.75).
    dropped = np.isclose(z, 1, atol=1e-3)
    assert np.all(dropped | np.isclose(z, 3, atol=1e-2))
    assert 0.15 < dropped.mean() < 0.35
    assert len({tuple(row) for row in dropped}) == len(ONES)
    np.testing.assert_array_equal(np.isclose(solve(key, ONES), 1, atol=1e-3), dropped)
    again = solve(jax.random.key(4), ONES)
    assert np.any(np.isclose(again, 1, atol=1e-3) != dropped)


@pytest.mark.quick(1)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_without_a_key_or_in_evaluation_nothing_is_dropped(framework):
    np.testing.assert_allclose(solver(framework)(None, ONES), 2, atol=1e-3)


def test_a_new_solve_of_an_nnx_layer_has_a_new_mask():
    layer = homoode_jax.nnx.DEQ(NnxCell())
    solve = nnx.jit(lambda layer, x: layer(x))
    first, second = solve(layer, ONES), solve(layer, ONES)
    assert np.any(np.isclose(first, 1, atol=1e-3) != np.isclose(second, 1, atol=1e-3))


def test_an_example_has_its_mask_alone_and_in_a_batch():
    keys = draw_keys(jax.random.key(0), 4)
    z = jnp.ones((4, 3, 5))
    with evaluation(keys):
        together = drop(z, 0.5), drop(z, 0.5)
    with evaluation(keys[2:3]):
        alone = drop(z[:1], 0.5), drop(z[:1], 0.5)
    for batch, one in zip(together, alone, strict=True):
        np.testing.assert_array_equal(batch[2], one[0])
    assert np.any(together[0] != together[1])  # two dropouts in one evaluation are two masks


def test_channels_are_dropped_as_a_whole():
    with evaluation(draw_keys(jax.random.key(0), 2)):
        z = drop(jnp.ones((2, 4, 4, 16)), 0.5, (1, 2))
    assert np.all((z == z[:, :1, :1]) & ((z == 0) | (z == 2)))
    assert 0 < (z == 0).mean() < 1


@pytest.mark.quick(1)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_gradient_is_that_of_the_solution_with_its_mask(framework):
    solve = solver(framework)
    key = jax.random.key(3)
    gradient = jax.grad(lambda x: jnp.sum(solve(key, x)))(ONES)
    np.testing.assert_allclose(gradient, solve(key, ONES), atol=2e-2)  # the solution is linear in x


class Nested(NnxCell):
    """A cell whose dropout is in a function that it transforms."""

    def __init__(self, transform):
        super().__init__()
        self.transform = transform

    def __call__(self, z, x):
        return x + 0.5 * self.transform(self.drop)(z)


@pytest.mark.parametrize("transform", [jax.jit, jax.checkpoint, jax.vmap, nnx.jit])
def test_a_dropout_that_cannot_know_the_masks_of_the_solve_is_refused(transform):
    with pytest.raises(ValueError, match="jit, checkpoint, cond, scan or vmap"):
        homoode_jax.nnx.DEQ(Nested(transform))(ONES)


def test_a_dropout_that_is_no_part_of_the_cell_is_refused():
    outside = homoode_jax.nnx.VariationalDropout(0.5, rngs=nnx.Rngs(0))

    class Cell(nnx.Module):
        def __call__(self, z, x):
            return x + 0.3 * outside(z)

    layer = homoode_jax.nnx.DEQ(Cell(), z0=(64,))
    with pytest.raises(ValueError, match="make it an attribute of that module"):
        layer(ONES)
    outside.eval()
    assert np.allclose(layer(ONES), 1 / 0.7, atol=1e-3)


def twice(cell, lam, z, x):
    cell(0 * z, x)
    return z - lam * cell(z, x)


def approximate_inverse(cell, z, x, lam, v):
    _, push = jax.linearize(lambda z: cell(z, x), z)
    return v + lam * push(v)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("HomotopyDEQ", {"homotopy": twice}),
        ("DEQ", {"solver": "newton", "preconditioner": approximate_inverse}),
    ],
)
def test_every_call_in_a_function_of_ones_own_has_the_masks_of_the_solve(name, own):
    """Entries that are kept solve z = 1 + 2/3 z, the others are 1."""
    z = getattr(homoode_jax.nnx, name)(NnxCell(), **own).solve(ONES)
    assert z.success
    kept = z.z > 2
    np.testing.assert_allclose(z.z, np.where(kept, 3, 1), atol=2e-2)
    assert 0.6 < np.mean(kept) < 0.9


def test_keys_of_an_equinox_layer():
    batched = homoode_jax.equinox.DEQ(
        EquinoxCell(homoode_jax.equinox.VariationalDropout(0.25)), batched=True
    )
    keys = jax.random.split(jax.random.key(0), len(ONES))
    one = homoode_jax.equinox.DEQ(EquinoxCell(homoode_jax.equinox.VariationalDropout(0.25)))
    alone = jax.vmap(lambda x, key: one(x, key=key[None]))(ONES, keys)
    np.testing.assert_allclose(batched(ONES, key=keys), alone, atol=1e-3)
    still = eqx.nn.inference_mode(batched)
    np.testing.assert_allclose(still(ONES, key=jax.random.key(0)), 2, atol=1e-3)


@pytest.mark.wrong_types
def test_keys_that_are_none():
    layer = homoode_jax.equinox.DEQ(
        EquinoxCell(homoode_jax.equinox.VariationalDropout(0.25)), batched=True
    )
    with pytest.raises(ValueError, match=r"key must be a jax.random.key, got 0"):
        layer(ONES, key=0)
    with pytest.raises(ValueError, match=r"one for each of the 8 examples, got \(3,\)"):
        layer(ONES, key=jax.random.split(jax.random.key(0), 3))
