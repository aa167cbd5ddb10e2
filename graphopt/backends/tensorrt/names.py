"""Names of our own for a model's nodes, so that what the engine says can be told from what the user wrote.

Nodes of a file may have no name, or one name for several, or quotes and brackets in it. The engine's parser and
its plan speak of nodes by name only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto

# The parts of a nested node's number are joined by "x": the plan turns other signs into "_".
_TOKEN = re.compile(r"gonode(\d+(?:x\d+)*)_")


@dataclass(frozen=True)
class NodeNames:
    """A model's nodes by the names that they have for the engine.

    Attributes:
        nodes: our name → the node as it was, in the model's order, nested ones after their owner.
        by_output: output of a node → our name of the node.
    """

    nodes: dict[str, NodeProto]
    by_output: dict[str, str]

    def original(self, name: str) -> str:
        """What the user calls the node: its name, or that of its first output."""
        node = self.nodes[name]
        return node.name or next((o for o in node.output if o), name)

    def restore(self, text: str) -> str:
        """The text with the users' names in place of ours."""
        return _TOKEN.sub(lambda m: self.original(m[0]) if m[0] in self.nodes else m[0], text)


def rename_nodes(model: ModelProto) -> tuple[ModelProto, NodeNames]:
    """A copy of the model in which each node has a unique, simple name; weights in it are copied too."""
    renamed = ModelProto()
    renamed.CopyFrom(model)
    originals: dict[str, NodeProto] = {}
    for (number, node), (_, original) in zip(_numbered(renamed.graph, ()), _numbered(model.graph, ()), strict=True):
        node.name = f"gonode{'x'.join(map(str, number))}_"
        originals[node.name] = original
    by_output = {output: name for name, node in originals.items() for output in node.output if output}
    return renamed, NodeNames(originals, by_output)


def _numbered(graph: GraphProto, above: Sequence[int]) -> Iterator[tuple[tuple[int, ...], NodeProto]]:
    for index, node in enumerate(graph.node):
        number = (*above, index)
        yield number, node
        nested = 0
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _numbered(inner, (*number, nested))
                nested += 1
