"""Nodes beside a model's own that tell what its sums come to on the way, and how small its values are.

y = Conv(x, w, b)      beside it      Conv(|x|, |w|, |b|)            Σ |w·x| of each result
y = Log(x)             beside it      min |x| over x ≠ 0, and how many of these are below a limit

onnxruntime folds the magnitudes of weights; each probe takes what its node does, and memory for one result more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from graphopt.calibration.weights import Detached
from graphopt.ir import Node

_FLOAT32 = np.dtype(np.float32)


@dataclass
class Probes:
    """Adds probes to a model, each a tensor to observe.

    Attributes:
        model: of the graph that the nodes are from; it is added to.
        prefix: of names that it doesn't have.
    """

    model: Detached
    prefix: str
    _magnitudes: dict[str, str] = field(default_factory=dict[str, str])
    _made: int = 0

    def sums(self, node: Node) -> str:
        """The tensor with what the magnitudes come to that a node adds up."""
        proto = next(n for n in self.model.model.graph.node if n.output[0] == node.outputs[0].name)
        copy = NodeProto()
        copy.CopyFrom(proto)
        for index, tensor in node.present_inputs():
            if tensor.dtype == _FLOAT32:
                copy.input[index] = self._magnitude(tensor.name)
        copy.output[:] = [self._name() for _ in copy.output]
        copy.name = copy.output[0]
        self.model.model.graph.node.append(copy)
        return copy.output[0]

    def finite(self, tensor: str) -> str:
        """The tensor with 0 in place of infinite values (opset 10)."""
        return self._add("Where", self._add("IsInf", tensor), self._constant(0.0), tensor)

    def smallness(self, tensor: str, limit: float) -> tuple[str, str]:
        """Two tensors of one value: the smallest magnitude but 0, and the share of those that is below `limit`."""
        # In operators that opset 7 has.
        magnitude = self._magnitude(tensor)
        is_some = self._add("Greater", magnitude, self._constant(0.0))
        is_small = self._add("And", is_some, self._add("Less", magnitude, self._constant(limit)))
        some, small, none = (self._number(flags) for flags in (is_some, is_small, self._add("Not", is_some)))
        # For zeros the largest number is put in.
        instead = self._add("Mul", none, self._constant(float(np.finfo(np.float32).max)))
        least = self._add("ReduceMin", self._add("Add", magnitude, instead))
        share, among = self._add("ReduceMean", small), self._add("ReduceMean", some)
        nothing = self._constant(float(np.finfo(np.float32).tiny))
        return least, self._add("Div", share, self._add("Add", among, nothing))

    def _number(self, flags: str) -> str:
        return self._add("Cast", flags, to=TensorProto.FLOAT)

    def _magnitude(self, tensor: str) -> str:
        if tensor not in self._magnitudes:
            self._magnitudes[tensor] = self._add("Abs", tensor)
        return self._magnitudes[tensor]

    def _constant(self, value: float) -> str:
        name = self._name()
        self.model.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def _add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = self._name()
        self.model.model.graph.node.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def _name(self) -> str:
        self._made += 1
        return f"{self.prefix}{self._made}"
