"""Times handed to Diffrax: to save at, and to step to.

Diffrax checks both by callbacks to the host. These stop a running program, and can neither be
exported nor stored in XLA's compilation cache. Here known times are checked before a solve is
compiled (`integrate`), and wrong traced ones make it fail (`solve`).
"""

from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Times(eqx.Module):
    """Times to save at, which answer "no" when Diffrax asks whether some are out of order."""

    at: Float[Array, " times"]

    @property
    def dtype(self):
        """Returns the dtype of the times."""
        return self.at.dtype

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, index: Any) -> Any:
        return Times(self.at[index]) if isinstance(index, slice) else self.at[index]

    def __mul__(self, direction: Any) -> "Times":
        return Times(self.at * direction)

    def __lt__(self, other: Any) -> bool:
        return False

    def __gt__(self, other: Any) -> bool:
        return False

    def astype(self, dtype: Any) -> "Times":
        """Returns the times in another dtype."""
        return Times(self.at.astype(dtype))


def save_at(ts: Float[Array, " times"]) -> diffrax.SubSaveAt:
    """Saves states at these times."""
    return eqx.tree_at(lambda sub: sub.ts, diffrax.SubSaveAt(ts=ts), Times(ts))


class StepTo(diffrax.StepTo):
    """Diffrax's controller without its checks."""

    def wrap(self, direction: Any) -> "StepTo":
        """Turns time round where it runs backwards."""
        return StepTo(self.ts * direction)

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):  # pyright: ignore
        """Returns the end of the first step, and the number of the next."""
        return self.ts[1], 2


def run_in_order(
    t0: Array, t1: Array, ts: Array | None, controller: Any = None
) -> bool | Bool[Array, ""]:
    """Returns whether times to save at run from t0 to t1, and times to step to lead there."""
    fine = True
    sign = jnp.where(t1 < t0, -1, 1).astype(t0.dtype)
    if ts is not None:
        path = sign * jnp.concatenate([t0[None], ts, t1[None]])
        fine = jnp.all(path[1:] >= path[:-1])
    if isinstance(controller, diffrax.StepTo):
        stops = controller.ts.astype(t0.dtype)
        rises = jnp.all(sign * stops[1:] > sign * stops[:-1])
        fine = fine & rises & (stops[0] == t0) & (stops[-1] == t1)
    return fine
