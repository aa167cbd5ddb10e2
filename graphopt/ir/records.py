"""What was decided about a model, as a JSON file that can be edited by hand: one line for each entry of a list.

A record says of what format and version it is:

    {"format": "graphopt-precision", "version": 1, "target": "openvino",
     "regions": [
      {"name": "conv1", "precision": "int8", "nodes": ["conv1", "relu1"]},
      {"name": "conv2", "precision": "float32", "nodes": ["conv2"]}
     ]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from graphopt.errors import ConfigError
from graphopt.ir.files import replacing


def write_record(path: Path, head: Mapping[str, Any], lists: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write a record, whole or not at all.

    Args:
        path: the file.
        head: plain values; "format" and "version" first.
        lists: name → entries, one a line, so that a line can be edited and a diff be read.

    Raises:
        EmitError: the file can't be written.
    """
    parts = [json.dumps(dict(head), allow_nan=False)[:-1]]
    for name, entries in lists.items():
        lines = ",\n  ".join(json.dumps(dict(entry), allow_nan=False) for entry in entries)
        parts.append(f' "{name}": [\n  {lines}\n ]' if entries else f' "{name}": []')
    with replacing(path) as file:
        file.write((",\n".join(parts) + "}\n").encode())


def read_record(path: Path, kind: str, version: int, title: str, mend: str) -> dict[str, Any]:
    """The fields of a record.

    Args:
        path: the file.
        kind: its "format".
        version: the one that can be read.
        title: what it is, for messages: "elimination plan".
        mend: where users get one: "save one with --save-prune-plan".

    Raises:
        ConfigError: the file can't be read, isn't JSON, or is something else.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"can't read the {title} '{path}': {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"the {title} '{path}' isn't JSON: {error}") from error
    fields = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    if fields.get("format") != kind or fields.get("version") != version:
        article = "an" if title[0] in "aeiou" else "a"
        raise ConfigError(f"'{path}' is not {article} {title} of version {version}: {mend}")
    return fields


def damaged(path: Path, title: str, entry: object) -> ConfigError:
    """The error for an entry that isn't what it should be."""
    return ConfigError(f"the {title} '{path}' is damaged at {str(entry)[:80]}")
