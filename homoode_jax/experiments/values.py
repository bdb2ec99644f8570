"""Values of settings, each checked by itself: its name, type and range."""

import dataclasses
import math
from typing import Any, get_args

from homoode_jax.experiments.errors import UserError, nearest, shown
from homoode_jax.experiments.settings import choices


def checked_section(name: str, kind: type, raw: Any) -> Any:
    """Returns a section of settings, each checked by itself; missing ones take their defaults."""
    if not isinstance(raw, dict):
        raise UserError(f"config.{name} must be a section of settings, got {shown(raw)}.")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    check_keys(f"config.{name}", raw, fields)
    return kind(
        **{key: _value(f"config.{name}.{key}", fields[key], value) for key, value in raw.items()}
    )


def check_keys(where: str, raw: dict, known: dict) -> None:
    """Refuses what is no setting, naming the nearest one."""
    for key in raw:
        if key not in known:
            raise UserError(
                f"{where}.{_shown_key(key)} is not a setting.{nearest(_shown_key(key), known)} "
                f"Settings of {where}: {', '.join(known)}."
            )


def _shown_key(key: Any) -> str:
    return key if isinstance(key, str) and key.isidentifier() else shown(key)


def _value(name: str, f: dataclasses.Field, value: Any) -> Any:
    """Checks type and range of one setting."""
    many = isinstance(f.default, tuple)
    kind = get_args(f.type)[0] if many else type(f.default)
    given = _items(name, kind, value, may_be_empty=not f.default) if many else (value,)
    values = [_scalar(name, kind, v) for v in given]
    low, high = (f.metadata[key] for key in ("low", "high"))
    of = choices(f)
    for v in values:
        if of and v not in of:
            raise UserError(f"{name}={shown(v)} is not one of {', '.join(of)}.{nearest(v, of)}")
        if (low is not None and not v >= low) or (high is not None and not v <= high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise UserError(f"{name}={shown(v)} is out of range; it must be {bounds}.")
    return tuple(values) if many else values[0]


def _items(name: str, kind: type, value: Any, may_be_empty: bool) -> list:
    if not isinstance(value, list | tuple) or not (value or may_be_empty):
        what = {float: "numbers", str: "texts"}[kind]
        raise UserError(f"{name}={shown(value)} must be a list of {what}.")
    return list(value)


def _scalar(name: str, kind: type, value: Any) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1000 else math.inf
    if type(value) is float and not math.isfinite(value):
        raise UserError(f"{name}={shown(value)} must be a finite number.")
    if type(value) is not kind:
        raise UserError(
            f"{name}={shown(value)} must be {_article(kind)}, got {type(value).__name__}."
        )
    return value


def _article(kind: type) -> str:
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
    return names[kind]
