"""The Python API: load → passes → emit, and how far the result is from the model that came in.

A model is whatever `graphopt.load` takes: a path, bytes, an onnx.ModelProto, or what torch.onnx.export(dynamo=True)
returns; it is never changed. Samples are whatever `graphopt.calibration.load_dataset` takes: the path of an .npz file
or of a folder of them, "module:function", a dict of stacked arrays, or an iterable of `{input: array}`.
Nothing here keeps state: calls from several threads don't disturb each other.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import onnx
from numpy.typing import ArrayLike

from graphopt.backends.agreement import Agreement, compare_models
from graphopt.calibration import Dataset, Source, data_hash, load_ranges, model_hash, save_ranges
from graphopt.errors import ConfigError
from graphopt.ir import Constant, Graph, check_output_path, load, save, to_proto
from graphopt.ir.files import data_path
from graphopt.ir.read import read_source
from graphopt.ir.write import wants_data_file
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.pipelines import Choice, Passes, choose_pipeline, rewrites_before
from graphopt.pipeline import Context, Instrument, PassManager
from graphopt.pipeline.instruments import Reproducer, Verify
from graphopt.pipeline.passes import Progress
from graphopt.pipeline.spec import passes_to_text
from graphopt.quant import Range
from graphopt.report.exposure import expose_shared
from graphopt.report.measure import measure, runnable
from graphopt.report.samples import open_samples, reported, with_labels
from graphopt.report.summary import Report, Size, layers_of, matchable, unmatched_notes
from graphopt.targets import Target


@dataclass(frozen=True)
class Result:
    """A compiled model and the report of how it came about."""

    graph: Graph
    report: Report

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The compiled model, with all values inside.

        Raises:
            UnsupportedError: it is too large for one protobuf message (2 GiB); use `save`.
        """
        return to_proto(self.graph)

    def save(self, path: str | Path, *, external_data: bool | None = None) -> None:
        """Write the model; the file appears complete or not at all. See `graphopt.save`.

        Raises:
            ConfigError: `path` is one of the files that the model came from.
            EmitError: it can't be written.
        """
        save(self.graph, path, external_data=external_data)


@dataclass(frozen=True)
class Calibration:
    """Ranges of a model's activations, tied to the model and to the passes before calibration."""

    ranges: Mapping[str, Range]
    method: str
    model_hash: str
    data_hash: str

    def save(self, path: str | Path) -> None:
        """Write the ranges file that `optimize(ranges=path)` and `--ranges` take.

        Raises:
            EmitError: it can't be written.
        """
        save_ranges(Path(path), self.ranges, model_hash=self.model_hash, data_hash=self.data_hash, method=self.method)


