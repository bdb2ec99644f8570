"""A layer: a field or cell, where its state begins, and the options of its solve."""

from typing import Any, ClassVar

from flax import linen as nn
from flax.core import FrozenDict, unfreeze
from jaxtyping import Array, ArrayLike, Float, PyTree

from homoode_jax.layers import start as starts
from homoode_jax.layers.arguments import read_arguments
from homoode_jax.layers.dropout import draw_keys
from homoode_jax.layers.kinds import Kind
from homoode_jax.layers.options import OF_A_CALL, check_names, defaults, make_options
from homoode_jax.layers.solve import Condition, Pure, functions_of, solve
from homoode_jax.linen.module import Bound, Run, initialise, parts_of, unbound
from homoode_jax.linen.parts import LearnedPoint
from homoode_jax.mathematics.common.options import whole
from homoode_jax.mathematics.common.solution import Solution


class Layer(nn.Module):
    """What all layers do; `with_fields` adds the fields of one."""

    kind: ClassVar[Kind]

    def __post_init__(self):
        super().__post_init__()
        module = getattr(self, self.kind.role)
        read_arguments(self.kind, module)
        make_options(self.kind, self._options)
        if self.kind.start == "augmented":
            whole("augment", getattr(self, "augment", None))
        if not isinstance(self._z0, nn.Module):
            starts.keep_start(self._z0)

    @property
    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _fields_of(self.kind)}

    @property
    def _z0(self) -> Any:
        z0 = getattr(self, "z0", None)
        return unfreeze(z0) if isinstance(z0, FrozenDict) else z0  # Linen freezes a dict

    def __call__(self, x: PyTree[ArrayLike], **options: Any) -> PyTree[Array]:
        """Returns the final states of a batch; takes what `solve` takes."""
        return self.solve(x, **options).z

    def solve(self, x: PyTree[ArrayLike], *, z0: PyTree = None, **options: Any) -> Solution:
        """Solves a batch; in `init` the field or cell is called once, and nothing is solved.

        Args:
            x: the input, arrays `[batch, ...]`.
            z0: where to start this solve (a warm start), arrays `[batch, ...]`; None: as usual.
            options: of the function behind the layer, in place of those given with the layer.
        """
        module = getattr(self, self.kind.role)
        x, z0 = starts.take_inputs(self.kind.name, x, z0)
        batch = starts.number_of_rows(self.kind.name, (x, z0))
        form = read_arguments(self.kind, module)
        if self.is_initializing():
            check_names(self.kind, options, in_call=True)
            pure = Pure(self.kind, form, Bound(module))
            state = self._begin(x, batch) if z0 is None else z0
            return initialise(pure, state, x)
        reads = functions_of(parts_of(module))
        module, params = unbound(module)
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        return solve(
            pure=Pure(self.kind, form, Run(module, self.kind), reads=reads),
            params=params,
            condition=Condition(x, None if key is None else draw_keys(key, batch)),
            begin=lambda: self._begin(x, batch),
            options=make_options(self.kind, self._options),
            given={**options, "z0": z0},
        )

    def start_loss(self, z: PyTree[Array], x: PyTree[ArrayLike] = None) -> Float[Array, ""]:
        """Returns the mean of smooth-L1(z0 - z); see `homoode_jax.nnx.DEQ.start_loss`."""
        starts.check_learns(
            name=self.kind.name,
            learns=isinstance(self._z0, nn.Module),
            is_given_x=x is not None or isinstance(self._z0, LearnedPoint),
        )
        return starts.start_loss(self._z0(z if x is None else x), z)

    def _begin(self, x: PyTree, batch: Any) -> PyTree[Array]:
        """Returns the states in which a solve begins."""
        if self.kind.start != "point":
            return starts.at_input(self.kind.name, x, getattr(self, "augment", 0))
        return (
            self._z0(x) if isinstance(self._z0, nn.Module) else starts.at_point(self._z0, x, batch)
        )


def _fields_of(kind: Kind) -> dict[str, Any]:
    """Returns the options that a layer has as fields, with their defaults."""
    return {name: value for name, value in defaults(kind).items() if name not in OF_A_CALL}


def with_fields(kind: Kind) -> Any:
    """Returns a base class whose fields are the module, its start, and the options of its solve."""
    start = {"point": {"z0": None}, "input": {}, "augmented": {}}[kind.start]
    fields = {**start, **_fields_of(kind)}
    first = [kind.role, "augment"] if kind.start == "augmented" else [kind.role]
    annotations = dict.fromkeys([*first, *fields], Any)
    body = {**fields, "kind": kind, "__annotations__": annotations, "__module__": __name__}
    return type(f"_{kind.name}", (Layer,), body)
