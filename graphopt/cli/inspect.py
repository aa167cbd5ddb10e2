"""`graphopt inspect`: what is in a model, and which of its channels can be removed."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.api import optimize
from graphopt.cli import options
from graphopt.cli.screen import Screen
from graphopt.ir import load
from graphopt.report import inspect_model
from graphopt.report.coupling import coupling_page, report_coupling
from graphopt.report.pages import inspection_page
from graphopt.report.summary import plain


def inspect(
    model: options.Model,
    coupling: Annotated[
        bool, typer.Option("--coupling", help="Show which channels can only be removed together, and which must stay.")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what is in a model: operators, parameters, multiply-accumulates, interface, quantized share.

    With --coupling, show which of its channels can be removed, and through which layers they run.
    """
    screen = Screen(as_json, quiet)
    with screen.working():
        if coupling:
            # What an export computes in the graph (weights in Constant nodes, shapes) hides channels; so does the
            # elimination of channels see the model.
            graph = optimize(str(model), preset="float").graph
            groups = report_coupling(graph, str(model))
            page, content = coupling_page(groups), plain(groups)
        else:
            # As it is: an old model is not brought up to a newer opset first.
            found = inspect_model(load(model, min_opset=1), str(model))
            page, content = inspection_page(found), plain(found)
    screen.show(page, content)
