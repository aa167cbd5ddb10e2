"""Where a target wants quantized values: the uses of each tensor that read integers, and who shares a scale.

The walk goes from the outputs backwards. A linear operator always wants its activation quantized. Operators that
move values (MaxPool, Reshape, Concat …) or combine them (a residual Add, a pool) are quantized when what they feed is
wanted quantized: then an integer region reaches from one linear operator to the next, and float heads (a Concat of
boxes and scores, a Softmax) are never forced onto a grid that nobody asked for. A target that wants whole integer
regions gets a second walk, forwards, which quantizes what reads quantized values already.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
from networkx.utils import UnionFind

from graphopt.ir import Constant, Graph, Node, Tensor, Variable
from graphopt.ir.conditions import unmet
from graphopt.ir.linear import Linear, linear_producer, linear_result, linear_view
from graphopt.ir.ops import ELEMENTWISE_UNARY, LINEAR, is_never_negative
from graphopt.quant import Scheme
from graphopt.targets import OpRule, Role, Target

FLOAT32 = np.dtype(np.float32)
# The first opset whose QuantizeLinear and DequantizeLinear take a scale per channel.
MIN_OPSET = 13


def _no_unions() -> UnionFind[Tensor]:
    return UnionFind()


@dataclass
class Placement:
    """What `place` found. Uses are (node, input index)."""

    uses: dict[Tensor, dict[tuple[Node, int], None]] = field(default_factory=dict[Tensor, dict[tuple[Node, int], None]])
    # Tensors whose producer only has an integer kernel when they are quantized: every reader gets the integers.
    whole: dict[Tensor, str] = field(default_factory=dict[Tensor, str])
    # Which node's integer kernel that is.
    writers: dict[Tensor, Node] = field(default_factory=dict[Tensor, Node])
    # Tensors between a quantized node and what the engine runs inside its kernel: no Q/DQ belongs there.
    inside: dict[Tensor, Node] = field(default_factory=dict[Tensor, Node])
    fixed: dict[Tensor, tuple[float, int]] = field(default_factory=dict[Tensor, tuple[float, int]])
    # Activations that can't have the target's own scheme.
    schemes: dict[Tensor, Scheme] = field(default_factory=dict[Tensor, Scheme])
    linears: list[Linear] = field(default_factory=list[Linear])
    quantized: dict[Node, str] = field(default_factory=dict[Node, str])
    declined: dict[Node, str] = field(default_factory=dict[Node, str])
    # Nodes that run inside the kernel of another, whatever it computes in: a MatMul's bias, fused activations; and a
    # residual Add where both run in 8 bits.
    kernels: dict[Node, Node] = field(default_factory=dict[Node, Node])
    # Operators that only move values, in integers as in float, and the tensors whose values those are.
    movers: dict[Node, list[Tensor]] = field(default_factory=dict[Node, list[Tensor]])
    shared: UnionFind[Tensor] = field(default_factory=_no_unions)

    def wanted(self, tensor: Tensor) -> bool:
        """Whether somebody reads `tensor` quantized, or its producer must write it quantized."""
        return tensor in self.whole or bool(self.uses.get(tensor))

    def want(self, node: Node, index: int) -> None:
        """Node reads input `index` quantized."""
        self.uses.setdefault(node.inputs[index], {})[(node, index)] = None


def place(
    graph: Graph,
    target: Target,
    keep_float: Callable[[Node], bool | str | None],
    assigned: Collection[str] = frozenset(),
) -> Placement:
    """Find the quantized uses that `target` wants in the main graph; nodes for which `keep_float` holds have none.

    `keep_float` may give the reason, for remarks. The operators whose names are in `assigned` are quantized whether or
    not their results are wanted so. Linear in the number of nodes. Changes nothing.
    """
    walk = _Walk(graph, target, keep_float, assigned)
    for node in reversed(graph.nodes):
        walk.backward(node)
    if target.quantize_everywhere:
        for node in graph.nodes:
            walk.forward(node)
    walk.kernels_and_movers()
    return walk.placement


class _Walk:
    def __init__(
        self,
        graph: Graph,
        target: Target,
        keep_float: Callable[[Node], bool | str | None],
        assigned: Collection[str],
    ) -> None:
        self.graph, self.target, self.keep_float, self.assigned = graph, target, keep_float, assigned
        self.placement = Placement()
        self.position = {node: k for k, node in enumerate(graph.nodes)}
        self.bounded = self.bounded_tensors()

    def backward(self, node: Node) -> None:
        """Linear operators, and whatever feeds a wanted tensor."""
        rule = self.rule(node)
        if rule is None:
            return
        if rule.role is Role.LINEAR:
            self.linear(node, rule)
            return
        results = node.present_outputs()
        if rule.role is not Role.SAME_SCALE:
            results = [self.end(t) for t in results]
        # Where whole regions are wanted, the forward walk sees to what is assigned: a Concat before it stays float.
        assigned = node.name in self.assigned and not self.target.quantize_everywhere
        if assigned or any(self.placement.wanted(t) for t in results):
            self.operator(node, rule)

    def forward(self, node: Node) -> None:
        """Operators that read quantized values already; a Concat that no linear operator reads stays float.

        A detection head joins boxes and scores: one scale for both erases the smaller (mAP 0, measured).
        """
        rule = self.rule(node)
        if rule is None or rule.role is Role.LINEAR or node in self.placement.quantized:
            return
        if node.name not in self.assigned and not any(self.placement.wanted(t) for _, t in self.activations(node)):
            return
        if node.is_op("Concat"):
            self.decline(node, "it joins tensors that no linear operator reads: one scale for all could erase some")
            return
        self.operator(node, rule)

    def linear(self, node: Node, rule: OpRule) -> None:
        """Want the activation, and the result where the integer kernel needs that."""
        linear = linear_view(self.graph, node)
        if linear is None:
            self.decline(node, "its weight is not a constant")
            return
        if linear.weight_index == 0:
            self.decline(node, "its constant operand is the left one, which no integer kernel takes as weight")
            return
        if reason := self.not_float32(node) or unmet(self.graph, node, rule.conditions):
            self.decline(node, reason)
            return
        self.placement.want(node, linear.data_index)
        if rule.signed_input is not None and not is_never_negative(linear.data):
            self.placement.schemes[linear.data] = rule.signed_input
        self.placement.linears.append(linear)
        self.placement.quantized[node] = str(rule.role)
        result = linear_result(self.graph, linear)
        if result is not linear.output:
            self.placement.inside[linear.output] = node
        result = self.end(result, node)
        if rule.output_quantized:
            self.need_whole(result, node)

    def operator(self, node: Node, rule: OpRule) -> None:
        """Want the operator's activations, and its outputs where the rule needs them."""
        if self.is_bias_add(node) or self.is_fused(node):
            return
        reason = self.misfit(node, rule)
        if reason:
            self.decline(node, reason)
            return
        operands = self.activations(node)
        if rule.operands != "all":
            others = self.skip_operands(operands)
            operands = others if others or rule.operands == "skip" else operands
        if not operands:
            return
        for index, _ in operands:
            self.placement.want(node, index)
        self.placement.quantized[node] = str(rule.role)
        for output in node.present_outputs():
            if rule.role is Role.SAME_SCALE:
                self.placement.shared.union(output, *(t for _, t in operands if self.may_share(rule, t, output)))
                if rule.output_quantized:
                    # The operator copies grid values: quantizing its output as well changes nothing.
                    self.need_whole(output, node)
                else:
                    self.placement.uses.pop(output, None)
            elif rule.role is Role.FIXED_OUTPUT and rule.fixed_output is not None:
                self.placement.fixed[output] = rule.fixed_output
                self.need_whole(output, node)
            else:
                result = self.end(output, node)
                if rule.output_quantized:
                    self.need_whole(result, node)

    def kernels_and_movers(self) -> None:
        """Note what runs inside which kernel, and what only moves values."""
        for node in self.graph.nodes:
            if not node.is_standard:
                continue
            rule = self.target.rules.get(node.op)
            main = self.kernel_before(node, rule)
            if main is not None:
                self.placement.kernels[node] = self.placement.kernels.get(main, main)
            elif rule is not None and rule.role is Role.SAME_SCALE and node.op not in ELEMENTWISE_UNARY:
                moved = [t for _, t in self.activations(node)]
                if moved and not self.keep_float(node) and self.misfit(node, rule) is None:
                    self.placement.movers[node] = moved

    def kernel_before(self, node: Node, rule: OpRule | None) -> Node | None:
        """The node in front of `node` that runs in the same kernel, or None."""
        if self.is_bias_add(node):
            linear = linear_producer(self.graph, node.outputs[0])
            return None if linear is None else linear.node
        before = self.graph.producer(node.inputs[0]) if node.inputs and self.can_fuse(node) else None
        if before is not None and self.graph.sole_consumer(node.inputs[0]) is node:
            float_linear = linear_view(self.graph, self.placement.kernels.get(before, before)) is not None
            if float_linear or self.is_fused(node):
                return before
        if rule is None or rule.operands == "all" or node not in self.placement.quantized:
            return None
        operands = self.activations(node)
        others = self.skip_operands(operands)
        for operand in operands if others else ():
            linear = None if operand in others else linear_producer(self.graph, operand[1])
            if linear is not None and linear.node in self.placement.quantized:
                return linear.node
        return None

    def may_share(self, rule: OpRule, operand: Tensor, output: Tensor) -> bool:
        """Whether a joined operand can have the result's scale without keeping an activation from being fused."""
        return not rule.rescales or self.bounded.get(operand) is self.bounded.get(output)

    def bounded_tensors(self) -> dict[Tensor, Node | str]:
        """What bounds the values of tensors that come out of a fused activation, seen through what moves them.

        The activation runs inside the kernel only when the bounds of the integers are its own: any Relu's are 0 and
        the largest value, a Clip's are its own.
        """
        found: dict[Tensor, Node | str] = {}
        for node in self.graph.nodes:
            rule = self.target.rules.get(node.op) if node.is_standard else None
            if node.is_op("Relu", "Clip") and self.can_fuse(node):
                found[node.outputs[0]] = "Relu" if node.op == "Relu" else node
            elif rule is not None and rule.role is Role.SAME_SCALE:
                bounds = [found.get(t) for _, t in self.activations(node)]
                if bounds and bounds[0] is not None and all(b is bounds[0] for b in bounds):
                    found.update(dict.fromkeys(node.present_outputs(), bounds[0]))
        return found

    def need_whole(self, tensor: Tensor, node: Node) -> None:
        """All readers of `tensor` get integers."""
        self.placement.whole.setdefault(tensor, f"the integer kernel of {node} writes it")
        self.placement.writers.setdefault(tensor, node)

    def rule(self, node: Node) -> OpRule | None:
        """The target's rule, when the node is a standard operator that the user doesn't keep in float."""
        if not node.is_standard:
            return None
        rule = self.target.rules.get(node.op)
        if kept := self.keep_float(node):
            if rule is not None and (rule.role is Role.LINEAR or self.is_touched(node)):
                self.decline(node, kept if isinstance(kept, str) else "the user keeps it in float")
            return None
        if rule is None and node.op in LINEAR:
            reason = self.target.float_reasons.get(node.op, f"{self.target.title} has no integer kernel for it")
            self.decline(node, reason)
        return rule

    def is_touched(self, node: Node) -> bool:
        """Whether something reads its result quantized, or it reads something that is: else it is float anyway."""
        return any(self.placement.wanted(t) for _, t in self.activations(node)) or any(
            self.placement.wanted(self.end(t)) for t in node.present_outputs()
        )

    def decline(self, node: Node, reason: str) -> None:
        """Say once why a node stays float."""
        self.placement.declined.setdefault(node, reason)

    def end(self, tensor: Tensor, node: Node | None = None) -> Tensor:
        """The tensor after the activations that the engine fuses behind the producer of `tensor`.

        With `node`, those on the way are noted as being inside its kernel.
        """
        while True:
            reader = self.graph.sole_consumer(tensor)
            if reader is None or reader.scope is not self.graph or not reader.is_standard:
                return tensor
            if not self.can_fuse(reader) or reader.inputs[0] is not tensor:
                return tensor
            if node is not None:
                self.placement.inside[tensor] = node
            tensor = reader.outputs[0]

    def can_fuse(self, node: Node) -> bool:
        """Whether the engine runs `node` inside a kernel before it."""
        conditions = self.target.fused_conditions.get(node.op, ())
        return node.op in self.target.fused_activations and unmet(self.graph, node, conditions) is None

    def is_fused(self, node: Node) -> bool:
        """Whether `node` is an activation that runs inside the kernel before it, so that Q comes after it only."""
        while self.can_fuse(node) and self.graph.sole_consumer(node.inputs[0]) is node:
            before = self.graph.producer(node.inputs[0])
            if before is None:
                return False
            rule = self.target.rules.get(before.op)
            if self.is_bias_add(before) or (
                rule is not None
                and before.op not in self.target.fused_activations
                and (rule.role is Role.COMPUTE or linear_view(self.graph, before) is not None)
            ):
                return True
            node = before
        return False

    def activations(self, node: Node) -> list[tuple[int, Tensor]]:
        """Float inputs that carry data: shapes, axes and other integer inputs don't count."""
        first_only = self.target.rules[node.op].role is Role.SAME_SCALE and not node.is_op("Concat")
        found = [(i, t) for i, t in node.present_inputs() if t.dtype == FLOAT32]
        return [(i, t) for i, t in found if i == 0] if first_only else found

    def skip_operands(self, operands: list[tuple[int, Tensor]]) -> list[tuple[int, Tensor]]:
        """All operands but the result of the convolution that the Add fuses into; none where there is no such one."""
        fusable = [(i, t) for i, t in operands if self.graph.sole_consumer(t) is not None and self.is_linear_result(t)]
        if not fusable or any(isinstance(t, Constant) for _, t in operands):
            return []
        # Two convolutions meet at a downsampling shortcut: the later one ends the residual branch.
        kept = max(fusable, key=lambda it: self.position[it[1].inputs[0]])
        return [(i, t) for i, t in operands if i != kept[0]]

    def is_bias_add(self, node: Node) -> bool:
        """Whether `node` is the Add that holds a MatMul's bias, and so belongs to the MatMul."""
        if not node.is_op("Add"):
            return False
        return linear_producer(self.graph, node.outputs[0]) is not None

    def is_linear_result(self, tensor: Tensor) -> bool:
        """Whether a linear operator that has a rule writes `tensor`, with nothing in between."""
        linear = linear_producer(self.graph, tensor)
        return linear is not None and linear.node.op in self.target.rules

    def not_float32(self, node: Node) -> str | None:
        """Why the node's types rule integers out, or None."""
        data, result = node.inputs[0], node.outputs[0]
        for tensor in (data, result):
            if isinstance(tensor, Variable) and tensor.dtype is None:
                return f"the type of '{tensor.name}' is unknown"
            if tensor.dtype != FLOAT32:
                return f"'{tensor.name}' is {tensor.dtype}, and only float32 is quantized"
        return None

    def misfit(self, node: Node, rule: OpRule) -> str | None:
        """Why an operator that isn't linear can't have its integer kernel, or None."""
        return self.not_float32(node) or unmet(self.graph, node, rule.conditions) or self.bad_constant(node)

    def bad_constant(self, node: Node) -> str | None:
        """Why a constant operand can't be put on a grid, or None."""
        for _, tensor in self.activations(node):
            if isinstance(tensor, Constant):
                if tensor.is_input:
                    return f"its operand '{tensor.name}' may be overridden from outside"
                if not np.isfinite(tensor.values).all():
                    return f"its constant '{tensor.name}' isn't finite"
                if not self.target.quantize_everywhere:
                    return f"its operand '{tensor.name}' is a constant, which costs the engine nothing in float"
        return None
