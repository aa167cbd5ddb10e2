"""Both graphs of a pass as messages, and the message of a model that is mixed of them; see `rewrites.hybrid`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import onnx

from graphopt.analysis.rewrites.units import ADDED, CHANGED, REMOVED, WHOLE, Item
from graphopt.ir import Constant, Graph, to_proto


class Side:
    """One of the graphs: its nodes by name, and its initializers, which all belong to the main graph here."""

    def __init__(self, graph: Graph, store: Callable[[Constant], onnx.TensorProto]) -> None:
        self.model = to_proto(graph, store=store)
        self.nodes: dict[str, onnx.NodeProto] = {}
        self.dense: dict[str, onnx.TensorProto] = {}
        self.sparse: dict[str, onnx.SparseTensorProto] = {}
        self.types: dict[str, onnx.ValueInfoProto] = {}
        for body in _bodies(self.model.graph):
            self.nodes.update((node.name, node) for node in body.node)
            for tensor in body.initializer:
                self.dense[tensor.name] = onnx.TensorProto()
                self.dense[tensor.name].CopyFrom(tensor)
            for tensor in body.sparse_initializer:
                self.sparse[tensor.values.name] = onnx.SparseTensorProto()
                self.sparse[tensor.values.name].CopyFrom(tensor)
            self.types.update((info.name, info) for info in body.value_info)
            del body.initializer[:], body.sparse_initializer[:]

    def rename(self, names: Mapping[str, str]) -> None:
        """Give tensors other names, wherever they are named."""
        for body in _bodies(self.model.graph):
            for node in body.node:
                node.input[:] = [names.get(name, name) for name in node.input]
                node.output[:] = [names.get(name, name) for name in node.output]
            for info in (*body.input, *body.output, *body.value_info):
                info.name = names.get(info.name, info.name)
        for tensor in self.dense.values():
            tensor.name = names.get(tensor.name, tensor.name)
        for tensor in self.sparse.values():
            tensor.values.name = names.get(tensor.values.name, tensor.values.name)
        self.dense = {names.get(name, name): tensor for name, tensor in self.dense.items()}
        self.sparse = {names.get(name, name): tensor for name, tensor in self.sparse.items()}
        self.types = {names.get(name, name): info for name, info in self.types.items()}


class Mix:
    """One hybrid."""

    def __init__(
        self,
        before: Side,
        after: Side,
        twins: Mapping[str, str],
        moved: Collection[str],
        chosen: frozenset[Item],
    ) -> None:
        self.before, self.after, self.twins, self.moved, self.chosen = before, after, twins, moved, chosen
        self.back = {other: name for name, other in twins.items()}
        self.inputs: dict[str, list[int]] = defaultdict(list)
        for kind, name, index in chosen:
            if kind == CHANGED and index != WHOLE:
                self.inputs[name].append(index)

    def model(self, retyped: Collection[str]) -> onnx.ModelProto:
        """The model; types of tensors in `retyped` are left to inference."""
        ours, theirs = self.before.model, self.after.model
        mixed = onnx.ModelProto(ir_version=max(ours.ir_version, theirs.ir_version))
        versions = {entry.domain: entry.version for entry in ours.opset_import}
        for entry in theirs.opset_import:
            versions[entry.domain] = max(entry.version, versions.get(entry.domain, 0))
        for domain, version in versions.items():
            mixed.opset_import.add(domain=domain, version=version)
        functions = {(f.domain, f.name, f.overload): f for f in (*ours.functions, *theirs.functions)}
        mixed.functions.extend(functions.values())
        graph = mixed.graph
        graph.name = ours.graph.name
        graph.node.extend(self.nodes(ours.graph, theirs.graph))
        made = {name for body in _bodies(graph) for node in body.node for name in node.output}
        read = {name for body in _bodies(graph) for node in body.node for name in node.input}
        read |= {info.name for body in _bodies(graph) for info in body.output} | {i.name for i in ours.graph.output}
        dense, sparse = {**self.after.dense, **self.before.dense}, {**self.after.sparse, **self.before.sparse}
        wanted = read - made
        graph.initializer.extend(tensor for name, tensor in dense.items() if name in wanted)
        graph.sparse_initializer.extend(tensor for name, tensor in sparse.items() if name in wanted)
        stored = dense.keys() | sparse.keys()
        graph.input.extend(i for i in ours.graph.input if i.name in wanted or i.name not in stored)
        graph.output.extend(ours.graph.output)
        types = {**self.after.types, **self.before.types}
        graph.value_info.extend(info for name, info in types.items() if name in made and name not in retyped)
        return mixed

    def nodes(self, ours: onnx.GraphProto, theirs: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
        """The nodes of a graph of both models."""
        for node in ours.node:
            if (REMOVED, node.name, WHOLE) not in self.chosen and not self.is_moved(node.name):
                yield self.node(node)
        for node in theirs.node:
            name = self.back.get(node.name)
            if (ADDED, node.name, WHOLE) in self.chosen:
                yield node
            elif name is not None and self.is_moved(name):
                yield self.node(self.before.nodes[name])

    def is_moved(self, name: str) -> bool:
        """Whether a node is to stand in the body that it was moved to."""
        return name in self.moved and (CHANGED, name, WHOLE) in self.chosen

    def node(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """A node of the model in front of the pass, with what is chosen of its changes."""
        twin = self.after.nodes.get(self.twins.get(node.name, ""))
        if twin is None:
            return node
        mixed = onnx.NodeProto()
        if (CHANGED, node.name, WHOLE) in self.chosen:
            mixed.CopyFrom(twin)
            mixed.name = node.name
        else:
            mixed.CopyFrom(node)
            for index in self.inputs.get(node.name, ()):
                mixed.input[index] = twin.input[index]
        ours, theirs = _attributes(node), _attributes(twin)
        for attribute in mixed.attribute:
            if attribute.HasField("g") and attribute.name in ours and attribute.name in theirs:
                bodies = ours[attribute.name].g, theirs[attribute.name].g
                del attribute.g.node[:], attribute.g.value_info[:]
                attribute.g.node.extend(self.nodes(*bodies))
        return mixed


def _attributes(node: onnx.NodeProto) -> dict[str, onnx.AttributeProto]:
    return {attribute.name: attribute for attribute in node.attribute}


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for body in _own_bodies(node):
            yield from _bodies(body)


def _own_bodies(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    return (attribute.g for attribute in node.attribute if attribute.HasField("g"))
