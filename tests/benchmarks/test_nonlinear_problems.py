"""The benchmark's problems: that each is the one its paper states, and scaled as it says.

No solver of this library is used: roots are known, or found by SciPy from the standard start.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from benchmarks.nonlinear import discretised, folds, mgh, run
from benchmarks.nonlinear.problems import every, library
from homoode_jax.experiments.workdir import write_json
from tests.benchmarks import loops

pytestmark = pytest.mark.usefixtures("x64")

LIBRARY = library()
NAMES = {(problem.name, problem.n) for problem in every()}
ALL = [*every(), *(problem for problem in LIBRARY if (problem.name, problem.n) not in NAMES)]
SMALL = [problem for problem in ALL if problem.n <= 100]
# Where an eigenvalue of s g' has no positive real part at the standard start, as the comments say.
INDEFINITE = {
    *("powell_singular", "powell_badly_scaled", "chebyquad", "trigonometric"),
    *("chained_rosenbrock", "bent_axes"),
}
CENTRE = {"helical_valley"}  # one pair on the imaginary axis
parametrize_small = pytest.mark.parametrize("problem", SMALL, ids=lambda p: f"{p.name} n={p.n}")
parametrize_all = pytest.mark.parametrize("problem", ALL, ids=lambda p: f"{p.name} n={p.n}")


def by_loop(problem, z):
    """g(z) by the loop of the same name."""
    name, *parameter = problem.name.split()
    values = [float(p.split("=")[1]) for p in parameter]
    return np.array(getattr(loops, name)(np.array(loops.shifted(z)), problem.n, *values))


@functools.cache
def root(problem):
    """The known root, polished; or SciPy's from the standard start."""
    start = problem.z_start if problem.solution is None else problem.solution
    g = jax.jit(problem.g)
    jacobian = jax.jit(jax.jacfwd(problem.g))
    found = scipy.optimize.root(
        lambda z: np.asarray(g(z)), start, jac=lambda z: np.asarray(jacobian(z)), tol=1e-14
    )
    assert np.max(np.abs(found.fun)) < 1e-9, found.message
    return found.x


def scaled_jacobian(problem, z):
    return problem.s * np.asarray(jax.jacfwd(problem.g)(jnp.asarray(z)))


@parametrize_small
def test_system_is_the_one_of_its_paper(problem):
    rng = np.random.default_rng(0)
    for z in (problem.z_start, problem.z_start + 0.1 * rng.normal(size=problem.n)):
        want = by_loop(problem, z)
        np.testing.assert_allclose(problem.g(z), want, rtol=1e-9, atol=1e-9 * np.max(np.abs(want)))


@pytest.mark.quick(6)
@parametrize_all
def test_problem_is_square_finite_and_float64_from_every_start(problem):
    g = jax.jit(problem.g)
    for factor in (1, 10, 100):
        z = problem.start(factor)
        tangent = jax.jvp(g, (z,), (np.ones_like(z),))[1]
        for value in (g(z), tangent, problem.f(z)):
            assert value.shape == (problem.n,) and value.dtype == z.dtype == jnp.float64
            assert np.all(np.isfinite(value))


@pytest.mark.quick(4)
@parametrize_small
def test_scaling_is_of_the_size_and_sign_it_says(problem):
    jacobian = scaled_jacobian(problem, problem.z_start)
    assert 0.5 < np.linalg.norm(jacobian, 2) < 1.5
    lowest = np.linalg.eigvals(jacobian).real.min()
    if problem.name not in CENTRE:
        small_chebyquad = problem.name == "chebyquad" and problem.n == 2
        assert (lowest > 0) == (problem.name not in INDEFINITE or small_chebyquad)
    else:
        np.testing.assert_allclose(lowest, 0, atol=1e-12)


@pytest.mark.quick(4)
@parametrize_small
def test_tolerance_follows_from_the_solution(problem):
    smallest = np.linalg.svd(scaled_jacobian(problem, root(problem)), compute_uv=False)[-1]
    if problem.name == "powell_singular":
        assert problem.sigma == 0 and smallest < 1e-9
    else:
        np.testing.assert_allclose(problem.sigma, smallest, rtol=0.35)
    assert 1e-12 <= problem.tol <= 1e-8


@pytest.mark.parametrize(
    "problem", [p for p in ALL if p.solution is not None], ids=lambda p: f"{p.name} n={p.n}"
)
def test_known_solution_solves(problem):
    # Powell's is printed to seven digits, and 1e4 multiplies its error.
    tol = 1e-6 if problem.name == "powell_badly_scaled" else 1e-12
    np.testing.assert_allclose(problem.g(problem.solution), 0, atol=tol)


def test_the_library_has_23_problems_of_its_sizes():
    assert [problem.n for problem in LIBRARY] == [
        *(10, 4, 2, 4, 3, 2, 2, 10, 10, 10, 10, 10, 10, 10),
        *(4, 9, 2, 2, 2, 1, 2, 2, 10),
    ]


def test_starts_are_multiples_of_the_standard_one_or_of_ones():
    np.testing.assert_array_equal(mgh.rosenbrock(4).start(10), [-12, 10, -12, 10])
    np.testing.assert_array_equal(mgh.watson(6).start(), np.zeros(6))
    np.testing.assert_array_equal(mgh.watson(6).start(100), np.full(6, 100))


@pytest.mark.parametrize(("n", "squares"), [(6, 2.28767e-3), (9, 1.39976e-6)])
def test_watson_has_the_minimum_of_the_paper(n, squares):
    z = root(mgh.watson(n))
    np.testing.assert_allclose(loops.watson_squares(z, n), squares, rtol=1e-5)


