"""`optimize`: load → passes → emit, and the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from graphopt.api.choice import MIXED, Choice, Passes, Prune, choose_pipeline
from graphopt.api.emitting import Saved, check_format, check_output, check_sizes, save_result
from graphopt.api.guarding import Guard
from graphopt.api.metrics import Demand, Judge, Metric, demand
from graphopt.api.mixing import Mixing, Terms, check_engine, contest, floor_of
from graphopt.api.ranges import Calibration, read_ranges, saved_ranges
from graphopt.api.replanning import Compiled, Watch
from graphopt.api.result import Result
from graphopt.api.verifying import VerificationError, check_verifiable, prove
from graphopt.calibration import Dataset, Preprocess, Source
from graphopt.errors import CalibrationError, ConfigError
from graphopt.ir import load
from graphopt.ir.cancelling import Cancel, cancellable
from graphopt.passes.calibrate import NO_SAMPLES, Calibrate
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.pipeline import Context, Instrument, PassManager
from graphopt.pipeline.instruments import Reproducer, Verify
from graphopt.pipeline.passes import Progress, Resources
from graphopt.pipeline.spec import passes_to_text
from graphopt.quant.precision_rules import parse_rules
from graphopt.report.measure import comparable, measure, runnable
from graphopt.report.samples import open_samples, reported, with_labels
from graphopt.report.summary import Report, Size, layers_of, matchable, unmatched_notes
from graphopt.targets import Target

if TYPE_CHECKING:  # reports bring jinja2 in
    from graphopt.api.reporting import Reporting


@cancellable
def optimize(
    model: object,
    *,
    target: str | Path | Target | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    passes: Passes | None = None,
    calibration_data: Source | None = None,
    ranges: str | Path | Calibration | None = None,
    validation_data: Source | None = None,
    preprocess: str | Path | Preprocess | None = None,
    labels: ArrayLike | None = None,
    prune: Prune | None = None,
    skip: Sequence[str] = (),
    keep_float: Sequence[str] = (),
    budget: str | None = None,
    precision: Sequence[str] = (),
    precision_plan: str | Path | None = None,
    method: str | None = None,
    percentile: float | None = None,
    max_drop: float | None = None,
    metric: str | Metric | None = None,
    min_sqnr: float | None = None,
    layers: bool = False,
    verify: bool = False,
    device: str | None = None,
    output: str | Path | None = None,
    report: str | Path | None = None,
    base_dir: str | Path | None = None,
    threads: int | None = None,
    resources: Resources | None = None,
    instruments: Sequence[Instrument] | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Result:
    """Compile a model for a target, and measure the result against the original when there are samples.

    Args:
        model: a path, bytes, an onnx.ModelProto, or what torch.onnx.export(dynamo=True) returns.
        target: onnxruntime, openvino, tensorrt, tflite; one of your own, as a .toml file, "module:NAME" or a `Target`;
            may also come from `config`.
        preset: "int8" (the default), "int8-accurate", which also recovers what 8 bits lose, "mixed", which gives each
            part the precision that serves the whole and never ships what is slower, or "float", which only simplifies.
            Or, in its place:
        config: a pipeline file (TOML).
        passes: a pipeline as text, or passes, see `preset`; a pass of your own is an object, or "module:Class" in text.
        calibration_data: samples that the ranges of activations come from.
        ranges: ranges that `calibrate` found, instead of samples.
        validation_data: samples that the result is measured on; else it is measured on calibration samples.
        preprocess: how images become the model's input, for samples in folders of images: "imagenet", "imagenet-bgr",
            "unit", "raw", a TOML file, or a `Preprocess`.
        labels: one class index per row of the validation samples; default: the array `labels` in their file.
        prune: remove channels first: options of the pass `eliminate-channels`, as text ("macs=0.5, align=8") or by name
            ({"macs": 0.5}). It runs in front of what prepares and plans 8 bits; what it did is `report.elimination`.
        skip: names of passes to leave out.
        keep_float: nodes to leave in float: patterns of node names ("head/*") or operators ("Gemm").
        budget: with a pass that assigns precisions: what the result may take, "latency=0.6x" or "size=0.3x" of the
            float model's, or "bits=6" a weight on average, see `analysis.precision.budget`.
        precision: likewise: precisions that are given, "Softmax=float" or "head/*=float16": a pattern of node names, or
            an operator, and the precision. Of several that match the last one counts.
        precision_plan: a file with an assignment that `Result.precision` has saved, in place of a new one; it needs
            no samples.
        method: how ranges are chosen from what was observed: "minmax", "ema", "percentile", "kl", "mse", "auto".
        percentile: the share of values, in percent, that method "percentile" covers; it implies that method.
        max_drop: how far the result's accuracy may fall below the float model's, on the validation samples (for want of
            them, the calibration samples): points of top-1, or the unit of `metric`. Where it falls further, the layers
            that lose most stay float, until it holds. See `api.guarding`. Where precisions are assigned, the next
            more accurate assignment is taken until it holds; preset "mixed" demands 0.5 points, or 20 dB where there
            are no labels, when nothing is demanded here. See `api.mixing`.
        metric: what `max_drop` is about: "top1" (the default), or "module:function" or a function of your own, which
            is called with (runs, labels), see `api.metrics`, and returns a number, of which more is better.
        min_sqnr: in place of `max_drop`: the least SQNR, in dB, that each output must have.
        layers: measure what each layer loses in 8 bits, alone and in the whole model, see `backends.layer_errors`.
        verify: run or build the result in the target's engine, see `verify`; when a node that is planned in 8 bits
            doesn't run in 8 bits there, nothing is saved.
        device: what to verify for, and to estimate the costs of precisions for, where the engine has a choice.
        output: where to save the result, as .onnx or, for tflite, as .tflite; checked before the work begins.
        report: where to write the HTML report, one file that opens from disk. It also measures, for itself, what is
            neither asked for here: errors of layers, what the engine makes of the result, latency. See `api.reporting`.
        base_dir: folder of the external data of a model that isn't given as a path.
        threads: threads of onnxruntime; None lets it take the cores.
        resources: workers, execution providers, memory and checkpoint of calibration, see `Resources`.
        instruments: what watches the passes; None: `Reproducer` and `Verify`.
        progress: called as work goes on with (what is done, steps done, steps in all or None), by the thread that
            called `optimize`. It may raise `Cancelled` to end the run.
        cancel: ends the run, too, when it is set or returns True: a threading.Event, or a function. It is asked between
            passes, samples, model calls and layers.

    Raises:
        GraphoptError: something on the user's side is wrong; nothing was written then.
        AccuracyError: `max_drop` or `min_sqnr` can't be held, even with all layers in float; nothing was written.
        VerificationError: with `verify`, the result doesn't run as planned; nothing but the report was written.
        InternalError: a pass broke the model, which is a bug; `reproducer` is a folder that shows it.
        Cancelled: the run was ended from outside; nothing was written, but for `Resources.checkpoint`.
    """
    began = time.perf_counter()
    choice = choose_pipeline(
        target,
        preset=preset,
        config=config,
        passes=passes,
        prune=prune,
        skip=skip,
        keep_float=keep_float,
        method=method,
        percentile=percentile,
        budget=budget,
        precision=precision,
        precision_plan=precision_plan,
        device=device,
    )
    mixes = preset == MIXED and choice.assigns and choice.precision_plan is None
    if choice.assigns:
        check_engine(choice.target, device, timed=mixes)
    demanded = demand(max_drop, metric, min_sqnr)
    sources = (calibration_data, validation_data, choice.settings.calibration_data)
    has_samples = any(source is not None for source in sources)
    _check_asked(choice, demanded, layers=layers, has_samples=has_samples)
    calibration_data = choice.settings.calibration_data if calibration_data is None else calibration_data
    ranges = choice.settings.ranges if ranges is None else ranges
    if labels is not None and validation_data is None:
        raise ConfigError("labels are given without validation data: they are the classes of its samples")
    replayed = None if choice.precision_plan is None else saved_ranges(choice.precision_plan)
    replays = replayed is not None and calibration_data is None and ranges is None
    choice = choice.without_samples() if replays else choice
    if choice.has(Calibrate) and calibration_data is None and ranges is None:
        raise CalibrationError(NO_SAMPLES)
    check_format(output, choice.target)
    inputs = (model, config, calibration_data, validation_data, ranges, choice.precision_plan)
    check_output(output, inputs)
    if report is not None:
        from graphopt.api.reporting import check_report

        check_report(report, (*inputs, output))
    if verify:
        check_verifiable(choice.target, choice.has(PlanQuantization), device)
    graph = load(model, base_dir=base_dir)
    check_output(output, graph.facts.source_files)
    check_output(report, graph.facts.source_files)
    check_sizes(output, graph)
    before, nodes = Size.of(graph, graph.facts.source_files), matchable(graph)
    calibration = (
        None if calibration_data is None else open_samples(calibration_data, graph, "calibration data", preprocess)
    )
    validation = (
        None if validation_data is None else open_samples(validation_data, graph, "validation data", preprocess)
    )
    validation = None if validation is None else with_labels(validation, labels)
    ctx = choice.context(calibration, threads, progress, resources)
    ctx.ranges = replayed if replays else read_ranges(ranges, model, base_dir, choice)

    samples = {"validation": validation, "calibration": calibration}
    chosen = comparable(**samples)
    floor = floor_of(demanded, chosen) if mixes and chosen is not None else demanded
    judge = None if floor is None else _judge(floor, model, base_dir, chosen, threads, progress)

    watch = Watch()
    watching = (Reproducer(), Verify()) if instruments is None else tuple(instruments)
    if judge is not None or layers or report is not None:  # it keeps the float weights alive
        watching = (watch, *watching)
    reporting = history = None
    if report is not None:
        reporting = _reporting(report, watch, watching, ctx, progress)
        history = reporting.history
        watching = (history, *watching)
    records = PassManager(choice.passes, watching).run(graph, ctx)
    # What passes chose by samples comes back among the ranges where those are given.
    precisions = ctx.precision and replace(ctx.precision, decisions={**(ctx.ranges or {}), **ctx.kept})
    compiled = Compiled(graph, choice.passes, tuple(records), ctx.remarks, precisions, history)
    guarded = mixed = None
    if judge is not None and compiled.precision is not None:
        terms = Terms(demanded is not None, validation is None, keep_original=prune is None)
        mixing = Mixing(compiled, watch, ctx, judge, terms, progress)
        compiled, mixed = mixing.ship(*contest(model, base_dir, mixing)) if mixes else mixing.hold()
    elif judge is not None:
        compiled, guarded = Guard(compiled, watch, ctx, judge, progress).hold(on_calibration_data=validation is None)
    graph = compiled.graph
    nodes |= matchable(graph)

    measurement, unmeasured = measure(model, graph, base_dir=base_dir, **samples, threads=threads, progress=progress)
    errors = watch.errors(compiled.graph, chosen, threads) if layers else None
    verification = missed = None
    if verify and choice.target is not None:
        try:
            verification = prove(
                model, graph, choice.target, chosen,
                base_dir=base_dir, device=device, threads=threads, progress=progress,
            )  # fmt: skip
        except VerificationError as error:
            if reporting is None:
                raise
            verification, missed, output = error.verification, error, None
    saved = Saved(()) if output is None else save_result(graph, output, choice.target)
    found = Report(
        source=str(model) if isinstance(model, (str, Path)) else "the model",
        output=None if output is None else str(output),
        target=None if choice.target is None else choice.target.name,
        pipeline=passes_to_text(compiled.passes),
        before=before,
        after=Size.of(graph, saved.files),
        passes=compiled.records,
        remarks=tuple(compiled.remarks.items),
        notes=(
            *graph.facts.notes,
            *unmatched_notes("keep-float", keep_float, nodes),
            *unmatched_notes("precision", [rule.pattern for rule in parse_rules(precision)], nodes),
            *saved.notes,
        ),
        layers=layers_of(graph),
        elimination=ctx.elimination,
        measurement=measurement,
        unmeasured=unmeasured,
        seconds=time.perf_counter() - began,
        verification=verification,
        guarded=guarded,
        errors=errors,
        mixed=mixed,
        page=None if report is None else str(report),
    )
    if reporting is not None:
        from graphopt.api.reporting import Run

        reporting.save(Run(found, compiled, ctx, model, base_dir, chosen, choice.target, device))
    if missed is not None:
        missed.args = (f"{missed}. The report has it: {report}",)
        raise missed
    return Result(graph, found, choice.target, compiled.precision)


def _check_asked(choice: Choice, demanded: Demand | None, *, layers: bool, has_samples: bool) -> None:
    """Refuse what this pipeline can't give, before the work begins.

    Raises:
        ConfigError: errors of layers or an accuracy are asked for, and nothing is quantized, or there are no samples.
    """
    if layers and not choice.has(PlanQuantization):
        raise ConfigError("the errors of layers are asked for, and no pass of this pipeline quantizes")
    if layers and not has_samples:
        raise ConfigError("the errors of layers are asked for, and there are no samples: give --validation-data")
    if demanded is not None and not choice.has(PlanQuantization):
        raise ConfigError(f"{demanded} is demanded, which is about 8 bits, and no pass of this pipeline quantizes")


def _reporting(
    path: str | Path, watch: Watch, watching: Sequence[Instrument], ctx: Context, progress: Progress | None
) -> Reporting:
    """What keeps, from here on, what the HTML report shows."""
    from graphopt.api.reporting import Reporting

    ctx.histograms = True
    return Reporting(Path(path), watch, watching, progress)


def _judge(
    demanded: Demand,
    model: object,
    base_dir: str | Path | None,
    samples: Dataset | None,
    threads: int | None,
    progress: Progress | None,
) -> Judge:
    if samples is None:
        raise ConfigError(f"{demanded} is demanded, and there are no samples to measure it on: give --validation-data")
    return Judge(demanded, runnable(model, base_dir), reported(samples, "measuring", progress), threads)
