"""The options of a layer: those of the function behind it, by the same names.

Options given with the layer are part of its structure: numbers, names and solvers, no traced
arrays. Options given in a call take their place there, and may be traced.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from homoode_jax.layers.kinds import Kind
from homoode_jax.mathematics.common.checks import check_option

OF_A_CALL = ("mask", "backward_probe")  # these have a row for each example


class Constant:
    """A pytree that is known when a program is compiled; equal where its leaves are.

    Arrays are kept as NumPy's, and compared by their bytes.
    """

    def __init__(self, tree: Any):
        leaves, self._structure = jax.tree.flatten(tree)
        self._leaves = tuple(_Bytes(leaf) if is_concrete_array(leaf) else leaf for leaf in leaves)

    @property
    def tree(self) -> Any:
        """Returns the pytree."""
        leaves = (leaf.array if isinstance(leaf, _Bytes) else leaf for leaf in self._leaves)
        return jax.tree.unflatten(self._structure, leaves)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant):
            return False
        return (self._structure, self._leaves) == (other._structure, other._leaves)

    def __hash__(self) -> int:
        return hash((self._structure, self._leaves))

    def __repr__(self) -> str:
        return repr(self.tree)


class _Bytes:
    """A NumPy array that equals another where all of it does."""

    def __init__(self, array: Any):
        self.array = np.asarray(array)
        self._key = self.array.dtype, self.array.shape, self.array.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bytes) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def is_concrete_array(leaf: Any) -> bool:
    """Returns True for an array, or a NumPy number, whose numbers are known."""
    is_array = isinstance(leaf, jax.Array | np.ndarray | np.generic)
    return is_array and not isinstance(leaf, Tracer)


def defaults(kind: Kind) -> dict[str, Any]:
    """Returns the options of the function behind a layer, with their defaults."""
    parameters = inspect.signature(kind.solve).parameters.values()
    options = [one for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]
    return {one.name: one.default for one in options}


def check_names(kind: Kind, options: Mapping[str, Any], in_call: bool) -> None:
    """Raises on an option that the function behind a layer does not have."""
    names = defaults(kind)
    for name in options:
        if name in OF_A_CALL and not in_call:
            raise ValueError(
                f"{name} has a row for each example: give it in the call, layer(x, {name}=...)."
            )
        check_option(f"option of {kind.name}", name, names)


def make_options(kind: Kind, options: Mapping[str, Any]) -> Constant:
    """Returns the options of a layer, or raises."""
    check_names(kind, options, in_call=False)
    for name, values in kind.choices.items():
        if isinstance(options.get(name), str):
            check_option(name, options[name], values)
    for name, value in options.items():
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)):
            raise ValueError(
                f"{name} is traced: give it in the call, layer(x, {name}=...), not with the layer."
            )
    return Constant(dict(options))
