"""`graphopt trace`: what became of a node."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt import api
from graphopt.cli import options
from graphopt.cli.screen import Screen
from graphopt.report.trace import life_page


def trace(
    model: options.Model,
    nodes: Annotated[list[str], typer.Argument(metavar="NODE…", help="Names of nodes, of whichever graph of the run.")],
    target: options.TargetName = None,
    preset: options.Preset = None,
    config: options.Config = None,
    passes: options.Passes = None,
    calibration_data: options.CalibrationData = None,
    calibration_method: options.Method = None,
    percentile: options.Percentile = None,
    ranges: options.Ranges = None,
    preprocess: options.Preprocess = None,
    prune: options.Prune = None,
    skip: options.Skip = None,
    keep_float: options.KeepFloat = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run a pipeline and tell a node's life: born from which nodes, changed by which pass, into what."""
    screen = Screen(as_json, quiet)
    with screen.working() as progress:
        lives = api.trace(
            model,
            nodes,
            target=target,
            preset=preset,
            config=config,
            passes=passes,
            calibration_data=calibration_data,
            ranges=ranges,
            preprocess=preprocess,
            prune=prune,
            skip=options.split(skip),
            keep_float=tuple(keep_float or ()),
            method=calibration_method,
            percentile=percentile,
            threads=threads,
            progress=progress,
        )
    page = [part for life in lives for part in life_page(life)]
    screen.show(page, {"nodes": [life.to_dict() for life in lives]})
