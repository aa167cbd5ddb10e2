"""`graphopt passes`: what can be run."""

from __future__ import annotations

from graphopt.cli import options
from graphopt.cli.screen import Screen
from graphopt.passes import all_passes
from graphopt.passes.presets import PRESETS
from graphopt.report.catalogue import passes_page
from graphopt.report.summary import plain


def passes(as_json: options.Json = False) -> None:
    """List the passes with their options, and the presets."""
    infos = all_passes()
    content = {"passes": infos, "presets": PRESETS}
    Screen(as_json).show(passes_page(infos, PRESETS), plain(content))
