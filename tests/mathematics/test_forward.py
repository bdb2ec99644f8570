"""Derivatives of equilibria in forward mode, against finite differences in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Implicit, continuation, equilibrium

MATRIX = 0.5 * np.random.default_rng(0).normal(size=(3, 3))
X = np.random.default_rng(1).normal(size=(2, 3))
SOLVES = {"equilibrium": equilibrium, "continuation": continuation}


def cell(a, z, x):
    return jnp.tanh(z @ a + x)


def solved(name, batching, cell=cell, adjoint="implicit_jvp"):
    """Returns the equilibrium as a function of (a, x)."""
    tight = {"tol": 1e-12, "solver": "newton"} if name == "equilibrium" else {"rtol": 1e-12}
    adjoint = Implicit(tol=1e-12, forward=True) if adjoint == "implicit_jvp" else adjoint

    def find(a, x):
        z0 = jnp.zeros_like(x)
        return SOLVES[name](cell, a, z0, x, adjoint=adjoint, batching=batching, **tight).z

    return find


def differences(function, at, along, step=1e-4):
    """The derivative of a function along a direction, by central differences."""
    up, down = (jax.tree.map(lambda a, d, s=s: a + s * d, at, along) for s in (step, -step))
    return (function(*up) - function(*down)) / (2 * step)


@pytest.mark.quick(1)
@pytest.mark.parametrize("batching", ["joint", "per_example"])
@pytest.mark.parametrize("name", SOLVES)
def test_tangents_are_finite_differences(x64, name, batching):
    find = jax.jit(solved(name, batching))
    at = (jnp.array(MATRIX), jnp.array(X))
    along = jax.tree.map(jnp.cos, at)
    value, tangent = jax.jvp(find, at, along)
    np.testing.assert_allclose(value, cell(at[0], value, at[1]), atol=1e-10)
    np.testing.assert_allclose(tangent, differences(find, at, along), atol=1e-7)
    _, linear = jax.linearize(find, *at)
    np.testing.assert_allclose(linear(*along), tangent, atol=1e-10)


@pytest.mark.quick(1)
@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_forward_and_backward_mode_have_one_jacobian(x64, batching):
    find = solved("equilibrium", batching)
    at = (jnp.array(MATRIX), jnp.array(X))
    forward = jax.jit(jax.jacfwd(find, argnums=(0, 1)))(*at)
    backward = jax.jit(jax.jacrev(find, argnums=(0, 1)))(*at)
    usual = jax.jit(jax.jacrev(solved("equilibrium", batching, adjoint="implicit"), (0, 1)))(*at)
    for a, b, c in zip(forward, backward, usual, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
        np.testing.assert_allclose(a, c, atol=1e-6)  # the tolerance of "implicit"


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_the_hessian_is_finite_differences_of_the_gradient(x64, batching):
    find = solved("equilibrium", batching)
    loss = lambda x: jnp.sum(jnp.sin(find(jnp.array(MATRIX), x)))  # noqa: E731
    x, along = jnp.array(X), jnp.cos(jnp.array(X))
    hessian = jax.jit(jax.hessian(loss))(x)
    product = jnp.tensordot(hessian, along, axes=2)
    gradient = jax.jit(jax.grad(loss))
    np.testing.assert_allclose(product, differences(gradient, (x,), (along,)), atol=1e-7)
    np.testing.assert_allclose(hessian, jnp.transpose(hessian, (2, 3, 0, 1)), atol=1e-8)


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", SOLVES)
def test_a_scalar_equilibrium_has_its_closed_derivatives(x64, name):
    # z = a z + x: z = x / (1 - a), dz/da = x / (1 - a)^2, d2z/da2 = 2 x / (1 - a)^3.
    find = solved(name, "joint", cell=lambda a, z, x: a * z + x)
    one = jnp.ones((1, 1))
    value = lambda a: find(a, one)[0, 0]  # noqa: E731
    assert jax.jvp(value, (0.5,), (1.0,))[1] == pytest.approx(4, rel=1e-9)
    assert jax.grad(value)(0.5) == pytest.approx(4, rel=1e-9)
    assert jax.grad(jax.grad(value))(0.5) == pytest.approx(16, rel=1e-8)
    assert jax.hessian(value)(0.5) == pytest.approx(16, rel=1e-8)


def runaway(a, z, x):
    """A contraction where x = 1; where x = -1 the iteration runs to infinity, derivatives too."""
    return a * z + x + jnp.exp(-40 * x) * z**2


def test_a_row_that_fails_contributes_exactly_zero_in_both_modes():
    def find(a, x):
        options = {"batching": "per_example", "adjoint": "implicit_jvp", "solver": "picard"}
        return equilibrium(runaway, a, jnp.zeros((2, 1)), x, **options)

    x = jnp.array([[1.0], [-1.0]])
    assert list(find(0.5, x).success) == [True, False]
    _, tangent = jax.jvp(lambda a: find(a, x).z, (0.5,), (1.0,))
    np.testing.assert_allclose(tangent, [[4.0], [0.0]], rtol=1e-3)
    assert tangent[1, 0] == 0
    gradient = jax.grad(lambda a, x: jnp.sum(find(a, x).z), argnums=(0, 1))(0.5, x)
    np.testing.assert_allclose(gradient[0], 4.0, rtol=1e-3)
    np.testing.assert_allclose(gradient[1], [[2.0], [0.0]], rtol=1e-3)
    assert gradient[1][1, 0] == 0


@pytest.mark.quick(1)
@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_where_nothing_succeeds_everything_is_exactly_zero(batching):
    def find(a, x):
        options = {"batching": batching, "adjoint": "implicit_jvp", "solver": "picard"}
        return equilibrium(runaway, a, jnp.zeros((2, 1)), x, **options).z

    at = (jnp.float32(0.5), -jnp.ones((2, 1)))
    _, tangent = jax.jvp(find, at, at)
    assert np.all(tangent == 0)
    gradients = jax.grad(lambda a, x: jnp.sum(find(a, x)), argnums=(0, 1))(*at)
    assert all(np.all(gradient == 0) for gradient in gradients)


@pytest.mark.parametrize(
    "cell",
    [
        lambda a, z, x: z + a * (x - x),  # I - J is zero
        lambda a, z, x: x + a * jnp.sqrt(jnp.abs(z - x)),  # J is infinite at z = x
    ],
    ids=["singular", "infinite"],
)
def test_a_root_with_no_derivative_contributes_exactly_zero(cell):
    x = jnp.ones((1, 2))
    find = lambda a: equilibrium(cell, a, x, x, adjoint="implicit_jvp")  # noqa: E731
    assert find(0.5).success
    _, tangent = jax.jvp(lambda a: find(a).z, (0.5,), (1.0,))
    assert np.all(tangent == 0)
    assert jax.grad(lambda a: jnp.sum(find(a).z))(0.5) == 0


def test_masked_rows_and_preconditioners_are_taken(x64):
    inverse = lambda a, z, x, lam, v: v / (1 - lam * a)  # noqa: E731
    mask = jnp.array([True, False])
    x = jnp.array([[1.0], [jnp.nan]])

    def find(a, x):
        options = {"preconditioner": inverse, "mask": mask, "adjoint": "implicit_jvp"}
        return equilibrium(lambda a, z, x: a * z + x, a, jnp.zeros((2, 1)), x, **options).z

    _, tangent = jax.jvp(lambda a: find(a, x), (0.5,), (1.0,))
    np.testing.assert_allclose(tangent, [[4.0], [0.0]], rtol=1e-4)
    gradient = jax.grad(lambda x: jnp.sum(find(0.5, x)))(x)
    np.testing.assert_allclose(gradient, [[2.0], [0.0]], rtol=1e-4)


def test_it_maps_over_parameters():
    x = jnp.ones((1, 1))
    cell = lambda a, z, x: a * z + x  # noqa: E731
    value = lambda a: equilibrium(cell, a, 0 * x, x, adjoint="implicit_jvp").z[0, 0]  # noqa: E731
    slopes = jax.vmap(lambda a: jax.jvp(value, (a,), (1.0,))[1])(jnp.array([0.0, 0.5]))
    np.testing.assert_allclose(slopes, [1, 4], rtol=1e-4)
    np.testing.assert_allclose(jax.vmap(jax.grad(value))(jnp.array([0.0, 0.5])), [1, 4], rtol=1e-4)


def test_what_it_cannot_do_is_said():
    @jax.custom_vjp
    def twice(z):
        return 2 * z

    twice.defvjp(lambda z: (2 * z, None), lambda _, g: (2 * g,))
    x = jnp.ones((1, 1))
    find = lambda a: equilibrium(  # noqa: E731
        lambda a, z, x: a * twice(z) + x, a, 0 * x, x, adjoint="implicit_jvp"
    )
    assert find(0.2).success
    with pytest.raises(ValueError, match=r"implicit_jvp.*custom_jvp"):
        jax.grad(lambda a: jnp.sum(find(a).z))(0.2)
    with pytest.raises(ValueError, match=r"implicit_jvp.*backward_probe"):
        equilibrium(cell, MATRIX, X, X, adjoint="implicit_jvp", backward_probe=1.0)


def test_the_default_adjoint_names_the_one_for_forward_mode():
    with pytest.raises(ValueError, match="implicit_jvp"):
        jax.jvp(lambda x: equilibrium(cell, MATRIX, 0 * x, x).z, (X,), (X,))
