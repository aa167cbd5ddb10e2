"""Which operators LiteRT computes in integers, and for which grids; the rest runs in float between two conversions.

Source: LiteRT's 8-bit quantization specification and the checks that its kernels make when they are prepared. For
activations of 16 bits: which kernels of LiteRT 2.3.0 are right (`tests/backends/litert_writer/test_int16_ops.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.litert_writer.pooling import pool_problem
from graphopt.backends.litert_writer.values import INT8, INT16, Grid, Op, Value
from graphopt.ir import Node

Operands = list[Value | None]

# Float operators whose kernel clamps its result.
FUSES_FLOAT = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "MaxPool", "AveragePool"}
)


def _always(node: Node, operands: Operands, grid: Grid) -> str:
    return ""


def _zero_pad(node: Node, operands: Operands, grid: Grid) -> str:
    mode = node.attr("mode", "constant")
    value = operands[2] if len(operands) > 2 else None
    if mode != "constant":
        return ""
    if value is None:
        return "" if not node.attr("value", 0.0) else "it pads with another value than 0"
    if value.array is None:
        return "its value is not a constant"
    return "" if grid.dequantize(grid.quantize(value.real())).item() == value.real().item() else "off the grid"


def _nearest(node: Node, operands: Operands, grid: Grid) -> str:
    return "" if node.attr("mode", "nearest") == "nearest" else "it interpolates"


def _all_integers(node: Node, operands: Operands, grid: Grid) -> str:
    return "" if all(v is None or v.is_integer for v in operands) else "it joins floats with integers"


_MOVES_8_BITS = frozenset({"DepthToSpace", "SpaceToDepth"})
MOVES: dict[str, Callable[[Node, Operands, Grid], str]] = {
    **dict.fromkeys(
        ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Gather", "Tile", "Expand"),
        _always,
    ),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth", "ReduceMax", "ReduceMin", "GlobalMaxPool"), _always),
    "Concat": _all_integers,
    "MaxPool": lambda node, operands, grid: "" if len(node.present_outputs()) == 1 else "it gives indices too",
    "Pad": _zero_pad,
    "Resize": _nearest,
}
"""Operators that give the same whether dequantization comes before or after them → why not, for this node."""


def moves_problem(node: Node, operands: Operands, grid: Grid) -> str:
    """Why an operator that only moves values can't move these integers; "" when it can."""
    if node.op not in MOVES:
        return "it computes"
    if grid.dtype == INT16 and node.op in _MOVES_8_BITS:
        return "LiteRT moves 8 bits so, not 16"
    return MOVES[node.op](node, operands, grid)


def _linear(op: Op) -> str:
    data, weight = op.input(0), op.input(1)
    if not _alike(op, data) or data.array is not None or weight.grid is None:
        return "its data or weight is not in integers"
    if op.kind == "MatMul" and weight.array is None:
        return _per_tensor(op)
    if weight.array is None or weight.dtype != INT8 or any(weight.grid.zero_points):
        return "its weight is not a constant of int8 with zero point 0"
    if op.kind == "Gemm" and (op.attr("alpha", 1.0) != 1.0 or op.attr("beta", 1.0) != 1.0 or op.attr("transA", 0)):
        return "alpha and beta must be 1, and the left operand not transposed"
    if op.kind == "MatMul" and weight.rank != 2:
        return _per_tensor(op)
    axes = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1, "Gemm": 0 if op.attr("transB", 0) else 1}
    if not weight.grid.is_single and weight.grid.axis != axes[op.kind]:
        return "its weight has a scale for each input channel"
    if op.kind in ("Conv", "ConvTranspose") and data.rank > 4:
        return "LiteRT has no integer convolution over three axes"
    bias = op.bias or op.optional(2)
    return "" if bias is None or bias.array is not None else "its bias is not a constant"


def _per_tensor(op: Op) -> str:
    present = [v for v in op.inputs if v is not None]
    alike = all(_alike(op, v) and v.grid is not None and v.grid.is_single for v in present)
    return "" if alike else "not all are the result's integers"


def _alike(op: Op, value: Value) -> bool:
    """Whether an operand holds integers of the result's type: no kernel reads 8 bits and writes 16."""
    return value.is_integer and value.dtype == op.output.dtype


def _fixed(scale: float, zero_point: int) -> Callable[[Op], str]:
    def problem(op: Op) -> str:
        wide = op.output.dtype == INT16
        prescribed = Grid((2.0**-15,), (0,), dtype=INT16) if wide else Grid((scale,), (zero_point,))
        return _per_tensor(op) or ("" if op.output.grid == prescribed else f"LiteRT prescribes {prescribed}")

    return problem


def _first(op: Op) -> str:
    first = op.input(0)
    return "" if _alike(op, first) and first.array is None else "its data is not in integers"


def _added(op: Op) -> str:
    problem = _per_tensor(op)
    if problem or op.output.dtype != INT16 or op.output.grid is None:
        return problem
    ratio = max(v.grid.scale for v in op.inputs if v is not None and v.grid is not None) / op.output.grid.scale
    return "" if ratio < _LARGEST_RATIO else f"an operand's steps are {ratio:.3g} times as large as the result's"


def _sum(op: Op) -> str:
    return _added(op) if len(op.inputs) == 2 else "LiteRT adds two operands at a time"


def _prelu(op: Op) -> str:
    # Written as max(x, slope · x): LiteRT's PRELU of 16 bits gives 0 for what is negative (2.3.0).
    slope = op.input(1)
    if op.output.dtype == INT16 and (slope.array is None or slope.real().max() > 1):
        return "LiteRT has no PRELU of 16 bits, and a slope is above 1"
    return _per_tensor(op)


def _average(op: Op) -> str:
    return _per_tensor(op) or pool_problem(op)


def _bilinear(op: Op) -> str:
    return _first(op) or ("" if op.input(0).grid == op.output.grid else "its result has another scale")


# LiteRT's own ADD of 16 bits brings operands to 2⁻¹⁵ of the larger one's steps, and checks that the result needs fewer.
_LARGEST_RATIO = 2.0**13
_8_BITS = frozenset({"HardSwish", "LogSoftmax"})
INTEGER: dict[str, Callable[[Op], str]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), _linear),
    **dict.fromkeys(("Mul", "LeakyRelu", "HardSwish", "Max", "Min", "Concat"), _per_tensor),
    **dict.fromkeys(("Relu", "GlobalAveragePool"), _per_tensor),
    **dict.fromkeys(("Clip", "ReduceMean"), _first),
    **dict.fromkeys(("Add", "Sub"), _added),
    "PRelu": _prelu,
    "AveragePool": _average,
    "Sum": _sum,
    "Resize": _bilinear,
    "Sigmoid": _fixed(1 / 256, -128),
    "Softmax": _fixed(1 / 256, -128),
    "Tanh": _fixed(1 / 128, 0),
    "LogSoftmax": _fixed(16 / 256, 127),
}
"""Operator → why LiteRT has no integer kernel for these operands and grids; "" where it has one."""


def integer_problem(op: Op) -> str:
    """Why an operator can't run in integers, "" when it can."""
    if op.kind not in INTEGER:
        return f"LiteRT has no integer kernel for {op.kind}"
    if op.output.dtype == INT16 and op.kind in _8_BITS:
        return f"LiteRT has no kernel of 16 bits for {op.kind}"
    return INTEGER[op.kind](op)
