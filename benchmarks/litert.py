"""Our int8 .tflite in LiteRT against the Q/DQ model that it was written from, and against the float .tflite.

    GRAPHOPT_ZOO=… python -m benchmarks.litert [--models NAME|FILE.onnx …] [--samples N] [--labelled N] [--markdown]

Compared are integers, in steps of the output's scale; where an output is computed in float behind the last integers (a
Softmax, the decoding of boxes), those last integers are. `≤ 1`: share of elements, over all outputs and samples, that
are at most one step off; `same`: that are equal; `max`: the most steps that one is off. First against the Q/DQ model as
it is written, computed by onnxruntime node by node in float, then `fused`: against onnxruntime's own integer kernels.
`ort`: those two against each other, which is what rounding does to the model in any engine.

`kernels`: what LiteRT makes of each tensor against what onnxruntime makes of LiteRT's own inputs to it, as written,
over all tensors and a few samples: `off`, elements in a million that differ, and by how many steps at most. Here no
difference grows from layer to layer.

`top-1`: of classifiers, of the .tflite and of the Q/DQ model as it is written, over --labelled samples. `turns`:
TRANSPOSE operators in the int8 .tflite. `float ms`, `int8 ms`: one call on one thread, timed in turns; `faster`: the
median ratio with its quartiles. A FILE.onnx runs on noise.
"""

from __future__ import annotations

import argparse
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

import graphopt
from benchmarks._common import Feeds, Table, script, zoo_names
from graphopt.backends import litert_engine, onnxruntime
from graphopt.backends.latency import measure_latency

CALIBRATION_LABELLED, UNLABELLED = 64, 24
KERNEL_SAMPLES = 4
COLUMNS = (
    ("model", 27), ("nodes", 5), ("≤ 1 %", 7), ("same %", 7), ("max", 4), ("fused ≤ 1", 9), ("max", 4), ("ort ≤ 1", 7),
    ("kernels off", 11), ("max", 4), ("top-1", 15), ("turns", 5), ("float ms", 8), ("int8 ms", 8), ("faster", 18),
)  # fmt: skip


@dataclass
class Steps:
    """How many steps of a scale two series of tensors are apart."""

    elements: int = 0
    same: int = 0
    near: int = 0
    most: int = 0

    def add(self, a: NDArray[Any], b: NDArray[Any], scale: float) -> None:
        """Two tensors on the same grid."""
        apart = np.rint(np.abs(a.astype(np.float64) - b) / scale)
        self.elements += apart.size
        self.same += int((apart == 0).sum())
        self.near += int((apart <= 1).sum())
        self.most = max(self.most, int(apart.max(initial=0)))

    def share(self, count: int) -> float:
        """In percent of all elements."""
        return 100 * count / max(self.elements, 1)


@dataclass(frozen=True)
class Subject:
    """A model with samples.

    Attributes:
        name: of the model.
        source: the float model.
        calibration, feeds: samples to choose ranges with, and others to compare on.
        labels: classes of `feeds`, or None.
    """

    name: str
    source: Path
    calibration: Feeds
    feeds: Feeds
    labels: Sequence[int] | None


def last_integers(model: ModelProto) -> dict[str, float]:
    """The dequantized tensors nearest before the outputs, with their scales; an output itself where it is one."""
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {i.name: i for i in model.graph.initializer}
    waiting, seen = deque(o.name for o in model.graph.output), set[str]()
    found: dict[str, float] = {}
    while waiting:
        name = waiting.popleft()
        node = makers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type != "DequantizeLinear":
            waiting.extend(node.input)
        elif node.input[0] not in constants:
            found[name] = float(numpy_helper.to_array(constants[node.input[1]]))
    return found


def with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """The model with more outputs."""
    wider = ModelProto()
    wider.CopyFrom(model)
    present = {o.name for o in model.graph.output}
    wider.graph.output.extend(
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names if n not in present
    )
    return wider


def cut(model: ModelProto) -> tuple[ModelProto, dict[str, float]]:
    """The model with an input in place of each dequantized activation, and what made that as an output.

    Returns:
        The model, whose outputs are made in the order of the inputs, and the scales of these.
    """
    pieces = ModelProto()
    pieces.CopyFrom(model)
    constants = {i.name: i for i in pieces.graph.initializer}
    scales: dict[str, float] = {}
    for node in pieces.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] not in constants:
            scales[node.output[0]] = float(numpy_helper.to_array(constants[node.input[1]]))
            node.output[0] = _made(node.output[0])
    del pieces.graph.output[:]
    for name in scales:
        pieces.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        pieces.graph.output.append(onnx.helper.make_tensor_value_info(_made(name), onnx.TensorProto.FLOAT, None))
    return pieces, scales


def _made(name: str) -> str:
    return f"{name}_made"


def kernels(model: ModelProto, feeds: Feeds) -> Steps:
    """Each tensor of integers as LiteRT makes it, against what the model as written makes of LiteRT's inputs to it."""
    pieces, scales = cut(model)
    wider = with_outputs(model, list(scales))
    names = [o.name for o in wider.graph.output]
    found = Steps()
    session = onnxruntime.open_session(pieces, optimize=False)
    for feed, outputs in zip(feeds, litert_engine.run(wider, iter(feeds)), strict=True):
        lite = dict(zip(names, outputs, strict=True))
        expected: list[NDArray[Any]] = session.run(None, {**feed, **{name: lite[name] for name in scales}})
        for (name, scale), tensor in zip(scales.items(), expected, strict=True):
            found.add(lite[name], tensor, scale)
    return found


