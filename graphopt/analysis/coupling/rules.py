"""Which rule an operation has. One without any keeps all that it touches whole."""

from __future__ import annotations

from graphopt.analysis.coupling import linear, movement, parts, pointwise, sizes
from graphopt.analysis.coupling.links import Links, Rule, links_of
from graphopt.analysis.coupling.reshape import reshape
from graphopt.analysis.coupling.shapes import Shapes
from graphopt.ir import Node, Tensor
from graphopt.ir.ops import ELEMENTWISE_BINARY, ELEMENTWISE_UNARY, RESHAPES

_POOLS = ("AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_MADE = ("Range", "RandomNormal", "RandomUniform", "EyeLike", "OneHot")

_RULES: dict[str, Rule] = {
    "Conv": linear.conv,
    "ConvTranspose": linear.conv,
    "Gemm": links_of(linear.gemm),
    "MatMul": links_of(linear.matmul),
    "Einsum": links_of(linear.einsum),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), links_of(linear.recurrent)),
    **dict.fromkeys(ELEMENTWISE_UNARY | ELEMENTWISE_BINARY, links_of(pointwise.elementwise)),
    **dict.fromkeys(("Cast", "CastLike", "Clip", "CumSum", "Dropout", "LpNormalization"),
                    links_of(pointwise.first_operand)),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), links_of(pointwise.channel_norm)),
    "GroupNormalization": links_of(pointwise.group_norm),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), links_of(pointwise.layer_norm)),
    **dict.fromkeys(pointwise.ONE_AXIS_NORMS, links_of(pointwise.softmax)),
    "LRN": links_of(pointwise.local_norm),
    "MeanVarianceNormalization": links_of(pointwise.mean_variance),
    **dict.fromkeys(_POOLS, links_of(pointwise.pool)),
    **dict.fromkeys(("RoiAlign", "MaxRoiPool", "GridSample"), links_of(pointwise.channels_only)),
    **dict.fromkeys(("ArgMax", "ArgMin", "TopK"), links_of(pointwise.one_axis)),
    **dict.fromkeys([f"Reduce{kind}" for kind in _REDUCTIONS], links_of(pointwise.reduce)),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), links_of(pointwise.quantize)),
    **dict.fromkeys(RESHAPES, reshape),
    "Transpose": links_of(movement.transpose),
    "Concat": links_of(movement.concat),
    "Split": links_of(parts.split),
    "Slice": links_of(parts.slice_),
    "Gather": links_of(parts.gather),
    "Pad": links_of(movement.pad),
    "Expand": links_of(movement.expand),
    "Tile": links_of(movement.tile),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), links_of(movement.depth_to_space)),
    **dict.fromkeys(("Resize", "Upsample"), links_of(movement.resize)),
    **dict.fromkeys(("Shape", "Size"), links_of(sizes.shape)),
    "Constant": links_of(sizes.constant),
    "ConstantOfShape": links_of(sizes.constant_of_shape),
    "Trilu": links_of(movement.triangle),
    **dict.fromkeys(_MADE, links_of(sizes.made)),
}  # fmt: skip


def ways(node: Node, shapes: Shapes) -> list[Links]:
    """The ways in which the axes of a node hang together, the preferred one first; always at least one."""
    rule = _RULES.get(node.op) if node.is_standard else None
    unknown = next((t for t in _tensors(node) if not shapes.is_known(t)), None)
    if rule is None or unknown is not None:
        links = Links(node, shapes)
        name = node.op if node.is_standard else f"{node.domain}.{node.op}"
        reason = f"there is no rule for {name}" if unknown is None else f"the rank of '{unknown.name}' isn't known"
        for tensor in _tensors(node):
            for axis in range(shapes.rank(tensor)):
                links.hold(tensor, axis, reason)
        return [links]
    return [links.finished() for links in rule(node, shapes)]


def _tensors(node: Node) -> list[Tensor]:
    """Operands and results, but for results that nobody reads: inference leaves those of old Dropouts untyped."""
    read = [t for t in node.present_outputs() if t.outputs or (node.scope is not None and node.scope.is_output(t))]
    return [*(t for _, t in node.present_inputs()), *read]