def optimize(
    model: object,
    *,
    target: str | Target | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    passes: Passes | None = None,
    calibration_data: Source | None = None,
    ranges: str | Path | Calibration | None = None,
    validation_data: Source | None = None,
    labels: ArrayLike | None = None,
    skip: Sequence[str] = (),
    keep_float: Sequence[str] = (),
    method: str | None = None,
    output: str | Path | None = None,
    base_dir: str | Path | None = None,
    threads: int | None = None,
    instruments: Sequence[Instrument] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Compile a model for a target, and measure the result against the original when there are samples.

    Args:
        model: see the module.
        target: onnxruntime, openvino, tensorrt, tflite; may also come from `config`.
        preset: "int8" (the default), or "float", which only simplifies. Or, in its place:
        config: a pipeline file (TOML).
        passes: a pipeline as text, or passes.
        calibration_data: samples that the ranges of activations come from.
        ranges: ranges that `calibrate` found, instead of samples.
        validation_data: samples that the result is measured on; else it is measured on calibration samples.
        labels: one class index per row of the validation samples; default: the array `labels` in their file.
        skip: names of passes to leave out.
        keep_float: nodes to leave in float: patterns of node names ("head/*") or operators ("Gemm").
        method: how ranges are chosen from what was observed ("minmax").
        output: where to save the result; checked before the work begins.
        base_dir: folder of the external data of a model that isn't given as a path.
        threads: threads of onnxruntime; None lets it take the cores.
        instruments: what watches the passes; None: `Reproducer` and `Verify`.
        progress: called as work goes on with (what is done, steps done, steps in all or None).

    Raises:
        GraphoptError: something on the user's side is wrong; nothing was written then.
        InternalError: a pass broke the model, which is a bug; `reproducer` is a folder that shows it.
    """
    began = time.perf_counter()
    choice = choose_pipeline(
        target, preset=preset, config=config, passes=passes, skip=skip, keep_float=keep_float, method=method
    )
    calibration_data = choice.settings.calibration_data if calibration_data is None else calibration_data
    ranges = choice.settings.ranges if ranges is None else ranges
    if labels is not None and validation_data is None:
        raise ConfigError("labels are given without validation data: they are the classes of its samples")
    check_output(output, (model, config, calibration_data, validation_data, ranges))
    graph = load(model, base_dir=base_dir)
    check_output(output, graph.facts.source_files)
    before, nodes = Size.of(graph, graph.facts.source_files), matchable(graph)
    calibration = None if calibration_data is None else open_samples(calibration_data, graph, "calibration data")
    validation = None if validation_data is None else open_samples(validation_data, graph, "validation data")
    validation = None if validation is None else with_labels(validation, labels)
    ctx = _context(choice, calibration, threads, progress)
    ctx.ranges = _read_ranges(ranges, model, base_dir, choice)

    watching = (Reproducer(), Verify()) if instruments is None else instruments
    records = PassManager(choice.passes, watching).run(graph, ctx)

    samples = {"validation": validation, "calibration": calibration}
    measurement, unmeasured = measure(model, graph, base_dir=base_dir, **samples, threads=threads, progress=progress)
    if output is not None:
        save(graph, output)
    report = Report(
        source=str(model) if isinstance(model, (str, Path)) else "the model",
        output=None if output is None else str(output),
        target=None if choice.target is None else choice.target.name,
        pipeline=passes_to_text(choice.passes),
        before=before,
        after=Size.of(graph, () if output is None else _written(graph, Path(output))),
        passes=tuple(records),
        remarks=tuple(ctx.remarks.items),
        notes=(*graph.facts.notes, *unmatched_notes(keep_float, nodes | matchable(graph))),
        layers=layers_of(graph),
        measurement=measurement,
        unmeasured=unmeasured,
        seconds=time.perf_counter() - began,
    )
    return Result(graph, report)


def calibrate(
    model: object,
    calibration_data: Source,
    *,
    target: str | Target | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    passes: Passes | None = None,
    skip: Sequence[str] = (),
    keep_float: Sequence[str] = (),
    method: str | None = None,
    base_dir: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Run a pipeline up to its `calibrate`, and give back the ranges instead of a model. Arguments as in `optimize`.

    Raises:
        GraphoptError: something on the user's side is wrong.
        InternalError: a pass broke the model.
    """
    choice = choose_pipeline(
        target, preset=preset, config=config, passes=passes, skip=skip, keep_float=keep_float, method=method
    )
    last = next((i for i, p in enumerate(choice.passes) if isinstance(p, Calibrate)), None)
    if last is None:
        raise ConfigError("the pipeline has no 'calibrate': use the preset int8, or a pipeline with it")
    graph = load(model, base_dir=base_dir)
    samples = open_samples(calibration_data, graph, "calibration data")
    PassManager(choice.passes[: last + 1], (Reproducer(), Verify())).run(
        graph, _context(choice, samples, threads, progress)
    )
    tensors = graph.tensors()
    observed = {
        entry.tensor: entry.range
        for entry in graph.plan
        if entry.range is not None and not entry.fixed and not isinstance(tensors[entry.tensor], Constant)
    }
    return Calibration(
        ranges=observed,
        method=cast(Calibrate, choice.passes[last]).method,
        model_hash=_ranges_key(model, base_dir, choice),
        data_hash=data_hash(samples),
    )


def compare(
    reference: object,
    other: object,
    data: Source,
    *,
    labels: ArrayLike | None = None,
    tensors: bool = False,
    base_dir: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Agreement:
    """Run two models on the same samples in onnxruntime and measure how far `other` is from `reference`.

    Args:
        reference: the model taken as right.
        other: a model that has every numeric output of `reference`.
        data: samples.
        labels: one class index per row of the first output; default: the array `labels` in the samples' file.
        tensors: compare the float tensors inside that have the same name in both models, too. They are made outputs
            for that, which keeps onnxruntime from fusing across them.
        base_dir: as in `optimize`.
        threads: as in `optimize`.
        progress: as in `optimize`.

    Raises:
        GraphoptError: a model or the samples can't be read or run, or the models have different outputs.
    """
    graphs = load(reference, base_dir=base_dir), load(other, base_dir=base_dir)
    samples = reported(with_labels(open_samples(data, graphs[0], "the data"), labels), "comparing", progress)
    if tensors:
        first, second = expose_shared(*graphs)
    else:
        first, second = runnable(reference, base_dir), runnable(other, base_dir)
    return compare_models(first, second, samples, threads=threads)


def check_output(output: str | Path | None, inputs: Sequence[object]) -> None:
    """Refuse an output that can't be written, or that would overwrite one of the `inputs` that is a file.

    Raises:
        ConfigError: it is one of the inputs.
        EmitError: it can't be written.
    """
    if output is None:
        return
    check_output_path(Path(output), tuple(Path(i) for i in inputs if isinstance(i, (str, Path))))


def _context(choice: Choice, calibration: Dataset | None, threads: int | None, progress: Progress | None) -> Context:
    samples = None if calibration is None else reported(calibration, "calibrating", progress)
    ctx = Context(target=choice.target, calibration=samples, threads=threads)
    if progress is not None:
        ctx.progress = progress
    return ctx


def _read_ranges(
    ranges: str | Path | Calibration | None, model: object, base_dir: str | Path | None, choice: Choice
) -> dict[str, Range] | None:
    if ranges is None:
        return None
    if isinstance(ranges, Calibration):
        return dict(ranges.ranges)
    return load_ranges(Path(ranges), model_hash=_ranges_key(model, base_dir, choice))


def _ranges_key(model: object, base_dir: str | Path | None, choice: Choice) -> str:
    """What ranges depend on besides the samples: the model, and the passes that rewrote it before it was calibrated.

    With other rewrites a tensor of the same name may hold other values.
    """
    content = f"{model_hash(read_source(model, base_dir).model)} {rewrites_before(choice.passes, Calibrate)}"
    return hashlib.sha256(content.encode()).hexdigest()


def _written(graph: Graph, output: Path) -> list[Path]:
    """The files that `save` wrote."""
    return [output, data_path(output)] if wants_data_file(graph) else [output]
