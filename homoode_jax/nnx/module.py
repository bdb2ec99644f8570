"""The field or cell of a layer: what it may hold, and how it becomes a pure function."""

from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jax.tree_util import keystr, tree_leaves_with_path
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
        if any(value is not after[path] for path, value in before.items()):
            for path in self._changed(params, args):
                raise BadModuleError(
                    f"the {self.kind.role} of {self.kind.name} changes its {path} in a call, and a "
                    "solve calls it many times; random numbers and statistics belong outside of it."
                )
        return z

    def _changed(self, params: PyTree, args: Any) -> list[str]:
        """Returns the variables that a call changes; `nnx.jit` returns the others as new arrays."""

        def values(params: PyTree, args: Any) -> dict[str, Any]:
            held = nnx.merge(self.definition, params)
            with dropout.evaluation(dropout.keys_of_evaluation()):
                held.module(*args)
            return _values(held)

        jaxpr, shapes = jax.make_jaxpr(values, return_shape=True)(params, args)
        names = (keystr(path, simple=True) for path, _ in tree_leaves_with_path(shapes))
        passed = (_is_passed_through(jaxpr.jaxpr, out) for out in jaxpr.jaxpr.outvars)
        return [name for name, same in zip(names, passed, strict=True) if not same]


def _is_passed_through(jaxpr: Any, out: Any) -> bool:
    """Returns whether an output of a program is one of its inputs."""
    return _input_of(jaxpr, out) is not None


def _input_of(jaxpr: Any, out: Any) -> int | None:
    """Returns which input of a program an output is, also through programs within it."""
    if out in jaxpr.invars:
        return jaxpr.invars.index(out)
    for equation in jaxpr.eqns:
        inner = equation.params.get("jaxpr")
        if out not in equation.outvars or inner is None:
            continue
        inner = getattr(inner, "jaxpr", inner)
        place = _input_of(inner, inner.outvars[equation.outvars.index(out)])
        return None if place is None else _input_of(jaxpr, equation.invars[place])
    return None


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
