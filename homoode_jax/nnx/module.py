"""The field or cell of a layer: what it may hold, and how it becomes a pure function."""

from collections.abc import Iterator
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
    """Calls the module that a definition and arrays stand for.

    Attributes:
        definition: the module without its state.
        structure: of the state, whose variables are made anew in every call, within its trace.
        names: of the arrays, in the order of the structure.
        kind: of the layer.
    """

    definition: nnx.GraphDef
    structure: Any
    names: tuple[str, ...]
    kind: Kind

    def bind(self, params: dict[str, Array]) -> Any:
        """Returns the module."""
        return self._held(params).module

    def _held(self, params: dict[str, Array]) -> Held:
        state = jax.tree.unflatten(self.structure, [params[name] for name in self.names])
        return nnx.merge(self.definition, state)

    def __call__(self, params: dict[str, Array], *args: Any) -> PyTree[Array]:
        """Calls the module, which must not change itself: what it kept of a solve would be lost."""
        held = self._held(params)
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
            held = self._held(params)
            with dropout.evaluation(dropout.keys_of_evaluation()):
                held.module(*args)
            return _values(held)

        jaxpr, shapes = jax.make_jaxpr(values, return_shape=True)(params, args)
        names = (keystr(path, simple=True) for path, _ in tree_leaves_with_path(shapes))
        passed = (_is_passed_through(jaxpr.jaxpr, out) for out in jaxpr.jaxpr.outvars)
        return [name for name, same in zip(names, passed, strict=True) if not same]


def split_module(module: Any, kind: Kind) -> tuple[Run, dict[str, Array]]:
    """Parts a module, or a plain function, into how it is called and its arrays."""
    definition, state = nnx.split(Held(module))
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    arrays = {keystr(path[1:]): leaf for path, leaf in leaves}
    return Run(definition, structure, tuple(arrays), kind), arrays


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
    """Returns the values of all variables by their names, as they are kept."""
    values = {}
    for path, variable in nnx.to_flat_state(nnx.state(held)):
        name = ".".join(map(str, path[1:]))
        # A plain array of a module is a leaf of its own, and a variable may hold a pytree.
        for place, leaf in tree_leaves_with_path(variable):
            values[name + keystr(place[1:])] = leaf
    return values


def parts_of(module: Any) -> Iterator[Any]:
    """Yields a module and the modules within it, or a plain function."""
    yield module
    for _, part in nnx.iter_graph(module):
        if isinstance(part, nnx.Module) and part is not module:
            yield part


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
