"""`continuation(homotopy=h)`: paths of a homotopy that the caller wrote."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Result, continuation

LAMS = (0.25, 0.5, 1.0)
EXACT = {"rtol": 1e-12, "atol": 0.0}


def cell(a, z, x):
    """Has one root for |a| < 1."""
    return jnp.tanh(a * z) + x


def line(a, z, x):
    """Has the root x / (1 - a)."""
    return a * z + x


def fixed_point(a, lam, z, x):
    """Is the library's own homotopy from z0 = 0.3, written out."""
    return z - lam * cell(a, z, x) - (1 - lam) * 0.3


def slope(a, lam, z, x):
    """Raises the slope of `line`: its path from z0 = x is x / (1 - lam a)."""
    return z - line(lam * a, z, x)


@pytest.fixture
def problem(x64):
    """Returns a, z0 and x, in float64."""
    x = jnp.linspace(-1, 1, 6).reshape(3, 2)
    return jnp.float64(0.8), jnp.full_like(x, 0.3), x


@pytest.mark.slow
@pytest.mark.parametrize("path", ["natural", "arclength"])
@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_the_homotopy_of_the_library_has_the_same_path(problem, path, batching):
    named = {"path": path, "batching": batching, "save_at": LAMS, **EXACT}
    ours = continuation(cell, *problem, homotopy="fixed_point", **named)
    own = continuation(cell, *problem, homotopy=fixed_point, **named)
    assert jnp.all(own.success)
    np.testing.assert_allclose(own.zs, ours.zs, rtol=1e-12)
    # They are two programs, and rounding decides whether a point needs one more correction.
    np.testing.assert_allclose(own.stats.evaluations, ours.stats.evaluations, rtol=0.03)


def test_a_path_has_its_closed_form(problem):
    a, _, x = problem
    solution = continuation(line, a, x, x, homotopy=slope, save_at=LAMS, **EXACT)
    assert solution.success
    expected = jnp.stack([x / (1 - lam * a) for lam in LAMS])
    np.testing.assert_allclose(solution.zs, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_padded_rows_count_nowhere(problem):
    a, z0, x = problem
    mask = jnp.array([True, False, True])
    named = {"homotopy": fixed_point, **EXACT}
    whole = continuation(cell, a, z0.at[1].set(jnp.nan), x, mask=mask, **named)
    alone = continuation(cell, a, z0[mask], x[mask], **named)
    assert whole.success
    np.testing.assert_allclose(whole.z[mask], alone.z, rtol=1e-9)


@pytest.mark.quick(1)
@pytest.mark.parametrize("adjoint", ["implicit", "unrolled"])
def test_gradients_are_right(problem, adjoint):
    a, _, x = problem

    def loss(a, x):
        solution = continuation(
            line, a, jnp.ones_like(x), x, homotopy=curve, adjoint=adjoint, max_steps=30, **EXACT
        )
        return jnp.sum(solution.z**2)

    def curve(a, lam, z, x):
        """Bends on the way from z0 = 1 to the line's root."""
        return (1 - lam) * (z - 1 + 0.1 * (z**3 - 1)) + lam * (z - line(a, z, x))

    by_a, by_x = jax.grad(loss, argnums=(0, 1))(a, x)
    np.testing.assert_allclose(by_a, 2 * jnp.sum(x**2) / (1 - a) ** 3, rtol=1e-8)
    np.testing.assert_allclose(by_x, 2 * x / (1 - a) ** 2, rtol=1e-8, atol=1e-10)


def test_an_end_that_is_no_root_of_the_cell_is_not_ok(problem):
    a, z0, x = problem
    solution = continuation(cell, a, z0, x, homotopy=lambda a, lam, z, x: z - 0.3 - lam)
    assert not solution.success
    assert solution.result == Result.stagnated


@pytest.mark.parametrize(
    ("homotopy", "message"),
    [
        ("newton_path", "homotopy='newton_path' is not one of 'fixed_point', 'newton'"),
        (3, "homotopy=3 is not one of"),
        (lambda a, lam, z, x: z[0], "the homotopy must return the shapes and dtypes of z0"),
        (lambda a, lam, z, x: (z, z), "the homotopy must return the structure of z0"),
    ],
)
@pytest.mark.wrong_types
def test_others_are_refused(problem, homotopy, message):
    with pytest.raises(ValueError, match=message):
        continuation(cell, *problem, homotopy=homotopy)


def test_a_homotopy_has_to_have_products(problem):
    @jax.custom_vjp
    def opaque(z):
        return z

    opaque.defvjp(lambda z: (z, None), lambda _, cotangent: (cotangent,))
    with pytest.raises(ValueError, match="products of the homotopy"):
        continuation(cell, *problem, homotopy=lambda a, lam, z, x: opaque(z) - lam)
