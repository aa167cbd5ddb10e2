"""Some nodes of a model, cut out to be run by themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto, helper

from graphopt.calibration.weights import Detached
from graphopt.ir.reads import reads


@dataclass(frozen=True)
class Piece:
    """The nodes, with the initializers that they read.

    Attributes:
        model: without declared inputs.
        inputs: tensors that it is fed with.
        outputs: in the order in which a run gives them.
    """

    model: Detached
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def fed_like(self, values: Mapping[str, Sequence[NDArray[Any]]]) -> Detached:
        """The model, its inputs declared as those values are; sizes only where all samples agree."""
        whole = self.model.model
        piece = ModelProto()
        piece.CopyFrom(whole)
        for name in self.inputs:
            arrays = values[name]
            kind = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
            shape = list(arrays[0].shape) if len({array.shape for array in arrays}) == 1 else [None] * arrays[0].ndim
            piece.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        return Detached(piece, self.model.weights)


def piece(model: Detached, outputs: Sequence[str], is_fed: Callable[[str], bool] = lambda _: False) -> Piece:
    """The nodes that some tensors need, up to what is fed; inputs of the model always are.

    Args:
        model: the model, all values inside or detached; it isn't changed.
        outputs: tensors that nodes make.
        is_fed: whether a tensor that a node makes is fed instead.
    """
    whole = model.model
    graph = whole.graph
    producers = {name: node for node in graph.node for name in node.output if name}
    initializers = {tensor.name for tensor in graph.initializer}
    initializers |= {tensor.values.name for tensor in graph.sparse_initializer}
    needed: set[int] = set()
    inputs: dict[str, None] = {}
    kept: set[str] = set()
    todo = list(outputs)
    while todo:
        name = todo.pop()
        if name in initializers:
            kept.add(name)
        elif name not in producers or is_fed(name):
            inputs[name] = None
        elif id(producers[name]) not in needed:
            needed.add(id(producers[name]))
            todo.extend(reads(producers[name]))
    found = ModelProto(ir_version=whole.ir_version, opset_import=whole.opset_import, functions=whole.functions)
    found.graph.name = graph.name
    found.graph.node.extend(node for node in graph.node if id(node) in needed)
    found.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in kept)
    found.graph.sparse_initializer.extend(t for t in graph.sparse_initializer if t.values.name in kept)
    found.graph.output.extend(ValueInfoProto(name=name) for name in outputs)
    weights = {name: values for name, values in model.weights.items() if name in kept}
    return Piece(Detached(found, weights), tuple(inputs), tuple(outputs))
