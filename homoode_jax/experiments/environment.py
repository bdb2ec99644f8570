"""What the environment asks of JAX, where the program cannot do so."""

import os

import jax

from homoode_jax.experiments.errors import UserError, first_line, shown

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