def test_chebyquad_has_the_tabulated_nodes():
    """Chebyshev's five-point rule of equal weights, as tables have it."""
    nodes = np.array([-0.832497, -0.374541, 0, 0.374541, 0.832497])
    np.testing.assert_allclose(np.sort(root(mgh.chebyquad(5))), (1 + nodes) / 2, atol=1e-6)


@pytest.mark.parametrize(
    "build", [discretised.discrete_boundary_value, discretised.discrete_integral]
)
def test_discrete_boundary_value_tends_to_the_exact_solution(build):
    def error(n):
        t = discretised.interior(n)
        return np.max(np.abs(root(build(n)) - (2 / (2 - t) - t - 1)))

    assert error(10) < 1e-3
    np.testing.assert_allclose(error(21) / error(43), 4, rtol=0.05)  # h from 1/22 to 1/44


@pytest.mark.parametrize("c", [0.9, 0.9999])
def test_chandrasekhar_has_the_known_mean(c):
    """The identity of the H-equation, which the midpoint rule keeps."""
    mean = root(discretised.chandrasekhar(100, c)).mean()
    np.testing.assert_allclose(mean, 2 / c * (1 - np.sqrt(1 - c)), rtol=1e-10)


def bratu_exact(load, t):
    """The smaller solution of Bratu's problem on the unit interval."""
    theta = scipy.optimize.brentq(lambda x: x - np.sqrt(2 * load) / 4 * np.cosh(x), 0, 1.19)
    return 2 * np.log(np.cosh(theta) / np.cosh(theta * (1 - 2 * t)))


@pytest.mark.parametrize(("load", "n", "largest"), [(1.0, 21, 1e-4), (3.5, 101, 1e-3)])
def test_bratu_tends_to_the_exact_solution(load, n, largest):
    def error(n):
        exact = bratu_exact(load, discretised.interior(n))
        return np.max(np.abs(root(discretised.bratu_1d(n, load)) - exact))

    coarse = error(n)
    fine = error(2 * n + 1)
    assert coarse < largest
    np.testing.assert_allclose(coarse / fine, 4, rtol=0.05)


def test_bratu_has_no_root_on_a_coarse_grid_near_the_fold():
    """Why the list has no lambda = 3.5 at n = 10: the largest lambda of symmetric solutions."""

    def boundary(load, middle):
        """By shooting from the two grid points in the middle, where the values are equal."""
        before = here = middle
        for _ in range(5):
            before, here = here, 2 * here - before - load * np.exp(here) / 11**2
        return here

    def load(middle):
        return scipy.optimize.brentq(boundary, 0.1, 8, args=(middle,))

    assert 3.4 < max(load(middle) for middle in np.linspace(1, 1.4, 81)) < 3.5


@pytest.mark.parametrize(("load", "top"), [(1.0, 0.078), (6.0, 0.797)])
def test_bratu_on_a_square_tends_to_its_top(load, top):
    """The top of the solution by an independent sparse Newton at side 100, to O(h^2)."""
    got = root(discretised.bratu_2d(9, load)).max()
    assert 0 < got < top * 1.01 and got > top * 0.95


def test_cubic_folds_and_has_one_root():
    problem = folds.coupled_cubic(1)
    z = np.linspace(-2.49, 2.09, 2_000)
    g = z**3 - 3 * z - 3
    assert np.all(g < 0)
    for path in ((z + 2.5) / (z + 2.5 - problem.s * g), 1 - g / (-(2.5**3) + 7.5 - 3)):
        assert np.all((path > 0) & (path < 1))
        assert np.count_nonzero(np.diff(np.sign(np.diff(path)))) == 2
    many = folds.coupled_cubic(50)
    values = np.linalg.eigvals(scaled_jacobian(many, np.zeros(50))) / many.s
    assert np.sum(np.isclose(values, -3)) == 1 and np.sum(np.isclose(values, 1)) == 49


def test_reactor_folds_and_has_one_root():
    x = np.linspace(0.001, 0.999, 20_000)
    rate = (1 - x) * np.exp(8 * x / (1 + 8 * x / 20))
    ratio = x / rate / folds.DAMKOHLER
    turns = np.flatnonzero(np.diff(np.sign(np.diff(ratio))))
    np.testing.assert_allclose(ratio[turns], [0.573, 0.294], atol=1e-3)
    assert np.count_nonzero(np.diff(ratio > 1)) == 1
    newton = 1 + x / folds.DAMKOHLER - rate
    np.testing.assert_allclose(newton[np.argmax(np.diff(newton) < 0)], 0.098, atol=1e-3)
    assert newton.min() < 0
    np.testing.assert_allclose(folds.reactor().solution[0], x[np.argmax(ratio > 1)], atol=1e-4)


def test_rows_of_an_older_record_keep_its_commit(tmp_path, monkeypatch):
    newer = {"newton": {"commit": "new"}}
    problems = {"a/1": {"solvers": {"newton": {}}}, "b/1": {"solvers": {}, "taken": newer}}
    write_json(tmp_path / "nonlinear.json", {"commit": "old", "problems": problems})
    monkeypatch.setattr(run, "RESULT", tmp_path / "nonlinear.json")
    found = run.recorded()
    assert found["a/1"]["taken"] == {"newton": {"commit": "old"}}
    assert found["b/1"]["taken"] == newer
    monkeypatch.setattr(run, "RESULT", tmp_path / "none.json")
    assert run.recorded() == {}
