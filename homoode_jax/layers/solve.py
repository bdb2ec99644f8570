"""The solve of a layer: its module as a pure function, given to the function behind the layer."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Key, PyTree

from homoode_jax.layers.dropout import DropoutPlaceError, evaluation
from homoode_jax.layers.kinds import Form, Kind
from homoode_jax.layers.options import Constant, check_names
from homoode_jax.layers.start import check_given
from homoode_jax.mathematics.common.checks import describe
from homoode_jax.mathematics.common.functions import CALLS, call_of
from homoode_jax.mathematics.common.solution import Solution

FIXED = ("jax", "jaxlib", "flax", "equinox", "homoode_jax")
OWN_FUNCTIONS = ("homotopy", "preconditioner")  # these are given the module, and not its arrays


class Condition(NamedTuple):
    """What a field or cell is conditioned on.

    Attributes:
        x: the input of the layer.
        keys: of the dropout masks, one for each example; None where there is no dropout.
    """

    x: PyTree[Array]
    keys: Key[Array, " batch"] | None


@jax.tree_util.register_static
@dataclass(frozen=True)
class Pure:
    """A module as a pure function of its arrays; equal to another where both compute the same.

    Attributes:
        kind: of the layer.
        form: which of t, z and x the module takes.
        run: `run(arrays, *args)` calls the module that has these arrays, `run.bind(arrays)`
            returns it; hashable.
        advice: what an error about shapes adds, of how the layer is called.
        reads: the functions of the module, whose closures and globals may change.
    """

    kind: Kind
    form: Form
    run: Any
    advice: str = ""
    reads: tuple = field(default=(), compare=False)

    def __call__(self, params: PyTree, *args: Any) -> PyTree[Array]:
        """Evaluates a cell(params, z, x) or a field(params, t, z, x)."""
        *t, z, condition = args
        given = {"t": t[0] if t else None, "z": z, "x": condition.x}
        given = [given[name] for name in self.form]
        with evaluation(condition.keys), in_one_line(self, given):
            return self.run(params, *given)


@jax.tree_util.register_static
@dataclass(frozen=True)
class PureOwn:
    """A function of the caller's that takes the module, as one that takes its arrays."""

    function: Callable
    run: Any

    @property
    def reads(self) -> tuple:
        """Returns the function, whose closure and globals may change."""
        return (self.function,)

    def __call__(self, params: PyTree, *args: Any) -> Any:
        """Calls the function with a module that has these arrays, under the masks of the solve.

        `homotopy(module, lam, z, x)` or `preconditioner(module, z, x, lam, v)`.
        """
        (keys,) = (arg.keys for arg in args if isinstance(arg, Condition))
        args = tuple(arg.x if isinstance(arg, Condition) else arg for arg in args)
        return self.function(Evaluated(self.run.bind(params), keys), *args)


class Evaluated:
    """A module whose every call is an evaluation of the solve, with the same masks."""

    def __init__(self, module: Any, keys: Key[Array, " batch"] | None):
        self._module = module
        self._keys = keys

    def __call__(self, *args: Any) -> PyTree[Array]:
        """Calls the module."""
        with evaluation(self._keys):
            return self._module(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def functions_of(parts: Iterable[Any]) -> tuple[Callable, ...]:
    """Returns the functions that a module and its parts call: those that they hold, and their own.

    What is of JAX or a framework is taken as fixed: to read it would take longer than a solve.
    """
    found = []
    for part in parts:
        if isinstance(part, CALLS):
            found.append(part)
            continue
        held = getattr(part, "__dict__", {}).values()
        found += [one for one in held if isinstance(one, CALLS) and not _is_fixed(one)]
        if not _is_fixed(type(part)):
            found += call_of(type(part))
    return tuple(found)


def _is_fixed(thing: Any) -> bool:
    """Returns whether a function or class is of JAX or of a framework."""
    thing = thing.func if isinstance(thing, functools.partial) else thing
    return (getattr(thing, "__module__", None) or "").partition(".")[0] in FIXED


def solve(
    pure: Pure,
    params: PyTree,
    condition: Condition,
    begin: Callable[[], PyTree[Array]],
    options: Constant,
    given: Mapping[str, Any],
) -> Solution:
    """Solves a batch.

    Args:
        pure: the field or cell.
        params: its arrays.
        condition: what it is conditioned on.
        begin: returns the states in which the layer begins.
        options: of the layer.
        given: options of the call, and its z0 (a warm start); they go before those of the layer.
    """
    kind = pure.kind
    z0 = given.get("z0")
    given = {name: value for name, value in given.items() if name != "z0"}
    check_names(kind, given, in_call=True)
    chosen = {**options.tree, **given}
    for name in OWN_FUNCTIONS:
        if callable(chosen.get(name)):
            chosen[name] = PureOwn(chosen[name], pure.run)
    if z0 is None:
        z0 = begin()
    else:
        check_given(z0, begin, kind.name)
    with without_notes(pure.advice):
        return kind.solve(pure, params, z0, condition, **chosen)


class BadModuleError(ValueError):
    """A field or cell that does not go into a layer."""


def refuse_hidden(kind: Kind, hidden: Iterable[Any], instead: str, blind: str) -> None:
    """Raises if a function as field or cell reads a module, as a bound method or a lambda does.

    Frameworks take a function for a constant, and the gradient of what it reads would be zero.
    """
    for part in hidden:
        raise BadModuleError(
            f"the {kind.role} of {kind.name} is a function that reads a {type(part).__name__}, of "
            f"which {blind} do not know; make the {kind.role} {instead} that has it as an "
            "attribute."
        )


@contextlib.contextmanager
def in_one_line(pure: Pure, given: list[Any]) -> Iterator[None]:
    """Says in one line what a field or cell was called with when it failed, as by a wrong shape.

    Its own error is the cause of this one.
    """
    try:
        yield
    except (BadModuleError, DropoutPlaceError):
        raise
    except Exception as error:  # whatever the user's module raises
        kind = pure.kind
        shown = ", ".join(
            f"{name} {jax.tree.map(describe, one)}"
            for name, one in zip(pure.form, given, strict=True)
        )
        start = ", and z has the shape of z0" if kind.start == "point" else ""
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise BadModuleError(
            f"the {kind.role} of {kind.name} was called with {shown}{start}, and failed: "
            f"{reason}.{pure.advice}"
        ) from error


@contextlib.contextmanager
def without_notes(advice: str) -> Iterator[None]:
    """Raises an error anew, below which JAX has put lines of its own about its frames.

    One about what a module returns gets the advice.
    """
    try:
        yield
    except (BadModuleError, DropoutPlaceError) as error:
        raise type(error)(str(error)) from error.__cause__
    except ValueError as error:
        if " must return " not in str(error):
            raise
        raise BadModuleError(f"{error}{advice}") from error.__cause__
