"""How paths end, beside scalar polynomials whose paths and folds are known in closed form.

Each problem is hidden in six dimensions under a skew change of basis; in float64 and in float32.
One compilation solves all problems of a kind.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Result, continuation
from tests.mathematics.cells import SCALAR, polynomial, posed

PROBLEMS = list(SCALAR)
KINDS = [(h, p) for h in ("fixed_point", "newton") for p in ("natural", "arclength")]
CASES = [(*kind, "float64") for kind in KINDS]
CASES += [pytest.param("fixed_point", "natural", "float32", marks=pytest.mark.slow)]


def _with(word):
    return [case for case in CASES if word in getattr(case, "values", case)]


NATURAL, ARCLENGTH, FIXED_POINT = map(_with, ("natural", "arclength", "fixed_point"))


WANTED = {
    ("fixed_point", "natural"): {
        "cubic_fold": "fold",
        "no_real_root": "fold",
        "shift": "unbounded_path",
        "doubling": "unbounded_path",
    },
    ("fixed_point", "arclength"): {
        "cubic_fold": "ok",
        "no_real_root": "unbounded_path",
        "shift": "unbounded_path",
        "doubling": "unbounded_path",
    },
    ("newton", "natural"): {
        "cubic_fold": "fold",
        "no_real_root": "fold",
        "singular_start": "linear_solve",
        "shift": "linear_solve",
        "doubling": "ok",
    },
    ("newton", "arclength"): {
        "cubic_fold": "ok",
        "no_real_root": "unbounded_path",
        "singular_start": "ok",
        "shift": "unbounded_path",
        "doubling": "ok",
    },
}
ROOTS = {"cubic_fold": -2.1038034, "doubling": -1.0, "singular_start": -1.0, "contraction": 1 / 1.7}


@functools.cache
def solved(homotopy, path, dtype):
    """All problems at once: codes by name, the solution, and the coordinate of each problem."""
    with jax.enable_x64(dtype == "float64"):
        inputs = jax.tree.map(lambda a: jnp.asarray(a, dtype), posed(PROBLEMS, 6))
        solve = jax.jit(
            lambda z0, x: continuation(
                polynomial, None, z0, x, homotopy=homotopy, path=path, batching="per_example"
            )
        )
        solution = jax.tree.map(np.asarray, solve(*inputs))
        w = np.einsum("bj,bj->b", np.asarray(inputs[1]["inverse"])[:, 0], solution.z)
    codes = {name: Result(code).name for name, code in zip(PROBLEMS, solution.result, strict=True)}
    return codes, solution, dict(zip(PROBLEMS, w, strict=True))


def fold_of(name, homotopy):
    """lam at the first fold of a scalar path, where lam is explicit in z."""
    coefficients, z0 = SCALAR[name]
    f = np.polynomial.Polynomial(coefficients)
    z = np.polynomial.Polynomial([0, 1])
    if homotopy == "newton":  # lam = 1 - r(z) / r(z0)
        r = z - f
        turns = r.deriv().roots()

        def lam(z):
            return 1 - r(z) / r(z0)
    else:  # lam = (z - z0) / (f(z) - z0)
        turns = (f - z0 - (z - z0) * f.deriv()).roots()
        lam = lambda z: (z - z0) / (f(z) - z0)  # noqa: E731
    real = turns[np.abs(turns.imag) < 1e-9].real
    toward = np.sign(f(z0) - z0) * (1 if homotopy == "fixed_point" else np.sign(1 - f.deriv()(z0)))
    ahead = real[(real - z0) * toward > 0]
    return lam(ahead[np.argmin(np.abs(ahead - z0))])


@pytest.mark.quick(1)
@pytest.mark.parametrize(("homotopy", "path", "dtype"), CASES)
def test_paths_end_as_theory_says(homotopy, path, dtype):
    codes, solution, w = solved(homotopy, path, dtype)
    wanted = WANTED[homotopy, path]
    assert {name: codes[name] for name in wanted} == wanted
    for name, code in codes.items():
        i = PROBLEMS.index(name)
        assert np.isfinite(solution.z[i]).all()
        assert (solution.stats.lam[i] == 1) or code != "ok"
        if code == "ok" and name in ROOTS:
            assert abs(abs(w[name]) - abs(ROOTS[name])) < 2e-5
            assert name == "singular_start" or w[name] * ROOTS[name] > 0


@pytest.mark.quick(1)
@pytest.mark.parametrize(("homotopy", "path", "dtype"), NATURAL)
@pytest.mark.parametrize("name", ["cubic_fold", "no_real_root"])
def test_a_natural_path_ends_at_the_fold_itself(name, homotopy, path, dtype):
    _, solution, _ = solved(homotopy, path, dtype)
    below = fold_of(name, homotopy) - solution.stats.lam[PROBLEMS.index(name)]
    # At a distance s from the fold rounding moves a point by eps / s, which has to stay well below
    # s: lam stays some hundred eps away (1.6e-5 or 3.1e-5 in float32, as XLA compiles it).
    assert -1e-6 < below < (1e-6 if dtype == "float64" else 500 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_a_way_to_infinity_at_some_lam_is_no_fold(dtype):
    """f = 2z + (1 + z)^(1 - p) from 0: 1/2 - lam is (2z)^-p / 4 and less, and lam rises with z."""
    with jax.enable_x64(dtype == "float64"):
        p = jnp.asarray([1, 2, 3, 5], dtype)[:, None]
        cell = lambda _, z, p: 2 * z + (1 + z) ** (1 - p)  # noqa: E731
        solution = continuation(cell, None, 0 * p, p, batching="per_example")
    assert np.all(np.abs(solution.stats.lam - 0.5) < 3e-5)
    codes = [Result(code).name for code in solution.result]
    assert codes[0] == "unbounded_path"
    assert set(codes) <= {"unbounded_path", "linear_solve", "stagnated"}


@pytest.mark.slow
@pytest.mark.parametrize(("homotopy", "path", "dtype"), ARCLENGTH)
def test_arc_length_counts_the_folds_it_passes(homotopy, path, dtype):
    _, solution, _ = solved(homotopy, path, dtype)
    folds = dict(zip(PROBLEMS, solution.stats.num_folds, strict=True))
    assert folds["cubic_fold"] == 2 and folds["no_real_root"] == 1 and folds["contraction"] == 0


@pytest.mark.quick(1)
@pytest.mark.parametrize(("homotopy", "path", "dtype"), FIXED_POINT)
def test_a_pitchfork_in_every_direction_is_a_bifurcation(homotopy, path, dtype):
    """f = 3z - z^3 from 0: I - lam J = 1 - 3 lam."""
    codes, solution, _ = solved(homotopy, path, dtype)
    assert codes["pitchforks"] == "bifurcation"
    assert abs(solution.stats.lam[PROBLEMS.index("pitchforks")] - 1 / 3) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("homotopy", "path", "dtype"), CASES)
def test_an_ok_is_a_root_whatever_was_passed_on_the_way(homotopy, path, dtype):
    """A long step may pass over the bifurcation of a single direction without notice."""
    codes, solution, w = solved(homotopy, path, dtype)
    i = PROBLEMS.index("pitchfork")
    if codes["pitchfork"] == "ok":
        assert solution.stats.residual[i] < 1e-5
        assert min(abs(abs(w["pitchfork"]) - [0, 2**0.5])) < 1e-5
    else:
        assert codes["pitchfork"] == "bifurcation"


@pytest.mark.slow
def test_a_fold_is_found_in_a_random_smooth_cell():
    """f = tanh(W z) + b in 20 dimensions and a cubic that folds, coupled; beside dense NumPy.

    The path is followed by NumPy, in steps of 1e-3 of arc length, with dense Newton corrections.
    """
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(20, 20)) * 0.15
    bias = rng.normal(size=20)
    push = rng.normal(size=20) * 0.2

    def cell(p, z, x):
        del x
        value = jnp.tanh(z @ p["weight"].T) + p["bias"] + z[:, :1] * p["push"]
        cubic = -0.9 + 1.9 * z[:, 0] - 0.3 * z[:, 0] ** 3 + 0.05 * jnp.sin(z[:, 1])
        return value.at[:, 0].set(cubic)

    z0 = np.zeros(20)
    z0[0] = 1.5
    with jax.enable_x64(True):
        params = {"weight": weight, "bias": bias, "push": push}
        f = jax.jit(lambda z: cell(params, z[None], None)[0])
        jacobian = jax.jit(jax.jacobian(f))
        want = _dense_fold(f, jacobian, z0)
        solve = jax.jit(lambda z0: continuation(cell, params, z0, None))
        solution = solve(z0[None])
    assert solution.result == Result.fold
    assert abs(solution.stats.lam - want) < 1e-5


def _dense_fold(f, jacobian, z0, step=5e-3):
    """Largest lam on the fixed-point path, by dense pseudo-arclength continuation."""
    n = len(z0)
    y = np.append(z0, 0.0)

    def value(y):
        return y[:n] - y[n] * np.asarray(f(y[:n])) - (1 - y[n]) * z0

    def matrix(y, row):
        top = np.eye(n) - y[n] * np.asarray(jacobian(y[:n]))
        return np.vstack([np.c_[top, z0 - np.asarray(f(y[:n]))], row])

    row = np.append(np.zeros(n), 1.0)
    lams = [0.0]
    while len(lams) < 3 or lams[-1] > lams[-2]:
        tangent = np.linalg.solve(matrix(y, row), np.append(np.zeros(n), 1.0))
        row = tangent / np.linalg.norm(tangent)
        y = y + step * row
        for _ in range(4):
            y = y - np.linalg.solve(matrix(y, row), np.append(value(y), 0.0))
        lams.append(y[n])
    parabola = np.polyfit([-1, 0, 1], lams[-3:], 2)
    return np.polyval(parabola, -parabola[1] / (2 * parabola[0]))
