"""Solves over eight devices: `shard_map`, `pmap`, sharded inputs with automatic and explicit axes.

Devices are forced before JAX starts, so that the checks run in a process of their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from homoode_jax import continuation, equilibrium, integrate

devices = 8
cell = lambda p, z, x: jnp.tanh(z @ p) + x
field = lambda p, t, z, x: jnp.tanh(z @ p) + x - z
p = 0.3 * jnp.eye(2)
x = jnp.linspace(-1, 1, 16).reshape(8, 2)
rows_of = x.reshape(devices, 1, 2)


def gradient(solve, function, **options):
    loss = lambda p, x: (jnp.sum((z := solve(function, p, 0 * x, x, **options).z) ** 2), z)
    return jax.value_and_grad(loss, has_aux=True)


mesh = jax.make_mesh((devices,), ("i",), axis_types=(AxisType.Auto,))
explicit = jax.make_mesh((devices,), ("i",), axis_types=(AxisType.Explicit,))
for name, solve, function, options in SOLVES:
    f = gradient(solve, function, **options)
    (_, want), slope = jax.jit(f)(p, x)

    def mapped(check_vma, g=lambda p, x: f(p, x)[0][1]):
        specs = {"in_specs": (P(), P("i")), "out_specs": P("i")}
        return jax.jit(jax.shard_map(g, mesh=mesh, check_vma=check_vma, **specs))(p, x)

    if name == "checkpointed":
        for call in (lambda: mapped(check_vma=False), lambda: jax.pmap(lambda x: f(p, x))(rows_of)):
            try:
                call()
                raise SystemExit("checkpointed: neither differentiated nor refused")
            except ValueError as error:
                assert "use 'reversible', 'direct' or 'backsolve'" in str(error), error
        f = gradient(solve, function, adjoint="reversible", **options)
        (_, want), slope = jax.jit(f)(p, x)

    np.testing.assert_allclose(mapped(check_vma=False), want, atol=3e-3)
    summed = lambda p, x: jax.lax.psum(f(p, x)[1], "i")
    specs = {"in_specs": (P(), P("i")), "out_specs": P(), "check_vma": False}
    total = jax.jit(jax.shard_map(summed, mesh=mesh, **specs))(p, x)
    np.testing.assert_allclose(total, slope, rtol=3e-2, atol=3e-3)
    try:
        mapped(check_vma=True)
        raise SystemExit(f"{name}: check_vma=True was not refused")
    except ValueError as error:
        assert "check_vma=False" in str(error), error
    rows = jax.pmap(lambda x: f(p, x)[0][1])(rows_of)
    np.testing.assert_allclose(rows.reshape(8, 2), want, atol=3e-3)
    with jax.set_mesh(mesh):
        placed = jax.device_put(x, NamedSharding(mesh, P("i")))
        (_, got), gradient_got = jax.jit(f)(jax.device_put(p, NamedSharding(mesh, P())), placed)
        np.testing.assert_allclose(got, want, atol=1e-4)
        np.testing.assert_allclose(gradient_got, slope, rtol=1e-3, atol=1e-4)
    with jax.set_mesh(explicit):
        placed = jax.device_put(x, NamedSharding(explicit, P("i")))
        for call in (f, jax.jit(f)):
            try:
                call(p, placed)
                raise SystemExit(f"{name}: an explicit axis was not refused")
            except ValueError as error:
                assert "AxisType.Auto" in str(error), error
print("fine")
"""
SOLVES = {
    "equilibrium": '("equilibrium", equilibrium, cell, {})',
    "integrate": '("integrate", integrate, field, {"adjoint": "direct"})',
    "continuation": '("continuation", continuation, cell, {})',
    "per example": '("per example", equilibrium, cell, {"batching": "per_example"})',
    "newton": '("newton", equilibrium, cell, {"solver": "newton"})',
    "robust": '("robust", equilibrium, cell, {"solver": "robust", "batching": "per_example"})',
    "checkpointed": '("checkpointed", integrate, field, {"batching": "per_example"})',
}
SLOW = ["integrate", "continuation", "per example", "newton", "robust", "checkpointed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["equilibrium", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_solves_over_eight_devices_agree_with_one_or_say_how_to(name):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
    }
    program = PROGRAM.replace("SOLVES", f"[{SOLVES[name]}]")
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.strip() == "fine", done.stderr[-2000:]
