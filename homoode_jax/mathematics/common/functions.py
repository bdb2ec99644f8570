"""Functions of the caller as keys of compiled programs.

A solve is compiled once for each function and shape, also without a `jit` around it. What a
function closes over, and what it reads of its module, are constants of that program. So they are
part of the function's key: when they have changed, the program is not found and compiled anew. A
change in place counts too, since the key has the entries of pytrees and NumPy arrays and the
attributes of objects.
"""

import collections
import contextlib
import functools
import hashlib
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer

CALLS = (types.FunctionType, types.MethodType, functools.partial)
READ = (bool, int, float, complex, str, list, dict, tuple, np.ndarray, collections.deque)
PLAIN = (bool, int, float, complex, str, bytes, type(None), types.CodeType)


class Function:
    """A function of the caller's, which equals another where both compute the same.

    Attributes:
        call: the function itself. What its attribute `reads` has, if there is one, is read too.
        is_traced: True if a traced array is among what it reads. It must then be no key of a
            program, which would outlive the trace.
    """

    def __init__(self, call: Callable):
        self.call = call
        reader = _Reader()
        reader.read(call)
        reader.read(getattr(call, "reads", ()))
        self.is_traced = reader.is_traced
        self._key = _Same(self) if reader.is_traced else tuple(reader.key)

    def __call__(self, *args: Any) -> Any:
        """Calls the function."""
        return self.call(*args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Function) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def compiled(entry: Callable) -> Callable:
    """Compiles an entry that takes `Function`s, once for equal ones.

    Where one of them reads a traced array a trace is under way, and the entry becomes part of it.
    """
    program = eqx.filter_jit(entry)

    @functools.wraps(entry)
    def call(*args: Any, **named: Any) -> Any:
        leaves = jax.tree.leaves((args, named))
        traced = any(isinstance(leaf, Function) and leaf.is_traced for leaf in leaves)
        with forward_mode(
            "jvp, jacfwd, linearize and hessian do not pass through a solve, whose gradient is a "
            "backward pass; use grad, vjp or jacrev, or adjoint='implicit_jvp' (integrate: "
            "adjoint=diffrax.ForwardMode())."
        ):
            return entry(*args, **named) if traced else program(*args, **named)

    return call


@contextlib.contextmanager
def forward_mode(otherwise: str) -> Iterator[None]:
    """Raises `otherwise` where forward mode meets a function with a reverse-mode gradient only."""
    try:
        yield
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise ValueError(otherwise) from error


def check_products(function: Callable, at: Any, who: str, of: str = "cell", instead: str = ""):
    """Raises if a function has no Jacobian-vector products, which `who` takes.

    JAX itself says so only when a program is lowered, where nobody knows whose function it was.
    """
    if not has_products(function, at):
        raise ValueError(
            f"{who} takes Jacobian-vector products of the {of}, which holds a jax.custom_vjp "
            f"function or a solve; {instead}define that function by jax.custom_jvp."
        )


def has_products(function: Callable, at: Any) -> bool:
    """Returns whether a function has Jacobian-vector products."""
    jaxpr = jax.make_jaxpr(lambda at: jax.jvp(function, (at,), (at,)))(at)
    return not any(equation.primitive.name == "custom_lin" for equation in _equations(jaxpr))


def _equations(part: Any) -> Iterator[Any]:
    """Yields all equations of a jaxpr, and those of the jaxprs that its equations hold."""
    if isinstance(part, tuple | list):
        for one in part:
            yield from _equations(one)
    elif hasattr(part, "eqns"):  # a jaxpr, closed or not
        for equation in part.eqns:
            yield equation
            yield from _equations(list(equation.params.values()))


def held_by(function: Any, kinds: Any) -> Iterator[Any]:
    """Yields the objects of some kinds that a function reads, also through functions that it reads.

    Functions of other modules than its own are taken as fixed.
    """
    todo, seen = [function], set()
    while todo:
        part = todo.pop()
        if isinstance(part, kinds):
            yield part
        elif isinstance(part, CALLS) and id(part) not in seen:
            seen.add(id(part))
            for inner in _parts(part):
                todo += jax.tree.leaves(inner, is_leaf=lambda leaf: isinstance(leaf, kinds))
        elif callable(part) and inspect.unwrap(part) is not part:  # jax.jit of a function
            todo.append(inspect.unwrap(part))


