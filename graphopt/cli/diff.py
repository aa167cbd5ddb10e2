"""`graphopt diff`: what differs between two models, without running them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt import api
from graphopt.api.reporting import check_report
from graphopt.cli import options
from graphopt.cli.screen import Screen
from graphopt.report.model_diff import model_diff_page


def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A model.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The one to compare with it.")],
    html: Annotated[
        Path | None,
        typer.Option(metavar="OUT.html", help="Write the differences as one page, with both graphs to step between."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show every difference.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare two models node by node: what is removed, added, changed; weights, scales and zero points.

    Nodes are matched by name, by the tensors that they make, and by their neighbourhood.
    """
    check_report(html, (before, after))
    found = api.diff(before, after)
    if html is not None:
        found.save_report(html)
    page = model_diff_page(found, everything=everything)
    Screen(as_json, quiet).show(page, {"before": str(before), "after": str(after), **found.to_dict()})
