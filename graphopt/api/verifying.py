"""`verify`: what the target's engine really makes of a quantized model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
from numpy.typing import ArrayLike

from graphopt.analysis.legality import Finding, findings_by_node
from graphopt.api.stopwatch import Stopwatch
from graphopt.backends.agreement import Comparison
from graphopt.backends.engines import AS_WRITTEN, ONNXRUNTIME, Engine, Model, find_engine
from graphopt.backends.planned import float_layers, planned_nodes
from graphopt.backends.precision import NodePrecision
from graphopt.calibration import Dataset, Preprocess, Source
from graphopt.errors import ConfigError, GraphoptError, UnsupportedError
from graphopt.ir import Graph, load, to_proto
from graphopt.ir.block_weights import INT4_WEIGHTS
from graphopt.ir.cancelling import Cancel, cancellable
from graphopt.ir.read import read_source
from graphopt.pipeline.passes import Progress
from graphopt.report.measure import runnable
from graphopt.report.samples import open_samples, reported, with_labels
from graphopt.report.verification import EngineAgreement, Verification
from graphopt.targets import Target, find_target


class VerificationError(GraphoptError):
    """A model that was compiled doesn't run as planned in the target's engine; `verification` says where."""

    def __init__(self, message: str, verification: Verification) -> None:
        super().__init__(message)
        self.verification = verification

    def __reduce__(self) -> tuple[type[VerificationError], tuple[str, Verification]]:
        """For other processes: an exception is made again from its message alone."""
        return VerificationError, (str(self), self.verification)


@cancellable
def verify(
    model: object,
    target: str | Path | Target,
    *,
    reference: object | None = None,
    data: Source | None = None,
    labels: ArrayLike | None = None,
    preprocess: str | Path | Preprocess | None = None,
    device: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    latency: bool = True,
    base_dir: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Verification:
    """Run or build a quantized model in the target's engine, and say of every planned node what it computes in.

    What is planned is read from the model, whatever tool made it: see `backends.planned`.

    Args:
        model: the quantized model: a path, bytes, an onnx.ModelProto.
        target: onnxruntime, openvino, tensorrt, tflite, or one of your own, as in `optimize`.
        reference: the float model, to measure agreement and latency against; it needs `data`.
        data: samples, as `optimize` takes them.
        labels: one class index per row of the first output; default: the array `labels` in the samples' file.
        preprocess: as in `optimize`.
        device: what to build for, where the engine has a choice: "SM86" for TensorRT.
        shapes: input → shape, for inputs with open sizes, where the engine builds for one; default: the first sample's.
        latency: time both models in the engine, in turns, for a few seconds.
        base_dir: as in `optimize`.
        threads: of the engine; None lets it choose.
        progress: as in `optimize`.
        cancel: as in `optimize`.

    Raises:
        GraphoptError: a model or the samples can't be read or run, or the engine isn't installed.
        Cancelled: the run was ended from outside.
    """
    aim = find_target(target)
    engine = find_engine(aim)
    engine.require()
    if (reference is None) != (data is None):
        missing = "reference: the float model" if reference is None else "data: the samples"
        raise ConfigError(f"agreement is measured against a reference, on data; give {missing}, too")
    graph = load(model, base_dir=base_dir, min_opset=1)
    source = str(model) if isinstance(model, (str, Path)) else "the model"
    runs = _named(model, graph, base_dir)
    samples = None if data is None else with_labels(open_samples(data, graph, "the data", preprocess), labels)
    sizes = first_shapes(samples) if shapes is None else shapes
    found = check_precision(graph, runs, aim, source, device=device, shapes=sizes)
    if reference is None or samples is None:
        return found
    return against(
        found,
        runnable(reference, base_dir),
        runs,
        reported(samples, "comparing", progress),
        aim,
        latency=latency,
        threads=threads,
    )


def check_verifiable(target: Target | None, plans: bool, device: str | None) -> None:
    """Refuse to verify, before the work begins, what can't be.

    Raises:
        ConfigError: there is no target, the pipeline doesn't quantize, or the engine has no such device.
        UnsupportedError: the target's engine isn't installed.
    """
    if target is None or not plans:
        lacking = "a target" if target is None else "the pass 'plan-quantization'"
        raise ConfigError(f"verify proves that planned layers run in 8 bits, which needs {lacking}")
    engine = find_engine(target)
    engine.require()
    engine.device(device)


def prove(
    model: object,
    graph: Graph,
    target: Target,
    samples: Dataset | None,
    *,
    base_dir: str | Path | None,
    device: str | None,
    threads: int | None,
    progress: Progress | None,
) -> Verification:
    """Verify `graph`, which was compiled from `model`; agreement in onnxruntime itself is not measured again.

    Raises:
        VerificationError: a planned node doesn't run in 8 bits.
        UnsupportedError: the engine can't load the result.
    """
    compiled = to_proto(graph)
    # Read anew: the graph as other tools see it, with the types of what was inserted.
    again = load(compiled, min_opset=1)
    shapes = first_shapes(samples)
    found = check_precision(again, compiled, target, "the result", device=device, shapes=shapes)
    if found.precision.missed:
        names = ", ".join(f"'{n.planned.name}' ({n.planned.op_type})" for n in found.precision.missed[:3])
        more = len(found.precision.missed) - 3
        raise VerificationError(
            f"{found.verdict}: {names}{f' and {more} more' if more > 0 else ''}; no model was written. Leave them in "
            "float (keep-float), or write the model without verifying it",
            found,
        )
    if samples is None or not found.precision.nodes:
        return found
    chosen = reported(samples, "verifying", progress)
    return against(found, runnable(model, base_dir), compiled, chosen, target, threads=threads, stand_in=False)


def first_shapes(samples: Dataset | None) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs in the first sample; none without samples."""
    return {} if samples is None else {name: value.shape for name, value in next(iter(samples)).items()}


