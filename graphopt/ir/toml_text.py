"""Keys and values as TOML writes them; the standard library only reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def toml_table(header: str, entries: Mapping[str, Any]) -> str:
    """A header, and a line for each entry."""
    return "\n".join([header, *(f"{toml_key(k)} = {toml_value(v)}" for k, v in entries.items())]) + "\n"


def toml_key(key: str) -> str:
    """A key, quoted where it must be."""
    return key if _BARE_KEY.fullmatch(key) else toml_value(key)


def toml_value(value: Any) -> str:
    """A bool, int, float, str, list or dict, on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            # JSON's escapes are TOML's, except that TOML also wants DEL escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case dict():
            entries = cast("dict[str, Any]", value)
            return "{" + ", ".join(f"{toml_key(k)} = {toml_value(v)}" for k, v in entries.items()) + "}"
        case list():
            return "[" + ", ".join(toml_value(v) for v in cast("list[Any]", value)) + "]"
        case _:
            return repr(value)  # int and float: Python's text, inf and nan included, is TOML's
