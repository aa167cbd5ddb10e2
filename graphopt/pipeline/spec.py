r"""Pipelines as text, both ways.

    fold-batch-norm,calibrate{method=kl},insert-qdq
    calibrate{method=percentile, percentile=99.99, keep=["x, y", z]}

    pipeline := [pass ("," pass)*]          pass  := name [options]
    options  := "{" [option ("," option)*] "}"     option := (name | "string") "=" value
    value    := true | false | integer | number | word | "string" | "[" [value ("," value)*] "]" | options

Blanks may stand between any two tokens. Strings have JSON's escapes. A word is any run of characters other than
blanks and , { } [ ] = " that doesn't read as a number or true or false. `-` and `_` in option names mean the same.
A pass of your own, which no package brings, is named by its code: `my_module:MyPass{factor=2}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias, cast

from graphopt.errors import ConfigError
from graphopt.pipeline.naming import spelled
from graphopt.pipeline.options import make_pass, plain_options
from graphopt.pipeline.passes import Pass

Resolver: TypeAlias = Callable[[str], type[Pass]]
"""Pass name, or `module:Class`, → its class; raises ConfigError for a name that it doesn't know."""

_BLANK = re.compile(r"\s*")
_WORD = re.compile(r'[^\s,{}\[\]="]+')
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf|nan)")


@dataclass(frozen=True)
class PassSpec:
    """A pass by name, with options as plain values (bool, int, float, str, list, dict)."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


def passes_from_text(text: str, resolve: Resolver) -> list[Pass]:
    """The passes that `text` names, ready to run.

    Raises:
        ConfigError: the text isn't a pipeline, or a pass or option is unknown or wrong.
    """
    return [make_pass(resolve(spec.name), spec.options) for spec in parse_text(text)]


def passes_to_text(passes: Sequence[Pass]) -> str:
    """The text that makes these passes again; options at their defaults are left out."""
    return ",".join(_pass_text(p) for p in passes)


def parse_text(text: str) -> list[PassSpec]:
    """Read a pipeline without looking any name up.

    Raises:
        ConfigError: with the column where it stopped making sense.
    """
    return _Reader(text).pipeline()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def pipeline(self) -> list[PassSpec]:
        specs: list[PassSpec] = []
        if self._peek() == "":
            return specs
        while True:
            name = self._word("a pass name")
            specs.append(PassSpec(name, self._options() if self._peek() == "{" else {}))
            if self._peek() == "":
                return specs
            self._take(",", f"',' or the end after pass '{name}'")

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        self._take("{", "'{'")
        while self._peek() != "}":
            name = self._string() if self._peek() == '"' else self._word("an option name or '}'")
            if name in options:
                self._fail(f"option '{name}' is given twice")
            self._take("=", f"'=' after option '{name}'")
            options[name] = self._value()
            if self._peek() != "}":
                self._take(",", f"',' or '}}' after option '{name}'")
        self._take("}", "'}'")
        return options

    def _value(self) -> Any:
        match self._peek():
            case "{":
                return self._options()
            case "[":
                return self._list()
            case '"':
                return self._string()
            case _:
                return _literal(self._word("a value"))

    def _list(self) -> list[Any]:
        items: list[Any] = []
        self._take("[", "'['")
        while self._peek() != "]":
            items.append(self._value())
            if self._peek() != "]":
                self._take(",", "',' or ']' in a list")
        self._take("]", "']'")
        return items

    def _string(self) -> str:
        match = _STRING.match(self.text, self.at)
        if match is None:
            self._fail("a string that starts here has no closing quote")
        try:
            value = json.loads(match[0], strict=False)
        except ValueError as error:
            self._fail(f"{match[0]} is not a string ({error})")
        self.at = match.end()
        return str(value)

    def _word(self, expected: str) -> str:
        self._peek()
        match = _WORD.match(self.text, self.at)
        if match is None:
            self._unexpected(expected)
        self.at = match.end()
        return match[0]

    def _peek(self) -> str:
        """The next character that isn't blank; "" at the end."""
        blank = _BLANK.match(self.text, self.at)
        self.at = blank.end() if blank else self.at
        return self.text[self.at : self.at + 1]

    def _take(self, character: str, expected: str) -> None:
        if self._peek() != character:
            self._unexpected(expected)
        self.at += 1

    def _unexpected(self, expected: str) -> NoReturn:
        found = self._peek()
        self._fail(f"found {repr(found) if found else 'the end'}; expected {expected}")

    def _fail(self, message: str) -> NoReturn:
        on_one_line = message.replace("\n", "\\n")  # names and strings may hold line breaks
        raise ConfigError(f"pipeline {self.text!r}, column {self.at + 1}: {on_one_line}")


def _literal(word: str) -> bool | int | float | str:
    if word in ("true", "false"):
        return word == "true"
    if _INTEGER.fullmatch(word):
        return int(word)
    if _NUMBER.fullmatch(word):
        return float(word)
    return word


def _pass_text(pass_: Pass) -> str:
    options = plain_options(pass_)
    return spelled(type(pass_)) + (_value_text(options) if options else "")


def _value_text(value: Any) -> str:
    match value:
        case dict():
            entries = cast("dict[str, Any]", value)
            return "{" + ",".join(f"{_name_text(name)}={_value_text(v)}" for name, v in entries.items()) + "}"
        case list():
            return "[" + ",".join(_value_text(v) for v in cast("list[Any]", value)) + "]"
        case str() if _WORD.fullmatch(value) and _literal(value) == value:
            return value
        case float():
            return repr(value)  # json.dumps has its own names for inf and nan
        case _:
            return json.dumps(value)


def _name_text(name: str) -> str:
    return name if _WORD.fullmatch(name) else json.dumps(name)
