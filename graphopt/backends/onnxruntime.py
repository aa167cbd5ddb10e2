"""Run a model in onnxruntime on the CPU, and say which of its nodes compute in integers.

What runs is not what the file says: onnxruntime rewrites the graph when a session is opened. `kernel_precision` and
`precision` read the rewritten graph. An integer kernel keeps the name of the node it was made from; where a fusion
gave it a name of its own, it is found by the tensor that it makes.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from graphopt.backends.precision import EnginePrecision, NodePrecision, Planned
from graphopt.calibration import Dataset
from graphopt.calibration.session import Optimize, open_session, run_session
from graphopt.ir.block_weights import INT4_WEIGHTS

__all__ = ["Kernel", "Optimize", "kernel_precision", "open_session", "precision", "run", "run_dataset"]

# Operators of the Conv and MatMul families, standard and onnxruntime's own (com.microsoft, com.microsoft.nchwc).
_INTEGER_KERNELS = {
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulInteger16",
    "MatMulIntegerToFloat",
    "QGemm",
    "QLinearConv",
    "QLinearConvTranspose",
    "QLinearMatMul",
}
_FLOAT_KERNELS = {
    "Conv",
    "ConvTranspose",
    "ConvTransposeWithDynamicPads",
    "FusedConv",
    "FusedGemm",
    "FusedMatMul",
    "FusedMatMulActivation",
    "Gemm",
    "GemmFastGelu",
    "MatMul",
    "MatMulNBits",  # weights in few bits, arithmetic in float
    "NhwcFusedConv",
    "TransposeMatMul",
}
LINEAR_KERNELS = frozenset(_INTEGER_KERNELS | _FLOAT_KERNELS)
_CONVERSIONS = {"QuantizeLinear", "DequantizeLinear"}
_INTEGERS = {int(TensorProto.UINT8): "uint8", int(TensorProto.INT8): "int8"}
_FLOATS = {
    int(TensorProto.FLOAT): "float32",
    int(TensorProto.FLOAT16): "float16",
    int(TensorProto.BFLOAT16): "bfloat16",
    int(TensorProto.DOUBLE): "float64",
}


@dataclass(frozen=True)
class Kernel:
    """One Conv, ConvTranspose, Gemm or MatMul as onnxruntime runs it.

    Attributes:
        name: the node's name in the optimized graph: that of the Conv, Gemm or MatMul it came from, except where
            onnxruntime puts several nodes into one of its own.
        op_type: onnxruntime's operator, such as QLinearConv.
        output: the first tensor that it makes.
        integer: whether it multiplies integers.
    """

    name: str
    op_type: str
    output: str
    integer: bool


def run_dataset(
    model: ModelProto | Path,
    dataset: Dataset,
    *,
    threads: int | None = None,
    optimize: Optimize = True,
    base_dir: Path | None = None,
) -> Iterator[list[NDArray[Any]]]:
    """All outputs of the model, in its order, for one sample after the other.

    Raises:
        UnsupportedError: onnxruntime can't load the model.
        CalibrationError: a sample can't be run.
    """
    session = open_session(model, threads=threads, optimize=optimize, base_dir=base_dir)
    for index, feed in enumerate(dataset):
        yield run_session(session, feed, f"{dataset.name}, sample {index}")


def run(
    model: ModelProto | Path,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    *,
    threads: int | None = None,
    optimize: Optimize = True,
) -> Iterator[list[NDArray[Any]]]:
    """All outputs of the model, in its order, for one feed after the other.

    Raises:
        UnsupportedError: onnxruntime can't load the model.
        CalibrationError: a feed can't be run.
    """
    session = open_session(model, threads=threads, optimize=optimize)
    for index, feed in enumerate(feeds):
        yield run_session(session, feed, f"sample {index}")


def kernel_precision(model: ModelProto | Path, *, base_dir: Path | None = None) -> list[Kernel]:
    """Every node of the Conv, Gemm and MatMul families in the graph that onnxruntime runs, in graph order.

    Nodes inside subgraphs are listed after the node that owns them.

    Raises:
        UnsupportedError: onnxruntime can't load the model.
    """
    return [
        Kernel(node.name, node.op_type, node.output[0], node.op_type in _INTEGER_KERNELS)
        for node in _nodes(_optimized(model, base_dir).graph)
        if node.op_type in LINEAR_KERNELS
    ]


def precision(model: ModelProto | Path, planned: Sequence[Planned]) -> EnginePrecision:
    """What onnxruntime makes of the planned nodes on this CPU.

    Raises:
        UnsupportedError: onnxruntime can't load the model.
    """
    kernels = _Kernels(_optimized(model, None))
    return EnginePrecision("onnxruntime", ort.__version__, "CPU", [kernels.find(p) for p in planned])


def _optimized(model: ModelProto | Path, base_dir: Path | None) -> ModelProto:
    """The graph that onnxruntime runs; large weights are left out."""
    with tempfile.TemporaryDirectory(prefix="graphopt-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "optimized.onnx"
        # Layouts change no precision, and without them fused nodes keep the name of the node they came from.
        open_session(model, optimized_path=path, base_dir=base_dir, layouts=False)
        return ModelProto.FromString(path.read_bytes())


class _Kernels:
    """The nodes of an optimized graph by what tells them apart."""

    def __init__(self, optimized: ModelProto) -> None:
        everything = list(_nodes(optimized.graph))
        nodes = [n for n in everything if n.op_type not in _CONVERSIONS]
        self.conversions = [n for n in everything if n.op_type in _CONVERSIONS]
        self.by_name = {n.name: n for n in reversed(nodes) if n.name}
        self.by_output = {name: n for n in nodes for name in n.output if name}
        # A fusion names its node after one of its parts: MatMul_1/MatMulAddFusion.
        self.by_part = {n.name.rstrip("/").rpartition("/")[0]: n for n in reversed(nodes)}
        self.types = {i.name: i for graph in _graphs(optimized.graph) for i in graph.initializer}

    def find(self, planned: Planned) -> NodePrecision:
        """The kernel that computes a planned node."""
        ways = (self.by_name.get(planned.name), self.by_output.get(planned.output), self.by_part.get(planned.name))
        node = next((n for n in ways if n is not None), None)
        if node is None:
            return NodePrecision(planned, "", "unknown", "onnxruntime has no node of this name or output any more")
        layer = f"{node.op_type} '{node.name}'"
        if node.op_type in _INTEGER_KERNELS or node.op_type.startswith("QLinear"):
            return NodePrecision(planned, layer, self.integer_type(node))
        if node.op_type == "MatMulNBits" and any(a.name == "bits" and a.i == 4 for a in node.attribute):
            return NodePrecision(planned, layer, INT4_WEIGHTS)
        return NodePrecision(planned, layer, self.float_type(node), self.mixed_integers(node))

    def mixed_integers(self, node: NodeProto) -> str:
        """What to say of a float node between int8 and uint8; empty for others.

        onnxruntime turns int8 activations into uint8, but not one that several nodes read (measured): then the node has
        neither the one nor the other kernel.
        """
        reading = [n for n in self.conversions if n.output[0] in node.input and n.input[0] not in self.types]
        read = {self.zero_type(n): n.output[0] for n in reading}
        written = {self.zero_type(n) for n in self.conversions if n.input[0] in node.output}
        if not {"int8", "uint8"} <= read.keys() | written or "int8" not in read:
            return ""
        kept = read["int8"].removesuffix("/duplicated")
        return (
            f"onnxruntime reads int8 activations as uint8, except '{kept}', which has several readers; a kernel takes "
            "one type: quantize activations to uint8"
        )

    def zero_type(self, conversion: NodeProto) -> str:
        """The 8-bit type of a QuantizeLinear or DequantizeLinear, from its zero point; empty for others."""
        zero_point = self.types.get(conversion.input[2]) if len(conversion.input) > 2 else None
        return "" if zero_point is None else _INTEGERS.get(zero_point.data_type, "")

    def integer_type(self, node: NodeProto) -> str:
        """The type of the activation that an integer kernel reads, from its zero point; u8 where that is left out."""
        for name in node.input:
            stored = self.types.get(name)
            if stored is not None and stored.data_type in _INTEGERS and math.prod(stored.dims) == 1:
                return _INTEGERS[stored.data_type]
        return "uint8"

    def float_type(self, node: NodeProto) -> str:
        """The type that a float kernel computes in, from its constants; float32 where it has none."""
        stored = [self.types[name].data_type for name in node.input if name in self.types]
        return next((_FLOATS[t] for t in stored if t in _FLOATS), "float32")


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for inner in _bodies(node):
            yield from _nodes(inner)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for inner in _bodies(node):
            yield from _graphs(inner)


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        yield from (g for g in (attribute.g, *attribute.graphs) if g.node)