@dataclass
class Found:
    """What one model came to."""

    literal: Steps = field(default_factory=Steps)
    fused: Steps = field(default_factory=Steps)
    floor: Steps = field(default_factory=Steps)
    by_output: dict[str, Steps] = field(default_factory=dict[str, Steps])
    right: list[tuple[bool, bool]] = field(default_factory=list[tuple[bool, bool]])


def compared(model: ModelProto, subject: Subject, samples: int) -> Found:
    """The model in LiteRT and in onnxruntime, on the first `samples` feeds; decisions on all."""
    scales = last_integers(model)
    wider = with_outputs(model, list(scales))
    names = [o.name for o in wider.graph.output]
    engines: list[Iterator[list[NDArray[Any]]]] = [
        litert_engine.run(wider, iter(subject.feeds)),
        onnxruntime.run(wider, subject.feeds, optimize=False),
        onnxruntime.run(wider, subject.feeds),
    ]
    found = Found(by_output={name: Steps() for name in scales})
    for index, (lite, literal, fused) in enumerate(zip(*engines, strict=True)):
        if subject.labels is not None:
            label = int(subject.labels[index])
            found.right.append((int(np.argmax(lite[0])) == label, int(np.argmax(literal[0])) == label))
        if index >= samples:
            continue
        for name, scale in scales.items():
            k = names.index(name)
            found.literal.add(lite[k], literal[k], scale)
            found.by_output[name].add(lite[k], literal[k], scale)
            found.fused.add(lite[k], fused[k], scale)
            found.floor.add(fused[k], literal[k], scale)
    return found


def measured(subject: Subject, samples: int, seconds: float, notes: list[str]) -> list[str]:
    """The line of one model."""
    result = graphopt.optimize(subject.source, target="tflite", calibration_data=subject.calibration)
    model = result.model
    floating = graphopt.optimize(subject.source, target="tflite", preset="float").model
    found = compared(model, subject, samples)
    first = subject.feeds[0]
    operators = litert_engine.write_for(model, {n: v.shape for n, v in first.items()}).operators
    integers = sum(layer.integer for layer in result.report.layers)
    cells = [subject.name, str(integers)]
    if found.literal.elements:
        steps = found.literal
        cells += [f"{steps.share(steps.near):.3f}", f"{steps.share(steps.same):.2f}", str(steps.most)]
        cells += [f"{found.fused.share(found.fused.near):.3f}", str(found.fused.most)]
        cells += [f"{found.floor.share(found.floor.near):.3f}"]
        alone = kernels(model, subject.feeds[:KERNEL_SAMPLES])
        cells += [f"{1e6 * (1 - alone.same / alone.elements):.1f}", str(alone.most)]
    else:
        cells += ["–"] * 8
    notes += [
        f"{subject.name}: '{name}': {steps.share(steps.near):.2f} % within one step, at most {steps.most}"
        for name, steps in found.by_output.items()
        if steps.share(steps.near) < 99
    ]
    accuracy = [100 * float(np.mean(r)) for r in zip(*found.right, strict=True)]
    if accuracy and abs(accuracy[0] - accuracy[1]) > 0.5:
        notes.append(f"{subject.name}: top-1 {accuracy[0]:.2f} % in LiteRT, {accuracy[1]:.2f} % as written")
    cells += [f"{accuracy[0]:.2f} / {accuracy[1]:.2f}" if accuracy else "–", str(operators.get("TRANSPOSE", 0))]
    runs = [litert_engine.run(m, itertools.repeat(first), threads=1) for m in (floating, model)]
    timed = measure_latency(runs[0], runs[1], engine="LiteRT", threads=1, budget=seconds)
    cells += [f"{1000 * timed.reference_seconds:.2f}", f"{1000 * timed.seconds:.2f}"]
    return [*cells, f"{timed.speedup:.2f} ({timed.speedup_low:.2f}–{timed.speedup_high:.2f})"]


def subject_of(name: str, samples: int, labelled: int) -> Subject:
    """A model of the zoo, or a file with noise for its samples."""
    if not name.endswith(".onnx"):
        entry = script("zoo").model(name)
        is_labelled = entry.spec["task"] == "classification"
        feeds, labels = entry.validation(max(samples, labelled) if is_labelled else samples)
        calibration = entry.calibration(CALIBRATION_LABELLED if is_labelled else UNLABELLED)
        return Subject(name, entry.path, calibration, feeds, labels)
    rng, path = np.random.default_rng(0), Path(name)
    graph = graphopt.load(path)
    feeds = [
        {
            t.name: rng.normal(size=[d if isinstance(d, int) else 1 for d in t.shape or ()]).astype(np.float32)
            for t in graph.inputs
        }
        for _ in range(16)
    ]
    return Subject(path.stem, path, feeds[:8], feeds[8:], None)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="models of the zoo (default: all), or files")
    parser.add_argument("--samples", type=int, default=50, metavar="N", help="samples to compare elements on")
    parser.add_argument("--labelled", type=int, default=400, metavar="N", help="samples of classifiers, for top-1")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="to time each pair of files for")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    table, notes = Table(COLUMNS, options.markdown), list[str]()
    table.head()
    for name in options.models or zoo_names():
        try:
            subject = subject_of(name, options.samples, options.labelled)
            table.row(measured(subject, options.samples, options.seconds, notes))
        except graphopt.GraphoptError as error:
            notes.append(f"{name}: {error}")
            table.row([name, "fails"])
    print("\nLess than 99 % within one step, more than 0.5 points apart, or failed:")
    print("\n".join(f"- {note}" for note in notes) or "- none")


if __name__ == "__main__":
    main()
