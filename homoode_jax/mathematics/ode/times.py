"""Times handed to Diffrax: to save at, and to step to.

Diffrax checks both by callbacks to the host. These stop a running program, and can neither be
exported nor stored in XLA's compilation cache. Here known times are checked before a solve is
compiled (`integrate`), and wrong traced ones make it fail (`solve`).
"""

from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from homoode_jax.mathematics.common.options import is_concrete


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


def times_of(save_at: Any, t0: Any, t1: Any) -> Any:
    """Returns the times of a `diffrax.SaveAt`, or raises; what is none is returned as it is."""
    if not isinstance(save_at, diffrax.SaveAt):
        return save_at
    sub = save_at.subs
    if not isinstance(sub, diffrax.SubSaveAt) or not _has_times_alone(save_at, sub):
        raise ValueError(
            "save_at takes times, or a diffrax.SaveAt of ts, t0 and t1 alone. Save at as many "
            "times as dense output would be read at: that takes no more evaluations. All else is "
            "diffrax.diffeqsolve's, with lambda t, y, args: field(args[0], t, y, args[1])."
        )
    first = [t0] if sub.t0 else []
    last = [t1] if sub.t1 else []
    between = [] if sub.ts is None else list(sub.ts)
    known = np if is_concrete(t0, t1, sub.ts) else jnp
    return known.stack(known.broadcast_arrays(*first, *between, *last), axis=-1)


def _has_times_alone(save_at: diffrax.SaveAt, sub: diffrax.SubSaveAt) -> bool:
    """Returns whether states at given times are all that is to be saved."""
    extra = (
        save_at.dense
        or save_at.solver_state
        or save_at.controller_state
        or save_at.made_jump
        or sub.steps
    )
    return not extra and sub.fn is diffrax.SubSaveAt(t1=True).fn


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
