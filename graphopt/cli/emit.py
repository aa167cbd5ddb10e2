"""`graphopt emit`: a model as the file that its engine reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt import api
from graphopt.backends.litert_writer import Io
from graphopt.cli import options
from graphopt.cli.screen import Screen
from graphopt.errors import ConfigError
from graphopt.report import Line, Table
from graphopt.report.units import counted


def emit(
    model: options.Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.tflite", help="The file to write.")],
    io: Annotated[
        Io, typer.Option(help="int8: inputs and outputs that are quantized at the edge are int8, without conversions.")
    ] = "float",
    keep_layout: Annotated[
        bool, typer.Option("--keep-layout", help="Images keep ONNX's axis order (N, C, H, W) at the edges.")
    ] = False,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="A number for a symbolic size: height=320, or by input and axis, x:2=320."),
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write an ONNX model (float, Q/DQ or mixed) as .tflite for LiteRT, with the scales it has."""
    screen = Screen(as_json, quiet)
    with screen.working():
        written = api.emit(model, output, io=io, keep_layout=keep_layout, sizes=_sizes(size or []))
    ports = [
        (kind, *port)
        for kind, found in (("input", written.inputs), ("output", written.outputs))
        for port in found.items()
    ]
    rows = tuple((kind, name, " ".join(map(str, order)) or "–") for kind, name, order in ports)
    page = [
        Line(
            f"{output}: {len(written.content) / 1000:,.1f} kB, {counted(sum(written.operators.values()), 'operator')}"
        ),
        Line("  " + ", ".join(f"{n} {kind}" for kind, n in sorted(written.operators.items()))),
        Line(),
        Table(("edge", "name", "axes of the ONNX tensor, in the file's order"), rows),
    ]
    plain = {
        "output": str(output),
        "bytes": len(written.content),
        "operators": dict(written.operators),
        "inputs": {name: list(order) for name, order in written.inputs.items()},
        "outputs": {name: list(order) for name, order in written.outputs.items()},
    }
    screen.show(page, plain)


def _sizes(given: list[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for text in given:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal() or int(number) < 1:
            raise ConfigError(f"--size {text}: expected NAME=N with N at least 1, as in height=320")
        sizes[name] = int(number)
    return sizes
