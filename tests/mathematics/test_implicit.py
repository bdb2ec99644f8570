"""Gradients of equilibria beside finite differences, dense linear algebra, and each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Anderson, Implicit, Phantom, continuation, equilibrium
from tests.mathematics.problems import all_zero, finite_differences, relative_error

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
PARAMS = {"weight": 0.4 * RNG.normal(size=(3, 3)), "bias": RNG.normal(size=3)}
X, WEIGHTS = RNG.normal(size=(2, 2, 3))
SOLVERS = ["anderson", "broyden", "newton", "picard", "ode"]
TIGHT = Implicit(1e-12)


def bent(params, z, x):
    return jnp.tanh(z @ params["weight"] + x) + params["bias"] * jnp.sin(x) * 0.5


def root(params, x, z0=None, **options):
    z0 = jnp.zeros_like(x) if z0 is None else z0
    return equilibrium(bent, params, z0, x, tol=1e-13, **options).z


def loss_of(solve):
    return lambda params, x: jnp.sum(WEIGHTS * solve(params, x) ** 2)


@functools.cache
def reference():
    """Central differences of a thousand plain iterations, without the library."""

    def iterate(params, x):
        return jax.lax.fori_loop(0, 300, lambda _, z: bent(params, z, x), jnp.zeros_like(x))

    return finite_differences(lambda inputs: loss_of(iterate)(*inputs), (PARAMS, X))


@pytest.mark.quick(1)
@pytest.mark.parametrize("solver", SOLVERS)
def test_gradients_of_equilibria_are_those_of_finite_differences(solver):
    solve = functools.partial(root, solver=solver, adjoint=TIGHT)
    got = jax.jit(jax.grad(loss_of(solve), argnums=(0, 1)))(PARAMS, X)
    assert relative_error(got, reference()) < 1e-8


@pytest.mark.quick(1)
@pytest.mark.parametrize("homotopy", ["fixed_point", "newton"])
def test_gradients_of_paths_are_those_of_finite_differences(homotopy):
    def solve(params, x):
        options = {"homotopy": homotopy, "rtol": 1e-12, "adjoint": TIGHT}
        return continuation(bent, params, 0 * x, x, **options).z

    got = jax.jit(jax.grad(loss_of(solve), argnums=(0, 1)))(PARAMS, X)
    assert relative_error(got, reference()) < 1e-8


def test_a_gradient_of_a_gradient_is_that_of_finite_differences():
    solve = functools.partial(root, solver="newton", adjoint=TIGHT)
    once = jax.grad(loss_of(solve), argnums=(0, 1))

    def slope(inputs):
        return sum(jnp.sum(jnp.cos(leaf) * leaf) for leaf in jax.tree.leaves(once(*inputs)))

    got = jax.jit(jax.grad(slope))((PARAMS, X))
    assert relative_error(got, finite_differences(slope, (PARAMS, X))) < 1e-6


@pytest.mark.slow
def test_vmap_of_a_gradient_equals_a_loop():
    solve = functools.partial(root, solver="anderson", adjoint=TIGHT, batching="per_example")
    gradient = jax.grad(loss_of(solve), argnums=(0, 1))
    scales = np.array([0.5, 1.0, 1.3])
    many = jax.tree.map(lambda a: scales.reshape(-1, *[1] * np.ndim(a)) * a, (PARAMS, X))
    got = jax.jit(jax.vmap(gradient))(*many)
    alone = jax.jit(gradient)
    for i in range(3):
        want = alone(*jax.tree.map(lambda a, i=i: a[i], many))
        assert relative_error(jax.tree.map(lambda a, i=i: a[i], got), want) < 1e-10


def test_the_error_of_a_gradient_follows_the_tolerance_of_its_solve():
    @jax.jit
    def gradient(tol):
        solve = functools.partial(root, solver="newton", adjoint=Implicit(tol))
        return jax.grad(loss_of(solve), argnums=(0, 1))(PARAMS, X)

    tols = [1e-2, 1e-4, 1e-6, 1e-8]
    errors = [relative_error(gradient(tol), reference()) for tol in tols]
    assert all(error < 20 * tol for error, tol in zip(errors, tols, strict=True)), errors
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3 * errors[0]


@functools.cache
def gradient_of(route):
    solve = functools.partial(root, solver="newton", adjoint=route)

    def loss(params, z0, x):
        return jnp.sum(WEIGHTS * solve(params, x, z0) ** 2)

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(PARAMS, 0 * X, X)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "eta"), [(1, 1.0), (1, 0.5), (3, 1.0), (5, 0.5)])
def test_phantom_gradients_are_their_closed_form(steps, eta):
    """u = eta sum_{i<k} (eta J^T + (1 - eta) I)^i v with a dense J."""
    z = root(PARAMS, jnp.asarray(X), solver="newton")
    flat = lambda a: np.reshape(a, -1)  # noqa: E731
    f = lambda z: bent(PARAMS, z.reshape(X.shape), X).ravel()  # noqa: E731
    jacobian = np.asarray(jax.jacobian(f)(z.ravel()))
    turn = eta * jacobian.T + (1 - eta) * np.eye(6)
    v = flat(2 * WEIGHTS * z)
    u = eta * sum(np.linalg.matrix_power(turn, i) @ v for i in range(steps))
    pull = jax.vjp(lambda params, x: bent(params, z, x), PARAMS, jnp.asarray(X))[1]
    got = gradient_of(Phantom(steps, eta))
    assert relative_error((got[0], got[2]), pull(jnp.asarray(u.reshape(X.shape)))) < 1e-10
    assert all_zero(got[1]) and got[1].shape == X.shape


def test_jacobian_free_is_phantom_of_one_step():
    one = gradient_of("jacobian_free")
    other = gradient_of(Phantom(1, 1.0))
    assert all(
        np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)
    )


def test_implicit_gradients_return_zeros_for_z0():
    assert all_zero(gradient_of("implicit")[1])


@pytest.mark.quick(1)
@pytest.mark.parametrize("solver", ["picard", Anderson(memory=2)])
def test_unrolled_gradients_are_those_of_the_truncated_iteration(solver):
    """Three steps, which do not reach the root; a failed solve has no gradient, so tol is loose."""

    def loss(inputs):
        params, z0, x = inputs
        solution = equilibrium(
            bent, params, z0, x, solver=solver, tol=0.05, max_steps=8, adjoint="unrolled"
        )
        return jnp.sum(WEIGHTS * solution.z**2)

    inputs = (PARAMS, 0.1 * X, X)
    got = jax.jit(jax.grad(loss))(inputs)
    assert relative_error(got, finite_differences(loss, inputs, 1e-4)) < 1e-6
    assert np.abs(got[1]).max() > 1e-4


@pytest.mark.slow
def test_unrolled_gradients_of_a_path_are_those_of_finite_differences():
    def loss(inputs):
        solution = continuation(
            bent,
            inputs[0],
            0 * inputs[1],
            inputs[1],
            rtol=1e-12,
            linear_tol=1e-12,
            max_steps=12,
            adjoint="unrolled",
        )
        return jnp.sum(WEIGHTS * solution.z**2)

    got = jax.jit(jax.grad(loss))((PARAMS, X))
    assert relative_error(got, reference()) < 1e-6
