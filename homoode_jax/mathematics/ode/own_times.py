"""Examples with an interval of time each, as one problem over s from 0 to 1.

    t_i(s) = t0_i + s (t1_i - t0_i),    dz_i/ds = (t1_i - t0_i) F(t_i(s), z_i; x_i)

The controller measures errors of z, so that it takes the same steps in s as it would in t, but
for the first, whose selection knows a unit of time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from homoode_jax.mathematics.common.options import is_concrete, is_real
from homoode_jax.mathematics.common.trees import real_dtype
from homoode_jax.mathematics.ode.checks import told_apart


class Interval(NamedTuple):
    """The times of each example."""

    t0: Float[Array, " batch"]
    t1: Float[Array, " batch"]


class InOwnTime(eqx.Module):
    """A field in s; its condition is x with the interval of each example."""

    field: Callable

    def __call__(self, params: PyTree, s: Array, z: PyTree[Array], x: tuple) -> PyTree:
        """Returns dz/ds for a batch of one example."""
        x, interval = x
        t0, t1 = interval.t0[0], interval.t1[0]
        t = (t0 + s * (t1 - t0)).astype(real_dtype(z))
        dz = self.field(params, t, z, x)

        def scaled(leaf: Any) -> Any:
            if not hasattr(leaf, "dtype"):  # no array: whoever checks the field says so
                return leaf
            return leaf * (t1 - t0).astype(real_dtype(leaf))

        return jax.tree.map(scaled, dz)


def are_own(t0: Any, t1: Any) -> bool:
    """Returns whether examples have times of their own."""
    return np.ndim(t0) > 0 or np.ndim(t1) > 0


def make_interval(t0: Any, t1: Any, batch: Any, dtype: Any) -> Interval:
    """Returns the times of each example as arrays without a gradient, or raises."""
    begins = _times("t0", t0, batch)
    ends = told_apart(begins, _times("t1", t1, batch), dtype)
    return Interval(*(lax.stop_gradient(jnp.asarray(ts, dtype)) for ts in (begins, ends)))


def one_for_each(ts: Any, batch: Any) -> Any:
    """Returns times to save at as a row for each example; passes None through."""
    if ts is None or np.ndim(ts) == 2:
        return ts
    return np.tile(ts, (batch, 1)) if is_concrete(ts) else jnp.tile(jnp.asarray(ts), (batch, 1))


def in_own_time(ts: Any, interval: Interval) -> Float[Array, "batch times"]:
    """Returns times to save at as values of s; those of an empty interval are 0 where they fit."""
    t0, t1 = (time[:, None] for time in interval)
    return jnp.where((t0 == t1) & (ts == t0), 0, (ts - t0) / jnp.where(t0 == t1, 0, t1 - t0))


def _times(name: str, got: Any, batch: Any) -> Any:
    """Returns a time for each example, as NumPy's where it is known, or raises."""
    given = got if isinstance(got, jax.Array) else np.asarray(got)
    fits = is_real(given) and given.shape in ((), (batch,))
    if fits and is_concrete(got):
        fits = bool(np.all(np.isfinite(np.asarray(got))))
    if not fits:
        raise ValueError(
            f"{name} must be a finite number, or one for each of the {batch} examples, got {got!r}."
        )
    known = is_concrete(got)
    return (np if known else jnp).broadcast_to(np.asarray(given) if known else given, (batch,))
