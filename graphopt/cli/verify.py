"""`graphopt verify`: what the target's engine really makes of a quantized model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt import api
from graphopt.cli import options
from graphopt.cli.screen import Screen
from graphopt.errors import ConfigError
from graphopt.report.verification import verification_page

EXIT_NOT_AS_PLANNED = 1


def verify(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The quantized model, made by any tool.")],
    target: options.RequiredTarget,
    reference: Annotated[
        Path | None, typer.Option(metavar="FLOAT", help="The float model, to measure agreement and latency against.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Samples: .npz, a folder of them or of images, or module:function."),
    ] = None,
    preprocess: options.Preprocess = None,
    labels: options.Labels = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to build for, where the engine has a choice: SM86.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N,N,…", help="Shape of an input with open sizes, where the engine builds for one."),
    ] = None,
    latency: Annotated[bool, typer.Option("--latency/--no-latency", help="Time both models in turns.")] = True,
    threads: options.Threads = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run or build a quantized model in the target's engine: precision per node, agreement, latency.

    Exit code 1 when a node that is planned in 8 bits doesn't run in 8 bits.
    """
    screen = Screen(as_json, quiet)
    with screen.working() as progress:
        found = api.verify(
            model,
            target,
            reference=reference,
            data=data,
            labels=options.read_labels(labels),
            preprocess=preprocess,
            device=device,
            shapes=_shapes(shape or []) or None,
            latency=latency,
            threads=threads,
            progress=progress,
        )
    screen.show(verification_page(found), found.to_dict())
    if not found.ok:
        raise typer.Exit(EXIT_NOT_AS_PLANNED)


def _shapes(given: list[str]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for text in given:
        name, _, sizes = text.rpartition("=")
        parts = [size.strip() for size in sizes.split(",")]
        if not name or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise ConfigError(f"--shape {text}: expected NAME=N,N,… as in image=1,3,224,224")
        shapes[name] = tuple(map(int, parts))
    return shapes
