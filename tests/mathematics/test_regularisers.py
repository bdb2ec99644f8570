"""Regularisers beside dense Jacobians, closed forms and finite differences, in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import integrate, regularisers
from tests.mathematics.problems import finite_differences, relative_error

pytestmark = pytest.mark.usefixtures("x64")
BATCH = 3


def cell(params, z, x):
    """Two leaves that depend on each other."""
    a, b = z
    mixed = jnp.tanh(a @ params["w"] + x + b[:, :, 0])
    return mixed, 0.5 * jnp.sin(b) + a[:, :, None] ** 2


def problem(seed=0):
    rng = np.random.default_rng(seed)
    params = {"w": rng.normal(size=(2, 2))}
    z = rng.normal(size=(BATCH, 2)), rng.normal(size=(BATCH, 2, 1))
    return params, z, rng.normal(size=(BATCH, 2))


def dense(function, params, z, x):
    """The Jacobian of the whole batch, `[entries, entries]`, by forward differentiation."""
    flat, restore = jax.flatten_util.ravel_pytree(jax.tree.map(jnp.asarray, z))
    return np.asarray(
        jax.jacfwd(lambda v: jax.flatten_util.ravel_pytree(function(params, restore(v), x))[0])(
            flat
        )
    )


def test_jacobian_norm_is_the_mean_squared_frobenius_norm_by_entry():
    """The mean of many estimates is within its standard error of the dense Jacobian's norm."""
    params, z, x = problem()
    jacobian = dense(cell, params, z, x)
    keys = jax.random.split(jax.random.key(1), 4000)
    estimates = jax.jit(jax.vmap(lambda key: regularisers.jacobian_norm(cell, params, z, x, key)))(
        keys
    )
    error = np.std(estimates) / np.sqrt(len(estimates))
    want = np.sum(jacobian**2) / len(jacobian)
    assert np.std(estimates) > 0.05 * want
    assert abs(np.mean(estimates) - want) < 4 * error
    by_samples = regularisers.jacobian_norm(cell, params, z, x, jax.random.key(2), samples=1000)
    assert abs(by_samples - want) < 8 * error


@pytest.mark.slow
def test_the_mean_over_all_signs_is_exact(monkeypatch):
    """Also where examples depend on each other, as under batch normalisation."""

    def normalised(a, z, x):
        return a * (z - z.mean(axis=0)) / z.std(axis=0) + x

    z, x = np.random.default_rng(0).normal(size=(2, 3, 2))
    estimates = []
    for signs in itertools.product((-1.0, 1.0), repeat=z.size):
        v = jnp.reshape(jnp.asarray(signs), z.shape)
        monkeypatch.setattr(regularisers, "_signs", lambda key, z, v=v: v)
        with jax.disable_jit():  # signs are no input of the compiled program
            norm = regularisers.jacobian_norm(normalised, 0.7, z, x, jax.random.key(0))
        estimates.append(norm)
    jacobian = dense(normalised, 0.7, z, x)
    np.testing.assert_allclose(np.mean(estimates), np.sum(jacobian**2) / z.size, rtol=1e-12)


def test_jacobian_norm_is_exact_where_j_is_diagonal_and_draws_all_signs():
    z = np.random.default_rng(0).normal(size=(4, 3))
    key = jax.random.key(0)
    got = regularisers.jacobian_norm(lambda a, z, x: a * z**2, 0.5, z, None, key)
    np.testing.assert_allclose(got, np.mean(z**2), rtol=1e-12)
    keys = jax.random.split(key, 64)
    draws = jax.vmap(lambda key: regularisers._signs(key, jnp.asarray(z)))(keys)
    assert len(np.unique(draws.reshape(64, -1), axis=0)) == 64
    assert set(np.unique(draws)) == {-1, 1}


def test_jacobian_norm_is_differentiable():
    """In params, z and x, under jit."""
    loss = functools.partial(regularisers.jacobian_norm, cell, key=jax.random.key(3), samples=2)
    got = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*problem())
    assert relative_error(got, finite_differences(lambda p: loss(*p), problem())) < 1e-8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "samples must be a positive integer, got 0"),
        ({"z": 1.0}, "z must be a"),
        ({"x": np.ones((2, 2))}, r"x has batch size 2 but z has 3"),
        ({"cell": lambda p, z, x: z[0]}, "cell must return the structure"),
    ],
)
def test_jacobian_norm_names_what_is_wrong(change, message):
    params, z, x = problem()
    arguments = {"cell": lambda p, z, x: z, "params": params, "z": z[0], "x": x} | change
    if "cell" in change:
        arguments["z"] = z
    with pytest.raises(ValueError, match=message):
        regularisers.jacobian_norm(**arguments, key=jax.random.key(0))


def linear(rate, t, z, x):
    """dz/dt = -rate z, on two leaves."""
    return jax.tree.map(lambda leaf: -rate * leaf, z)


def energy(rate, z0, x, probe=0.0, **options):
    field, start = regularisers.with_kinetic_energy(linear, z0)
    solution = integrate(field, rate, start, x, rtol=1e-10, atol=1e-10, **options)
    return solution.z[1]


def test_kinetic_energy_of_decay_is_known():
    """int |k z0 exp(-k t)|^2 dt = k |z0|^2 (1 - exp(-2 k)) / 2."""
    _, z0, _ = problem()
    got = jax.jit(functools.partial(energy, batching="per_example"))(1.3, z0, None)
    squares = np.mean(np.concatenate([z0[0], z0[1][:, :, 0]], axis=1) ** 2, axis=1)
    np.testing.assert_allclose(got, 1.3 * squares * (1 - np.exp(-2.6)) / 2, rtol=1e-8)


def turning(params, t, z, x):
    return jnp.tanh(z @ params["w"] + x) * jnp.cos(2 * t)


def turning_problem():
    params, z, x = problem()
    return params, z[0], x


@functools.cache
def turning_differences():
    return finite_differences(lambda inputs: turning_loss(*inputs), turning_problem())


def turning_loss(params, z0, x, **options):
    field, start = regularisers.with_kinetic_energy(turning, z0)
    z, energies = integrate(field, params, start, x, rtol=1e-9, atol=1e-9, **options).z
    return jnp.sum(energies**2) + jnp.sum(z)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adjoint", "batching"), [("checkpointed", "joint"), ("backsolve", "per_example")]
)
def test_kinetic_energy_is_differentiable_by_every_route(adjoint, batching):
    loss = functools.partial(turning_loss, adjoint=adjoint, batching=batching, max_steps=64)
    got = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*turning_problem())
    assert relative_error(got, turning_differences()) < 1e-6


@pytest.mark.slow
def test_kinetic_energy_leaves_the_path_alone_and_takes_low_precision():
    params, z0, x = turning_problem()
    plain = integrate(turning, params, z0, x)
    low = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), (params, z0, x))
    field, start = regularisers.with_kinetic_energy(turning, low[1])
    z, energies = integrate(field, low[0], start, low[2]).z
    assert z.dtype == jnp.bfloat16 and energies.dtype == jnp.float32
    np.testing.assert_allclose(z.astype(float), plain.z, atol=0.05)


def test_kinetic_energy_of_complex_states_is_that_of_the_modulus():
    z0 = jnp.zeros((1, 1), jnp.complex64)
    moving, start = regularisers.with_kinetic_energy(lambda p, t, z, x: p + 0 * z, z0)
    _, energy = integrate(moving, jnp.array(3 + 4j), start, None).z
    np.testing.assert_allclose(energy, [25], rtol=1e-5)