def check_untraced(**options: Any) -> None:
    """Raises if a function within an option (a norm, a schedule) reads a traced array."""
    for name, option in options.items():
        if any(Function(function).is_traced for function in _functions(option)):
            raise ValueError(
                f"{name}={type(option).__name__} holds a function that closes over a traced array; "
                f"what a function of {name} reads must be known when the solve is compiled."
            )


def _functions(option: Any) -> Iterator[Callable]:
    """Yields the functions in an option: itself, or those in the fields of modules."""
    if isinstance(option, CALLS):
        yield option
    elif isinstance(option, eqx.Module):
        for value in vars(option).values():
            yield from _functions(value)


class _Same:
    """Compares by identity, and keeps the object alive so that no other gets its identity."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class _Reader:
    """Collects what a function reads, and what the functions read that it closes over."""

    def __init__(self):
        self.key: list = []
        self.is_traced = False
        self._places: dict[int, int] = {}  # of the functions read so far, by identity

    def read(self, part: Any) -> None:
        """Adds a part to the key."""
        try:
            leaves, structure = jax.tree.flatten(part)
            hash(structure)
        except Exception:  # such as a pytree that holds itself
            self.key.append(_Same(part))
            return
        self.key.append(structure)
        for leaf in leaves:
            self._read_leaf(leaf)

    def _read_leaf(self, leaf: Any) -> None:
        self.is_traced |= isinstance(leaf, Tracer)
        if isinstance(leaf, PLAIN):
            self.key.append((type(leaf), leaf))
        elif id(leaf) in self._places:
            self.key.append(self._places[id(leaf)])
        elif isinstance(leaf, CALLS):
            self._places[id(leaf)] = len(self._places)
            for part in _parts(leaf):
                self.read(part)
        elif isinstance(leaf, np.ndarray):  # may be changed in place
            content = hashlib.blake2b(np.ascontiguousarray(leaf).tobytes()).digest()
            self.key.append((leaf.dtype, leaf.shape, content))
        elif isinstance(leaf, collections.deque | set | frozenset | bytearray):
            self.key.append(type(leaf))
            self.read(list(leaf))
        else:
            self.key.append(leaf if isinstance(leaf, _Same) else _Same(leaf))
            self._read_attributes(leaf)

    def _read_attributes(self, leaf: Any) -> None:
        """Adds what an object holds: its methods read it, and it may be given another value."""
        is_instance = hasattr(leaf, "__dict__") and not isinstance(leaf, type | types.ModuleType)
        if is_instance and not isinstance(leaf, _Same | jax.Array):
            self._places[id(leaf)] = len(self._places)
            self.read(dict(vars(leaf)))
            self.read(tuple(call_of(type(leaf))))


def call_of(kind: type) -> Iterator[Any]:
    """Yields what calling an object of a class reads of that class: methods, and their defaults."""
    call = inspect.unwrap(kind.__call__)  # Linen and Equinox wrap methods
    if not isinstance(call, types.FunctionType):
        return
    yield call
    for name in sorted(set(_names(call.__code__))):
        value = inspect.getattr_static(kind, name, None)
        value = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(value, (types.FunctionType, *READ)):
            yield value


def _parts(function: Any) -> Iterator[Any]:
    if isinstance(function, types.MethodType):
        yield function.__self__
        yield function.__func__
        return
    if isinstance(function, functools.partial):
        yield from (function.func, function.args, function.keywords)
        return
    yield function.__code__
    yield _Same(function.__globals__)
    yield function.__defaults__
    yield function.__kwdefaults__
    names = sorted(set(_names(function.__code__)))
    for cell in function.__closure__ or ():
        yield from _with_numbers(_content(cell), names)
    for name in names:
        value = function.__globals__.get(name)
        is_function = isinstance(value, types.FunctionType)
        foreign = is_function and value.__globals__ is not function.__globals__
        yield from _with_numbers(_Same(value) if foreign else value, names)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _with_numbers(value: Any, names: list[str]) -> Iterator[Any]:
    """Yields what a function reads by a name; of a module or class also numbers: settings.rate.

    Functions of other modules, and all else of them, are taken as fixed.
    """
    if not isinstance(value, types.ModuleType | type):
        yield value
        return
    yield _Same(value)
    inner = (vars(value).get(name) for name in names)
    yield from (one for one in inner if isinstance(one, READ))


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
