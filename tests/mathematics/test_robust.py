"""`solver="robust"`: roots that a fast iteration does not find, and honest ends without a root.

Roots are looked for by NumPy or known in closed form; gradients are compared with differences.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Anderson, Implicit, Picard, Result, Robust, equilibrium
from homoode_jax.mathematics.equilibria.robust import RUNGS
from tests.mathematics.cells import polynomial, posed


def planted(weights, z, x):
    """f with the root x: slopes of up to `gain` times 1.3 beside it."""
    return jnp.sin(z @ weights) - jnp.sin(x @ weights) + x


def planted_problem(gain, n=8, batch=6):
    rng = np.random.default_rng(5)
    weights = gain * rng.normal(size=(n, n)) / np.sqrt(n)
    x = rng.normal(size=(batch, n))
    return weights, np.zeros((batch, n)), x


def residuals(weights, z, x):
    f = np.sin(z @ weights) - np.sin(x @ weights) + x
    return np.linalg.norm(z - f, axis=1) / np.linalg.norm(f, axis=1)


@pytest.mark.usefixtures("x64")
def test_it_finds_roots_that_anderson_does_not():
    weights, z0, x = planted_problem(gain=4.0, batch=12)
    options = {"batching": "per_example", "max_steps": 100}
    alone = equilibrium(planted, weights, z0, x, solver=Anderson(memory=5), **options)
    solution = equilibrium(planted, weights, z0, x, solver="robust", **options)
    assert np.sum(alone.success) < 10
    assert np.all(solution.success)
    assert np.all(residuals(weights, np.asarray(solution.z), x) <= 1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_what_brakes_broyden_is_mixed():
    """Kinks do. Which rung solves a cell is decided by rounding too, so it is asked of some."""
    rng = np.random.default_rng(5)
    weights = 3 * rng.normal(size=(20, 20)) / np.sqrt(20)
    x = rng.normal(size=(64, 20))
    some = x[[0, 11, 22, 28, 31, 39, 42, 46]]

    def cell(weights, z, x):
        return jax.nn.relu(z @ weights + 0.5) - jax.nn.relu(x @ weights + 0.5) + x

    options = {"solver": "robust", "batching": "per_example"}
    solution = equilibrium(cell, weights, 0 * some, some, **options)
    ends = dict(zip(RUNGS, np.asarray(solution.stats.rung_results).T, strict=True))
    mixed = ends["mixing"] == Result.ok
    assert np.sum(mixed) >= 3
    assert np.all(ends["broyden"][mixed] > 0)
    z = np.asarray(solution.z)
    f = np.maximum(z @ weights + 0.5, 0) - np.maximum(some @ weights + 0.5, 0) + some
    residual = np.linalg.norm(z - f, axis=1) / np.linalg.norm(f, axis=1)
    assert np.all(residual[mixed] <= 1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("n", "memory"), [(8, 5), (16, 5), (17, 10)])
def test_where_the_iteration_solves_nothing_else_is_done(n, memory):
    weights, z0, x = planted_problem(gain=0.3, n=n)
    options = {"batching": "per_example"}
    alone = equilibrium(planted, weights, z0, x, solver=Anderson(memory=memory), **options)
    solution = equilibrium(planted, weights, z0, x, solver="robust", **options)
    np.testing.assert_array_equal(solution.z, alone.z)
    np.testing.assert_array_equal(solution.stats.nfe, alone.stats.nfe)
    np.testing.assert_array_equal(solution.stats.rung_evaluations[:, 0], alone.stats.nfe)
    assert not np.any(solution.stats.rung_evaluations[:, 1:])
    assert np.all(solution.stats.rung_results[:, 0] == Result.ok)
    assert np.all(solution.stats.rung_results[:, 1:] == -1)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_rows_of_a_batch_are_what_they_are_alone():
    """Two chunks and a half of hard rows, easy ones between them."""
    names = ["no_real_root", "contraction", "cubic_fold", "singular_start"] * 3
    z0, x = posed(names, n=3)
    run = jax.jit(
        lambda z0, x: equilibrium(
            polynomial, None, z0, x, solver="robust", batching="per_example", max_steps=40
        )
    )
    together = run(z0, x)
    for row in range(len(names)):
        some = np.array([row])
        alone = run(z0[some], jax.tree.map(lambda leaf, some=some: leaf[some], x))
        assert alone.success[0] == together.success[row]
        if not alone.success[0]:
            continue  # rounding decides how a rung fails
        np.testing.assert_allclose(alone.z[0], together.z[row], rtol=1e-4)
        ends = together.stats.rung_results[row]
        np.testing.assert_array_equal(alone.stats.rung_results[0], ends)
        # How long Broyden's method takes to get past a fold is decided by rounding too.
        if ends[0] == Result.ok:
            cost = together.stats.rung_evaluations[row]
            np.testing.assert_array_equal(alone.stats.rung_evaluations[0], cost)
    solved = np.asarray(together.success)
    np.testing.assert_array_equal(solved, np.array(names) != "no_real_root")


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_where_there_is_no_root_every_rung_says_how_it_ended():
    cell = lambda _, z, x: z + x + z**2  # noqa: E731
    solution = equilibrium(cell, None, np.full((1, 1), 0.5), np.ones((1, 1)), solver="robust")
    assert not solution.success
    assert solution.stats.rung_results.shape == (len(RUNGS),)
    assert np.all(solution.stats.rung_results > 0)
    assert np.all(solution.stats.rung_evaluations > 0)


def test_a_path_passes_two_folds():
    """z^3 - 3 z - 3 from -2.5: both homotopies fold twice before its only root."""
    cell = lambda _, z, x: z - 0.05 * (z**3 - 3 * z - x)  # noqa: E731
    z0 = jnp.full((1, 1), -2.5)
    solution = equilibrium(cell, None, z0, jnp.full((1, 1), 3.0), solver=Robust(Picard()))
    assert solution.success
    root = 2 * np.cosh(np.arccosh(1.5) / 3)
    np.testing.assert_allclose(solution.z, root, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_where_the_residual_is_least_need_not_be_a_root():
    """Freudenstein and Roth's system has its only root at (5, 4), behind a minimum of |r|.

    The iterations wander there, and by luck they find the root from some starts; from which ones
    depends on the last bit. So there are many starts.
    """

    def cell(_, z, x):
        a, b = z.T
        g = jnp.stack([a - b**3 + 5 * b**2 - 2 * b - 13, a + b**3 + b**2 - 14 * b - 29], axis=-1)
        return z + g / 34.6

    z0 = np.array([-5.0, -3.0]) + 1e-3 * np.arange(24)[:, None]
    options = {"solver": "robust", "tol": 1e-9, "batching": "per_example"}
    solution = equilibrium(cell, None, z0, None, **options)
    assert np.all(solution.success)
    np.testing.assert_allclose(solution.z, np.tile([5, 4], (24, 1)), rtol=1e-6)
    ends = dict(zip(RUNGS, np.asarray(solution.stats.rung_results).T, strict=True))
    behind = ends["search"] == Result.stagnated
    assert np.sum(behind) > 2 and np.any(ends["newton_path_z0"][behind] == Result.ok)


@pytest.mark.quick(1)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("batching", ["per_example", "joint"])
def test_its_gradient_is_that_of_the_root(batching):
    """dz/ds = (I - J)^-1 df/ds, by NumPy, at the roots that were found."""
    weights, z0, x = planted_problem(gain=3.0)

    def total(shift):
        cell = lambda s, z, x: planted(weights, z, x) + s  # noqa: E731
        route = Implicit(tol=1e-10)
        options = {"solver": "robust", "tol": 1e-12, "batching": batching, "adjoint": route}
        solution = equilibrium(cell, shift, z0, x, **options)
        return jnp.sum(solution.z**2), solution

    (_, solution), slope = jax.value_and_grad(total, has_aux=True)(0.01)
    assert np.all(solution.success)
    expected = 0.0
    for z in np.asarray(solution.z):
        jacobian = np.cos(z @ weights)[:, None] * weights.T
        expected += 2 * z @ np.linalg.solve(np.eye(8) - jacobian, np.ones(8))
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_failed_rows_have_a_gradient_of_exactly_zero():
    z0, x = posed(["no_real_root", "contraction"], n=2)

    def total(shift):
        cell = lambda s, z, x: polynomial(None, z, x) + s  # noqa: E731
        options = {"solver": "robust", "batching": "per_example", "max_steps": 20}
        return equilibrium(cell, shift, z0, x, **options).z

    jacobian = jax.jacrev(total)(jnp.zeros(2))
    assert not np.any(jacobian[0])
    assert np.any(jacobian[1])


def test_a_cell_without_products_ends_after_the_first_rung():
    @jax.custom_vjp
    def tanh(z):
        return jnp.tanh(z)

    tanh.defvjp(lambda z: (jnp.tanh(z), z), lambda z, ct: (ct / jnp.cosh(z) ** 2,))
    cell = lambda a, z, x: a * tanh(z) + x  # noqa: E731
    x = jnp.ones((2, 1))
    easy = equilibrium(cell, 0.5, 0 * x, x, solver="robust")
    hard = equilibrium(cell, -9.0, 0 * x, x, solver=Robust(Picard()))
    assert easy.success
    assert not hard.success
    assert hard.stats.rung_results[0] > 0
    assert np.all(hard.stats.rung_results[1:] == -1)


@pytest.mark.slow
def test_padding_costs_nothing():
    x = jnp.array([[1.0], [jnp.nan]])
    cell = lambda a, z, x: jnp.cos(a * z) + x  # noqa: E731
    mask = jnp.array([True, False])
    options = {"solver": "robust", "batching": "per_example", "mask": mask}
    solution = equilibrium(cell, 2.0, 0 * x, x, **options)
    assert np.all(solution.success)
    assert np.sum(solution.stats.rung_evaluations[1]) == 0


@pytest.mark.parametrize("first", ["anderson", Anderson, 3])
def test_what_it_begins_with_is_named_where_it_is_wrong(first):
    with pytest.raises(ValueError, match="first must be an iteration of homoode_jax, such as"):
        Robust(first)


@pytest.mark.slow
def test_all_rungs_share_one_budget():
    cell = lambda _, z, x: z + x + z**2  # noqa: E731
    x = jnp.ones((1, 1))
    for most in (5, 60):
        solution = equilibrium(cell, None, 0 * x, x, solver="robust", max_evaluations=most)
        assert not solution.success
        # Bounds are looked at between steps; f at the ends, and a look beside one, come on top.
        assert most <= solution.stats.evaluations <= most + 6


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_small_budget_that_would_do_does():
    """Attempts are not cut shorter by it: it ends the climb, and nothing else."""
    weights, z0, x = planted_problem(gain=4.0, batch=24)
    options = {"solver": "robust", "batching": "per_example"}
    usual = equilibrium(planted, weights, z0, x, max_evaluations=10_000, **options)
    small = equilibrium(planted, weights, z0, x, max_evaluations=2_500, **options)
    would_do = usual.stats.evaluations < 2_500
    assert np.sum(would_do) >= 23
    np.testing.assert_array_equal(small.success, would_do)
    took = usual.stats.evaluations[would_do]
    np.testing.assert_array_equal(small.stats.evaluations[would_do], took)


def test_backpropagation_through_its_steps_is_refused():
    x = jnp.ones((1, 1))
    with pytest.raises(ValueError, match=r"solver='robust' has no adjoint='unrolled'"):
        equilibrium(lambda a, z, x: a * z + x, 0.5, 0 * x, x, solver="robust", adjoint="unrolled")
