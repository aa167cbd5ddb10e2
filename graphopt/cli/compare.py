"""`graphopt compare`: how far one model's outputs are from another's on the same samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt import api
from graphopt.cli import options
from graphopt.cli.screen import Screen
from graphopt.report import Line
from graphopt.report.layer_errors import layer_errors_page
from graphopt.report.pages import agreement_page
from graphopt.report.summary import plain
from graphopt.report.units import counted


def compare(
    reference: Annotated[Path, typer.Argument(metavar="A", help="The model taken as right.")],
    other: Annotated[Path, typer.Argument(metavar="B", help="The model compared with it.")],
    data: Annotated[
        str, typer.Option(metavar="PATH", help="Samples: .npz, a folder of them or of images, or module:function.")
    ],
    preprocess: options.Preprocess = None,
    labels: options.Labels = None,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="Compare the tensors inside that have the same name in both, too.")
    ] = False,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="For a Q/DQ model B made from A: what each layer loses, alone and in the model."),
    ] = False,
    threads: options.Threads = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run two models in onnxruntime on the same samples and compare their outputs."""
    screen = Screen(as_json, quiet)
    with screen.working() as progress:
        agreement = api.compare(
            reference,
            other,
            data,
            preprocess=preprocess,
            labels=options.read_labels(labels),
            tensors=tensors,
            threads=threads,
            progress=progress,
        )
        errors = (
            api.compare_layers(reference, other, data, preprocess=preprocess, threads=threads, progress=progress)
            if layers
            else None
        )
    title = f"{other} against {reference}, {counted(agreement.samples, 'sample')} of {data}, in onnxruntime"
    page = [*agreement_page(agreement, str(reference), str(other), title)]
    if tensors:
        page.append(
            Line("  a tensor inside holds other values where a rewrite folded the next operator into its layer")
        )
    if errors is not None:
        page += [Line(), *layer_errors_page(errors)]
    screen.show(page, plain(agreement) | ({} if errors is None else {"layers": plain(errors)}))
