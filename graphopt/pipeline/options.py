"""A pass's options: the fields of its dataclass, checked against their type hints.

Values come from text or TOML, so they are plain: bool, int, float, str, list, dict. They are checked as JSON values
in pydantic's strict mode: an int passes for a float, a list for a tuple, a string for an Enum or Path, nothing else.
TOML knows no null: the word `none` means None for an option that may be None (unless it says so in its Literal).
"""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from enum import Enum, EnumType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from graphopt.errors import ConfigError, nearest, one_line
from graphopt.pipeline.passes import Pass

_NONE = "none"
_TYPE_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    types.NoneType: _NONE,
    Any: "anything",
}


@dataclass(frozen=True)
class Option:
    """One option of a pass, for help: `default` is None for a required one too, see `required`."""

    name: str
    type: str
    default: Any
    required: bool


def options_of(pass_type: type[Pass]) -> tuple[Option, ...]:
    """The options of a pass in the order of its fields; names as users write them, with `-`."""
    hints = _hints(pass_type)
    return tuple(
        Option(option_name(f.name), describe_type(hints[f.name]), _default(f), _is_required(f))
        for f in fields(pass_type)
        if f.init
    )


def option_name(field_name: str) -> str:
    """How users write the option of this field."""
    return field_name.replace("_", "-")


def make_pass(pass_type: type[Pass], options: Mapping[str, Any]) -> Pass:
    """The pass with these options, given as plain values; option names may be written with `-` or `_`.

    Raises:
        ConfigError: an option is unknown, missing, given twice, or has a wrong value.
    """
    hints = _hints(pass_type)
    known = {option_name(f.name): f for f in fields(pass_type) if f.init}
    values: dict[str, Any] = {}
    for written, value in options.items():
        name = option_name(written)
        if name not in known:
            hint = nearest(name, known) if known else "it has none"
            raise ConfigError(f"pass '{pass_type.name}' has no option '{written}': {hint}")
        if known[name].name in values:
            raise ConfigError(f"pass '{pass_type.name}': option '{name}' is given twice")
        values[known[name].name] = _check(pass_type, name, hints[known[name].name], value)
    for name, field in known.items():
        if _is_required(field) and field.name not in values:
            raise ConfigError(
                f"pass '{pass_type.name}': option '{name}' ({describe_type(hints[field.name])}) must be given"
            )
    try:
        return pass_type(**values)
    except ValueError as error:  # from the pass's own __post_init__
        raise ConfigError(f"pass '{pass_type.name}': {error}") from error


def check_options(pass_type: type[Pass], where: str) -> None:
    """Hold the type of every option to what text and TOML can say.

    Raises:
        ConfigError: one is of a type that no plain value can be checked against; `where` names the pass.
    """
    for field in fields(pass_type):
        try:
            TypeAdapter[Any](_hints(pass_type)[field.name])
        except (PydanticUserError, NameError) as error:
            raise ConfigError(
                f"{where}: option '{field.name}' is of a type that can't be read ({one_line(error)}): use bool, int, "
                "float, str, Literal, Path, or tuples and dicts of these"
            ) from error


def plain_options(pass_: Pass) -> dict[str, Any]:
    """The options that differ from their defaults, as the plain values that `make_pass` takes."""
    hints = _hints(type(pass_))
    plain: dict[str, Any] = {}
    for field in fields(pass_):
        value = getattr(pass_, field.name)
        if field.init and (_is_required(field) or value != _default(field)):
            dumped = TypeAdapter[Any](hints[field.name]).dump_python(value, mode="json")
            plain[option_name(field.name)] = _NONE if dumped is None else dumped
    return plain


def describe_type(hint: Any) -> str:
    """A type hint in the user's words: "an integer", "minmax | kl", "list of strings"."""
    origin, args = get_origin(hint), get_args(hint)
    if hint in _TYPE_WORDS:
        return _TYPE_WORDS[hint]
    if hasattr(hint, "__metadata__"):
        return describe_type(hint.__origin__)
    if origin is Literal:
        return " | ".join(str(value) for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(arg) for arg in args)
    if origin in (tuple, list, frozenset):
        return f"a list, each {describe_type(args[0])}"
    if origin is dict:
        return f"a table, each {describe_type(args[1])}"
    if isinstance(hint, EnumType):
        members = cast("Iterable[Enum]", hint)
        return " | ".join(str(member.value) for member in members)
    return str(getattr(hint, "__name__", hint))


def _check(pass_type: type[Pass], name: str, hint: Any, value: Any) -> Any:
    if value == _NONE and types.NoneType in get_args(hint):
        return None
    try:
        return TypeAdapter[Any](hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        # A constraint (Annotated[int, Field(gt=0)]) isn't part of the type's name; pydantic's words say it.
        detail = f" ({error.errors()[0]['msg']})" if hasattr(hint, "__metadata__") else ""
        reason = error
    except TypeError as error:  # TOML has dates and times; no option takes one
        detail, reason = "", error
    found = json.dumps(value, default=str)
    raise ConfigError(
        f"pass '{pass_type.name}': option '{name}' is {found}; expected {describe_type(hint)}{detail}"
    ) from reason


@functools.cache
def _hints(pass_type: type[Pass]) -> dict[str, Any]:
    return get_type_hints(pass_type, include_extras=True)


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    factory = cast(Any, field.default_factory)
    return None if factory is MISSING else factory()
