"""Run a model in onnxruntime on the CPU, and say which of its matrix kernels compute in integers.

What runs is not what the file says: onnxruntime rewrites the graph when a session is opened. `kernel_precision`
reads the rewritten graph.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto

from graphopt.calibration import Dataset
from graphopt.calibration.session import Optimize, open_session, run_session

__all__ = ["Kernel", "Optimize", "kernel_precision", "open_session", "run_dataset"]

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


def kernel_precision(model: ModelProto | Path, *, base_dir: Path | None = None) -> list[Kernel]:
    """Every node of the Conv, Gemm and MatMul families in the graph that onnxruntime runs, in graph order.

    Nodes inside subgraphs are listed after the node that owns them.

    Raises:
        UnsupportedError: onnxruntime can't load the model.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "optimized.onnx"
        # Layouts change no precision, and without them fused nodes keep the name of the node they came from.
        open_session(model, optimized_path=path, base_dir=base_dir, layouts=False)
        optimized = ModelProto.FromString(path.read_bytes())
    return [
        Kernel(node.name, node.op_type, node.output[0], node.op_type in _INTEGER_KERNELS)
        for node in _nodes(optimized.graph)
        if node.op_type in _INTEGER_KERNELS | _FLOAT_KERNELS
    ]


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
