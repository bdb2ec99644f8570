"""A subject over eight devices; run in a process of its own, whose devices are forced."""

import sys

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.composition.columns import NEAR, OF_DEVICES, both
from tests.composition.subjects import SUBJECTS, Z0, X

DEVICES = 8
ROWS = {"rtol": 2e-2, "atol": 5e-3}  # a joint solve of a part of the batch takes other steps


def mesh():
    return jax.make_mesh((DEVICES,), ("i",), axis_types=(AxisType.Auto,))


def plain(subject):
    return jax.jit(both(subject, argnums=0))(subject.params, Z0, X)


def over_shard_map(subject):
    def part(params, z0, x):
        slope, states = both(subject, argnums=0)(params, z0, x)
        return jax.lax.psum(slope, "i"), states

    specs = {"in_specs": (P(), P("i"), P("i")), "out_specs": (P(), P("i"))}
    call = jax.shard_map(part, mesh=mesh(), check_vma=False, **specs)
    return jax.jit(call)(subject.params, Z0, X)


def over_sharded_inputs(subject):
    rows = NamedSharding(mesh(), P("i"))
    z0, x = jax.device_put((Z0, X), rows)
    params = jax.device_put(subject.params, NamedSharding(mesh(), P()))
    return jax.jit(both(subject, argnums=0))(params, z0, x)


def main(name):
    """Checks both columns of one subject; the exit code says whether they are right."""
    subject = SUBJECTS[name]
    assert jax.device_count() == DEVICES
    want = plain(subject)
    calls = dict(zip(OF_DEVICES, (over_shard_map, over_sharded_inputs), strict=True))
    for column, call in calls.items():
        refused = subject.refuses.get(column)
        if refused is None:
            near = ROWS if column == "shard_map" else NEAR
            got = call(subject)
            jax.tree.map(lambda a, b, n=near: np.testing.assert_allclose(a, b, **n), got, want)
            continue
        try:
            call(subject)
        except ValueError as error:
            assert refused in str(error), error
        else:
            raise AssertionError(f"{column} was not refused")


if __name__ == "__main__":
    main(sys.argv[1])
