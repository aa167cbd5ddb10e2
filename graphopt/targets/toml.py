"""Targets in TOML files: a whole table, or what differs from a target that there is.

    based-on = "onnxruntime"
    name = "my-board"
    fused-activations = ["Relu"]            # a column is replaced as a whole,
    activation = {dtype = "int8"}

    [rules]                                 # and a table entry by entry:
    "*" = false                             # without those of the base,
    Conv = true                             # but for this one as it is,
    Add = {operands = "all"}                # this one with a change,
    Softmax = {role = "compute"}            # and this one new
    Gemm = false                            # (without "*": without this one)

`graphopt targets onnxruntime --toml` writes the whole table of a target that there is.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast, get_origin, get_type_hints

from graphopt.errors import ConfigError, nearest
from graphopt.ir.files import replacing
from graphopt.ir.toml_text import toml_key, toml_table, toml_value
from graphopt.targets.catalogue import TARGETS
from graphopt.targets.plain import key_of, target_from_plain, to_plain
from graphopt.targets.soundness import check_target
from graphopt.targets.spec import Target

SUFFIX = ".toml"
BASE = "based-on"
SAVED = "target.toml"
_ALL = "*"


def read_target(path: str | Path) -> Target:
    """The target in a file.

    Raises:
        ConfigError: it can't be read, or is no table of a target, see `target_from_toml`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"can't read the target '{path}': {reason}") from error
    return target_from_toml(text, str(path))


def target_from_toml(text: str, where: str = "target") -> Target:
    """The target that a file's text describes; `where` names it in messages.

    Raises:
        ConfigError: it isn't TOML; a key is unknown or missing, a value is of the wrong kind, or the table contradicts
            itself: the message has the file, the key, what was found, what was expected, and the nearest name.
    """
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML: {error}") from error
    base = given.pop(BASE, None)
    if base is not None and base not in TARGETS:
        raise ConfigError(f"{where}: there is no target '{base}' to be based on: {nearest(str(base), TARGETS)}")
    if "name" not in given:
        raise ConfigError(f"{where}: 'name' must be given: what reports call the target")
    given.setdefault("title", given["name"])
    plain = _merged({} if base is None else to_plain(TARGETS[base]), {key_of(k): v for k, v in given.items()}, where)
    found = target_from_plain(plain, where)
    check_target(found, where)
    return found


def target_to_toml(target: Target) -> str:
    """The file that makes this target again; columns at their defaults are left out."""
    plain = to_plain(target)
    columns = {key: value for key, value in plain.items() if key not in _tables()}
    blocks = ["\n".join(f"{toml_key(key)} = {toml_value(value)}" for key, value in columns.items()) + "\n"]
    for key in (key for key in plain if key in _tables()):
        entries = cast("dict[str, Any]", plain[key])
        if flat := {name: entry for name, entry in entries.items() if not isinstance(entry, dict)}:
            blocks.append(toml_table(f"[{key}]", flat))
        blocks += [toml_table(f"[{key}.{toml_key(n)}]", entries[n]) for n in entries if n not in flat]
    return "\n".join(blocks)


def save_target(target: Target, folder: Path) -> str:
    """What names the target in a pipeline file in `folder`: its own name, or for others target.toml, written there.

    Raises:
        EmitError: it can't be written.
    """
    if TARGETS.get(target.name) == target:
        return target.name
    with replacing(folder / SAVED) as file:
        file.write(target_to_toml(target).encode())
    return SAVED


def _tables() -> frozenset[str]:
    """The columns that are tables themselves: rules, precisions, …"""
    hints = get_type_hints(Target)
    tables = (f.name for f in fields(Target) if get_origin(hints[f.name]) is Mapping)
    return frozenset(map(key_of, tables))


def _merged(base: dict[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The base's columns with those given in their place; of tables, entry by entry."""
    merged = {**base, **given}
    for key in _tables() & given.keys():
        if not isinstance(given[key], dict):
            raise ConfigError(f"{where}: '{key}' is {toml_value(given[key])}; expected a table: write [{key}]")
        merged[key] = _merged_table(base.get(key, {}), cast("dict[str, Any]", given[key]), key, where)
    return merged


def _merged_table(base: Mapping[str, Any], given: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    merged = {} if given.get(_ALL) is False else dict(base)
    for name, entry in given.items():
        if name == _ALL:
            if entry is not False:
                raise ConfigError(f"{where}: '{key}.*' is {toml_value(entry)}; expected false: none of the base's")
        elif entry is False:
            if name not in base:
                raise ConfigError(f"{where}: '{key}.{name}' is false, and the base has none: {nearest(name, base)}")
            merged.pop(name, None)
        elif entry is True:
            if name not in base:
                raise ConfigError(f"{where}: '{key}.{name}' is true, and the base has none: {nearest(name, base)}")
            merged[name] = base[name]
        elif isinstance(entry, dict) and isinstance(base.get(name), dict):
            changes = {key_of(k): v for k, v in cast("dict[str, Any]", entry).items()}
            merged[name] = {**base[name], **changes}
        else:
            merged[name] = entry
    return merged
