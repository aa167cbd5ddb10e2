"""`graphopt calibrate`: run samples once and keep the ranges in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt import api
from graphopt.cli import options
from graphopt.cli.screen import Screen
from graphopt.report import Line
from graphopt.report.units import counted


def calibrate(
    model: options.Model,
    calibration_data: Annotated[
        str,
        typer.Option(metavar="PATH", help="Samples: an .npz file, a folder of them or of images, or module:function."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The ranges file to write (JSON).")],
    target: options.TargetName = None,
    preset: options.Preset = None,
    config: options.Config = None,
    passes: options.Passes = None,
    calibration_method: options.Method = None,
    percentile: options.Percentile = None,
    preprocess: options.Preprocess = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Draw every tensor's histogram with each method's range (needs matplotlib)."),
    ] = None,
    skip: options.Skip = None,
    keep_float: options.KeepFloat = None,
    threads: options.Threads = None,
    workers: options.Workers = 1,
    batch_size: options.BatchSize = None,
    provider: options.Provider = None,
    memory_budget: options.MemoryBudget = None,
    checkpoint: options.Checkpoint = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Observe a model's activations on samples; `optimize --ranges` takes the file instead of the samples."""
    api.check_output(output, (model, calibration_data, config))
    screen = Screen(as_json, quiet)
    with screen.working() as progress:
        found = api.calibrate(
            model,
            calibration_data,
            target=target,
            preset=preset,
            config=config,
            passes=passes,
            skip=options.split(skip),
            keep_float=tuple(keep_float or ()),
            method=calibration_method,
            percentile=percentile,
            preprocess=preprocess,
            threads=threads,
            resources=options.resources(workers, batch_size, provider, memory_budget, checkpoint),
            histograms=plot is not None,
            progress=progress,
        )
        found.save(output)
        if plot is not None:
            found.draw(plot)
    said = f"saved the ranges of {counted(len(found.ranges), 'tensor')} ({found.method}) in {output}"
    lines = [Line(said, "good")]
    if plot is not None:
        lines.append(Line(f"drew them in {plot / 'index.html'}"))
    ranges = {name: {"low": r.low.tolist(), "high": r.high.tolist()} for name, r in found.ranges.items()}
    screen.show(lines, {"output": str(output), "method": found.method, "ranges": ranges})
