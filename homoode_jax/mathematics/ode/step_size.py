"""Sizes of steps judged by one number: kept where it is below 1 (Diffrax's PID controller)."""

from typing import Any, NamedTuple

import diffrax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

MOST_GROWTH = 4.0
CONTROLLER = diffrax.PIDController(rtol=0, atol=1, norm=jnp.abs, factormax=MOST_GROWTH)  # pyright: ignore


class StepSize(NamedTuple):
    """The step to try, and the controller's memory."""

    h: Float[Array, ""]
    memory: Any


def first_size(h: Float[Array, ""]) -> StepSize:
    """Starts with `h`."""
    zero = jnp.zeros_like(h)
    _, memory = CONTROLLER.init(
        terms=None,
        t0=zero,
        t1=h,
        y0=zero,
        dt0=h,
        args=None,
        func=None,  # pyright: ignore
        error_order=1.0,
    )
    return StepSize(h, memory)


def adapt(
    size: StepSize, taken: Float[Array, ""], error: Float[Array, ""], order: float
) -> tuple[Bool[Array, ""], StepSize]:
    """Returns whether the step `taken` is kept, and the size of the next one.

    `error` is relative to what is allowed, and grows with the power `order` of the step.

    An error that is not finite refuses the step and divides it by five.
    """
    zero = jnp.zeros_like(taken)
    error = jnp.where(jnp.isfinite(error), error, jnp.inf)
    keep, start, end, _, memory, _ = CONTROLLER.adapt_step_size(
        t0=zero,
        t1=taken,
        y0=zero,
        y1_candidate=zero,
        args=None,
        y_error=lax.stop_gradient(error),
        error_order=order,
        controller_state=size.memory,  # pyright: ignore
    )
    return jnp.asarray(keep), StepSize((end - start).astype(taken.dtype), memory)  # pyright: ignore
