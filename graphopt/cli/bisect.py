"""`graphopt bisect`: which pass, then which node, first loses accuracy."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer

from graphopt import api
from graphopt.cli import options
from graphopt.cli.screen import Screen
from graphopt.report.bisection import bisection_page


def bisect(
    model: options.Model,
    target: options.TargetName = None,
    preset: options.Preset = None,
    config: options.Config = None,
    passes: options.Passes = None,
    calibration_data: options.CalibrationData = None,
    calibration_method: options.Method = None,
    percentile: options.Percentile = None,
    ranges: options.Ranges = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Samples to measure on; same forms as --calibration-data. "
            "[default: the first calibration samples, or seeded noise]",
        ),
    ] = None,
    preprocess: options.Preprocess = None,
    labels: options.Labels = None,
    prune: options.Prune = None,
    skip: options.Skip = None,
    keep_float: options.KeepFloat = None,
    budget: options.Budget = None,
    precision: options.Precision = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What --max-drop is about: top1, or module:function; or sqnr."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="D", help="How far the metric may fall below the original's: points of top-1, or its unit."
        ),
    ] = None,
    min_sqnr: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="Instead: the least SQNR of each output against the original, in dB. "
            "[default: what rounding allows, behind passes that promise the same outputs]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder for the reproducer. [default: a new graphopt-bisect-N here]",
        ),
    ] = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find the pass, and in it the nodes, that first lose accuracy, and write what shows it alone."""
    screen = Screen(as_json, quiet)
    with screen.working() as progress:
        found = api.bisect(
            model,
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
            budget=budget,
            precision=tuple(precision or ()),
            method=calibration_method,
            percentile=percentile,
            data=data,
            labels=options.read_labels(labels),
            metric=metric,
            max_drop=max_drop,
            min_sqnr=min_sqnr,
            output=_unused_folder() if output is None else output,
            threads=threads,
            progress=progress,
        )
    screen.show(bisection_page(found), found.to_dict())


def _unused_folder() -> Path:
    return next(folder for n in itertools.count(1) if not (folder := Path(f"graphopt-bisect-{n}")).exists())
