"""Joint mode beside torchdiffeq's `odeint(method="dopri5")`: same pair, same norm, same control.

Both cost 2 + 6 x steps evaluations, and two things set their steps apart. torchdiffeq steps over
t1 and interpolates back, where ours clips its last step to t1: the long step may be rejected. And
where z0 is (nearly) zero its scale says nothing: torchdiffeq probes with 1e-6 and grows tenfold a
step from there, where ours probes with a thousandth of the interval.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import integrate

torch = pytest.importorskip("torch", reason="the peer of these tests: pip install .[compare]")
torchdiffeq = pytest.importorskip("torchdiffeq", reason="pip install .[compare]")
pytestmark = pytest.mark.usefixtures("x64")

WEIGHT = np.random.default_rng(0).normal(size=(4, 4))
STATE = np.random.default_rng(1).normal(size=(8, 4))


def linear(np, weight, t, z):
    return z @ weight


def nonlinear(np, weight, t, z):
    """Turns steep just after t = 1."""
    return 3 * np.tanh(z @ weight) * np.sin(5 * t) - z + np.exp(30 * (t - 1))


def driven(np, weight, t, z):
    """Does not rest at z = 0."""
    return np.tanh(z @ weight + 1) - z


PROBLEMS = {
    "linear": (linear, STATE),
    "nonlinear": (nonlinear, STATE),
    "from zero": (driven, 0 * STATE),
}


def solve_in_torch(name, tol):
    """The answer, evaluations, and steps tried."""
    field, z0 = PROBLEMS[name]
    weight = torch.tensor(WEIGHT)
    steps = []

    class Module(torch.nn.Module):
        evaluations = 0

        def forward(self, t, z):
            self.evaluations += 1
            return field(torch, weight, t, z)

        def callback_step(self, t0, z0, dt):
            steps.append((float(t0), float(dt)))

    module = Module()
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    z = torchdiffeq.odeint(module, torch.tensor(z0), times, rtol=tol, atol=tol, method="dopri5")
    return z[-1].numpy(), module.evaluations, steps


@functools.cache
def solver(name):
    field, z0 = PROBLEMS[name]

    def solve(tol, dt0=None):
        return integrate(
            lambda weight, t, z, x: field(jnp, weight, t, z),
            WEIGHT,
            z0,
            None,
            rtol=tol,
            atol=tol,
            dt0=dt0,
        )

    return jax.jit(solve)


def compare(name, tol):
    """Both answers are right, and both counts are as they should be."""
    ours, (theirs, evaluations, steps) = solver(name)(tol), solve_in_torch(name, tol)
    print(f"\n{name}, tol {tol}: nfe ours {ours.stats.nfe}, torchdiffeq {evaluations}")
    np.testing.assert_allclose(ours.z, theirs, rtol=10 * tol, atol=10 * tol)
    assert ours.stats.nfe == 2 + 6 * ours.stats.num_steps
    assert evaluations == 2 + 6 * len(steps)
    return ours, steps


def assert_same_steps(ours, steps):
    """Ours are those of torchdiffeq as far as its first that passes t1 = 1, which ours clips."""
    assert ours.stats.num_steps == 1 + next(i for i, (t, dt) in enumerate(steps) if t + dt > 1)


@pytest.mark.quick(4)
@pytest.mark.parametrize("tol", [1e-3, 1e-5, 1e-7, 1e-9])
@pytest.mark.parametrize("name", ["linear", "nonlinear"])
def test_answers_and_evaluations_beside_torchdiffeq(name, tol):
    assert_same_steps(*compare(name, tol))


@pytest.mark.slow
@pytest.mark.parametrize("tol", [1e-3, 1e-5, 1e-7, 1e-9])
def test_from_zero_only_the_first_step_differs_from_torchdiffeq(tol):
    ours, steps = compare("from zero", tol)
    assert ours.stats.num_steps < len(steps)
    assert_same_steps(solver("from zero")(tol, dt0=steps[0][1]), steps)
