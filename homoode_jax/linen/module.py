"""The field or cell of a layer as a pure function of its variables."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn
from flax.core import unfreeze
from jaxtyping import Array, PyTree

from homoode_jax.layers.kinds import Kind
from homoode_jax.layers.options import Constant
from homoode_jax.layers.solve import BadModuleError, Condition, Pure
from homoode_jax.mathematics.common.solution import Result, Solution, Stats


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class Run:
    """Calls an unbound module, or a plain function, with its variables.

    It equals another where the fields of the modules are equal, arrays by their content.
    """

    module: Any
    kind: Kind

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Run) or self.kind != other.kind:
            return False
        return _content(self.module) == _content(other.module)

    def __hash__(self) -> int:
        return hash((type(self.module), self.kind.name))

    def bind(self, params: PyTree) -> Any:
        """Returns the module with its variables."""
        return self.module.bind(params) if isinstance(self.module, nn.Module) else self.module

    def __call__(self, params: PyTree, *args: Any) -> PyTree[Array]:
        """Calls the module, which has neither random numbers nor variables to change."""
        if not isinstance(self.module, nn.Module):
            return self.module(*args)
        role = f"the {self.kind.role} of {self.kind.name}"
        try:
            return self.module.apply(params, *args)
        except errors.InvalidRngError as error:
            raise BadModuleError(
                f"{role} draws random numbers in every evaluation, as nn.Dropout does; use "
                "homoode_jax.linen.VariationalDropout, which keeps its mask for the solve."
            ) from error
        except errors.ModifyScopeVariableError as error:
            raise BadModuleError(
                f"{role} changes a variable in every evaluation, as nn.BatchNorm does; use "
                "nn.GroupNorm or nn.LayerNorm, or use_running_average=True."
            ) from error


def unbound(module: Any) -> tuple[Any, PyTree]:
    """Returns a module without its variables, and these; of a plain function it has none.

    A module that the cell shares with the rest of the model has its variables elsewhere. They
    are put where the cell alone would have them.
    """
    if not isinstance(module, nn.Module):
        return module, {}
    return module.unbind()[0], _variables(module)


def _content(part: Any) -> Any:
    """Returns what a module holds in its fields, as something that can be compared."""
    if not isinstance(part, nn.Module):
        leaves, structure = jax.tree.flatten(part)
        is_module = [isinstance(leaf, nn.Module) for leaf in leaves]
        pairs = zip(leaves, is_module, strict=True)
        return structure, [_content(leaf) if module else Constant(leaf) for leaf, module in pairs]
    names = [field.name for field in dataclasses.fields(part) if field.name != "parent"]
    return type(part), [(name, _content(getattr(part, name, None))) for name in names]


def parts_of(module: Any) -> Iterator[Any]:
    """Yields a module and the modules in its fields, or a plain function."""
    yield module
    if isinstance(module, nn.Module):
        for _, part in _parts(module):
            yield from parts_of(part)


def _variables(module: nn.Module) -> dict[str, Any]:
    variables = unfreeze(dict(module.variables))
    for name, part in _parts(module):
        if part.scope is None:
            continue
        for collection, tree in _variables(part).items():
            variables.setdefault(collection, {}).setdefault(name, tree)
    return variables


def _parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields the modules that are fields of a module, by the names that Linen gives them."""
    for field in dataclasses.fields(module):
        value = getattr(module, field.name, None)
        if field.name != "parent":
            yield from _named(field.name, value)


def _named(name: str, value: Any) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(value, nn.Module):
        yield name, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _named(f"{name}_{key}", one)
    elif isinstance(value, list | tuple):
        for place, one in enumerate(value):
            yield from _named(f"{name}_{place}", one)


@dataclass(frozen=True)
class Bound:
    """Calls a bound module, whose variables are in its scope."""

    module: Any

    def __call__(self, params: PyTree, *args: Any) -> PyTree[Array]:
        """Calls the module."""
        del params
        return self.module(*args)


def initialise(pure: Pure, z0: PyTree[Array], x: PyTree) -> Solution:
    """Calls the field or cell once, which makes its parameters; returns a solve of no steps."""
    t = [jnp.zeros(())] if pure.kind.role == "field" else []
    pure({}, *t, z0, Condition(x, None))
    none = jnp.zeros((), jnp.int32)
    return Solution(z0, None, None, none + Result.max_steps.value, Stats(none, none, none))
