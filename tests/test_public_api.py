"""What others build on: the names of `graphopt.__all__`, with their parameters, fields and methods.

tests/golden/public_api.txt holds them. An addition is written into it by

    python -m tests.test_public_api

A name, parameter, field or method that goes or changes its meaning is announced first: see "What is public" in
CONTRIBUTING.md.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import graphopt

GOLDEN = Path(__file__).parent / "golden" / "public_api.txt"
HEADER = "What graphopt promises to its users. Written by `python -m tests.test_public_api`.\n"


def described() -> str:
    """Every public name, one part a line, so that a difference shows what has changed."""
    names = sorted(set(graphopt.__all__) - {"__version__"})
    return HEADER + "".join("\n" + "\n".join(_described(name, getattr(graphopt, name))) + "\n" for name in names)


def _described(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        yield from _class(name, value)
    elif inspect.isfunction(value):
        yield from _function(f"def {name}", value, "")
    elif isinstance(value, dict):
        yield f"{name}: {', '.join(sorted(value))}"
    else:
        yield f"{name} = {value}"


def _class(name: str, cls: type) -> Iterator[str]:
    bases = [b.__name__ for b in cls.__bases__ if b is not object]
    yield f"class {name}({', '.join(bases)})" if bases else f"class {name}"
    if issubclass(cls, Enum):
        yield from (f"    {member.name} = {member.value}" for member in cls)
        return
    if dataclasses.is_dataclass(cls):
        yield from (f"    {f.name}: {f.type}{_default(f)}" for f in dataclasses.fields(cls) if f.name[0] != "_")
    elif "__init__" in vars(cls):
        yield from _function("    def __init__", cls.__init__, "    ")
    public = {getattr(graphopt, other) for other in graphopt.__all__ if other not in (name, "TARGETS")}
    own = [c for c in cls.__mro__ if c.__module__.startswith("graphopt.") and c not in public]  # else: said there
    for member in sorted({m for c in own for m in vars(c)}):
        found = inspect.getattr_static(cls, member)
        if member.startswith("_"):
            continue
        if isinstance(found, staticmethod | classmethod):
            yield from _function(f"    {type(found).__name__} def {member}", found.__func__, "    ")
        elif inspect.isfunction(found):
            yield from _function(f"    def {member}", found, "    ")
        elif hasattr(found, "__get__") and not inspect.isclass(found) and hasattr(found, "__doc__") and _getter(found):
            yield f"    {member} -> {_getter(found).__annotations__.get('return')}"


def _getter(found: Any) -> Any:
    return getattr(found, "fget", None) or getattr(found, "func", None)  # a property, a cached_property


def _function(head: str, function: Any, indent: str) -> Iterator[str]:
    signature = inspect.signature(function)
    result = f" -> {signature.return_annotation}" if signature.return_annotation is not signature.empty else ""
    yield f"{head}{result}"
    star = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            star = True
            yield f"{indent}    *"
        if parameter.name != "self":
            mark = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
            default = getattr(parameter.default, "__name__", repr(parameter.default))
            given = "" if parameter.default is parameter.empty else f" = {default}"
            yield f"{indent}    {mark}{parameter.name}: {parameter.annotation}{given}"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f" = {field.default!r}"
    return "" if field.default_factory is dataclasses.MISSING else " = …"


def test_what_is_public_stays() -> None:
    expected = GOLDEN.read_text(encoding="utf-8")
    assert described().splitlines() == expected.splitlines(), (
        "The public API isn't what tests/golden/public_api.txt says. Is it an addition? Then write it down with "
        "`python -m tests.test_public_api`. Does something go, or change? Then announce it first: see CONTRIBUTING.md."
    )


def test_every_public_name_is_documented() -> None:
    """Aliases of types and tables of data apart, which have no docstring of their own."""
    values = {name: getattr(graphopt, name) for name in graphopt.__all__}
    bare = [n for n, v in values.items() if (inspect.isclass(v) or inspect.isfunction(v)) and not inspect.getdoc(v)]
    assert bare == []


def test_names_come_when_they_are_used() -> None:
    """`import graphopt` is cheap, and completion knows all names."""
    assert set(dir(graphopt)) >= set(graphopt.__all__)
    assert set(graphopt.__all__) == {*graphopt._HOME, "__version__"}


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(described(), encoding="utf-8")
