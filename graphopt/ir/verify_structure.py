"""Structure: names, single assignment, definitions, links between nodes and tensors, order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from graphopt.ir.elements import Node, Tensor
from graphopt.ir.graph import Graph
from graphopt.ir.violation import Violation


def structure_violations(graph: Graph) -> list[Violation]:
    """Violations of the rules that everything else takes for granted: export, inference, sorting."""
    checker = _Structure()
    checker.scope(graph, frozenset())
    checker.uses_agree()
    checker.outputs_agree(graph)
    return checker.found


@dataclass
class _Structure:
    found: list[Violation] = field(default_factory=list[Violation])
    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    node_names: set[str] = field(default_factory=set[str])
    # What may be read at this point of the walk, by id: inputs, constants and outputs of nodes that came before.
    defined: set[int] = field(default_factory=set[int])
    # Uses found while walking, to hold the tensors' own lists against; keyed by id.
    uses: dict[int, tuple[Tensor, list[Node]]] = field(default_factory=dict[int, tuple[Tensor, list[Node]]])

    def report(self, rule: str, where: str, message: str) -> None:
        self.found.append(Violation(rule, where, message))

    def scope(self, graph: Graph, outside: frozenset[int]) -> None:
        around = outside | {id(graph)}
        for tensor in (*graph.inputs, *graph.constants):
            self.define(tensor, graph)
            if tensor.inputs:
                self.report(
                    "ssa", tensor.name, f"tensor '{tensor.name}' is an input or a constant, but a node makes it"
                )
        for node in graph.nodes:
            self.node(node, graph, around)
        for tensor in graph.outputs:
            if id(tensor) not in self.defined:
                self.report("defined", tensor.name, f"nothing defines '{tensor.name}', an output of '{graph.name}'")

    def node(self, node: Node, graph: Graph, around: frozenset[int]) -> None:
        if node.scope is not graph:
            self.report("links", node.name, f"{node} is in graph '{graph.name}' but thinks it isn't")
        if not node.name or node.name in self.node_names:
            self.report("names", node.name, f"there is more than one node named '{node.name}', or it has no name")
        self.node_names.add(node.name)
        for tensor in node.inputs:
            if tensor.is_empty():
                continue
            self.uses.setdefault(id(tensor), (tensor, []))[1].append(node)
            if id(tensor) not in self.defined or id(tensor.scope) not in around:
                self.undefined(node, tensor, around)
        for _, body in node.bodies():
            if body.parent is not graph:
                self.report("links", node.name, f"a body of {node} belongs to another graph")
            self.scope(body, around)
        for tensor in node.outputs:
            if tensor.is_empty():
                continue
            if len(tensor.inputs) != 1 or tensor.inputs[0] is not node:
                makers = ", ".join(str(n) for n in tensor.inputs) or "nothing"
                self.report("ssa", tensor.name, f"tensor '{tensor.name}' is made by {node}, but also by {makers}")
            self.define(tensor, graph)

    def define(self, tensor: Tensor, graph: Graph) -> None:
        known = self.tensors.setdefault(tensor.name, tensor)
        if known is not tensor:
            self.report("names", tensor.name, f"there is more than one tensor named '{tensor.name}'")
        elif id(tensor) in self.defined:
            self.report("ssa", tensor.name, f"tensor '{tensor.name}' is defined twice")
        if tensor.scope is not graph:
            self.report("links", tensor.name, f"tensor '{tensor.name}' is in graph '{graph.name}' but thinks it isn't")
        self.defined.add(id(tensor))

    def undefined(self, node: Node, tensor: Tensor, around: frozenset[int]) -> None:
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is not None and producer.scope is None:
            self.report("defined", node.name, f"{node} reads '{tensor.name}', whose producer {producer} was removed")
        elif producer is not None and id(producer.scope) in around and id(tensor) not in self.defined:
            kind = "on a cycle with" if _reaches(node, producer) else "placed before"
            self.report("order", node.name, f"{node} reads '{tensor.name}' but is {kind} its producer {producer}")
        else:
            self.report("defined", node.name, f"{node} reads '{tensor.name}', which nothing around it defines")

    def uses_agree(self) -> None:
        """Each tensor's list of readers holds exactly the uses that there are."""
        for tensor in self.tensors.values():
            uses = self.uses.get(id(tensor), (tensor, []))[1]
            if tensor.outputs != uses and sorted(map(id, tensor.outputs)) != sorted(map(id, uses)):
                self.report(
                    "links",
                    tensor.name,
                    f"tensor '{tensor.name}' lists {len(tensor.outputs)} readers ({_names(tensor.outputs)}), "
                    f"but {len(uses)} read it ({_names(uses)})",
                )

    def outputs_agree(self, graph: Graph) -> None:
        """The model's count of output uses is that of the graphs' outputs."""
        counts: dict[int, int] = {}
        for scope in graph.walk():
            for tensor in scope.outputs:
                counts[id(tensor)] = counts.get(id(tensor), 0) + 1
        stated = {key: count for key, count in graph.facts.output_uses.items() if count}
        if stated != counts:
            self.report("links", graph.name, "the record of which tensors are graph outputs is out of date")


def _reaches(start: Node, goal: Node) -> bool:
    """Whether a path of tensors leads from `start` to `goal`."""
    seen = {start}
    stack = [start]
    while stack:
        for reader in _readers(stack.pop()):
            if reader is goal:
                return True
            if reader not in seen:
                seen.add(reader)
                stack.append(reader)
    return False


def _readers(node: Node) -> Iterator[Node]:
    for tensor in node.outputs:
        yield from tensor.outputs


def _names(nodes: Iterable[Node]) -> str:
    return ", ".join(str(n) for n in nodes) or "none"
