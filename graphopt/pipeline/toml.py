"""Pipelines as TOML, both ways.

[pipeline]
target = "onnxruntime"                  # each setting may be left out
calibration-data = "calibration.npz"    # paths are relative to the file
ranges = "ranges.json"

[[pass]]
name = "fold-batch-norm"

[[pass]]
name = "calibrate"
method = "kl"                           # the pass's options
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, fields
from typing import Any, cast

from graphopt.errors import ConfigError, nearest
from graphopt.ir.toml_text import toml_table
from graphopt.pipeline.naming import spelled
from graphopt.pipeline.options import make_pass, option_name, plain_options
from graphopt.pipeline.passes import Pass
from graphopt.pipeline.spec import Resolver


@dataclass(frozen=True)
class Settings:
    """What a pipeline file says besides its passes; None where it says nothing. Paths are as written."""

    target: str | None = None
    calibration_data: str | None = None
    ranges: str | None = None


@dataclass(frozen=True)
class Pipeline:
    """The content of a pipeline file."""

    passes: tuple[Pass, ...]
    settings: Settings = Settings()


def pipeline_from_toml(text: str, resolve: Resolver, where: str = "pipeline") -> Pipeline:
    """Read a pipeline file; `where` names it in messages.

    Raises:
        ConfigError: it isn't TOML, or a key, setting, pass or option is unknown or wrong.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML: {error}") from error
    for key in content:
        if key not in ("pipeline", "pass"):
            raise ConfigError(f"{where}: unknown key '{key}': {nearest(key, ('pipeline', 'pass'))}")
    return Pipeline(_passes(content.get("pass", []), resolve, where), _settings(content.get("pipeline", {}), where))


def pipeline_to_toml(pipeline: Pipeline) -> str:
    """The file that makes this pipeline again; options at their defaults are left out."""
    blocks: list[str] = []
    settings = {option_name(f.name): getattr(pipeline.settings, f.name) for f in fields(Settings)}
    given = {name: value for name, value in settings.items() if value is not None}
    if given:
        blocks.append(toml_table("[pipeline]", given))
    blocks.extend(toml_table("[[pass]]", {"name": spelled(type(p)), **plain_options(p)}) for p in pipeline.passes)
    return "\n".join(blocks)


def _settings(table: Any, where: str) -> Settings:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: 'pipeline' must be a table: write [pipeline]")
    known = {option_name(f.name): f.name for f in fields(Settings)}
    values: dict[str, str] = {}
    for key, value in cast("dict[str, Any]", table).items():
        name = option_name(key)
        if name not in known:
            raise ConfigError(f"{where}: [pipeline] has no setting '{key}': {nearest(name, known)}")
        if not isinstance(value, str):
            raise ConfigError(f"{where}: setting '{key}' is {json.dumps(value, default=str)}; expected a string")
        values[known[name]] = value
    return Settings(**values)


def _passes(tables: Any, resolve: Resolver, where: str) -> tuple[Pass, ...]:
    if not isinstance(tables, list):
        raise ConfigError(f"{where}: 'pass' must be an array of tables: write [[pass]]")
    return tuple(_pass(table, resolve, where) for table in cast("list[Any]", tables))


def _pass(table: Any, resolve: Resolver, where: str) -> Pass:
    name = cast("dict[str, Any]", table).get("name") if isinstance(table, dict) else None
    if not isinstance(name, str):
        raise ConfigError(f'{where}: a [[pass]] has no name: write name = "..."')
    options = {key: value for key, value in cast("dict[str, Any]", table).items() if key != "name"}
    try:
        return make_pass(resolve(name), options)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
