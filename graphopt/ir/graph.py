"""The graph that passes rewrite. It owns a gs.Graph; every change goes through the methods below.

Each mutator bumps `revision`, which is how the pass manager knows whether a pass changed anything. Nested graphs
(bodies of If, Loop, Scan) are `Graph`s of their own that share the model's names, revision and plan;
`walk()` visits them all. Node order is restored by `sort()`: mutators append, they don't search for a position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from graphopt.errors import InternalError
from graphopt.ir.elements import Body, Constant, Dim, Node, Tensor, Variable, is_fixed
from graphopt.ir.facts import ModelFacts
from graphopt.ir.order import sorted_nodes
from graphopt.quant.plan import QuantPlan


class Graph:
    """A graph of nodes over tensors, in SSA form: each variable has one producer or is a graph input."""

    def __init__(self, name: str = "graph", parent: Graph | None = None) -> None:
        self.parent = parent
        self.facts: ModelFacts = ModelFacts() if parent is None else parent.facts
        self.gs = Body(name=name)
        self.gs.graph = self
        self.doc_string = ""
        self.metadata: dict[str, str] = {}
        self.quantization_annotation: list[onnx.TensorAnnotation] = []
        self._constants: list[Constant] = []
        self._has_removed = False

    # ---- reading -------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The graph's name."""
        return self.gs.name

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return self.facts.opset_imports[""]

    @property
    def revision(self) -> int:
        """Number of changes made to the model so far."""
        return self.facts.revision

    @property
    def plan(self) -> QuantPlan:
        """The model's quantization plan."""
        return self.facts.plan

    @property
    def nodes(self) -> Sequence[Node]:
        """Nodes of this graph, nested graphs not included. Topologically sorted after `sort()`."""
        if self._has_removed:
            self.gs.nodes = [node for node in self.gs.nodes if node.scope is not None]
            self._has_removed = False
        return self.gs.nodes

    @property
    def inputs(self) -> Sequence[Variable]:
        """Graph inputs, without the initializers that are also listed as inputs (`Constant.is_input`)."""
        return self.gs.inputs

    @property
    def outputs(self) -> Sequence[Tensor]:
        """Graph outputs."""
        return self.gs.outputs

    @property
    def constants(self) -> list[Constant]:
        """Initializers of this graph that something reads (quantization annotations too), or that are inputs too."""
        annotated = {p.value for a in self.quantization_annotation for p in a.quant_parameter_tensor_names}
        return [c for c in self._constants if c.outputs or c.is_input or self.is_output(c) or c.name in annotated]

    def live_nodes(self) -> Iterator[Node]:
        """The nodes as they stand now, skipping those removed while the caller iterates; added ones aren't visited."""
        for node in list(self.nodes):
            if node.scope is not None:
                yield node

    def walk(self) -> Iterator[Graph]:
        """This graph, then every graph nested in it, outer before inner."""
        yield self
        for node in list(self.nodes):
            for _, body in node.bodies():
                yield from body.walk()

    def producer(self, tensor: Tensor) -> Node | None:
        """The node that computes `tensor`; None for graph inputs and constants."""
        return tensor.inputs[0] if tensor.inputs else None

    def consumers(self, tensor: Tensor) -> list[Node]:
        """Nodes that read `tensor`, each once, nodes of nested graphs included."""
        return list(dict.fromkeys(tensor.outputs))

    def uses(self, tensor: Tensor) -> list[tuple[Node, int]]:
        """(node, input index) of every use of `tensor` by a node."""
        return [(n, i) for n in self.consumers(tensor) for i, t in enumerate(n.inputs) if t is tensor]

    def is_output(self, tensor: Tensor) -> bool:
        """Whether `tensor` is an output of the model or of any nested graph."""
        return self.facts.output_uses[id(tensor)] > 0

    def sole_consumer(self, tensor: Tensor) -> Node | None:
        """The only node that reads `tensor`, once; None when there are more readers or it is a graph output."""
        if len(tensor.outputs) != 1 or self.is_output(tensor):
            return None
        return tensor.outputs[0]

    def tensors(self) -> dict[str, Tensor]:
        """Every named tensor of this graph by name: inputs, constants and node outputs, in graph order."""
        found: dict[str, Tensor] = {t.name: t for t in self.inputs}
        found.update((c.name, c) for c in self.constants)
        found.update((t.name, t) for n in self.nodes for t in n.outputs if not t.is_empty())
        return found

    def captured(self, node: Node) -> list[Tensor]:
        """Tensors of enclosing graphs that the bodies of `node` read, in first-use order."""
        found: dict[Tensor, None] = {}
        for _, body in node.bodies():
            inside = {id(g) for g in body.walk()}
            for scope in body.walk():
                reads: Iterable[Tensor] = (t for n in scope.nodes for t in n.inputs)
                for tensor in (*reads, *scope.outputs):
                    if not tensor.is_empty() and id(tensor.scope) not in inside:
                        found[tensor] = None
        return list(found)

    # ---- creating ------------------------------------------------------------------------------------------

    def fresh_name(self, hint: str) -> str:
        """A name that no tensor in the model has or had: `hint`, or `hint_1`, `hint_2`, … Reserves it."""
        return self._reserve(hint, self.facts.names)

    def fresh_node_name(self, hint: str) -> str:
        """A name that no node in the model has or had, likewise. `add_node` uses it by itself."""
        return self._reserve(hint, self.facts.node_names)

    def constant(self, values: NDArray[Any], hint: str) -> Constant:
        """A new initializer named after `hint`."""
        return self.adopt_constant(Constant(self.fresh_name(hint), np.asarray(values)))

    def adopt_constant(self, constant: Constant) -> Constant:
        """Take in a constant made elsewhere (the loader); its name must be reserved already."""
        constant.scope = self
        self._constants.append(constant)
        self._changed()
        return constant

    def variable(self, hint: str, dtype: np.dtype[Any] | None = None, shape: Sequence[Dim] | None = None) -> Variable:
        """A new tensor named after `hint`, with no producer yet."""
        variable = Variable(self.fresh_name(hint), dtype, shape)
        variable.scope = self
        return variable

    def variable_like(self, tensor: Tensor, hint: str | None = None) -> Variable:
        """A new tensor with the type and shape of `tensor`."""
        return self.variable(tensor.name if hint is None else hint, tensor.dtype, tensor.shape)

    def omitted(self) -> Variable:
        """A placeholder for an omitted optional input or output."""
        empty = Variable("")
        empty.scope = self
        return empty

    def add_node(
        self,
        op: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Variable],
        attrs: dict[str, Any] | None = None,
        *,
        hint: str | None = None,
        domain: str = "",
    ) -> Node:
        """Append a node; its name comes from `hint`, or from its first output. `sort()` puts it in its place."""
        name = self.fresh_node_name(hint or f"{outputs[0].name}_{op}")
        return self.adopt_node(Node(op, name, dict(attrs or {}), inputs, outputs, domain))

    def adopt_node(self, node: Node) -> Node:
        """Take in a node made elsewhere (the loader); its name must be reserved already."""
        node.scope = self
        self.gs.nodes.append(node)
        self._changed()
        return node

    # ---- changing ------------------------------------------------------------------------------------------

    def set_input(self, node: Node, index: int, tensor: Tensor) -> None:
        """Make `tensor` input `index` of `node`; missing positions before it become omitted inputs."""
        while len(node.inputs) <= index:
            node.inputs.append(self.omitted())
        if node.inputs[index] is not tensor:
            node.inputs[index] = tensor
            self._changed()

    def remove_input(self, node: Node, index: int) -> None:
        """Drop an optional input: the last is cut off, one before others becomes omitted."""
        if index >= len(node.inputs):
            return
        node.inputs[index] = self.omitted()
        while node.inputs and node.inputs[-1].is_empty():
            node.inputs.pop()
        self._changed()

    def set_attr(self, node: Node, name: str, value: Any) -> None:
        """Set an attribute; None deletes it."""
        old = node.attrs.get(name)
        # 1 == 1.0 in Python, but an int and a float attribute aren't the same thing.
        if old is value or (_kind(old) == _kind(value) and old == value):
            return
        if isinstance(old, Body):
            old.graph._detach()
        if value is None:
            del node.attrs[name]
        else:
            node.attrs[name] = value
        self._changed()

    def set_type(self, tensor: Variable, dtype: np.dtype[Any] | None, shape: Sequence[Dim] | None) -> None:
        """State element type and shape of a variable (not counted as a change of the model)."""
        tensor.dtype = dtype
        tensor.shape = None if shape is None else tuple(shape)
        self.facts.inference = None

    def set_values(self, constant: Constant, values: NDArray[Any]) -> None:
        """Change a constant in place, for all who read it."""
        constant.values = np.asarray(values)
        self._changed()

    def own_constant(self, node: Node, index: int) -> Constant:
        """Input `index` of `node`, made a constant that only this use reads (copied when it was shared).

        Raises:
            ValueError: the input isn't a constant whose value is fixed.
        """
        tensor = node.input(index)
        if not is_fixed(tensor):
            raise ValueError(f"input {index} of {node} is not a constant")
        if self.sole_consumer(tensor) is node and tensor.scope is node.scope:
            return tensor
        scope = node.scope or self
        copy = scope.adopt_constant(Constant(scope.fresh_name(tensor.name), tensor.unloaded))
        self.set_input(node, index, copy)
        return copy

    def can_replace_uses(self, old: Tensor, new: Tensor) -> bool:
        """Whether `replace_uses(old, new)` would succeed.

        A graph output keeps its name, so `new` must be able to take that name: not when `new` is a graph input,
        a constant, an output itself, or a tensor of another graph.
        """
        if old is new or not self.is_output(old):
            return True
        return (
            isinstance(new, Variable)
            and bool(new.inputs)
            and not self.is_output(new)
            and new.scope is old.scope
            and self.facts.output_uses[id(old)] == 1
            # A body may give a tensor of an enclosing graph as its own output; then the use isn't in old's graph.
            and any(t is old for t in old.scope.outputs)
        )

    def replace_uses(self, old: Tensor, new: Tensor) -> bool:
        """Make every reader of `old` read `new`, the graph output included. False, and no change, where that can't be.

        When `old` is a graph output, `new` takes over its name, so that the model's interface stays.
        """
        if old is new:
            return True
        if not self.can_replace_uses(old, new):
            return False
        for node, index in self.uses(old):
            node.inputs[index] = new
        if self.is_output(old):
            scope = old.scope
            scope.gs.outputs = [new if t is old else t for t in scope.gs.outputs]
            self.facts.output_uses[id(new)] += self.facts.output_uses.pop(id(old))
            old_name = old.name
            self._rename(old, self.fresh_name(f"{old_name}_before"))
            self._rename(new, old_name)
            if isinstance(new, Variable) and isinstance(old, Variable):
                new.extras = old.extras
                if new.dtype is None or new.shape is None:
                    self.set_type(new, old.dtype, old.shape)
        self._changed()
        return True

    def set_interface(self, inputs: Sequence[Variable], outputs: Sequence[Tensor]) -> None:
        """State the graph's inputs and outputs (the loader, and passes that change the model's interface)."""
        for tensor in self.gs.outputs:
            self.facts.output_uses[id(tensor)] -= 1
        self.gs.inputs = list(inputs)
        self.gs.outputs = list(outputs)
        for tensor in outputs:
            self.facts.output_uses[id(tensor)] += 1
        self._changed()

    def remove(self, node: Node) -> None:
        """Remove a node. Its outputs must have no readers left."""
        for tensor in node.outputs:
            if tensor.outputs or self.is_output(tensor):
                raise InternalError(f"{node} can't be removed: its output '{tensor.name}' is still read")
        for _, body in list(node.bodies()):
            body._detach()
        node.inputs.clear()
        node.outputs.clear()
        scope = node.scope
        if scope is not None:
            scope._has_removed = True
        node.scope = None
        self._changed()

    def remove_unused(self, candidates: Iterable[Node], keep: Callable[[Node], bool] | None = None) -> list[Node]:
        """Remove those of `candidates` whose results nobody reads, then what only they read; returns the removed.

        `keep` is asked before a node goes; one that it keeps keeps what it reads, too.
        """
        removed: list[Node] = []
        pending = list(candidates)
        while pending:
            node = pending.pop()
            if node.scope is None or any(t.outputs or self.is_output(t) for t in node.outputs):
                continue
            if keep is not None and keep(node):
                continue
            feeding = [*node.inputs, *self.captured(node)]
            self.remove(node)
            removed.append(node)
            pending.extend(t.inputs[0] for t in feeding if t.inputs)
        return removed

    def sort(self) -> None:
        """Put nodes in topological order, here and in nested graphs: nothing moves that needn't.

        Raises:
            InternalError: the nodes form a cycle.
        """
        for scope in self.walk():
            scope.gs.nodes = sorted_nodes(scope)

    def set_opset(self, version: int) -> None:
        """Declare the version of the standard operators (the caller guarantees that all nodes mean the same in it)."""
        if self.facts.opset_imports.get("") != version:
            self.facts.opset_imports[""] = version
            self._changed()

    # ---- inside --------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        self.facts.revision += 1
        self.facts.inference = None

    def _reserve(self, hint: str, taken: set[str]) -> str:
        name = hint
        while not name or name in taken:
            self.facts.name_counters[hint] += 1
            name = f"{hint}_{self.facts.name_counters[hint]}"
        taken.add(name)
        return name

    def _detach(self) -> None:
        """Cut a nested graph that goes away off the tensors of enclosing graphs that it reads."""
        for scope in list(self.walk()):
            scope.set_interface([], [])
            for node in scope.nodes:
                node.inputs.clear()
                node.scope = None
            scope.gs.nodes = []

    def _rename(self, tensor: Tensor, name: str) -> None:
        if tensor.name in self.plan.tensors:
            self.plan.tensors, self.plan.second = (
                {
                    (name if key == tensor.name else key): (replace(e, tensor=name) if key == tensor.name else e)
                    for key, e in entries.items()
                }
                for entries in (self.plan.tensors, self.plan.second)
            )
        tensor.name = name


def _kind(value: object) -> list[type]:
    """The type of an attribute value, then those of its items where it is a list."""
    return [type(item) for item in [value, *(cast("list[object]", value) if isinstance(value, list) else [])]]
