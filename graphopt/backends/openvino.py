"""Run a model in OpenVINO on the CPU, and say in which precision each of its layers runs.

The precisions come from the compiled graph itself (`get_runtime_model`), after all of OpenVINO's rewrites.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto

from graphopt.backends.precision import EnginePrecision, NodePrecision, Planned
from graphopt.errors import CalibrationError, UnsupportedError
from graphopt.ir.block_weights import INT4_WEIGHTS
from graphopt.ir.cancelling import check_cancelled
from graphopt.ir.read import read_source

if TYPE_CHECKING:
    from openvino import CompiledModel

# On CPUs with AMX or AVX512-BF16 OpenVINO runs float layers in bf16 by default. Asking for f32 makes reports and
# results the same on every CPU; integer layers are not affected.
_CONFIG = {"INFERENCE_PRECISION_HINT": "f32"}

# What Conv, ConvTranspose, Gemm and MatMul become.
LINEAR_LAYERS = frozenset({"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul"})
_TYPES = {
    "u8": "uint8",
    "i8": "int8",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    # What a layer with compressed weights says of itself; its kernel computes in float, or in 8 bits block by block.
    **dict.fromkeys(("u4", "i4"), INT4_WEIGHTS),
}
# OpenVINO's ONNX reader makes one node of a product and one of its bias, and gives the bias the node's name; its low
# precision passes split the scales off.
_PARTS = ("/WithoutBiases", "/DequantizationMultiply", "/DequantizationSubtract")
_MEANS = frozenset({"GlobalAveragePool", "ReduceMean"})
# With constants, OpenVINO puts them into the weights and bias of the layer before; the layer then has their name.
_MERGED = frozenset({"Add", "BatchNormalization", "Div", "Mul", "Sub"})


@dataclass(frozen=True)
class LayerPrecision:
    """One layer of the compiled graph.

    Attributes:
        name: OpenVINO's name of the layer.
        layer_type: such as Convolution, FullyConnected, Eltwise, Reorder, FakeQuantize.
        precision: what it computes in: "u8", "i8", "f32" …
        primitive: the kernel that was chosen, such as brgconv_avx512_I8.
        original_names: the nodes of the model that were fused into it.
        reads: name of the layer that makes its first input; empty without one.
    """

    name: str
    layer_type: str
    precision: str
    primitive: str
    original_names: tuple[str, ...]
    reads: str = ""

    @property
    def integer(self) -> bool:
        """Whether it computes with 8-bit integers."""
        return self.precision in ("u8", "i8")


def runtime_precision(model: ModelProto | Path) -> list[LayerPrecision]:
    """Every layer of the model as OpenVINO runs it on this CPU, in execution order.

    A model with external data, or beyond 2 GiB, is given as a path.

    Raises:
        UnsupportedError: OpenVINO is not installed, or can't compile the model.
    """
    layers: list[LayerPrecision] = []
    for op in compile_model(model).get_runtime_model().get_ordered_ops():
        facts = op.get_rt_info()
        original = facts["originalLayersNames"].astype(str)
        layers.append(
            LayerPrecision(
                name=op.get_friendly_name(),
                layer_type=facts["layerType"].astype(str),
                precision=facts["runtimePrecision"].astype(str),
                primitive=facts["primitiveType"].astype(str),
                original_names=tuple(name for name in original.split(",") if name),
                reads=op.input_value(0).get_node().get_friendly_name() if op.get_input_size() else "",
            )
        )
    return layers


def precision(model: ModelProto | Path, planned: Sequence[Planned]) -> EnginePrecision:
    """What OpenVINO makes of the planned nodes on this CPU.

    A node that was fused into a layer runs as that layer does.

    Raises:
        UnsupportedError: OpenVINO is not installed, or can't compile the model.
    """
    layers = _Layers(runtime_precision(model))
    found = [layers.find(p) for p in planned]
    if any(not node.layer for node in found):
        readers = merged_readers(read_source(model).model.graph)
        found = [node if node.layer else layers.find_merged(node.planned, readers) for node in found]
    return EnginePrecision("OpenVINO", version("openvino"), "CPU", found)


class _Layers:
    """The layers of a compiled model by the names of the nodes that they came from."""

    def __init__(self, layers: Sequence[LayerPrecision]) -> None:
        self.by_name = {layer.name: layer for layer in layers}
        self.of: dict[str, list[LayerPrecision]] = {}
        for layer in layers:
            for name in dict.fromkeys(whole_name(part) for part in layer.original_names):
                self.of.setdefault(name, []).append(layer)

    def find_merged(self, planned: Planned, readers: Mapping[str, NodeProto]) -> NodePrecision:
        """The layer of a linear node that lost its name when what follows it (a BatchNormalization) went into it."""
        tensor = planned.output
        while planned.linear and tensor in readers:
            reader = readers[tensor]
            for layer in (*self.of.get(reader.name, ()), *self.of.get(reader.output[0], ())):
                if layer.layer_type in LINEAR_LAYERS:
                    return self.named(planned, layer)
            tensor = reader.output[0]
        return self.find(planned)

    def find(self, planned: Planned) -> NodePrecision:
        """The layer that computes a planned node."""
        # A node without a name goes by that of its output.
        found = [*self.of.get(planned.name, ()), *self.of.get(planned.output, ())]
        if planned.linear:  # its bias may be a layer of its own
            found.sort(key=lambda layer: layer.layer_type not in LINEAR_LAYERS)
        if not found:
            return NodePrecision(planned, "", "unknown", "OpenVINO has no layer that came from it any more")
        # A mean of a Transpose becomes a mean over other axes, which has a name of OpenVINO's own, and a Reshape.
        before = self.by_name.get(found[0].reads)
        if found[0].layer_type == "Reshape" and planned.op_type in _MEANS and before and before.layer_type == "Reduce":
            return self.named(planned, before)
        return self.named(planned, found[0])

    @staticmethod
    def named(planned: Planned, layer: LayerPrecision) -> NodePrecision:
        """What a layer makes of a node."""
        kind = f"{layer.layer_type} '{whole_name(layer.name)}'"
        own = (planned.name, planned.output)
        together = [name for name in dict.fromkeys(map(whole_name, layer.original_names)) if name not in own]
        reason = "" if layer.integer or not together else f"it runs in one layer with {_quoted(together)}"
        return NodePrecision(planned, kind, _TYPES.get(layer.precision, layer.precision), reason)


def merged_readers(graph: GraphProto) -> dict[str, NodeProto]:
    """Tensor → the only node that reads it, where that one computes with constants besides."""
    stored = {tensor.name for tensor in graph.initializer}
    stored.update(node.output[0] for node in graph.node if node.op_type == "Constant")
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return {
        name: nodes[0]
        for name, nodes in readers.items()
        if len(nodes) == 1 and nodes[0].op_type in _MERGED and all(i == name or i in stored for i in nodes[0].input)
    }


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def whole_name(name: str) -> str:
    """The name of the node that a part was made from."""
    while (shorter := next((name.removesuffix(p) for p in _PARTS if name.endswith(p)), name)) != name:
        name = shorter
    return name


def run(
    model: ModelProto | Path, feeds: Iterable[Mapping[str, NDArray[Any]]], *, threads: int | None = None
) -> Iterator[list[NDArray[Any]]]:
    """All outputs of the model, in its order, for one feed after the other; `threads`: None takes the cores.

    Raises:
        UnsupportedError: OpenVINO is not installed, or can't compile the model.
        CalibrationError: a feed can't be run.
    """
    compiled = compile_model(model, threads)
    for index, feed in enumerate(feeds):
        check_cancelled()
        try:
            results = compiled(dict(feed))
        except RuntimeError as error:
            raise CalibrationError(f"sample {index}: OpenVINO failed: {_reason(error)}") from error
        # OpenVINO reuses its output buffers for the next run.
        yield [np.array(results[output]) for output in compiled.outputs]


def compile_model(
    model: ModelProto | Path, threads: int | None = None, *, config: Mapping[str, str] | None = None
) -> CompiledModel:
    """The model compiled for this CPU; `config`: properties of OpenVINO, besides those that all models get.

    Raises:
        UnsupportedError: OpenVINO is not installed, or can't compile the model.
    """
    try:
        import openvino
    except ImportError as error:
        raise UnsupportedError("OpenVINO is not installed: pip install 'graphopt[openvino]'") from error
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        core = openvino.Core()
        read = core.read_model(source)  # pyright: ignore[reportUnknownMemberType]  # its stub names no Tensor
        chosen = {} if threads is None else {"INFERENCE_NUM_THREADS": str(threads)}
        return core.compile_model(read, "CPU", {**_CONFIG, **chosen, **(config or {})})
    except RuntimeError as error:
        raise UnsupportedError(f"OpenVINO can't compile the model: {_reason(error)}") from error


def _reason(error: RuntimeError) -> str:
    """OpenVINO's message on one line, without the places in its source."""
    lines = [line.strip().removeprefix("-- ") for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from ", "Check '", "To facilitate"))]
    return " ".join(told) or type(error).__name__
