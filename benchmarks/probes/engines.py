"""Run a probe in an engine, and say what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from benchmarks.probes.catalogue import Probe
from benchmarks.probes.net import Net
from graphopt.backends import litert, onnxruntime, open_session, openvino, tensorrt
from graphopt.backends.litert_writer import write_tflite
from graphopt.backends.precision import EnginePrecision, NodePrecision
from graphopt.errors import GraphoptError, UnsupportedError
from graphopt.targets import find_target

# Rounding half away from zero or to even, and sums in another order, move a result by a step; behind a second
# convolution by two. Beyond that an engine computed something else, unless it left out a rounding: then it is nearer
# to the unrounded result than the reference is.
TOLERANCE = 2.5


@dataclass(frozen=True)
class Verdict:
    """What an engine made of a probe.

    Attributes:
        precision: "int8" when every operator asked about runs in 8 bits, "float" when none does, "mixed", "folded" when
            nothing is left of them, "refused" when the engine can't run the model.
        layers: what they became: "QLinearConv", "Convolution: float32", "–" for what is folded into another one.
        steps: the largest difference to the reference, in steps of the last scale; None where the engine can't run.
        wrong: whether the result isn't what the model says.
        message: why it was refused.
    """

    precision: str
    layers: tuple[str, ...] = ()
    steps: float | None = None
    wrong: bool = False
    message: str = ""

    def __str__(self) -> str:
        text = f"{self.precision} **WRONG** ({self.steps:.0f} steps)" if self.wrong else self.precision
        return f"{text}: {self.message}" if self.message else text


Inspect = Callable[[Net], tuple[EnginePrecision, Sequence[NDArray[Any]] | None]]


def _onnxruntime(net: Net) -> tuple[EnginePrecision, Sequence[NDArray[Any]]]:
    model = net.model()
    found = onnxruntime.precision(model, net.subjects)
    stored = _stored_types(model)
    nodes = [
        replace(node, precision=stored.get(node.planned.output, node.precision)) if _is_standard(node) else node
        for node in found.nodes
    ]
    return replace(found, nodes=nodes), next(onnxruntime.run(model, [net.feed()]))


def _is_standard(node: NodePrecision) -> bool:
    """Whether onnxruntime runs a standard operator, whose precision is that of its tensors: MaxPool, Transpose …"""
    return bool(node.layer) and node.layer.split(" ")[0] == node.planned.op_type


def _stored_types(model: ModelProto) -> dict[str, str]:
    """Output of a node → the type of what the node of its name reads in the graph that onnxruntime runs."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(model, optimized_path=path, layouts=False)
        graph = ModelProto.FromString(path.read_bytes()).graph
    types = {i.name: i.data_type for i in graph.initializer}
    types.update((v.name, v.type.tensor_type.elem_type) for v in (*graph.value_info, *graph.input, *graph.output))
    made = {n.name: n.output[0] for n in model.graph.node}
    names = {int(TensorProto.UINT8): "uint8", int(TensorProto.INT8): "int8"}
    return {
        made[n.name]: names[types[n.input[0]]] for n in graph.node if n.name in made and types.get(n.input[0]) in names
    }


def _openvino(net: Net) -> tuple[EnginePrecision, Sequence[NDArray[Any]]]:
    model = net.model()
    return openvino.precision(model, net.subjects), next(openvino.run(model, [net.feed()]))


def _litert(net: Net) -> tuple[EnginePrecision, Sequence[NDArray[Any]]]:
    model = net.model()
    # ONNX's axis order at the edges, so that feeds and results compare as they are.
    tflite = write_tflite(model, keep_layout=True).content
    outputs = next(litert.run(tflite, [net.feed()]))
    return litert.precision(tflite, net.subjects, model), [outputs[name] for name in net.outputs]


def _tensorrt(net: Net) -> tuple[EnginePrecision, None]:
    """Built for a GPU that needn't be there, so nothing can be run."""
    shapes = {name: values.shape for name, values in net.feed().items()}
    found = tensorrt.precision(net.model(), net.subjects, shapes=shapes)
    if found.nodes and all(node.precision == "unknown" for node in found.nodes) and found.notes:
        raise UnsupportedError(found.notes[0])
    return found, None


# Engine, by the name of its target → how to ask it.
ENGINES: dict[str, Inspect] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tflite": _litert,
    "tensorrt": _tensorrt,
}


def judge(probe: Probe, engine: str) -> Verdict:
    """Ask an engine; its target says which schemes it wants."""
    net = probe.net(find_target(engine))
    try:
        found, outputs = ENGINES[engine](net)
    except GraphoptError as error:
        return Verdict("refused", message=" ".join(str(error).split()))
    steps = None if outputs is None else _steps(net, outputs, net.expected())
    wrong = False
    if outputs is not None and steps is not None and not steps <= TOLERANCE:
        wrong = not _steps(net, outputs, net.unrounded()) <= _steps(net, net.expected(), net.unrounded()) + TOLERANCE
    return Verdict(_summary(found.nodes), tuple(map(_layer, found.nodes)), steps, wrong)


def _summary(nodes: Sequence[NodePrecision]) -> str:
    present = [node.integer for node in nodes if not _is_gone(node)]
    if not present:
        return "folded"
    return "int8" if all(present) else "mixed" if any(present) else "float"


def _is_gone(node: NodePrecision) -> bool:
    """Whether the engine has folded the operator into another one; a matrix product is never gone for good."""
    return not node.layer and not node.planned.linear


def _layer(node: NodePrecision) -> str:
    kind = node.layer.split(" ")[0]
    return "–" if _is_gone(node) else kind if node.integer else f"{kind}: {node.precision}"


def _steps(net: Net, outputs: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    """The largest difference, in steps of the last scale; infinite when the shapes differ."""
    if any(a.shape != b.shape for a, b in zip(outputs, expected, strict=True)):
        return float("inf")
    return max(float(np.abs(a - b).max()) / net.step for a, b in zip(outputs, expected, strict=True))
