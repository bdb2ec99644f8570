"""Devices: what the environment asks of JAX, the mesh of all of them, and how arrays lie on it."""

import math
import os

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from homoode_jax.experiments.errors import UserError, first_line, shown

AXIS = "data"
WORTH_SPLITTING = 2**12  # entries; smaller arrays stay whole on every device
GUARDS = ("allow", "log")
# What the libraries that the program is made of can do with; for finding faults in them, not here.
POSSIBLE = {
    "jax_numpy_rank_promotion": ("allow", "warn"),
    "jax_numpy_dtype_promotion": ("standard",),
    "jax_check_tracer_leaks": (False,),
    "jax_transfer_guard": (None, *GUARDS),
    "jax_transfer_guard_host_to_device": (None, *GUARDS),
    "jax_transfer_guard_device_to_host": (None, *GUARDS),
    "jax_transfer_guard_device_to_device": (None, *GUARDS),
}


def check_settings() -> None:
    """Refuses settings of JAX under which training ends in an error.

    Raises:
        UserError: naming the setting.
    """
    for name, possible in POSSIBLE.items():
        value = getattr(jax.config, name, possible[0])
        if value not in possible:
            raise UserError(
                f"{name.upper()}={value} in the environment cannot be used with this program; "
                "unset it."
            )


def check_devices() -> None:
    """Refuses a platform that JAX has not; after many processes have joined, not before.

    Raises:
        UserError: naming what JAX was asked for.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter of "cuda" without its plugin
        asked = os.environ.get("JAX_PLATFORMS")
        given = f"JAX_PLATFORMS={shown(asked)}: " if asked else ""
        why = f" ({first_line(error)[:200]})" if str(error) else ""
        raise UserError(
            f"{given}JAX finds no such device{why}. Set JAX_PLATFORMS=cpu, or unset it."
        ) from error


def use_precision(dtype: str) -> None:
    """Turns JAX's double precision on or off, for the whole process."""
    jax.config.update("jax_enable_x64", dtype == "float64")


def make_mesh() -> Mesh:
    """Returns a mesh of all devices with one data axis, those of a process beside each other."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (AXIS,))


def over_devices(mesh: Mesh) -> NamedSharding:
    """Splits the leading axis over the data axis."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Keeps a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Lays an array that every process has out over all devices; each sends what its own need."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def check_batch_size(name: str, size: int, mesh: Mesh) -> None:
    """Refuses a batch that does not divide among the devices."""
    if size % mesh.size:
        raise UserError(
            f"{name}={size} does not divide among {mesh.size} devices; "
            f"{size - size % mesh.size or mesh.size} or {size - size % mesh.size + mesh.size} does."
        )


def split_parameters(mesh: Mesh, shapes: PyTree[jax.ShapeDtypeStruct]) -> PyTree[NamedSharding]:
    """Splits each large array over all devices along its longest axis that divides among them.

    This is what "fully sharded data parallelism" does: weights, their moments and their updates
    lie on one device each, and are gathered where they are used. The compiler places the
    collectives.
    """

    def one(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = [i for i, size in enumerate(leaf.shape) if size % mesh.size == 0 and size]
        if not axes or math.prod(leaf.shape) < WORTH_SPLITTING:
            return replicated(mesh)
        longest = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, AXIS))

    return jax.tree.map(one, shapes)
