"""The words in which every engine's module says what it made of a Q/DQ model: node by node, planned and real.

What is planned is read from the model itself, so that any tool's Q/DQ model can be verified: a node is planned in 8
bits when all that its rule wants quantized comes out of DequantizeLinear, and in a 16-bit type when it has that type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

INTEGER = frozenset({"int8", "uint8"})


@dataclass(frozen=True)
class Planned:
    """A node whose precision the model decides: 8 bits, by Q/DQ; or a type, where it has more than one float type.

    Attributes:
        name: the node's name.
        op_type: its operator.
        output: its first output.
        linear: whether it is a matrix product (Conv, ConvTranspose, Gemm, MatMul), where the time goes.
        precision: what it should be computed in: "int8" for 8 bits, signed or not; "float16", "bfloat16", "float32";
            "int4-weights" for float arithmetic by a kernel that reads weights in blocks of 4 bits.
    """

    name: str
    op_type: str
    output: str
    linear: bool
    precision: str = "int8"

    @property
    def in_8_bits(self) -> bool:
        """Whether it should run in 8 bits."""
        return self.precision in INTEGER


@dataclass(frozen=True)
class NodePrecision:
    """What an engine made of one planned node.

    Attributes:
        planned: the node.
        layer: the engine's name of the layer or kernel that computes it, with its kind: "QLinearConv 'conv1'";
            empty when the engine has no such layer any more (folded, or merged into another one).
        precision: what the layer computes in: "int8", "uint8", "float32", "float16", "bfloat16", "int4-weights";
            "unknown" only together with a reason.
        reason: where it isn't the planned one: which rule of the target, which neighbour, or what the engine said.
    """

    planned: Planned
    layer: str
    precision: str
    reason: str = ""

    @property
    def integer(self) -> bool:
        """Whether it runs in 8 bits."""
        return self.precision in INTEGER

    @property
    def as_planned(self) -> bool:
        """Whether it runs in what was planned."""
        return self.integer if self.planned.in_8_bits else self.precision == self.planned.precision


@dataclass(frozen=True)
class EnginePrecision:
    """What an engine made of a model.

    Attributes:
        engine: as its makers write it: "onnxruntime", "OpenVINO", "LiteRT", "TensorRT-RTX".
        version: of the engine that was used.
        device: what it was built for: "CPU", "SM86".
        nodes: of every planned node, in the model's order.
        notes: what the user should know besides: warnings of the engine, float layers between integer ones.
    """

    engine: str
    version: str
    device: str
    nodes: Sequence[NodePrecision]
    notes: Sequence[str] = ()

    @property
    def is_mixed(self) -> bool:
        """Whether some nodes were planned in something else than 8 bits."""
        return any(not node.planned.in_8_bits for node in self.nodes)

    @property
    def missed(self) -> list[NodePrecision]:
        """Planned nodes that don't run in what was planned."""
        return [node for node in self.nodes if not node.as_planned]
