"""The field or cell of a layer as a pure function of its variables."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn
from jaxtyping import Array, PyTree

from homoode_jax.layers.kinds import Kind
from homoode_jax.layers.solve import BadModuleError, Condition, Pure
from homoode_jax.mathematics.common.solution import Result, Solution, Stats


@jax.tree_util.register_static
@dataclass(frozen=True)
class Run:
    """Calls an unbound module, or a plain function, with its variables."""

    module: Any
    kind: Kind

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
