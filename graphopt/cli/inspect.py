"""`graphopt inspect`: what is in a model."""

from __future__ import annotations

from graphopt.cli import options
from graphopt.cli.screen import Screen
from graphopt.ir import load
from graphopt.report import inspect_model
from graphopt.report.pages import inspection_page
from graphopt.report.summary import plain


def inspect(model: options.Model, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Show what is in a model: operators, parameters, multiply-accumulates, interface, quantized share."""
    screen = Screen(as_json, quiet)
    with screen.working():
        # As it is: an old model is not brought up to a newer opset first.
        found = inspect_model(load(model, min_opset=1), str(model))
    screen.show(inspection_page(found), plain(found))
