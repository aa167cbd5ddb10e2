"""A Q/DQ graph as operators over quantized values.

    DQ → Conv → Relu → Q → DQ        an int8 Conv with bounds [0, ∞); the grids are those of its values
    DQ → Reshape → …                 what only moves values, or picks the largest, does so in integers just as well
    DQ → Exp → …                     without an integer kernel: Dequantize, Exp in float, and a Q is a Requantize
    Cast of a float16 constant       a float32 constant that the file holds as float16

Q/DQ pairs vanish this way: each tensor of the .tflite has the grid that its pair said. uint8 becomes int8 with the zero
point moved by 128, which stands for the same values; 16 bits likewise, for which LiteRT has kernels with zero point 0.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.backends.litert_writer.facts import Facts
from graphopt.backends.litert_writer.kernels import FUSES_FLOAT, integer_problem, moves_problem
from graphopt.backends.litert_writer.values import (
    ACTIVATIONS,
    INF,
    INT8,
    INT16,
    NO_BOUNDS,
    Grid,
    Op,
    UnwritableError,
    Value,
)
from graphopt.errors import UnsupportedError
from graphopt.ir import FLOAT_TYPES, Constant, Graph, Node, Tensor, Variable, is_fixed

_FLOAT, _INT32 = np.dtype(np.float32), np.dtype(np.int32)
# Type in ONNX → type in LiteRT.
_UNSIGNED: dict[np.dtype[Any], np.dtype[Any]] = {np.dtype(np.uint8): INT8, np.dtype(np.uint16): INT16}
_QUANTIZED: tuple[np.dtype[Any], ...] = (*ACTIVATIONS, *_UNSIGNED)


_POSITIVE = ("Relu", "Sigmoid", "Softmax")
# Nodes that are read without an operator of their own; Shape and Size are known where their input's shape is.
_TRANSPARENT = frozenset({"Identity", "Dropout", "QuantizeLinear", "DequantizeLinear", "Shape", "Size"})


class Reader:
    """Walks the graph once; `ops` and `failures` are the result.

    What reads the results of nodes that fail is judged all the same, so that one message lists everything; only where
    not even their shape is known it is `dependent`.
    """

    def __init__(self, graph: Graph, facts: Facts, writable: Set[str]) -> None:
        self.graph, self.facts = graph, facts
        self.writable = writable | _TRANSPARENT
        self.ops: list[Op] = []
        self.failures: list[tuple[Node, str]] = []
        self.dependent: list[Node] = []
        self.missing: list[Value] = []  # what failed nodes would make
        self.lost: set[Tensor] = set()  # the same where the shape isn't known either
        self.plain: dict[Tensor, Value] = {}  # tensor → the value as the ONNX model has it
        self.views: dict[Tensor, Value] = {}  # float tensor → the integers that it is dequantized from
        self.quantized: dict[tuple[Value, Grid], Value] = {}
        self.done: set[Node] = set()

    def read(self) -> None:
        """Fill `ops`.

        Raises:
            UnsupportedError: an input has a type that isn't written.
        """
        for tensor in self.graph.inputs:
            try:
                self.plain[tensor] = self.value(tensor)
            except UnwritableError as reason:
                raise UnsupportedError(f"the model can't be written as .tflite: its input {reason}") from None
        known = {*self.facts.constants, *self.facts.varying}
        for node in self.graph.nodes:
            outputs = node.present_outputs()
            if self.widens(node):
                continue
            if node in self.done or known.issuperset(outputs):
                continue
            if node.op in self.writable and not self.lost.isdisjoint(node.inputs):
                self.dependent.append(node)
                self.give_up(outputs)
                continue
            try:
                self.node(node)
            except UnwritableError as reason:
                self.failures.append((node, str(reason)))
                self.give_up(outputs)

    def give_up(self, outputs: list[Variable]) -> None:
        """Stand-ins for what a node would make."""
        for tensor in outputs:
            shape = self.facts.shapes.get(tensor)
            if shape is None:
                self.lost.add(tensor)
            elif tensor not in self.plain:
                self.plain[tensor] = Value(tensor.name, tensor.dtype or _FLOAT, shape)
                self.missing.append(self.plain[tensor])

    def node(self, node: Node) -> None:
        """Any node."""
        if not node.is_standard:
            raise UnwritableError(f"operators of '{node.domain}' have no form in LiteRT")
        if node.op not in self.writable:
            raise UnwritableError(f"{node.op} has no form in LiteRT")
        if node.is_op("Shape", "Size"):
            raise UnwritableError("the shape of its input isn't known before the model runs")
        if node.is_op("Identity", "Dropout"):
            self.alias(node.outputs[0], node.inputs[0])
        elif node.is_op("QuantizeLinear"):
            self.quantize(node)
        elif node.is_op("DequantizeLinear"):
            self.dequantize(node)
        elif not self.moves(node) and not self.integer(node):
            self.floating(node)

    def start(self, tensor: Tensor, *, integers: bool) -> Value:
        """The value that comes in for a graph input: the integers, if they are wanted and nothing reads the floats."""
        value = self.plain[tensor]
        readers = [op for op in self.ops if any(v is value for v in op.inputs)]
        if not integers or len(readers) != 1 or readers[0].kind != "Requantize":
            return value
        self.ops.remove(readers[0])
        return readers[0].output

    def end(self, tensor: Tensor, *, integers: bool) -> Value | None:
        """The value that goes out for a graph output: the integers, if they are wanted and there are any."""
        if integers and tensor in self.views:
            return self.views[tensor]
        try:
            return self.get(tensor)
        except UnwritableError as reason:
            producer = self.graph.producer(tensor)
            if producer is not None and tensor not in self.lost:
                self.failures.append((producer, str(reason)))
            return None

    # ---- values --------------------------------------------------------------------------------------------------

    def value(self, tensor: Tensor, grid: Grid | None = None) -> Value:
        """A new value for a tensor; float16 and float64 aren't written."""
        if tensor not in self.facts.shapes:
            raise UnwritableError(f"the shape of '{tensor.name}' isn't known before the model runs")
        dtype = grid.dtype if grid is not None else tensor.dtype
        if dtype is None or (dtype in FLOAT_TYPES and dtype != _FLOAT):
            raise UnwritableError(f"'{tensor.name}' is {dtype}: only float32 is written")
        shape, dynamic = self.facts.shapes[tensor], self.facts.dynamic.get(tensor, frozenset[int]())
        return Value(tensor.name, dtype, shape, dynamic, grid)

    def get(self, tensor: Tensor) -> Value:
        """The tensor's value as the ONNX model has it: float where that is float."""
        if tensor in self.plain:
            return self.plain[tensor]
        array = self.facts.constants.get(tensor)
        if isinstance(tensor, Constant):
            if tensor.is_input:
                raise UnwritableError(f"'{tensor.name}' is an input with a default value")
            array = tensor.values
        if array is not None:
            if array.dtype in FLOAT_TYPES and array.dtype != _FLOAT:
                raise UnwritableError(f"'{tensor.name}' is {array.dtype}: only float32 is written")
            found = Value(tensor.name, array.dtype, array.shape, array=array)
        elif tensor in self.facts.varying:
            value = self.facts.varying[tensor]
            found = Value(tensor.name, value.dtype, value.shape, varying=True)
        elif tensor in self.views:
            found = self.dequantized(tensor, self.views[tensor])
        else:
            raise UnwritableError(f"its input '{tensor.name}' comes from an operator that can't be written")
        self.plain[tensor] = found
        return found

    def widens(self, node: Node) -> bool:
        """Whether a node makes float32 of a float16 constant: it isn't computed here, the file holds the float16."""
        source = node.input(0)
        if not node.is_op("Cast") or not is_fixed(source) or source.dtype != np.float16:
            return False
        output = node.outputs[0]
        if output.dtype != _FLOAT:
            return False
        array = source.values.astype(_FLOAT)
        self.plain[output] = Value(output.name, _FLOAT, array.shape, array=array, half=True)
        return True

    def dequantized(self, tensor: Tensor, integers: Value) -> Value:
        """The real values of integers: computed here for a constant."""
        if integers.array is not None:
            return Value(tensor.name, _FLOAT, integers.shape, array=integers.real())
        found = Value(tensor.name, _FLOAT, integers.shape, integers.dynamic)
        producer = self.graph.producer(tensor)
        assert producer is not None  # only operators make views
        self.ops.append(Op("Dequantize", producer, [integers], [found]))
        return found

    def alias(self, output: Tensor, source: Tensor) -> None:
        """`output` is `source` under another name."""
        if source in self.views:
            self.views[output] = self.views[source]
        else:
            self.plain[output] = self.get(source)

    # ---- quantization --------------------------------------------------------------------------------------------

    def grid(self, node: Node) -> tuple[Grid, int]:
        """The grid of a Q or DQ, and what its integers are moved by to become signed."""
        scale = self.get(node.inputs[1]).array
        zero = node.input(2)
        zeros = np.zeros((), np.uint8) if zero is None else self.get(zero).array
        if scale is None or zeros is None:
            raise UnwritableError("its scale or zero point is not a constant")
        integers = node.inputs[0] if node.op == "DequantizeLinear" else node.outputs[0]
        dtype: np.dtype[Any] = np.dtype(zeros.dtype if zero is not None else integers.dtype)
        if node.attr("block_size", 0):
            raise UnwritableError("quantization in blocks has no form in LiteRT")
        shift = -int(np.iinfo(_UNSIGNED[dtype]).min) if dtype in _UNSIGNED else 0
        # 4-bit weights have the same values in 8 bits.
        stored = dtype if dtype in (*ACTIVATIONS, _INT32) else _UNSIGNED.get(dtype, INT8)
        if stored == INT16 and np.any(zeros != shift):
            raise UnwritableError("LiteRT's integers of 16 bits have zero point 0")
        axis = int(node.attr("axis", 1))
        rank = len(self.facts.shapes.get(integers, ()))
        return Grid.of(scale, zeros.astype(np.int64) - shift, axis % rank if rank else 0, stored), shift

    def quantize(self, node: Node) -> None:
        """A Q that no integer kernel took along."""
        source, output = node.inputs[0], node.outputs[0]
        grid, _ = self.grid(node)
        if output.dtype not in _QUANTIZED:
            raise UnwritableError(f"it quantizes to {output.dtype}: integers of 8 and 16 bits are written")
        integers = self.views.get(source)
        if integers is not None and integers.grid == grid:
            self.plain[output] = integers
            return
        origin = integers if integers is not None else self.get(source)
        if origin.array is not None:
            array = grid.quantize(origin.real())
            self.plain[output] = Value(output.name, grid.dtype, origin.shape, grid=grid, array=array)
            return
        if (origin, grid) not in self.quantized:
            self.quantized[origin, grid] = result = self.value(output, grid)
            self.ops.append(Op("Requantize", node, [origin], [result]))
        self.plain[output] = self.quantized[origin, grid]

    def dequantize(self, node: Node) -> None:
        """A DQ: from here on there are two forms of the tensor."""
        source, output = node.inputs[0], node.outputs[0]
        grid, shift = self.grid(node)
        integers = self.get(source)
        if integers.array is not None and integers.grid is None:
            array = integers.array.astype(np.int32) - shift
            integers = Value(source.name, grid.dtype, array.shape, grid=grid, array=array.astype(grid.dtype))
        elif integers.grid is None:
            if integers.dtype not in ACTIVATIONS:
                raise UnwritableError(f"it reads '{source.name}' of type {integers.dtype}: int8 and int16 are written")
            integers.grid = grid  # a graph input of integers
        elif integers.grid != grid:
            raise UnwritableError(f"its scale or zero point isn't the one that made '{source.name}'")
        self.views[output] = integers

    # ---- operators -----------------------------------------------------------------------------------------------

    def integers(self, tensor: Tensor | None) -> Value | None:
        """The integers behind a float tensor, or the tensor's own value where it isn't float (indices, shapes)."""
        if tensor is None:
            return None
        if tensor in self.views:
            return self.views[tensor]
        return self.get(tensor)

    def moves(self, node: Node) -> bool:
        """What commutes with dequantization, on integers; the result has the grid of what is read."""
        data = node.input(0)
        if data is None or data not in self.views:
            return False
        source = self.views[data]
        if source.array is not None or not source.is_integer:
            return False
        operands = [self.integers(t) if not t.is_empty() else None for t in node.inputs]
        assert source.grid is not None  # is_integer
        present = [v for v, t in zip(operands, node.inputs, strict=True) if v is not None and t in self.views]
        if moves_problem(node, operands, source.grid) or any(v.grid != source.grid for v in present):
            return False
        outputs = [self.value(t, source.grid) if not t.is_empty() else None for t in node.outputs]
        self.ops.append(Op(node.op, node, operands, outputs))
        positive = all(v.positive for v in present) and not node.is_op("Pad")
        for tensor, value in zip(node.outputs, outputs, strict=True):
            if value is not None:
                value.positive = positive
                self.views[tensor] = value
        return True

    def integer(self, node: Node) -> bool:
        """An integer kernel with what follows it up to the Q, where LiteRT has one for these grids."""
        if len(node.present_outputs()) != 1 or node.outputs[0].dtype != _FLOAT:
            return False
        if not any(t in self.views and self.views[t].array is None for t in node.inputs):
            return False
        bias, bounds, end, passed = self.tail(node)
        readers = self.graph.consumers(end)
        if not readers or self.graph.is_output(end) or not all(r.is_op("QuantizeLinear") for r in readers):
            return False
        grids = {self.grid(r)[0] for r in readers}
        if len(grids) != 1 or any(r.outputs[0].dtype not in _QUANTIZED for r in readers):
            return False
        (grid,) = grids
        operands = [self.integers(t) if not t.is_empty() else None for t in node.inputs]
        result = self.value(end, grid)
        result.name = readers[0].outputs[0].name
        result.positive = bounds[0] >= 0 or node.is_op(*_POSITIVE)
        op = Op(node.op, node, operands, [result], bias, bounds)
        if integer_problem(op):
            return False
        self.ops.append(op)
        for reader in readers:
            self.plain[reader.outputs[0]] = result
        self.done.update(passed, readers)
        return True

    def floating(self, node: Node) -> None:
        """A float kernel, with the activation behind it where LiteRT fuses it."""
        operands = [self.get(t) if not t.is_empty() else None for t in node.inputs]
        bias, bounds, end, passed = None, NO_BOUNDS, node.outputs[0], list[Node]()
        if node.op in FUSES_FLOAT:
            bias, bounds, end, passed = self.tail(node)
        targets = [end] if passed else node.outputs
        outputs = [self.value(t) if not t.is_empty() else None for t in targets]
        self.plain.update((t, v) for t, v in zip(targets, outputs, strict=True) if v is not None)
        self.ops.append(Op(node.op, node, operands, outputs, bias, bounds))
        self.done.update(passed)

    def tail(self, node: Node) -> tuple[Value | None, tuple[float, float], Variable, list[Node]]:
        """(bias, bounds, last tensor, nodes) of what runs inside a kernel: a MatMul's Add, then Relu and Clip."""
        tensor, bias, bounds = node.outputs[0], None, NO_BOUNDS
        passed: list[Node] = []
        reader = self.graph.sole_consumer(tensor)
        if node.is_op("MatMul") and reader is not None and reader.is_op("Add"):
            bias = self.bias(node, reader)
            if bias is not None:
                passed.append(reader)
                tensor = reader.outputs[0]
        while (reader := self.graph.sole_consumer(tensor)) is not None:
            found = self.bounds(reader)
            if found is None or reader.inputs[0] is not tensor:
                break
            low, high = bounds
            # Clip after Clip: the later one wins where they exclude each other.
            bounds = (min(max(low, found[0]), found[1]), max(min(high, found[1]), found[0]))
            passed.append(reader)
            tensor = reader.outputs[0]
        return bias, bounds, tensor, passed

    def bounds(self, node: Node) -> tuple[float, float] | None:
        """What a Relu or Clip clamps to, when that is constant."""
        if node.is_op("Relu"):
            return (0.0, INF)
        if not node.is_op("Clip"):
            return None
        limits: list[float] = []
        for index, name, default in ((1, "min", -INF), (2, "max", INF)):
            tensor = node.input(index)
            value: NDArray[Any] | None = np.asarray(node.attr(name, default))
            if tensor is not None:
                value = self.constant(tensor)
            if value is None or value.size != 1:
                return None
            limits.append(float(value.reshape(())))
        return (limits[0], limits[1])

    def bias(self, matmul: Node, add: Node) -> Value | None:
        """The constant vector that an Add puts onto a MatMul with a constant weight."""
        other = add.inputs[1 if add.inputs[0] is matmul.outputs[0] else 0]
        weight = self.facts.shapes.get(matmul.inputs[1], ())
        value = self.constant(other)
        if self.constant(matmul.inputs[1]) is None or len(weight) != 2 or value is None:
            return None
        if value.shape[-1:] != (value.size,) or value.size != weight[1]:
            return None
        return self.integers(other)

    def constant(self, tensor: Tensor) -> NDArray[Any] | None:
        """The real value of a constant, also behind a DQ, else None."""
        producer = self.graph.producer(tensor)
        if tensor not in self.views and producer is not None and producer.is_op("DequantizeLinear"):
            # The DQ of a constant may come later in the file's order.
            if not isinstance(producer.inputs[0], Constant):
                return None
            self.dequantize(producer)
            self.done.add(producer)
        if tensor in self.views:
            value = self.views[tensor]
            return None if value.array is None else value.real()
        if isinstance(tensor, Constant) and not tensor.is_input:
            return tensor.values
        if tensor in self.plain and self.plain[tensor].half:
            return self.plain[tensor].real()
        return self.facts.constants.get(tensor)
