"""Audits of cells beside dense linear algebra and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from homoode_jax import Result, audit, continuation, equilibrium

pytestmark = pytest.mark.slow  # many programs to compile

BATCH = 3


def cell(params, z, x):
    """Two leaves that depend on each other."""
    a, b = z
    mixed = jnp.tanh(a @ params["w"] + x + b[:, :, 0])
    return mixed, 0.5 * jnp.sin(b) + 0.3 * a[:, :, None]


def problem(seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(BATCH, 2)), rng.normal(size=(BATCH, 2, 1))
    return {"w": rng.normal(size=(2, 2))}, z, rng.normal(size=(BATCH, 2))


def dense(function, params, z, x, example):
    """J of one example, `[n, n]`."""
    z, x = jax.tree.map(lambda leaf: jnp.asarray(leaf[example : example + 1]), (z, x))
    flat, restore = jax.flatten_util.ravel_pytree(z)
    flattened = lambda v: jax.flatten_util.ravel_pytree(function(params, restore(v), x))[0]  # noqa: E731
    return np.asarray(jax.jacrev(flattened)(flat))


def linear(matrices, z, x):
    """f = A z + x, with one matrix for each example in x."""
    matrix, shift = x
    return jnp.einsum("bij,bj->bi", matrix, z) + shift


def linear_problem(matrices):
    matrices = np.stack(matrices)
    shape = matrices.shape[:2]
    return None, np.zeros(shape), (matrices, np.ones(shape))


def test_residual_is_that_of_the_solution(x64):
    params, z, x = problem()
    got = audit.residual(cell, params, z, x)
    f = cell(params, z, x)
    for i in range(BATCH):
        z_i, f_i = (np.concatenate([np.ravel(leaf[i]) for leaf in tree]) for tree in (z, f))
        want = np.linalg.norm(z_i - f_i) / np.linalg.norm(f_i)
        np.testing.assert_allclose(got[i], want, rtol=1e-12)
    solution = equilibrium(cell, params, z, x, batching="per_example", tol=1e-4)
    again = audit.residual(cell, params, solution.z, x)
    np.testing.assert_allclose(again, solution.stats.residual, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_spectral_radius_of_a_nonlinear_cell(x64, dtype):
    inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), problem())
    got = jax.jit(lambda *inputs: audit.spectral_radius(cell, *inputs))(*inputs)
    want = [max(abs(np.linalg.eigvals(dense(cell, *problem(), i)))) for i in range(BATCH)]
    assert got.value.shape == (BATCH,) and got.value.dtype == dtype
    tol = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(got.value, want, rtol=tol)
    assert np.all(got.error < tol)


def spectra():
    """Matrices on which plain power iteration fails, and their spectral radii."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(6, 6))
    turn = np.array([[np.cos(2), -np.sin(2)], [np.sin(2), np.cos(2)]])
    blocks = np.zeros((6, 6))
    blocks[:2, :2], blocks[2:, 2:] = 0.9 * turn, np.diag([-0.9, 0.5, 0.1, 0])
    jordan = 0.8 * np.eye(6) + np.eye(6, k=1)
    return {
        "complex pair and -0.9": (basis @ blocks @ np.linalg.inv(basis), 0.9),
        "opposite": (np.diag([1.5, -1.5, 1, 0, 0, 0]), 1.5),
        "nilpotent": (np.eye(6, k=1), 0.0),
        "zero": (np.zeros((6, 6)), 0.0),
        "identity": (np.eye(6), 1.0),
        "tiny": (1e-30 * basis, 1e-30 * max(abs(np.linalg.eigvals(basis)))),
        "huge": (1e30 * basis, 1e30 * max(abs(np.linalg.eigvals(basis)))),
        "Jordan block": (jordan, 0.8),
    }


def test_spectral_radius_of_awkward_matrices(x64):
    matrices, wants = zip(*spectra().values(), strict=True)
    got = audit.spectral_radius(linear, *linear_problem(matrices))
    for name, value, want in zip(spectra(), got.value, wants, strict=True):
        # A rounding error of 1e-16 moves the eigenvalues of a Jordan block by its sixth root.
        rtol = 1e-2 if name in ("Jordan block", "nilpotent") else 1e-12
        atol = 1e-2 if name == "nilpotent" else 0
        np.testing.assert_allclose(value, want, rtol=rtol, atol=atol, err_msg=name)


def test_what_is_not_finite_stays_with_its_example(x64):
    params, z0, x = linear_problem([np.eye(2), np.full((2, 2), np.nan)])
    radius = audit.spectral_radius(linear, params, z0, x)
    sigma = audit.sigma_min(linear, params, z0[None], [0.5], x)
    np.testing.assert_allclose(radius.value, [1, np.nan])
    np.testing.assert_allclose(sigma.value[0], [0.5, np.nan])


