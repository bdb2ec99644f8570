"""Audits of fields: one that is a cell's Davidenko field, and one that is none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from homoode_jax import audit, integrate

pytestmark = pytest.mark.slow  # many programs to compile

BATCH = 8
TS = np.linspace(0, 1, 6)


def cell(params, z, x):
    return jnp.tanh(z @ params["w"] + x @ params["u"] + params["b"])


def parameters(seed, scale=0.4):
    rng = np.random.default_rng(seed)
    sizes = {"w": (3, 3), "u": (2, 3), "b": (3,)}
    return {name: jnp.asarray(scale * rng.normal(size=size)) for name, size in sizes.items()}


def davidenko(params, t, z, x):
    """(I - t J)^-1 f, the dense solve of the relation at z0 = 0."""
    one = lambda z, x: cell(params, z[None], x[None])[0]  # noqa: E731
    jacobians = jax.vmap(jax.jacfwd(one))(z, x)
    return jnp.linalg.solve(jnp.eye(3) - t * jacobians, cell(params, z, x)[:, :, None])[:, :, 0]


def rotation(params, t, z, x):
    """A turn that comes back: its paths meet themselves at different t."""
    push = x @ jnp.ones((2, 3))
    return jnp.cos(6 * t) * (z @ (params["w"] - params["w"].T)) * 8 + jnp.sin(6 * t) * push


def paths(field, params, seed):
    x = np.random.default_rng(seed).normal(size=(BATCH, 2))
    z0 = np.zeros((BATCH, 3))
    solution = integrate(field, params, z0, x, rtol=1e-8, atol=1e-8, save_at=TS)
    return audit.Points(z0, TS, solution.zs, x)


def test_field_norms_are_root_mean_squares(x64):
    params = parameters(0)
    rng = np.random.default_rng(1)
    z0, z1 = rng.normal(size=(2, BATCH, 3))
    x = rng.normal(size=(BATCH, 2))
    got = jax.jit(functools.partial(audit.field_norms, rotation, t1=0.5))(params, z0, z1, x)
    for norm, t, z in ((got.start, 0.0, z0), (got.end, 0.5, z1)):
        slope = np.asarray(rotation(params, t, z, x))
        np.testing.assert_allclose(norm, np.linalg.norm(slope, axis=1) / np.sqrt(3), rtol=1e-12)


def test_defect_is_that_of_a_dense_computation(x64):
    """Plain NumPy: the Jacobian of tanh(z w + ...) is (1 - f^2) w^T, row by row."""
    rng = np.random.default_rng(2)
    params = parameters(0)
    other = parameters(1)
    z0 = rng.normal(size=(BATCH, 3))
    x = rng.normal(size=(BATCH, 2))
    points = audit.Points(z0, TS, rng.normal(size=(len(TS), BATCH, 3)), x)
    got = audit.defect(rotation, params, cell, other, points, schedule="cosine")
    difference, speed = np.zeros((2, len(TS), BATCH))
    w, u, b = (np.asarray(other[name]) for name in "wub")
    for k, t in enumerate(TS):
        lam = (1 - np.cos(np.pi * t)) / 2
        rate = np.pi * np.sin(np.pi * t) / 2
        slope = np.asarray(rotation(params, t, points.zs[k], x))
        for i in range(BATCH):
            f = np.tanh(points.zs[k, i] @ w + x[i] @ u + b)
            m = np.eye(3) - lam * (1 - f**2)[:, None] * w.T
            difference[k, i] = np.sum((m @ slope[i] - rate * (f - z0[i])) ** 2)
            speed[k, i] = np.sum(slope[i] ** 2)
    np.testing.assert_allclose(got, np.sqrt(difference.sum(0) / speed.sum(0)), rtol=1e-12)


@pytest.mark.slow
def test_a_davidenko_field_is_explained_and_its_cell_found(x64):
    """Fitted on some paths, measured on others too."""
    true = parameters(0)
    got = audit.explain(
        davidenko,
        true,
        cell,
        parameters(5, 0.1),
        paths(davidenko, true, 1),
        held_out=paths(davidenko, true, 2),
    )
    print(
        f"\nexplained: {max(got.before):.1e} -> {max(got.after):.1e}, "
        f"held out {max(got.held_out_before):.1e} -> {max(got.held_out_after):.1e}"
    )
    assert np.min(got.before) > 0.3 and np.min(got.held_out_before) > 0.3
    assert np.max(got.after) < 1e-5 and np.max(got.held_out_after) < 1e-5
    for name, leaf in true.items():
        np.testing.assert_allclose(got.params[name], leaf, atol=1e-4)


def test_a_rotation_is_not_explained(x64):
    params = parameters(0)
    points = paths(rotation, params, 1)
    others = paths(rotation, params, 2)
    solver = optx.LevenbergMarquardt(1e-8, 1e-8)
    got = audit.explain(
        rotation, params, cell, parameters(5, 0.1), points, held_out=others, solver=solver
    )
    print(f"\nnot explained: {min(got.after):.2f}, held out {min(got.held_out_after):.2f}")
    assert got.success
    assert np.min(got.after) > 0.1 and np.min(got.held_out_after) > 0.1


def test_off_the_paths_the_relation_is_a_stronger_one(x64):
    """On its paths any field is explained by f = (z(t) - z0) / t + z0; off them it is not.

    Here dz/dt = 2 t x, whose path z = t^2 x has f = t x = sqrt(x z).
    """

    def root(params, z, x):
        return jnp.sqrt(x * z)

    def growing(params, t, z, x):
        return 2 * t * x

    x = np.random.default_rng(0).uniform(1, 2, size=(2, 3))
    ts = np.linspace(0.1, 1, 7)
    points = audit.Points(np.zeros((2, 3)), ts, ts[:, None, None] ** 2 * x, x)
    assert np.max(audit.defect(growing, None, root, None, points)) < 1e-12
    off = points._replace(zs=points.zs + 0.5)
    assert np.min(audit.defect(growing, None, root, None, off)) > 0.1


def test_integer_leaves_are_kept_and_float32_will_do():
    field = lambda p, t, z, x: x / (1 - 0.5 * t) ** 2  # noqa: E731
    scaled = lambda p, z, x: p["a"] * z / p["n"] + x  # noqa: E731
    ts = jnp.linspace(0, 1, 5)
    x = jnp.ones((2, 1))
    zs = jnp.broadcast_to((ts / (1 - 0.5 * ts))[:, None, None], (5, 2, 1))
    points = audit.Points(jnp.zeros((2, 1)), ts, zs, x)
    got = audit.explain(field, None, scaled, {"a": 0.2, "n": jnp.asarray(2)}, points)
    assert got.params["n"] == 2 and got.held_out_after is None
    np.testing.assert_allclose(got.params["a"], 1, rtol=1e-3)
    assert got.after.dtype == jnp.float32 and np.max(got.after) < 1e-3


@pytest.mark.wrong_types
def test_points_that_do_not_fit_are_named():
    z0 = np.zeros((2, 3), np.float32)
    ts = np.linspace(0, 1, 4)
    points = audit.Points(z0, ts, np.zeros((5, 2, 3), np.float32), None)
    with pytest.raises(ValueError, match=r"points.zs must be \[points, batch, ...\]"):
        audit.defect(lambda p, t, z, x: z, None, lambda p, z, x: z, None, points)
    with pytest.raises(ValueError, match="max_steps must be a positive integer"):
        audit.explain(None, None, None, None, points, max_steps=0)
