"""Whole paths beside their closed forms, and the paper's relation along them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Result, continuation
from tests.mathematics.problems import relative_error

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
A = RNG.normal(size=(5, 5)) * 0.5 - 0.6 * np.eye(5)
B, Z0 = RNG.normal(size=(2, 3, 5))
ALL = np.ones(3, bool)
LAMS = np.linspace(0, 1, 10)
KINDS = [(h, p) for h in ("fixed_point", "newton") for p in ("natural", "arclength")]


def mixed(params, z, x):
    """Linear where bend is 0, tanh where it is 1."""
    matrix, bend = params
    value = z @ matrix.T
    return bend * jnp.tanh(value) + (1 - bend) * value + x


@functools.cache
def compiled(**options):
    def solve(params, z0, x, lams, mask):
        tolerances = {"rtol": 1e-12, "atol": 1e-14}
        return continuation(mixed, params, z0, x, save_at=lams, mask=mask, **tolerances, **options)

    return jax.jit(solve)


def follow(bend, z0=Z0, x=B, matrix=A, lams=LAMS, mask=ALL, **options):
    kind = {"homotopy": "fixed_point", "path": "natural"} | options
    return compiled(**kind)((matrix, float(bend)), z0, x, lams, mask)


def closed_form(homotopy, lam, z0, b):
    if homotopy == "newton":
        return lam * np.linalg.solve(np.eye(5) - A, b.T).T + (1 - lam) * z0
    return np.linalg.solve(np.eye(5) - lam * A, (lam * b + (1 - lam) * z0).T).T


def test_the_linear_cell_has_no_bifurcation_on_its_way():
    values = np.linalg.eigvals(A)
    assert not np.any((np.abs(values.imag) < 1e-9) & (values.real >= 1))


@pytest.mark.quick(1)
@pytest.mark.parametrize(("homotopy", "path"), KINDS)
def test_the_whole_path_of_a_linear_cell_is_its_closed_form(homotopy, path):
    solution = follow(0, homotopy=homotopy, path=path)
    assert solution.success and solution.stats.lam == 1 and np.array_equal(solution.ts, LAMS)
    for lam, z in zip(LAMS, solution.zs, strict=True):
        assert np.abs(z - closed_form(homotopy, lam, Z0, B)).max() < 1e-8
    assert np.abs(solution.z - np.linalg.solve(np.eye(5) - A, B.T).T).max() < 1e-8


@pytest.mark.quick(1)
@pytest.mark.parametrize("path", ["natural", "arclength"])
@pytest.mark.parametrize("bend", [0, 1])
def test_the_path_from_zero_obeys_the_relation_of_the_paper(bend, path):
    """dz/dlam = (I - lam J)^-1 f, by differences of the saved path and a dense J."""
    lams = (np.array([0.3, 0.8])[:, None] + np.array([-2e-3, -1e-3, 0, 1e-3, 2e-3])).ravel()
    solution = follow(bend, z0=0 * Z0, lams=lams, path=path)
    zs = np.asarray(solution.zs).reshape(2, 5, 3, 5)
    slopes = (8 * (zs[:, 3] - zs[:, 1]) - (zs[:, 4] - zs[:, 0])) / 12e-3
    for lam, z, slope in zip((0.3, 0.8), zs[:, 2], slopes, strict=True):
        for i in range(3):
            f = lambda z, i=i: mixed((A, bend), z, B[i])  # noqa: E731
            matrix = np.eye(5) - lam * np.asarray(jax.jacobian(f)(z[i]))
            assert relative_error(slope[i], np.linalg.solve(matrix, np.asarray(f(z[i])))) < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"solver": "heun", "schedule": "cosine"},
        {"solver": "dopri5", "schedule": "quadratic"},
        {"solver": "dopri5", "path": "arclength"},
    ],
)
def test_predictors_and_schedules_find_the_same_path(options):
    got = follow(1, **options)
    euler = follow(1)
    assert got.success
    assert relative_error(mixed((A, 1.0), got.z, B), got.z) < 1e-10
    assert relative_error(got.zs, euler.zs) < 1e-9


@pytest.mark.slow
def test_every_point_stepped_on_is_kept():
    options = {"save_at": "steps", "max_steps": 40}
    solution = jax.jit(lambda: continuation(mixed, (A, 0.0), Z0, B, **options))()
    kept = int(solution.stats.num_steps - solution.stats.num_rejected)
    assert solution.ts.shape == (41,) and solution.zs.shape == (41, 3, 5)
    assert solution.ts[0] == 0 and np.all(solution.ts[kept:] == 1) and solution.ts[kept - 1] < 1
    assert np.array_equal(solution.zs[-1], solution.z)
    for lam, z in zip(solution.ts[: kept + 1], solution.zs, strict=False):
        error = np.abs(z - closed_form("fixed_point", lam, Z0, B)).max()
        assert error < 0.05 * np.abs(z).max()


@pytest.mark.slow
def test_each_example_has_its_own_path():
    """A row alone, the others masked away, takes the steps that it takes in the batch."""
    together = follow(1, batching="per_example")
    joint = follow(1)
    assert together.success.shape == (3,) and together.success.all()
    assert relative_error(together.z, joint.z) < 1e-10
    assert relative_error(together.zs, joint.zs) < 1e-9
    assert np.array_equal(together.ts, np.broadcast_to(LAMS[:, None], (10, 3)))
    same = follow(1, x=np.broadcast_to(B[1], B.shape), z0=np.broadcast_to(Z0[1], Z0.shape))
    assert together.stats.num_steps[1] == same.stats.num_steps


@pytest.mark.quick(1)
@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_padding_comes_back_as_it_was_and_changes_nothing(batching):
    """NaN in the padding, and finite numbers: bit-identical; and the root is the root."""
    mask = np.array([True, False, True])
    z0 = Z0.copy()
    b = B.copy()
    b[1] = np.nan
    z0[1] = 7.0
    options = {} if batching == "joint" else {"batching": batching}
    got = follow(1, z0=z0, x=b, mask=mask, **options)
    other = follow(1, z0=z0, mask=mask, **options)
    assert np.array_equal(got.z[1], z0[1]) and np.array_equal(got.zs[5, 1], z0[1])
    for a, c in zip(*map(jax.tree.leaves, (got, other)), strict=True):
        assert np.array_equal(a, c)
    assert np.all(got.success)
    assert relative_error(got.z[mask], follow(1).z[mask]) < 1e-10


@pytest.mark.slow
def test_saved_points_that_were_not_reached_hold_the_last_one():
    """f = 2z + b: the fixed-point path runs to infinity at lam = 1/2, and says so."""
    solution = follow(0, z0=0 * Z0, matrix=2 * np.eye(5))
    assert solution.result == Result.unbounded_path
    assert relative_error(solution.zs[3], 1 / 3 / (1 - 2 / 3) * B) < 1e-8
    assert abs(solution.stats.lam - 0.5) < 1e-3 and np.isfinite(solution.z).all()
    assert np.array_equal(solution.zs[6], solution.z)
    newton = follow(0, z0=0 * Z0, matrix=2 * np.eye(5), homotopy="newton")
    assert newton.success and relative_error(newton.z, -B) < 1e-10