def test_spectral_radius_of_a_large_matrix_says_how_good_it_is(x64):
    """One matrix with a leading complex pair, one with a circle of eigenvalues."""
    rng = np.random.default_rng(0)
    circle = rng.normal(size=(200, 200)) / np.sqrt(200)
    led = circle.copy() * 0.7
    led[:2, :2] += 1.5 * np.array([[0.6, -0.8], [0.8, 0.6]])
    got = audit.spectral_radius(linear, *linear_problem([led, circle]))
    wants = [max(abs(np.linalg.eigvals(matrix))) for matrix in (led, circle)]
    errors = abs(got.value - np.array(wants))
    print(f"\nArnoldi, n = 200, dimension 40: errors {errors}, estimated {got.error}")
    assert errors[0] < 1e-11 and got.error[0] < 1e-11
    assert errors[1] < 0.2 and got.error[1] > 1e-3


def test_sigma_min_along_the_path_of_a_linear_cell_beside_the_dense_svd(x64):
    """Through the fold at lam = 1 / (real eigenvalue), where it is zero to rounding."""
    rng = np.random.default_rng(0)
    matrices = [rng.normal(size=(6, 6)), 0.3 * rng.normal(size=(6, 6)), np.zeros((6, 6))]
    matrices[0] += 3 * np.eye(6)
    values = np.linalg.eigvals(matrices[0])
    fold = 1 / max(values[abs(values.imag) < 1e-12].real)
    assert 0 < fold < 1
    lams = np.array([0, 0.5 * fold, fold - 1e-7, fold, fold + 1e-9, 1])
    params, z0, x = linear_problem(matrices)
    zs = np.zeros((len(lams), *z0.shape))
    got = audit.sigma_min(linear, params, zs, lams, x)
    want = [
        [np.linalg.svd(np.eye(6) - lam * a, compute_uv=False)[-1] for a in matrices] for lam in lams
    ]
    assert got.value.shape == (6, 3)
    assert got.value[3, 0] < 1e-14
    np.testing.assert_allclose(got.value, want, atol=1e-14)
    assert np.all(got.error < 1e-12)
    newton = audit.sigma_min(linear, params, zs, lams, x, homotopy="newton")
    np.testing.assert_allclose(newton.value, [want[-1]] * 6, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigma_min_goes_to_zero_at_a_fold(x64, dtype):
    """f = 1 + z^2 from z0 = 0: z = (1 - s) / (2 lam), dH/dz = s = sqrt(1 - 4 lam^2)."""
    lams = np.stack([np.array([0.1, 0.3, 0.49, 0.4999999, 0.5]), np.linspace(0.1, 0.4, 5)], axis=1)
    s = np.sqrt(1 - 4 * lams**2)
    zs = jnp.asarray(((1 - s) / (2 * lams))[:, :, None], dtype)
    got = audit.sigma_min(lambda p, z, x: 1 + z**2, None, zs, lams, None)
    assert got.value.shape == (5, 2) and got.value.dtype == dtype
    np.testing.assert_allclose(got.value, s, atol=10 * np.finfo(dtype).eps)


def test_sigma_min_of_large_matrices_is_within_its_error(x64):
    """Random contractions, and one that is nearly singular."""
    rng = np.random.default_rng(0)
    random = 0.5 * rng.normal(size=(200, 200)) / np.sqrt(200)
    u, s, v = np.linalg.svd(np.eye(200) - random)
    nearly = random + (s[-1] - 1e-9) * np.outer(u[:, -1], v[-1])
    matrices = [random, np.diag(np.linspace(-1, 0.9, 200)), nearly]
    params, z0, x = linear_problem(matrices)
    got = audit.sigma_min(linear, params, z0[None], [1.0], x)
    want = [np.linalg.svd(np.eye(200) - a, compute_uv=False)[-1] for a in matrices]
    errors = got.value[0] - np.array(want)
    print(f"\nGolub-Kahan, n = 200, dimension 40: errors {errors}, estimated {got.error[0]}")
    assert np.all(errors > -1e-14)
    assert np.all(errors <= got.error[0] + 1e-14)
    assert errors[2] < 1e-12
    more = audit.sigma_min(linear, params, z0[None], [1.0], x, dimension=120)
    assert np.all(more.value[0] - np.array(want) < 1e-4)


@pytest.mark.slow
def test_paths_of_continuation_are_audited_as_they_come(x64):
    """sigma_min, path_length and plot take its `zs` and `ts`."""
    params, z0, x = problem()
    solution = continuation(cell, params, z0, x, save_at="steps", max_steps=20)
    assert np.all(solution.success)
    zs = solution.zs
    lams = solution.ts
    sigma = audit.sigma_min(cell, params, zs, lams, x)
    assert sigma.value.shape == (21, BATCH)
    assert audit.path_length(zs, lams).shape == (BATCH,)
    for k, i in ((0, 0), (3, 1), (20, 2)):
        jacobian = dense(cell, params, jax.tree.map(lambda leaf, k=k: leaf[k], zs), x, i)
        want = np.linalg.svd(np.eye(4) - lams[k] * jacobian, compute_uv=False)[-1]
        np.testing.assert_allclose(sigma.value[k, i], want, rtol=1e-12)
    figure = audit.plot(zs=zs, lams=lams, sigmas=sigma.value)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["distance to a fold", "λ along the path", "path"]


def test_path_length_of_an_arc(x64):
    """A quarter circle of radius 2 in one plane of four entries: rms length pi / 2."""
    angle = np.linspace(0, np.pi / 2, 2001)
    zs = np.zeros((2001, 1, 4))
    zs[:, 0, 0], zs[:, 0, 3] = 2 * np.cos(angle), 2 * np.sin(angle)
    np.testing.assert_allclose(audit.path_length(zs), [np.pi / 2], rtol=1e-6)
    split = (zs[:, :, :1], zs[:, :, 1:].reshape(2001, 1, 3, 1))
    slope = np.linspace(0, np.pi / 2, 2001)
    np.testing.assert_allclose(audit.path_length(split, slope), [np.pi / 2**0.5], rtol=1e-6)


@pytest.mark.parametrize("solver", ["picard", "anderson", "newton"])
def test_convergence_is_the_trace_of_the_solve(x64, solver):
    params, z0, x = problem()
    params = {"w": 0.1 * params["w"]}
    options = {"solver": solver, "tol": 1e-6, "max_steps": 60}
    trace = audit.convergence(cell, params, z0, x, **options)
    solution = equilibrium(cell, params, z0, x, batching="per_example", **options)
    assert trace.shape == (BATCH, 61)
    np.testing.assert_allclose(trace[:, 0], audit.residual(cell, params, z0, x), rtol=1e-12)
    for i, row in enumerate(np.asarray(trace)):
        kept = row[np.isfinite(row)]
        assert len(kept) == solution.stats.num_steps[i] + 1
        assert solution.result[i] == Result.ok and kept[-1] <= 1e-6 < min(kept[:-1])
        np.testing.assert_allclose(kept[-1], solution.stats.residual[i], rtol=1e-6)


def test_convergence_of_picard_is_geometric():
    trace = audit.convergence(
        lambda a, z, x: a * z, 0.5, np.ones((1, 1)), None, solver="picard", max_steps=5
    )
    np.testing.assert_allclose(trace, np.ones((1, 6)))  # z / f is 2 everywhere


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: audit.residual(lambda p, z, x: z[0], None, z, None), "cell must return"),
        (lambda z: audit.residual(lambda p, z, x: z, None, 1.0, None), "z must be"),
        (lambda z: audit.residual(lambda p, z, x: z, None, z, z[:1]), "but z has 2"),
        (
            lambda z: audit.spectral_radius(lambda p, z, x: z, None, z, None, dimension=0),
            "dimension must be a positive integer, got 0",
        ),
        (
            lambda z: audit.sigma_min(lambda p, z, x: z, None, z[None], [0.1, 0.2], None),
            r"lams must be \[points\] = \[1\] or \[points, batch\] = \[1, 2\]",
        ),
        (
            lambda z: audit.sigma_min(
                lambda p, z, x: z, None, z[None], [1.0], None, homotopy="newtons"
            ),
            "Did you mean 'newton'",
        ),
        (
            lambda z: audit.convergence(lambda p, z, x: z, None, z, None, max_steps=0),
            "max_steps must be a positive integer",
        ),
        (lambda z: audit.plot(lams=[0.0, 1.0]), "plot needs trace, zs, or sigmas"),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((2, 3), np.float32))


@pytest.mark.parametrize("solver", [optx.Newton(1e-3, 1e-3), optx.BFGS(1e-3, 1e-3), "robust"])
def test_convergence_refuses_solvers_without_a_trace(solver):
    with pytest.raises(ValueError, match="keeps no trace"):
        audit.convergence(cell, *problem(), solver=solver)


def test_a_picture_is_saved(tmp_path):
    trace = 0.5 ** np.arange(6)[None] * np.ones((2, 1))
    trace[1, 4:] = np.nan
    figure = audit.plot(trace=trace, path=tmp_path / "audit.png")
    assert (tmp_path / "audit.png").stat().st_size > 1000
    assert figure.axes[0].get_yscale() == "log" and len(figure.axes[0].lines) == 2


def test_lengths_that_are_zero_have_a_gradient_of_zero():
    zs = jnp.array([[[0.0]], [[2.0]], [[2.0]]])
    slope = jax.grad(lambda zs: jnp.sum(audit.path_length(zs)))(zs)
    np.testing.assert_array_equal(slope[:, 0, 0], [-1, 1, 0])
    assert audit.path_length(jnp.array([[[0.0]], [[3.0j]]])) == 3
