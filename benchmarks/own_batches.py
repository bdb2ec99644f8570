"""What each device evaluates of a per-example solve: `python -m benchmarks.own_batches`.

A batch of cells z = tanh(a W z + x), whose radius a grows along the batch, over eight devices that
are forced on the CPU: as sharded inputs of one program, whose loop all devices leave together, and
inside `shard_map`, where each device has a loop of its own. Host callbacks count what is executed.
Prints a table and writes results/own_batches.json.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import homoode_jax
from benchmarks.shared import RESULTS, run_main, show, write_record

CODE = ("benchmarks/own_batches.py", "homoode_jax/mathematics")
DEVICES = 8
BATCH = 64
WIDTH = 32
SOLVERS = ("picard", "anderson", "robust")
COLUMNS = {
    "sharded inputs, each device": "{sharded}",
    "shard_map, by device": "{devices}",
    "in all": "{share:.2f} of sharded",
}


def problem():
    """Returns an orthogonal W, the states to start at, and (a, x): radii a from 0.05 to 0.95."""
    rng = np.random.default_rng(0)
    w = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    x = 0.1 * rng.normal(size=(BATCH, WIDTH))
    radii = np.linspace(0.05, 0.95, BATCH)[:, None]
    arrays = (w, np.zeros_like(x), (radii, x))
    return jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), arrays)


class Counted:
    """A cell that counts its evaluations on each device; `axis` is that of `shard_map`, if any."""

    def __init__(self, axis: str | None):
        self.axis = axis
        self.counts = np.zeros(DEVICES, int)

    def __call__(self, w, z, x):
        """Returns tanh(a W z + x)."""
        device = 0 if self.axis is None else lax.axis_index(self.axis)
        jax.debug.callback(self.bump, device)
        radius, shift = x
        return jnp.tanh(radius * (z @ w) + shift)

    def bump(self, device):
        """Counts one evaluation."""
        self.counts[int(device)] += 1


def solve(cell, solver, w, z0, x):
    """Returns the solution of each example."""
    options = {"solver": solver, "batching": "per_example", "max_steps": 1000}
    return homoode_jax.equilibrium(cell, w, z0, x, **options)


def over_sharded_inputs(mesh, solver, inputs):
    """Returns how often all devices evaluate together, and the solution."""
    w, z0, x = inputs
    cell = Counted(axis=None)
    rows = NamedSharding(mesh, P("i"))
    z0, x = jax.device_put((z0, x), rows)
    w = jax.device_put(w, NamedSharding(mesh, P()))
    solution = jax.jit(lambda *inputs: solve(cell, solver, *inputs))(w, z0, x)
    jax.effects_barrier()
    return int(cell.counts[0]), solution


def over_shard_map(mesh, solver, inputs):
    """Returns how often each device evaluates, and the solution."""
    cell = Counted(axis="i")
    part = jax.shard_map(
        lambda *inputs: solve(cell, solver, *inputs),
        mesh=mesh,
        in_specs=(P(), P("i"), P("i")),
        out_specs=P("i"),
        check_vma=False,
    )
    solution = jax.jit(part)(*inputs)
    jax.effects_barrier()
    return cell.counts.tolist(), solution


def measure(solver):
    """Returns the evaluations of both ways; the answers are the same."""
    mesh = jax.make_mesh((DEVICES,), ("i",), axis_types=(AxisType.Auto,))
    inputs = problem()
    sharded, one = over_sharded_inputs(mesh, solver, inputs)
    devices, other = over_shard_map(mesh, solver, inputs)
    assert bool(one.success.all()) and bool(other.success.all())
    np.testing.assert_allclose(one.z, other.z, atol=1e-4)
    return {
        "sharded": sharded,
        "devices": devices,
        "share": sum(devices) / (DEVICES * sharded),
        "nfe": [int(nfe) for nfe in other.stats.evaluations],
    }


def main() -> None:
    """Measures, prints and records."""
    jax.config.update("jax_num_cpu_devices", DEVICES)
    rows = {solver: measure(solver) for solver in SOLVERS}
    shown = {
        name: row | {"devices": " ".join(map(str, row["devices"]))} for name, row in rows.items()
    }
    show("evaluations executed by each of eight devices", shown, COLUMNS)
    write_record(RESULTS / "own_batches.json", CODE, rows=rows)


if __name__ == "__main__":
    sys.exit(run_main(main))
