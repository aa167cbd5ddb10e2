"""`graphopt optimize`: compile a model for a target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from graphopt import api
from graphopt.analysis.macs import layer_macs
from graphopt.api.choice import ASSIGNING, MIXED
from graphopt.cli import inside, options
from graphopt.cli.screen import Screen
from graphopt.errors import ConfigError
from graphopt.ir.files import check_output_path
from graphopt.pipeline.instruments import Timing
from graphopt.report.pages import summary_dict, summary_page
from graphopt.report.verification import verification_page

FRONT = "--front"
_MIXED = options.MIXED


def optimize(
    model: options.Model,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The file to write: .onnx or, for tflite, .tflite.")
    ],
    target: options.TargetName = None,
    preset: options.Preset = None,
    config: options.Config = None,
    passes: options.Passes = None,
    calibration_data: options.CalibrationData = None,
    calibration_method: options.Method = None,
    percentile: options.Percentile = None,
    ranges: options.Ranges = None,
    validation_data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Samples to measure the result on; same forms as --calibration-data."),
    ] = None,
    preprocess: options.Preprocess = None,
    labels: options.Labels = None,
    prune: options.Prune = None,
    save_prune_plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Write which channels were removed, to edit and replay (plan=FILE)."),
    ] = None,
    skip: options.Skip = None,
    keep_float: options.KeepFloat = None,
    budget: options.Budget = None,
    precision: options.Precision = None,
    save_precision_plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", rich_help_panel=_MIXED, help="Write the assignment, to edit and replay it."),
    ] = None,
    precision_plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", rich_help_panel=_MIXED, help="Replay an assignment; it needs no samples."),
    ] = None,
    front: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            rich_help_panel=_MIXED,
            help="Write the front of error and cost: a .csv, a picture (.png, .svg), or both into a folder.",
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="D",
            help="Keep as many layers in float as it takes to lose at most D: points of top-1, or the metric's unit.",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What --max-drop is about: top1, or module:function. [default: top1]"),
    ] = None,
    min_sqnr: Annotated[
        float | None,
        typer.Option(metavar="DB", help="Instead of --max-drop: the least SQNR of each output, in dB."),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Measure what each layer loses in 8 bits, alone and in the model.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Run or build the result in the target's engine; write it only as planned.")
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What to verify and estimate for, where the engine has a choice: SM86."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write what was done, measured and declined as one page, with graphs."),
    ] = None,
    dump_dir: inside.DumpDir = None,
    dump_onnx: inside.DumpOnnx = False,
    print_ir_before: inside.PrintIrBefore = None,
    print_ir_after: inside.PrintIrAfter = None,
    print_ir_after_all: inside.PrintIrAfterAll = False,
    print_ir_after_change: inside.PrintIrAfterChange = False,
    check_numerics: inside.CheckNumerics = False,
    time_passes: inside.TimePasses = False,
    remarks: inside.RemarksOption = False,
    remarks_pass: inside.RemarksPass = None,
    remarks_node: inside.RemarksNode = None,
    remarks_kind: inside.RemarksKind = None,
    pass_limit: inside.PassLimit = None,
    threads: options.Threads = None,
    workers: options.Workers = 1,
    batch_size: options.BatchSize = None,
    provider: options.Provider = None,
    memory_budget: options.MemoryBudget = None,
    checkpoint: options.Checkpoint = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compile a float model for a target, measure the result against the original, and write it."""
    if save_prune_plan is not None:
        check_plan(save_prune_plan, model, prune)
    check_places({"--save-precision-plan": save_precision_plan, FRONT: front}, model, preset, config, passes)
    listed = inside.remark_filter(remarks_pass, remarks_node, remarks_kind, everything=remarks)
    timing = Timing() if time_passes else None
    screen = Screen(as_json, quiet)
    watching = inside.watching(
        timing=timing,
        pass_limit=pass_limit,
        check_numerics=check_numerics,
        dump_dir=dump_dir,
        dump_onnx=dump_onnx,
        printing=inside.printing(
            print_ir_before, print_ir_after, after_all=print_ir_after_all, after_change=print_ir_after_change
        ),
    )
    try:
        with screen.working() as progress:
            result = api.optimize(
                model,
                target=target,
                preset=preset,
                config=config,
                passes=passes,
                calibration_data=calibration_data,
                ranges=ranges,
                validation_data=validation_data,
                preprocess=preprocess,
                labels=options.read_labels(labels),
                prune=prune,
                skip=options.split(skip),
                keep_float=tuple(keep_float or ()),
                budget=budget,
                precision=tuple(precision or ()),
                precision_plan=precision_plan,
                method=calibration_method,
                percentile=percentile,
                max_drop=max_drop,
                metric=metric,
                min_sqnr=min_sqnr,
                layers=layers,
                verify=verify,
                device=device,
                output=output,
                report=report,
                threads=threads,
                resources=options.resources(workers, batch_size, provider, memory_budget, checkpoint),
                instruments=watching,
                progress=progress,
            )
    except api.VerificationError as error:
        found = error.verification
        screen.show(verification_page(found, all_nodes=False), {"output": None, "verification": found.to_dict()})
        raise
    if save_prune_plan is not None and result.report.elimination is not None:
        result.report.elimination.save_plan(save_prune_plan)
    if save_precision_plan is not None and result.precision is not None:
        result.precision.save_plan(save_precision_plan)
    if front is not None and result.precision is not None:
        write_front(front, result)
    screen.show(summary_page(result.report, timing, listed), summary_dict(result.report, timing, listed))


def check_plan(path: Path, model: Path, prune: str | None) -> None:
    """Refuse a place for the plan before the work begins.

    Raises:
        ConfigError: no channels are going to be removed, or it is the model's file.
        EmitError: it can't be written.
    """
    if prune is None:
        raise ConfigError("--save-prune-plan says where to write which channels were removed: give --prune, too")
    check_output_path(path, (model,))


def check_places(
    places: Mapping[str, Path | None], model: Path, preset: str | None, config: Path | None, passes: str | None
) -> None:
    """Refuse places for what assigning precisions found, before the work begins.

    What is in a pipeline file isn't known yet.

    Raises:
        ConfigError: no precisions are going to be assigned, a place is the model's file, or the front can't be written
            in that form.
        EmitError: one can't be written.
    """
    for option, path in places.items():
        if path is None:
            continue
        if preset != MIXED and config is None and ASSIGNING not in (passes or ""):
            raise ConfigError(
                f"{option} says where to write what {ASSIGNING} found, which is not in the pipeline: give --preset "
                f"{MIXED}, or a pipeline that has it"
            )
        if option == FRONT:
            from graphopt.report.precision_front import check_front

            check_front(path)
        check_output_path(path / "front.csv" if path.is_dir() and option == FRONT else path, (model,))


def write_front(path: Path, result: api.Result) -> None:
    """Write the front of error and cost.

    Raises:
        ConfigError: the ending is none that it can be written in, or matplotlib isn't installed.
        EmitError: a file can't be written.
    """
    from graphopt.report.precision_front import save_front

    if result.precision is not None:
        save_front(path, result.precision, layer_macs(result.graph))
