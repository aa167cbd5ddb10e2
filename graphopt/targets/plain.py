"""Targets as plain values (bool, int, float, str, list, dict), both ways: what a TOML file holds.

Keys are the fields' names with `-`; what equals the field's default is left out; "none" stands for None.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from graphopt.errors import ConfigError, nearest
from graphopt.targets.spec import Target

NONE = "none"


def key_of(field_name: str) -> str:
    """How users write the field of this name."""
    return field_name.replace("_", "-")


def to_plain(value: Any) -> Any:
    """A target, or a part of one, as plain values; what has no order is sorted."""
    match value:
        case None:
            return NONE
        case Enum():
            return value.value
        case frozenset():
            return sorted(cast("frozenset[Any]", value))
        case tuple():
            return [to_plain(item) for item in cast("tuple[Any, ...]", value)]
        case Mapping():
            return {name: to_plain(item) for name, item in cast("Mapping[str, Any]", value).items()}
        case _ if is_dataclass(value):
            given = ((f, getattr(value, f.name)) for f in fields(value))
            return {key_of(f.name): to_plain(item) for f, item in given if item != _default(f)}
        case _:
            return value


def target_from_plain(plain: Mapping[str, Any], where: str) -> Target:
    """The target that the values describe; `where` names their source in messages.

    Raises:
        ConfigError: a key is unknown or missing, or a value is of the wrong kind: file, key, what was found, what was
            expected, and the nearest name.
    """
    values = _by_field(plain, Target, (), where)
    try:
        return TypeAdapter(Target).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_said(error)}") from error
    except TypeError as error:  # TOML has dates and times
        raise ConfigError(f"{where}: a table of a target has no dates ({error})") from error
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _by_field(value: Any, hint: Any, path: tuple[str, ...], where: str) -> Any:
    """The value with fields' own names for keys, and None for "none"; types are left to pydantic."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value == NONE:
            return None
        return _by_field(value, next(a for a in args if a is not types.NoneType), path, where)
    if not isinstance(value, dict):
        return value
    entries = cast("dict[str, Any]", value)
    if origin is Mapping:
        return {name: _by_field(item, args[1], (*path, name), where) for name, item in entries.items()}
    if not is_dataclass(hint):
        return entries
    hints, known = get_type_hints(hint), {key_of(f.name): f for f in fields(hint)}
    found: dict[str, Any] = {}
    for key, item in entries.items():
        name = key_of(key)
        if name not in known:
            raise ConfigError(f"{where}: unknown key '{_dotted((*path, key))}': {nearest(name, known)}")
        found[known[name].name] = _by_field(item, hints[known[name].name], (*path, key), where)
    if missing := [name for name, f in known.items() if f.name not in found and _default(f) is MISSING]:
        raise ConfigError(f"{where}: '{_dotted((*path, missing[0]))}' must be given")
    return found


def _said(error: ValidationError) -> str:
    """The first thing that is wrong, in the file's own words."""
    first = error.errors()[0]
    path = _dotted([key_of(str(part)) if k == 0 else str(part) for k, part in enumerate(first["loc"])])
    found, expected = first["input"], first["msg"].removeprefix("Input should be ")
    choices = [c.strip(" '") for c in str(first.get("ctx", {}).get("expected", "")).replace(" or ", ", ").split(",")]
    hint = f": {nearest(found, choices)}" if isinstance(found, str) and any(choices) else ""
    hint = hint if "did you mean" in hint else ""
    return f"'{path}' is {json.dumps(found, default=str)}; expected {expected}{hint}"


def _dotted(path: tuple[str, ...] | list[str]) -> str:
    return ".".join(path)


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    factory = cast("Callable[[], Any]", field.default_factory)
    return MISSING if field.default_factory is MISSING else factory()