def check_precision(
    graph: Graph,
    runs: Model,
    target: Target,
    source: str,
    *,
    device: str | None,
    shapes: Mapping[str, Sequence[int]],
) -> Verification:
    """What the engine makes of `runs`, the model that `graph` was read from; nodes have the same names in both."""
    engine = find_engine(target)
    planned = planned_nodes(graph, target)
    precision = engine.precision(runs, planned, engine.device(device), shapes)
    if precision.missed:
        findings = findings_by_node(graph, target)
        nodes = [_explained(n, findings.get(n.planned.name, ()), target) for n in precision.nodes]
        precision = replace(precision, nodes=nodes)
    left = tuple((n.name, n.op) for n in float_layers(graph, planned))
    return Verification(source, target.name, precision, left)


def _explained(node: NodePrecision, findings: Sequence[Finding], target: Target) -> NodePrecision:
    """With the target's rules that the model breaks there, where the node doesn't run as its Q/DQ plan it."""
    if node.as_planned or not (node.planned.in_8_bits or node.planned.precision == INT4_WEIGHTS):
        return node
    broken = list(dict.fromkeys(f"{f.found}: {f.why}" for f in findings if f.severity == "error"))
    if not broken and node.planned.op_type not in target.rules:
        why = target.float_reasons.get(node.planned.op_type)
        broken = [why or f"{target.title} has no integer kernel for {node.planned.op_type}"]
    said = [node.reason, *broken] if node.reason or broken else ["no rule of the target is broken around it"]
    return replace(node, reason="; ".join(filter(None, said)))


def against(
    found: Verification,
    reference: Model,
    model: Model,
    samples: Dataset,
    target: Target,
    *,
    latency: bool = True,
    threads: int | None = None,
    stand_in: bool = True,
) -> Verification:
    """`found` with agreement and latency; `stand_in`: measure the model as it is written, in onnxruntime, too."""
    engine = find_engine(target)
    notes: list[str] = []
    engines = [] if engine.run is None else [engine]
    if engine.run is None:
        notes.append(f"{engine.title} doesn't run on this machine: agreement is that of the model as it is written")
    if engine is not ONNXRUNTIME and (stand_in or not engines):
        engines.append(AS_WRITTEN)
    agreement = _agreement(engines, reference, model, samples, threads)
    measured = None
    if latency and engine.run is not None:
        try:
            measured = Stopwatch(engine, reference, next(iter(samples)), threads=threads).time(model)
        except UnsupportedError as error:
            notes.append(f"latency isn't measured, {engine.title} can't run the float model: {error}")
    return replace(found, data=samples.name, agreement=agreement, latency=measured, notes=(*found.notes, *notes))


def _agreement(
    engines: list[Engine], reference: Model, model: Model, samples: Dataset, threads: int | None
) -> tuple[EngineAgreement, ...]:
    names, others = _numeric_outputs(reference), _outputs(model)
    if missing := [name for name in names if name not in others]:
        raise ConfigError(f"the model has no output '{missing[0]}', which the float model has: verify matching models")
    comparisons = [Comparison(list(names), samples.name, samples.labels) for _ in engines]
    streams = itertools.tee(iter(samples), len(engines) + 1)
    assert ONNXRUNTIME.run is not None
    expected = ONNXRUNTIME.run(reference, streams[0], threads)
    runs = [e.run(model, feeds, threads) for e, feeds in zip(engines, streams[1:], strict=True) if e.run is not None]
    for want, *got in zip(expected, *runs, strict=True):
        chosen = [want[index] for index in names.values()]
        for comparison, outputs in zip(comparisons, got, strict=True):
            comparison.add(chosen, [outputs[others[name]] for name in names])
    return tuple(EngineAgreement(e.title, c.result()) for e, c in zip(engines, comparisons, strict=True))


def _outputs(model: Model) -> dict[str, int]:
    """Position of each output."""
    return {output.name: index for index, output in enumerate(read_source(model).model.graph.output)}


def _numeric_outputs(model: Model) -> dict[str, int]:
    """Position of each output that is a tensor of numbers."""
    outputs = read_source(model).model.graph.output
    return {
        o.name: index
        for index, o in enumerate(outputs)
        if o.type.HasField("tensor_type") and o.type.tensor_type.elem_type != onnx.TensorProto.STRING
    }


def _named(model: object, graph: Graph, base_dir: str | Path | None) -> Model:
    """The model that engines get: as it was given, unless some nodes have no name of their own to be found by."""
    given = list(_names(read_source(model, base_dir).model.graph))
    own = [node.name for scope in graph.walk() for node in scope.nodes]
    return runnable(model, base_dir) if sorted(given) == sorted(own) else to_proto(graph)


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.name
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _names(body)
