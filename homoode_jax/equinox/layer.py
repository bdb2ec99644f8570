"""A layer: a field or cell, where its state begins, and the options of its solve."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key, PyTree

from homoode_jax.equinox.parts import LearnedPoint
from homoode_jax.layers import start as starts
from homoode_jax.layers.arguments import read_arguments
from homoode_jax.layers.dropout import draw_keys, evaluation, keys_of_evaluation
from homoode_jax.layers.kinds import Form, Kind
from homoode_jax.layers.options import Constant, make_options
from homoode_jax.layers.solve import (
    BadModuleError,
    Condition,
    Pure,
    functions_of,
    refuse_hidden,
    solve,
)
from homoode_jax.mathematics.common.functions import held_by
from homoode_jax.mathematics.common.solution import Solution


class Layer(eqx.Module):
    """A field or cell, where its state begins, and the options of its solve."""

    module: Any
    z0: Any
    options: Constant = eqx.field(static=True)
    batched: bool = eqx.field(static=True)
    kind: ClassVar[Kind]

    def __init__(self, module: Any, z0: Any, batched: bool, options: dict[str, Any]):
        read_arguments(self.kind, module)
        refuse(self.kind, module)
        if not isinstance(module, eqx.Module):
            hidden = (part for part in held_by(module, eqx.Module) if _learns(part))
            refuse_hidden(self.kind, hidden, "an eqx.Module", "eqx.filter_grad and eqx.filter_jit")
        self.module = module
        self.z0 = z0 if callable(z0) else Fixed(starts.keep_start(z0))
        self.options = make_options(self.kind, options)
        self.batched = batched

    def __call__(self, x: PyTree[ArrayLike], **options: Any) -> PyTree[Array]:
        """Returns the final state; takes what `solve` takes."""
        return self.solve(x, **options).z

    def solve(
        self,
        x: PyTree[ArrayLike],
        *,
        z0: PyTree = None,
        key: Key[Array, "*batch"] | None = None,
        **options: Any,
    ) -> Solution:
        """Solves for one example, or a batch.

        Args:
            x: the input, without a batch axis; with `batched=True` arrays `[batch, ...]`.
            z0: where to start this solve (a warm start), likewise; None: as usual.
            key: of the masks of `VariationalDropout`, with `batched=True` perhaps one for each
                example; None: nothing is dropped.
            options: of the function behind the layer, in place of those given with the layer.

        Returns:
            The `Solution`.

        Raises:
            ValueError: if an argument is not as above, or the field or cell does not go with it;
                the message names it.
        """
        refuse(self.kind, self.module)
        x, z0 = starts.take_inputs(self.kind.name, x, z0)
        if not self.batched:
            x, z0 = jax.tree.map(lambda leaf: leaf[None], (x, z0))
        batch = starts.number_of_rows(self.kind.name, (x, z0))
        params, rest = eqx.partition(self.module, _is_array)
        form = read_arguments(self.kind, self.module)
        solution = solve(
            pure=Pure(
                kind=self.kind,
                form=form,
                run=Run(Constant(rest), form),
                advice=self._advice,
                reads=functions_of(parts_of(self.module)),
            ),
            params=params,
            condition=Condition(x, None if key is None else draw_keys(key, batch)),
            begin=lambda: self._begin(x, batch),
            options=self.options,
            given={**options, "z0": z0},
        )
        return solution if self.batched else _first(solution)

    def start_loss(self, z: PyTree[Array], x: PyTree[ArrayLike] = None) -> Float[Array, ""]:
        """Returns the mean of smooth-L1(z0 - z), by which a learned start follows the solutions.

        Args:
            z: final states, as `solve` returns them; they have no gradient of this loss.
            x: the input that they belong to, for a start that is called with it.

        Raises:
            ValueError: if the start does not learn, or needs x.
        """
        starts.check_learns(
            name=self.kind.name,
            learns=not isinstance(self.z0, Fixed),
            is_given_x=x is not None or isinstance(self.z0, LearnedPoint),
        )
        x = z if x is None else x
        begin = jax.vmap(self.z0) if self.batched else self.z0
        return starts.start_loss(begin(x), z)

    @property
    def _advice(self) -> str:
        """Returns what an error about shapes adds."""
        if self.batched:
            return " With batched=True, arrays of the layer have a batch axis."
        return (
            " The layer takes one example, which here is a batch of one: a batch goes in by "
            "jax.vmap(layer)(x), or with batched=True."
        )

    def _begin(self, x: PyTree, batch: Any) -> PyTree[Array]:
        """Returns the states in which a solve begins."""
        if self.kind.start != "point":
            return starts.at_input(self.kind.name, x, getattr(self, "augment", 0))
        if isinstance(self.z0, Fixed):
            return starts.at_point(self.z0.point, x, batch)
        return jax.vmap(self.z0, axis_size=batch)(x)


class Fixed(eqx.Module):
    """A start that does not learn."""

    point: Constant = eqx.field(static=True)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Run:
    """Calls a module with the arrays that it has been parted from, for every example of a batch."""

    rest: Constant
    form: Form

    def bind(self, params: PyTree) -> Callable:
        """Returns the module as a function of a batch."""
        return partial(self, params)

    def __call__(self, params: PyTree, *args: Any) -> PyTree[Array]:
        """Calls the module; every example has a key of its own for its dropouts."""
        module = eqx.combine(params, self.rest.tree)

        def one(keys: Key[Array, ""] | None, *args: Any) -> PyTree[Array]:
            with evaluation(keys):
                return module(*args)

        axes = [None if name == "t" else 0 for name in self.form]
        return jax.vmap(one, in_axes=(0, *axes))(keys_of_evaluation(), *args)


def refuse(kind: Kind, module: Any) -> None:
    """Raises if a field or cell has modules that change with every evaluation."""
    kinds = (eqx.nn.Dropout, eqx.nn.BatchNorm)
    for part in jax.tree.leaves(module, is_leaf=lambda part: isinstance(part, kinds)):
        where = f"the {kind.role} of {kind.name} has eqx.nn.{type(part).__name__}"
        if isinstance(part, eqx.nn.BatchNorm):
            raise BadModuleError(
                f"{where}, whose statistics change with every evaluation; use eqx.nn.GroupNorm or "
                "eqx.nn.LayerNorm."
            )
        if isinstance(part, eqx.nn.Dropout) and not part.inference and part.p != 0:
            raise BadModuleError(
                f"{where}, whose mask changes with every evaluation; use "
                "homoode_jax.equinox.VariationalDropout, which keeps it for the solve."
            )


def parts_of(module: Any) -> Iterator[Any]:
    """Yields a module and the modules and functions within it."""
    is_module = lambda part: isinstance(part, eqx.Module)  # noqa: E731
    yield module
    inner = vars(module) if is_module(module) else None
    for part in jax.tree.leaves(inner, is_leaf=is_module):
        if is_module(part):
            yield from parts_of(part)


def _learns(module: eqx.Module) -> bool:
    return any(eqx.is_inexact_array(leaf) for leaf in jax.tree.leaves(module))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _first(solution: Solution) -> Solution:
    """Returns the solution of the only example, without the batch axis."""
    z = jax.tree.map(lambda leaf: leaf[0], solution.z)
    zs = jax.tree.map(lambda leaf: leaf[:, 0], solution.zs)
    if solution.ts is not None and solution.ts.ndim > 1:
        solution = solution._replace(ts=solution.ts[:, 0])
    if solution.result.ndim:  # solved by itself, as "per_example" does
        result, stats = jax.tree.map(lambda leaf: leaf[0], (solution.result, solution.stats))
        solution = solution._replace(result=result, stats=stats)
    return solution._replace(z=z, zs=zs)
