"""`graphopt targets`: what can be compiled for."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import options
from graphopt.cli.screen import Screen
from graphopt.errors import ConfigError
from graphopt.report.catalogue import target_dict, target_page, targets_page
from graphopt.targets import TARGETS, find_target, target_to_toml


def targets(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[TARGET]", help="Show this one, with sources; a file of your own, too: board.toml."),
    ] = None,
    as_toml: Annotated[
        bool, typer.Option("--toml", help="Print its whole table as a file to change: name another target in it.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List the targets and what each operator does there."""
    chosen = list(TARGETS.values()) if name is None else [find_target(name)]
    if as_toml:
        if name is None:
            raise ConfigError(f"--toml writes one target: give one of {', '.join(TARGETS)}")
        print(target_to_toml(chosen[0]), end="")
        return
    page = targets_page(chosen) if name is None else target_page(chosen[0])
    Screen(as_json).show(page, {t.name: target_dict(t) for t in chosen})
