"""The arguments of a field or cell, read from its signature.

A module is given what it takes. Its first parameter is the time if its name is `t` or `time`, or
if there are three that it cannot do without. Parameters with defaults keep them where they can.
"""

import inspect
from collections.abc import Callable
from typing import Any

from homoode_jax.layers.kinds import Form, Kind

TIMES = ("t", "time")


def read_arguments(kind: Kind, module: Any) -> Form:
    """Returns which of t, z and x a module takes, or raises."""
    if isinstance(module, type) or not callable(module):
        raise ValueError(
            f"{kind.name} needs a module called as {_calls(kind)}, got {_describe(module)}."
        )
    names, required, most = _positional(module)
    places = [names.index(name) for name in ("t", "z", "x") if name in names]
    if places != sorted(places):
        raise ValueError(
            f"{kind.name} calls its module as {_calls(kind)}, in this order, but "
            f"{type(module).__name__} takes ({', '.join(names)})."
        )
    is_timed = bool(names) and names[0].strip("_") in TIMES
    untimed = [form for form in kind.forms if form[0] != "t"]
    timed = [form for form in kind.forms if form[0] == "t"]
    for form in timed if is_timed else [*untimed, ("t", "z", "x")]:
        if form in kind.forms and required <= len(form) <= most:
            return form
    raise ValueError(
        f"{kind.name} calls its module as {_calls(kind)}, but "
        f"{type(module).__name__} takes ({', '.join(names)})."
    )


def _positional(call: Callable) -> tuple[list[str], int, float]:
    """Returns the names of the positional parameters, how many are required, and the most."""
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):  # a builtin: it says nothing, so it is called in the first form
        return [], 0, float("inf")
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [one for one in parameters if one.kind in kinds]
    required = sum(one.default is inspect.Parameter.empty for one in positional)
    is_open = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters)
    return [one.name for one in positional], required, float("inf") if is_open else len(positional)


def _calls(kind: Kind) -> str:
    return " or ".join(f"{kind.role}({', '.join(form)})" for form in reversed(kind.forms))


def _describe(module: Any) -> str:
    return f"the class {module.__name__}" if isinstance(module, type) else repr(module)
