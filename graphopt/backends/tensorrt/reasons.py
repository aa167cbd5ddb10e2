"""Why a planned node isn't computed in 8 bits by TensorRT: what its Q/DQ model does that the engine doesn't take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto

from graphopt.backends.tensorrt.names import NodeNames
from graphopt.ir.ops import LINEAR
from graphopt.targets import Role
from graphopt.targets.tensorrt import TENSORRT

# Measured with 1.7.1.116, for SM80 to SM120: per-tensor and per-channel weights, any stride, with and without Q behind.
_FLOAT_ONLY = {"ConvTranspose": "TensorRT-RTX has no deconvolution in 8 bits"}
# Kernels of 2 × 2 to 28 × 28, strides 1, 2 and the kernel's: without the attribute, only odd squares with stride 1 were
# in 8 bits.
_POOL = "count_include_pad"
_MOVES = {op for op, rule in TENSORRT.rules.items() if rule.role is Role.SAME_SCALE}
_TRANSPARENT = _MOVES | {"QuantizeLinear", "DequantizeLinear"}
_UNSIGNED: dict[int, str] = {TensorProto.UINT8: "uint8", TensorProto.UINT16: "uint16"}


@dataclass(frozen=True)
class Reader:
    """Looks up how the inputs of a model's nodes are quantized."""

    names: NodeNames
    stored: dict[str, TensorProto]

    @staticmethod
    def of(model: ModelProto, names: NodeNames) -> Reader:
        """For a model whose nodes, nested ones too, have these names."""
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in names.nodes.values():
            if node.op_type == "Constant":
                stored.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        return Reader(names, stored)

    def dequantize(self, tensor: str) -> NodeProto | None:
        """The DequantizeLinear that makes the tensor, or None."""
        node = self._producer(tensor)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def quantizers(self, node: NodeProto) -> list[str]:
        """The engine's names of the QuantizeLinear nodes behind the node's inputs.

        Of two with only moves of values between them the engine keeps one.
        """
        found: list[str] = []
        for tensor in node.input:
            before = self.dequantize(tensor)
            while before is not None and before.op_type in _TRANSPARENT:
                if before.op_type == "QuantizeLinear":
                    found.append(self.names.by_output[before.output[0]])
                before = self._producer(before.input[0])
        return found

    def related(self, node: NodeProto) -> list[str]:
        """The engine's names of the node, and of the DequantizeLinear and QuantizeLinear nodes behind its inputs."""
        dequantizers = [name for name in node.input if self.dequantize(name) is not None]
        own = [self.names.by_output[tensor] for tensor in (*node.output[:1], *dequantizers)]
        return [*own, *self.quantizers(node)]

    def _producer(self, tensor: str) -> NodeProto | None:
        return self.names.nodes.get(self.names.by_output.get(tensor, ""))

    def weight_elements(self, node: NodeProto) -> int:
        """Elements of the stored integers behind the node's second input; 0 when there are none."""
        dequantize = self.dequantize(node.input[1]) if len(node.input) > 1 else None
        stored = self.stored.get(dequantize.input[0]) if dequantize is not None else None
        return 0 if stored is None else math.prod(stored.dims)

    def stored_elements(self, node: NodeProto) -> int:
        """Elements of the node's second input; 0 when it isn't stored."""
        stored = self.stored.get(node.input[1]) if len(node.input) > 1 else None
        return 0 if stored is None else math.prod(stored.dims)

    def unsigned(self, node: NodeProto) -> str | None:
        """What is wrong when an input of the node is quantized to unsigned integers; None when none is."""
        for name in node.input[:2]:
            dequantize = self.dequantize(name)
            if dequantize is None or len(dequantize.input) < 3 or dequantize.input[2] not in self.stored:
                continue
            type_ = _UNSIGNED.get(self.stored[dequantize.input[2]].data_type)
            if type_ is not None:
                return (
                    f"'{name}' is quantized to {type_}, which TensorRT reads as int8: all values in the upper half of "
                    "its range are lost; quantize it to int8 with zero point 0"
                )
        return None

    def float_reason(self, node: NodeProto) -> str:
        """Why a node whose kernel reads floats isn't computed in 8 bits."""
        if node.op_type in _FLOAT_ONLY:
            return _FLOAT_ONLY[node.op_type]
        for name in node.input[:2]:
            dequantize = self.dequantize(name)
            if dequantize is None:
                return f"its input '{name}' doesn't come out of DequantizeLinear"
            why = self._scale_reason(node, name, dequantize)
            if why is not None:
                return why
        if node.op_type == "AveragePool" and not any(a.name == _POOL and a.i for a in node.attribute):
            return f"{_POOL} is 0: TensorRT-RTX has most average pools in 8 bits only with {_POOL}=1"
        return "the engine chose a float kernel for it, for no reason that graphopt knows"

    def _scale_reason(self, node: NodeProto, name: str, dequantize: NodeProto) -> str | None:
        """What is wrong with the scale of an input."""
        scale = self.stored.get(dequantize.input[1])
        if scale is None:
            return f"the scale of its input '{name}' isn't a constant"
        stored = self.stored.get(dequantize.input[0])
        if stored is None and scale.dims:
            return (
                f"the scale of its input '{name}' has shape {list(scale.dims)}: TensorRT takes only a scalar, of rank "
                "0, for an activation"
            )
        if stored is None or not scale.dims or node.op_type not in LINEAR:
            return None
        rank = len(stored.dims)
        axis, wanted = _axis(dequantize) % rank, _output_axis(node, rank)
        if axis == wanted:
            return None
        return (
            f"the scales of its weight '{name}' run along axis {axis}: TensorRT wants one per output channel, along "
            f"axis {wanted}"
        )


def _axis(dequantize: NodeProto) -> int:
    return next((a.i for a in dequantize.attribute if a.name == "axis"), 1)


def _output_axis(node: NodeProto, rank: int) -> int:
    """The axis of the second operand along which a result has its columns, or channels."""
    if node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute):
        return 0
    return 1 if node.op_type == "ConvTranspose" else rank - 1
