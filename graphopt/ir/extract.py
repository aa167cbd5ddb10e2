"""A part of a model as a model of its own, between some tensors and others.

x → A → t → B → u → C → y        extract(t to u):        t → B → u
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx

from graphopt.ir.reads import reads


@dataclass(frozen=True)
class Border:
    """Between a part of a model and the rest, in the model's order.

    Attributes:
        inputs: tensors that the part reads from the rest or from outside; no initializers.
        outputs: tensors that it makes, and that the rest or somebody outside reads.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def border_of(model: onnx.ModelProto, nodes: Collection[str]) -> Border:
    """The border of the part of the main graph that these nodes are; bodies belong to the node that has them."""
    graph = model.graph
    inside = [node for node in graph.node if node.name in nodes]
    stored = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    made = {name for node in inside for name in node.output if name}
    read = dict.fromkeys(name for node in inside for name in reads(node))
    wanted = {name for node in graph.node if node.name not in nodes for name in reads(node)}
    wanted |= {info.name for info in graph.output}
    outputs = dict.fromkeys(name for node in inside for name in node.output if name in wanted)
    return Border(tuple(name for name in read if name not in made and name not in stored), tuple(outputs))


def extract(model: onnx.ModelProto, border: Border, types: Mapping[str, onnx.ValueInfoProto]) -> onnx.ModelProto | None:
    """What the outputs of the border need when its inputs are given.

    Args:
        model: nodes sorted, all values inside; it isn't changed.
        border: inputs that no node needs are left out.
        types: of its tensors, by name.

    Returns:
        The part; None where it needs more than the inputs, or a type isn't known.
    """
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output if name}
    stored = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    needed: set[int] = set()
    read: set[str] = set()
    pending = list(border.outputs)
    while pending:
        name = pending.pop()
        if name in read:
            continue
        read.add(name)
        node = producers.get(name)
        if name in border.inputs or (node is None and name in stored):
            continue
        if node is None:
            return None
        if id(node) not in needed:
            needed.add(id(node))
            pending += reads(node)
    inputs = [name for name in border.inputs if name in read]
    if not all(name in types for name in (*inputs, *border.outputs)):
        return None
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    part.graph.name = graph.name
    part.graph.node.extend(node for node in graph.node if id(node) in needed)
    part.graph.initializer.extend(t for t in graph.initializer if t.name in read)
    part.graph.sparse_initializer.extend(t for t in graph.sparse_initializer if t.values.name in read)
    part.graph.input.extend(types[name] for name in inputs)
    part.graph.output.extend(types[name] for name in border.outputs)
    made = {name for node in part.graph.node for name in node.output} - set(border.outputs)
    part.graph.value_info.extend(info for info in graph.value_info if info.name in made)
    return part


def known_types(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Types of the tensors of the main graph, as far as they are stated."""
    infos: Sequence[onnx.ValueInfoProto] = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    return {info.name: info for info in infos if info.type.WhichOneof("value") is not None}
