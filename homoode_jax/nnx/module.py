"""The field or cell of a layer: what it may hold, and how it becomes a pure function."""

from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Key, PyTree

from homoode_jax.layers import dropout
from homoode_jax.layers.kinds import Kind
from homoode_jax.layers.solve import BadModuleError
from homoode_jax.nnx.parts import VariationalDropout


class Held(nnx.Module):
    """Holds a module, or a plain function, so that both are split alike."""

    def __init__(self, module: Any):
        self.module = module


@jax.tree_util.register_static
@dataclass(frozen=True)
class Run:
    """Calls the module that a definition and arrays stand for."""

    definition: nnx.GraphDef
    kind: Kind

    def bind(self, params: PyTree) -> Any:
        """Returns the module."""
        return nnx.merge(self.definition, params).module

    def __call__(self, params: PyTree, *args: Any) -> PyTree[Array]:
        """Calls the module, which must not change itself: what it kept of a solve would be lost."""
        held = nnx.merge(self.definition, params)
        before = _values(held)
        z = held.module(*args)
        after = _values(held)
        for path, value in before.items():
            if value is not after[path]:
                raise BadModuleError(
                    f"the {self.kind.role} of {self.kind.name} changes its {path} in a call, and a "
                    "solve calls it many times; random numbers and statistics belong outside of it."
                )
        return z


def _values(held: Held) -> dict[str, Any]:
    """Returns the values of all variables by their names."""
    variables = nnx.to_flat_state(nnx.state(held))
    return {".".join(map(str, path[1:])): variable.get_value() for path, variable in variables}


def refuse(kind: Kind, module: Any) -> None:
    """Raises if a field or cell has modules that change with every evaluation."""
    for path, part in nnx.iter_graph(module):
        where = f"the {kind.role} of {kind.name} has nnx.{type(part).__name__} "
        where += f"{'.'.join(map(str, path))!r}"
        if isinstance(part, nnx.Dropout) and part.rate > 0 and not part.deterministic:
            raise BadModuleError(
                f"{where}, whose mask changes with every evaluation; "
                "use homoode_jax.nnx.VariationalDropout, which keeps it for the solve."
            )
        if isinstance(part, nnx.BatchNorm) and not part.use_running_average:
            raise BadModuleError(
                f"{where}, whose statistics change with every evaluation; use nnx.GroupNorm or "
                "nnx.LayerNorm, or use_running_average=True."
            )


def draw_keys(module: Any, batch: Any) -> Key[Array, " batch"] | None:
    """Draws the keys of a solve's masks, or returns None where nothing is dropped."""
    parts = (part for _, part in nnx.iter_graph(module))
    dropouts = [part for part in parts if isinstance(part, VariationalDropout) and part.is_on]
    return dropout.draw_keys(dropouts[0].rngs(), batch) if dropouts else None
