"""A quantized model cut into its layers: each reads, through its own Q/DQ, values that are fed from outside.

    … → t → Q → DQ → Conv(·, DQ(W_q)) → y → Q → …        becomes        input t → Q → DQ → Conv(·, DQ(W_q)) → isolated_y

Fed with the float model's values, each layer's error is its own alone: that of its grids and of its weights. One
model holds all layers, so that one run gives all errors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from graphopt.backends.layer_pairs import PairedLayer, PairedTensor
from graphopt.ir import Graph
from graphopt.ir.dtypes import onnx_dtype


@dataclass(frozen=True)
class CutModel:
    """The cut model.

    Attributes:
        model: one output for each layer and each rounded activation, in the order asked for; its inputs are named as
            the tensors of the quantized model that they stand for.
        feeds: input → the tensor of the float model that it is fed with.
    """

    model: ModelProto
    feeds: Mapping[str, str]


def cut(quantized: Graph, proto: ModelProto, items: Sequence[PairedLayer | PairedTensor]) -> CutModel:
    """Layers and rounded activations of `quantized`, which `proto` is the model of, apart from each other."""
    known = quantized.tensors()
    prefix = _unused_prefix(known, "isolated_")
    feeds = {name: source for item in items for name, source in item.reads.items()}
    renamed = {x.node.name: f"{prefix}{number}" for number, x in enumerate(items) if isinstance(x, PairedLayer)}
    outputs = [renamed[item.node.name] if isinstance(item, PairedLayer) else item.output for item in items]
    nodes = [_renamed(node, renamed[node.name]) if node.name in renamed else node for node in proto.graph.node]

    model = ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    graph = model.graph
    graph.name = proto.graph.name
    graph.node.extend(_needed(nodes, outputs, feeds))
    read = {name for node in graph.node for name in node.input}
    graph.initializer.extend(i for i in proto.graph.initializer if i.name in read)
    graph.sparse_initializer.extend(i for i in proto.graph.sparse_initializer if i.values.name in read)
    for name in feeds:
        dtype = known[name].dtype
        assert dtype is not None  # what reads a tensor of unknown type isn't paired
        graph.input.append(helper.make_tensor_value_info(name, onnx_dtype(dtype), None))
    graph.output.extend(ValueInfoProto(name=name) for name in outputs)
    return CutModel(model, feeds)


def _renamed(node: NodeProto, output: str) -> NodeProto:
    """A copy with other names for its results; readers of the old names get the values that are fed."""
    copy = NodeProto()
    copy.CopyFrom(node)
    for index, name in enumerate(node.output):
        copy.output[index] = f"{output}_{index}" if index and name else output if name else ""
    return copy


def _needed(nodes: Sequence[NodeProto], outputs: Sequence[str], fed: Collection[str]) -> list[NodeProto]:
    """The nodes that `outputs` need when the tensors `fed` are known, in their order."""
    producers = {name: node for node in nodes for name in node.output if name and name not in fed}
    wanted: set[int] = set()
    pending = list(outputs)
    while pending:
        node = producers.get(pending.pop())
        if node is not None and id(node) not in wanted:
            wanted.add(id(node))
            pending += [name for name in node.input if name]
    return [node for node in nodes if id(node) in wanted]


def _unused_prefix(names: Collection[str], prefix: str) -> str:
    while any(name.startswith(prefix) for name in names):
        prefix = f"_{prefix}"
    return prefix
