"""A layer: a field or cell, where its state begins, and the options of its solve."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, PyTree

from homoode_jax.layers import start as starts
from homoode_jax.layers.arguments import read_arguments
from homoode_jax.layers.kinds import Kind
from homoode_jax.layers.options import make_options
from homoode_jax.layers.solve import Condition, Pure, functions_of, refuse_hidden, solve
from homoode_jax.mathematics.common.functions import held_by
from homoode_jax.mathematics.common.solution import Solution
from homoode_jax.nnx.module import draw_keys, parts_of, refuse, split_module
from homoode_jax.nnx.parts import LearnedPoint, Solved


class Layer(nnx.Module):
    """A field or cell, where its state begins, and the options of its solve."""

    kind: Kind

    def __init__(self, module: Any, z0: Any, keep_solution: bool, options: dict[str, Any]):
        self._form = read_arguments(self.kind, module)
        setattr(self, self.kind.role, module)
        refuse(self.kind, module)
        if not isinstance(module, nnx.Module):
            hidden = held_by(module, nnx.Module | nnx.Variable)
            refuse_hidden(self.kind, hidden, "an nnx.Module", "nnx.grad and nnx.jit")
        self._options = make_options(self.kind, options)
        learns = isinstance(z0, nnx.Module | nnx.Variable)
        self.z0 = z0 if learns else starts.keep_start(_without_variables(z0))
        none = jnp.zeros((), jnp.int32)
        self.failed = Solved(none) if keep_solution else None
        self.evaluations = Solved(none) if keep_solution else None

    def __call__(self, x: PyTree[ArrayLike], **options: Any) -> PyTree[Array]:
        """Returns the final states of a batch; takes what `solve` takes."""
        return self.solve(x, **options).z

    def solve(self, x: PyTree[ArrayLike], *, z0: PyTree = None, **options: Any) -> Solution:
        """Solves a batch.

        Args:
            x: the input, arrays `[batch, ...]`.
            z0: where to start this solve (a warm start), arrays `[batch, ...]`; None: as usual.
            options: of the function behind the layer, in place of those given with the layer.
                They may be traced where that function takes traced ones.

        Returns:
            The `Solution`.

        Raises:
            ValueError: if an argument is not as above, or the field or cell does not go with it;
                the message names it.
        """
        module = getattr(self, self.kind.role)
        refuse(self.kind, module)
        x, z0 = starts.take_inputs(self.kind.name, x, z0)
        batch = starts.number_of_rows(self.kind.name, (x, z0))
        keys = draw_keys(module, batch)
        run, params = split_module(module, self.kind)
        solution = solve(
            pure=Pure(
                kind=self.kind,
                form=self._form,
                run=run,
                reads=functions_of(parts_of(module)),
            ),
            params=params,
            condition=Condition(x, keys),
            begin=lambda: self._begin(x, batch),
            options=self._options,
            given={**options, "z0": z0},
        )
        if self.failed is not None and self.evaluations is not None:
            self.failed.set_value(jnp.sum(~solution.success, dtype=jnp.int32))
            self.evaluations.set_value(jnp.max(solution.stats.evaluations).astype(jnp.int32))
        return solution

    def start_loss(self, z: PyTree[Array], x: PyTree[ArrayLike] = None) -> Float[Array, ""]:
        """Returns the mean of smooth-L1(z0 - z), by which a learned start follows the solutions.

        Args:
            z: final states, `[batch, ...]`; they have no gradient of this loss.
            x: the input that they belong to, for a start that is called with it.

        Raises:
            ValueError: if the start does not learn, or needs x.
        """
        starts.check_learns(
            name=self.kind.name,
            learns=isinstance(self.z0, nnx.Module | nnx.Param),
            is_given_x=x is not None or isinstance(self.z0, nnx.Param | LearnedPoint),
        )
        x = z if x is None else x
        return starts.start_loss(self._begin(x, starts.number_of_rows("start_loss", z)), z)

    def _begin(self, x: PyTree, batch: Any) -> PyTree[Array]:
        """Returns the states in which a solve begins."""
        if isinstance(self.z0, nnx.Module):
            return self.z0(x)
        point = self.z0.get_value() if isinstance(self.z0, nnx.Variable) else self.z0
        return starts.at_point(point, x, batch)


def _without_variables(z0: Any) -> Any:
    """Returns z0, or raises where it is a pytree of variables, of which NNX would not know."""
    is_variable = lambda part: isinstance(part, nnx.Variable)  # noqa: E731
    if any(map(is_variable, jax.tree.leaves(z0, is_leaf=is_variable))):
        raise ValueError(
            "z0 is a pytree of nnx.Variables; make it one of a pytree, nnx.Param({...})."
        )
    return z0
