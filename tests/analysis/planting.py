"""Break a clean Q/DQ model in one place: edits of a ModelProto that tests of `lint` plant their violations with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


class Planted:
    """A model to be edited; every method changes it in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto.FromString(model.SerializeToString())
        del self.model.graph.value_info[:]  # types that the edits change
        self.count = 0

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        return list(self.model.graph.node)

    def find(self, op: str, position: int = 0) -> onnx.NodeProto:
        return [n for n in self.nodes if n.op_type == op][position]

    def producer(self, tensor: str) -> onnx.NodeProto:
        return next(n for n in self.nodes if tensor in n.output)

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        return [n for n in self.nodes if tensor in n.input]

    def value(self, name: str) -> NDArray[np.generic]:
        return numpy_helper.to_array(next(i for i in self.model.graph.initializer if i.name == name))

    def set_value(self, name: str, value: object, dtype: object = None) -> None:
        array = np.asarray(value, dtype or self.value(name).dtype)
        stored = next(i for i in self.model.graph.initializer if i.name == name)
        stored.CopyFrom(numpy_helper.from_array(array, name))

    def constant(self, value: object, dtype: object) -> str:
        self.count += 1
        name = f"planted_{self.count}"
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def set_opset(self, version: int, ir: int = 10) -> None:
        self.model.opset_import[0].version = version
        self.model.ir_version = ir

    def insert(self, before: onnx.NodeProto, *added: onnx.NodeProto) -> None:
        """Add nodes in front of one, so that the order stays topological."""
        nodes = self.nodes
        at = next(k for k, n in enumerate(nodes) if n is before or n.SerializeToString() == before.SerializeToString())
        nodes[at:at] = added
        kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del self.model.graph.node[:]
        self.model.graph.node.extend(kept)

    def redirect(self, reader: str, old: str, new: str) -> None:
        """Make the node that writes `reader` read `new` in place of `old`."""
        node = self.producer(reader)
        node.input[:] = [new if name == old else name for name in node.input]

    def pair(
        self, tensor: str, readers: Sequence[str], scale: float = 0.05, zero: int = 0, dtype: object = np.uint8
    ) -> str:
        """Q/DQ behind `tensor`, for the nodes that write `readers`; the name of the dequantized tensor."""
        params = [self.constant(scale, np.float32), self.constant(zero, dtype)]
        integers, real = f"{tensor}_q{self.count}", f"{tensor}_dq{self.count}"
        first = next(n for n in self.nodes if set(n.output) & set(readers))
        self.insert(
            first,
            helper.make_node("QuantizeLinear", [tensor, *params], [integers], f"{integers}_Q"),
            helper.make_node("DequantizeLinear", [integers, *params], [real], f"{real}_DQ"),
        )
        for reader in readers:
            self.redirect(reader, tensor, real)
        return real

    def unpair(self, tensor: str, reader: str) -> None:
        """Let the node that writes `reader` read `tensor` in float."""
        node = self.producer(reader)
        node.input[:] = [tensor if self.is_dequantized(name, tensor) else name for name in node.input]

    def is_dequantized(self, name: str, tensor: str) -> bool:
        made = [n for n in self.nodes if name in n.output and n.op_type == "DequantizeLinear"]
        return bool(made) and any(n.op_type == "QuantizeLinear" and n.input[0] == tensor for n in self.nodes
                                  if made[0].input[0] in n.output)  # fmt: skip

    def float_constant(self, dequantized: str) -> None:
        """Store the values of a DequantizeLinear of a constant as floats."""
        node = self.producer(dequantized)
        integers, scale = self.value(node.input[0]).astype(np.float64), self.value(node.input[1])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        shape = [1] * integers.ndim
        if scale.ndim:
            shape[axis] = -1
        name = self.constant(integers * scale.reshape(shape), np.float32)
        for reader in self.readers(dequantized):
            reader.input[:] = [name if i == dequantized else i for i in reader.input]
        self.model.graph.node.remove(node)
