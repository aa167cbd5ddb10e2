"""`graphopt passes`: what can be run."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import options
from graphopt.cli.screen import Screen
from graphopt.passes import all_passes, pass_info
from graphopt.passes.presets import PRESETS
from graphopt.report.catalogue import pass_page, passes_page
from graphopt.report.summary import plain


def passes(
    name: Annotated[
        str | None, typer.Argument(metavar="[PASS]", help="Show this one, with all that there is to say.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the passes with their options, and the presets. One of your own is my_module:MyPass."""
    infos = all_passes() if name is None else [pass_info(name)]
    page = passes_page(infos, PRESETS) if name is None else pass_page(infos[0])
    Screen(as_json).show(page, plain({"passes": infos, "presets": PRESETS}))
