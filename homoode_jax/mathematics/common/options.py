"""Checks of the caller's numbers: whole ones, real ones, times.

Numbers come as Python's, NumPy's or JAX's. The number of steps must be known when a solve is
compiled; a bound on evaluations, a tolerance or a time may be traced.
"""

import operator
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int

RANGES: dict[str, Callable[[float], bool]] = {
    "a finite number": lambda number: True,
    "a number other than 0": lambda number: number != 0,
    "a non-negative number": lambda number: number >= 0,
    "a positive number": lambda number: number > 0,
    "a number in (0, 1]": lambda number: 0 < number <= 1,
}

MOST = 2**31 - 1  # of what is counted


def whole(name: str, got: Any) -> int:
    """Returns a positive whole number as Python's, or raises."""
    if isinstance(got, Tracer):
        raise ValueError(
            f"{name} must be a positive integer that is known when the solve is compiled, "
            f"got a traced array of {got.dtype}{list(got.shape)}."
        )
    is_bool = isinstance(got, bool) or jnp.issubdtype(getattr(got, "dtype", int), jnp.bool_)
    try:
        number = 0 if is_bool else operator.index(got)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} must be a positive integer, got {got!r}.")
    return number


def budget(name: str, got: Any) -> Int[Array, ""] | None:
    """Returns a positive whole number, which may be traced, as an array; passes None through."""
    if got is None:
        return None
    if not isinstance(got, Tracer):
        return jnp.asarray(min(whole(name, got), MOST), jnp.int32)
    if got.shape or not jnp.issubdtype(got.dtype, jnp.integer):
        raise ValueError(
            f"{name} must be a positive integer, got a traced {got.dtype}{list(got.shape)}."
        )
    return jnp.asarray(jnp.minimum(got, MOST), jnp.int32)


def real(name: str, got: Any, wanted: str = "a finite number") -> Any:
    """Returns a finite number as Python's, or as it is if it is traced; or raises.

    `wanted` is one of `RANGES`; what is traced is not looked at.
    """
    if not _is_real_scalar(got):
        raise ValueError(f"{name} must be {wanted}, got {got!r}.")
    if isinstance(got, Tracer):
        return got
    number = float(got)
    if not (np.isfinite(number) and RANGES[wanted](number)):
        raise ValueError(f"{name} must be {wanted}, got {got!r}.")
    return number


def whole_field(name: str, default: int) -> Any:
    """Returns a static field of a module that holds a positive whole number."""
    return eqx.field(static=True, default=default, converter=lambda got: whole(name, got))


def real_field(name: str, default: float, wanted: str) -> Any:
    """Returns a field of a module that holds a number, which may be traced."""
    return eqx.field(default=default, converter=lambda got: real(name, got, wanted))


def numbers(name: str, got: Any, dtype) -> Float[ArrayLike, " numbers"]:
    """Returns a one-dimensional array of one or more real numbers, or raises.

    It is a NumPy array, unless some of them are traced.
    """
    try:
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(got))
        array = jnp.asarray(got) if traced else np.asarray(got)
        array = array.astype(dtype) if is_real(array) else None
    except (TypeError, ValueError):
        array = None
    if array is None or array.ndim != 1 or not len(array):
        raise ValueError(
            f"{name} must be a one-dimensional array of numbers, at least one of them, got {got!r}."
        )
    return array  # pyright: ignore[reportReturnType]


def is_concrete(*given: Any) -> bool:
    """Returns True if nothing among these pytrees is traced or None."""
    is_none = lambda leaf: leaf is None  # noqa: E731
    leaves = jax.tree.leaves(given, is_leaf=is_none)
    return not any(leaf is None or isinstance(leaf, Tracer) for leaf in leaves)


def _is_real_scalar(got: Any) -> bool:
    if isinstance(got, bool | str | bytes):
        return False
    if isinstance(got, int | float):
        return True
    return getattr(got, "shape", None) == () and is_real(got)


def is_real(array: Any) -> bool:
    """Returns True for an array of integers or real numbers."""
    dtype = getattr(array, "dtype", None)
    if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended):
        return False
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)
