"""Anderson's and Broyden's iterates beside plain NumPy ones, written from the papers."""

import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Anderson, Broyden, audit

RNG = np.random.default_rng(3)
WEIGHTS = RNG.normal(size=(6, 6)) * 0.6
X = RNG.normal(size=(2, 6))
STEPS = 25


def cell(weights, z, x):
    return jnp.tanh(z @ weights) + x


def reference(z):
    return np.tanh(z.reshape(2, 6) @ WEIGHTS).ravel() + X.ravel()


def relative(z):
    f = reference(z)
    return np.linalg.norm(z - f) / np.linalg.norm(f)


def anderson(memory, damping):
    """Walker & Ni 2011, with the least-squares problem solved by NumPy."""
    z = np.zeros(12)
    steps, changes = [], []
    r = reference(z) - z
    trace = [relative(z)]
    for _ in range(STEPS):
        new = z + damping * r
        if steps:
            dz, dr = np.array(steps[-memory:]).T, np.array(changes[-memory:]).T
            gamma = np.linalg.lstsq(dr, r, rcond=None)[0]
            new = new - (dz + damping * dr) @ gamma
        r_new = reference(new) - new
        steps.append(new - z)
        changes.append(r_new - r)
        z, r = new, r_new
        trace.append(relative(z))
    return np.array(trace)


def broyden(memory):
    """Broyden 1965 with a dense matrix, which is the identity again after `memory` updates."""
    z = np.zeros(12)
    jacobian = np.eye(12)
    updates = 0
    trace = [relative(z)]
    for _ in range(STEPS):
        r = z - reference(z)
        step = -np.linalg.solve(jacobian, r)
        z = z + step
        trace.append(relative(z))
        change = z - reference(z) - r
        if updates < memory:
            jacobian = jacobian + np.outer(change - jacobian @ step, step) / (step @ step)
            updates += 1
        else:
            jacobian = np.eye(12)
            updates = 0
    return np.array(trace)


def compare(solver, expected):
    """All residuals that are more than rounding; later ones are rounding in both."""
    z0 = np.zeros((1, 2, 6))
    joint = lambda weights, z, x: cell(weights, z[0], x[0])[None]  # noqa: E731
    options = {"solver": solver, "max_steps": STEPS, "tol": 1e-15}
    trace = np.asarray(audit.convergence(joint, WEIGHTS, z0, X[None], **options))[0]
    upto = int(np.argmax(expected < 1e-7)) or STEPS
    assert upto >= 8
    np.testing.assert_allclose(trace[:upto], expected[:upto], rtol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("memory", "damping"), [(3, 1.0), (3, 0.7), (10, 1.0)])
def test_anderson_is_that_of_the_paper(memory, damping):
    compare(Anderson(memory=memory, damping=damping), anderson(memory, damping))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("memory", [3, 40])
def test_broyden_is_that_of_the_paper(memory):
    compare(Broyden(memory=memory), broyden(memory))
