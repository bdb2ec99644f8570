"""Diffrax's `SaveAt` as the times to save at: those that hold nothing else."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import integrate

Z0 = jnp.array([[1.0], [2.0]])
TS = jnp.array([0.25, 0.5])
PER_EXAMPLE = {"batching": "per_example", "rtol": 1e-6, "atol": 1e-6}


def decay(k, t, z, x):
    return -k * z


def solve(**options):
    return integrate(decay, 1.0, Z0, None, **({"rtol": 1e-6, "atol": 1e-6} | options))


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("saved", "times"),
    [
        (diffrax.SaveAt(ts=TS), [0.25, 0.5]),
        (diffrax.SaveAt(ts=TS, t0=True, t1=True), [0.0, 0.25, 0.5, 1.0]),
        (diffrax.SaveAt(t1=True), [1.0]),
    ],
)
def test_times_of_a_save_at(saved, times):
    solution = solve(save_at=saved)
    np.testing.assert_array_equal(solution.ts, np.float32(times))
    want = np.exp(-np.array(times))[:, None, None] * np.asarray(Z0)
    np.testing.assert_allclose(solution.zs, want, rtol=1e-5)


def test_ends_of_each_example():
    solution = solve(
        t1=jnp.array([1.0, 2.0]), save_at=diffrax.SaveAt(t0=True, t1=True), **PER_EXAMPLE
    )
    np.testing.assert_array_equal(solution.ts, np.float32([[0, 1], [0, 2]]))
    np.testing.assert_allclose(solution.zs[1, :, 0], [np.exp(-1), 2 * np.exp(-2)], rtol=1e-5)


def test_traced_ends():
    zs = jax.jit(lambda t1: solve(t1=t1, save_at=diffrax.SaveAt(t0=True, t1=True)).zs)(2.0)
    np.testing.assert_allclose(zs[:, 0, 0], [1, np.exp(-2)], rtol=1e-5)


@pytest.mark.parametrize(
    "saved",
    [
        diffrax.SaveAt(dense=True),
        diffrax.SaveAt(steps=True),
        diffrax.SaveAt(ts=TS, dense=True),
        diffrax.SaveAt(ts=TS, solver_state=True),
        diffrax.SaveAt(ts=TS, fn=lambda t, y, args: y[0]),
        diffrax.SaveAt(subs=[diffrax.SubSaveAt(t1=True)]),
    ],
)
def test_all_else_is_refused(saved):
    with pytest.raises(ValueError, match=r"save_at takes times.*diffrax\.diffeqsolve"):
        solve(save_at=saved)
