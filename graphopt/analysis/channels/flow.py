"""Which channels of a graph may be scaled, and which must be scaled alike, because positive scales pass between them.

    Conv → Relu → MaxPool → Conv        both tensors' channel c and the first Conv's output c: one class
    a = Conv(x), y = Add(x, a)          a skip ties x, a and y together, channel by channel
    Concat, Split, Slice                each part keeps its own classes
    Flatten of [N, C, H, W]             H·W positions of one class

Every linear operation with a constant weight starts new classes at its result: whatever positive number each class is
multiplied by, the weights before and behind can take it up. Conv → depthwise Conv → Conv needs nothing special: its two
ends are classes of their own. A class is pinned to 1 where a channel of it meets anything else: a graph input or
output, an operation that isn't homogeneous, a nested graph, a weight that isn't a fixed float32 initializer of one
reader.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.analysis.channels.affine import ChannelAffine
from graphopt.analysis.channels.classes import PINNED, ChannelFlow, Channels, Indices, LinearStep, Parameter, Step, Ties
from graphopt.analysis.channels.passage import hindrance, onto_output
from graphopt.analysis.channels.starts import FLOAT32, affine_source, is_scalable, weight_hindrance
from graphopt.ir import Graph, Node, Tensor, fixed_value
from graphopt.ir.linear import Linear, linear_producer, linear_result, linear_view, reads_shape_only
from graphopt.ir.linear_edit import Declined
from graphopt.ir.operands import int_list, is_given


def channel_flow(graph: Graph, *, affine_sources: bool = False) -> ChannelFlow:
    """Walk the main graph once. Nested graphs have no classes; what they read is pinned.

    With `affine_sources`, classes start at a LayerNormalization and at a product with a constant per channel, too.
    """
    walk = _Walk(graph, affine_sources)
    for node in graph.nodes:
        walk.visit(node)
    walk.pin_ends()
    return walk.finished()


class _Walk:
    def __init__(self, graph: Graph, affine_sources: bool) -> None:
        self.graph, self.affine_sources = graph, affine_sources
        self.flow = ChannelFlow()
        self.ties = Ties()

    def visit(self, node: Node) -> None:
        """Give the results of `node` their classes."""
        if reads_shape_only(node):
            return
        linear = linear_view(self.graph, node)
        if linear is not None:
            self.linear(linear)
        elif linear_producer(self.graph, node.outputs[0]) is None:  # else the Add of a MatMul's bias
            if node.is_op("Add"):
                self.add(node)
            elif node.is_op("Concat"):
                self.concat(node)
            elif node.is_op("Split", "Slice"):
                self.cut(node)
            elif not self.source(node):
                self.other(node)

    def linear(self, linear: Linear) -> None:
        """The end of the input's classes, and the start of new ones."""
        result = linear_result(self.graph, linear)
        inputs = np.full(linear.in_channels, PINNED)
        reason = weight_hindrance(self.graph, linear)
        known = self.flow.tensors.get(linear.data)
        if known is not None:
            axis = linear.data_channel_axis % len(linear.data.shape or (0,))
            if reason is None and (known.axis != axis or len(known.classes) != linear.in_channels):
                self.pin(known.classes, f"it isn't along the input channels of {linear.node}")
            else:
                inputs = known.classes
        for index, tensor in linear.node.present_inputs():
            if index != linear.data_index and tensor in self.flow.tensors:
                self.pin(self.flow.tensors[tensor].classes, f"it is a parameter of {linear.node}")
        outputs = self.fresh(linear.out_channels)
        if reason is not None:
            self.pin(inputs, reason)
            self.pin(outputs, reason)
        for tensor in dict.fromkeys((linear.output, result)):
            rank = None if tensor.shape is None else len(tensor.shape)
            if rank is None and linear.output_channel_axis < 0:
                self.pin(outputs, f"the rank of '{tensor.name}' isn't known")
            else:
                self.flow.tensors[tensor] = Channels(linear.output_channel_axis % (rank or 2), outputs)
        self.flow.linears.append(LinearStep(linear, result, inputs, outputs))

    def fresh(self, count: int) -> Indices:
        """New classes."""
        self.flow.count += count
        return np.arange(self.flow.count - count, self.flow.count)

    def source(self, node: Node) -> bool:
        """The start of new classes at an operation whose constants take up any scale, if it is one."""
        known = self.operands(node)
        found = affine_source(node) if self.affine_sources else None
        # A product hands on the scale of its operand, where that has one.
        if found is None or (known and node.op == "Mul"):
            return False
        self.pin_all(known, f"{node} isn't an operation that a scale passes through")
        axis, channels, indices = found
        classes = self.fresh(channels)
        behind = len(node.outputs[0].shape or ()) - axis - 1
        self.flow.parameters += [Parameter(node, index, behind, classes) for index in indices]
        self.flow.sources[node] = classes
        self.flow.tensors[node.outputs[0]] = Channels(axis, classes)
        return True

    def other(self, node: Node) -> None:
        """An operation with one operand whose channels may go on."""
        known = self.operands(node)
        if len(known) > 1:
            self.pin_all(known, f"{node} combines two activations")
        for index, channels in known[: len(known) == 1]:
            moved = self.through(node, index, channels)
            if isinstance(moved, str):
                self.pin(channels.classes, moved)
            else:
                self.step(node, index, node.outputs[0], *moved)

    def add(self, node: Node) -> None:
        """Both operands and the result share their classes; a constant operand is scaled."""
        known = self.operands(node)
        values = [fixed_value(t) for t in node.inputs]
        constants = [i for i, v in enumerate(values) if v is not None and is_scalable(v)]
        reason = f"{node} broadcasts it, or adds what can't be scaled"
        if not known or len(known) + len(constants) != 2:
            self.pin_all(known, reason)
            return
        hindered = [m for m in (self.through(node, i, c) for i, c in known) if isinstance(m, str)]
        if hindered:
            self.pin_all(known, hindered[0])
            return
        axis, first = known[0][1].axis, known[0][1].classes
        if any(c.axis != axis or len(c.classes) != len(first) for _, c in known):
            self.pin_all(known, reason)
            return
        for index, channels in known:
            self.ties.tied.append((first, channels.classes))
            self.step(node, index, node.outputs[0], np.arange(len(first)), axis)
        for index in constants:
            behind = len(node.outputs[0].shape or ()) - axis - 1
            self.flow.parameters.append(Parameter(node, index, behind, first))

    def concat(self, node: Node) -> None:
        """Each part brings its classes; parts without any are pinned."""
        known = self.operands(node)
        if not known:
            return
        shape = node.outputs[0].shape
        axis = None if shape is None else int(node.attr("axis")) % len(shape)
        sizes = [None if axis is None or t.shape is None else t.shape[axis] for t in node.inputs]
        counts = [s for s in sizes if isinstance(s, int)]
        if axis is None or len(counts) != len(sizes) or any(c.axis != axis for _, c in known):
            self.pin_all(known, f"{node} joins another axis than that of the channels")
            return
        starts = np.cumsum([0, *counts])
        classes = np.full(int(starts[-1]), PINNED)
        for index, channels in known:
            place = slice(int(starts[index]), int(starts[index + 1]))
            classes[place] = channels.classes
            source = np.full(len(classes), -1)
            source[place] = np.arange(len(channels.classes))
            self.flow.steps.append(Step(node, node.inputs[index], node.outputs[0], source))
        self.flow.tensors[node.outputs[0]] = Channels(axis, classes)

    def cut(self, node: Node) -> None:
        """Parts along the channels take their classes along; along another axis, every part has all of them."""
        known = self.operands(node)
        if not known:
            return
        channels = known[0][1]
        parts = _parts(node, channels) if known[0][0] == 0 and len(known) == 1 else None
        if parts is None:
            self.pin_all(known, f"{node} doesn't keep the channels apart, or its parameters aren't known")
            return
        for result, source in zip(node.outputs, parts, strict=True):
            if not result.is_empty():
                self.step(node, 0, result, source, channels.axis)

    def operands(self, node: Node) -> list[tuple[int, Channels]]:
        return [(i, self.flow.tensors[t]) for i, t in node.present_inputs() if t in self.flow.tensors]

    def through(self, node: Node, index: int, channels: Channels) -> tuple[Indices, int] | str:
        """(source channel of each channel of the result, its axis), or why a positive scale doesn't pass."""
        if node.outputs[0].dtype != FLOAT32:
            return f"'{node.outputs[0].name}' isn't known to be float32"
        # The numbers travel as scales would; none of them is 1, which a scale leaves out.
        count = len(channels.classes)
        numbers = ChannelAffine(channels.axis, np.arange(2.0, count + 2), np.zeros(count))
        reason = hindrance(self.graph, node, index, numbers)
        if reason is not None:
            return reason
        moved = onto_output(node, index, numbers)
        if isinstance(moved, Declined) or moved.axis is None:
            return moved.reason if isinstance(moved, Declined) else f"{node} mixes channels"
        return moved.scale.astype(np.intp) - 2, moved.axis

    def step(self, node: Node, index: int, result: Tensor, source: Indices, axis: int) -> None:
        operand = node.inputs[index]
        self.flow.tensors[result] = Channels(axis, self.flow.tensors[operand].classes[source])
        self.flow.steps.append(Step(node, operand, result, source))

    def pin(self, classes: Indices, reason: str) -> None:
        self.ties.pins.append((classes, reason))

    def pin_all(self, known: Sequence[tuple[int, Channels]], reason: str) -> None:
        for _, channels in known:
            self.pin(channels.classes, reason)

    def pin_ends(self) -> None:
        """What the model's caller or a nested graph sees keeps its values."""
        for tensor, channels in self.flow.tensors.items():
            if self.graph.is_output(tensor):
                self.pin(channels.classes, f"'{tensor.name}' is a graph output")
            elif any(n.scope is not self.graph and not reads_shape_only(n) for n in self.graph.consumers(tensor)):
                self.pin(channels.classes, f"'{tensor.name}' is read in a nested graph")

    def finished(self) -> ChannelFlow:
        """The classes numbered anew after tying and pinning."""
        flow = self.flow
        numbers, reasons = self.ties.solved(flow.count)
        for node, classes in ({s.linear.node: s.outputs for s in flow.linears} | flow.sources).items():
            held = next((reasons[int(c)] for c in classes if int(c) in reasons), None)
            if held is not None:
                flow.pinned[node] = held
        return flow.renumbered(numbers)


def _parts(node: Node, channels: Channels) -> list[Indices] | None:
    """The channels of the operand that each output of a Split or Slice holds."""
    shape, everything = node.inputs[0].shape, np.arange(len(channels.classes))
    if shape is None:
        return None
    if node.is_op("Split"):
        if int(node.attr("axis", 0)) % len(shape) != channels.axis:
            return [everything] * len(node.outputs)
        sizes = [None if t.shape is None else t.shape[channels.axis] for t in node.outputs]
        known = [s for s in sizes if isinstance(s, int)]
        if len(known) != len(sizes) or sum(known) != len(everything):
            return None
        return np.split(everything, np.cumsum(known)[:-1])
    starts, ends, steps = int_list(node, "starts", 1), int_list(node, "ends", 2), int_list(node, "steps", 4)
    axes = int_list(node, "axes", 3) if is_given(node, "axes", 3) else list(range(len(starts or [])))
    if starts is None or ends is None or axes is None or (steps is None and is_given(node, "steps", 4)):
        return None
    for position, axis in enumerate(axes):
        if axis % len(shape) == channels.axis:
            return [everything[starts[position] : ends[position] : (steps or [1] * len(axes))[position]]]
    return [everything]
