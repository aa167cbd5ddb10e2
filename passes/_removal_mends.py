"""What an operation says about sizes, and what it has to say once channels are removed: a rule per operator.

    Conv(group=32) of 32 channels, 24 of which stay      →      group=24
    Split(x, [32, 32])                                   →      [24, 32]
    Pad(x, 8 channels more in front), 6 of which stay    →      6 more

A rule reads which elements stay along the axes of what a node reads and writes; it changes nothing. Where what stays
can't be said by the operator (uneven groups, a stride through a gap) it raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from graphopt.errors import InternalError
from graphopt.ir import Constant, Node, Tensor
from graphopt.ir.ops import ELEMENTWISE_BINARY, ELEMENTWISE_UNARY
from graphopt.passes._removal_cuts import Cuts, Mend, failure
from graphopt.passes._removal_parts import gather_rule, pad_rule, slice_rule, split_rule, squeeze_rule
from graphopt.passes._removal_targets import constant_of_shape_rule, expand_rule, reshape_rule, resize_rule, tile_rule

Rule = Callable[[Node, Cuts], Mend]


def mend(node: Node, cuts: Cuts) -> Mend:
    """What follows for a node that reads or writes something that loses elements.

    Raises:
        InternalError: it can't be mended, or nothing is known about the operator.
    """
    if not node.is_standard or (node.op not in _RULES and node.op not in _NOTHING_TO_MEND):
        raise InternalError(f"{node} has channels to remove, and there is no rule for it")
    rule = _RULES.get(node.op)
    return Mend() if rule is None else rule(node, cuts)


def _conv(node: Node, cuts: Cuts) -> Mend:
    """Conv weights are [out, in of a group, …], those of ConvTranspose [in, out of a group, …]."""
    group = int(node.attr("group", 1))
    data, weight, result = node.inputs[0], node.inputs[1], node.outputs[0]
    # A group's part of this one is the weight's axis 1; the other one's channels are its axis 0.
    part, whole = (data, result) if node.op == "Conv" else (result, data)
    parts, wholes = (cuts.all_of(tensor, 1).reshape(group, -1) for tensor in (part, whole))
    stays = parts.any(axis=1)
    counts = wholes.sum(axis=1)
    if not (parts[stays] == cuts.all_of(weight, 1)).all():
        raise failure(node, "its groups, or its weight, keep different channels")
    if not stays.any() or len(set(counts[stays].tolist())) != 1 or counts[~stays].any() or not counts[stays][0]:
        raise failure(node, "its groups keep different numbers of channels")
    _check_same(node, cuts, (weight, 0), (whole, 1))
    bias = node.input(2)
    if bias is not None:
        _check_same(node, cuts, (bias, 0), (result, 1))
    return Mend() if group == 1 else Mend(attrs={"group": int(stays.sum())})


def _check_same(node: Node, cuts: Cuts, left: tuple[Tensor, int], right: tuple[Tensor, int]) -> None:
    """Onnx's inference doesn't hold the parameters of every layer to the sizes of its data."""
    if not np.array_equal(cuts.all_of(*left), cuts.all_of(*right)):
        raise failure(node, f"'{left[0].name}' and '{right[0].name}' keep different channels")


def _normalization(node: Node, cuts: Cuts) -> Mend:
    """Of each channel by itself: BatchNormalization and InstanceNormalization."""
    for _, parameter in node.present_inputs()[1:]:
        _check_same(node, cuts, (parameter, 0), (node.inputs[0], 1))
    return Mend()


def _group_normalization(node: Node, cuts: Cuts) -> Mend:
    groups = int(node.attrs["num_groups"])
    kept = cuts.all_of(node.inputs[0], 1).reshape(groups, -1)
    stays = kept.all(axis=1)
    if not (stays == kept.any(axis=1)).all():
        raise failure(node, "it normalizes over a group that loses only some of its channels")
    return Mend(attrs={"num_groups": int(stays.sum())})


def _recurrent(node: Node, cuts: Cuts) -> Mend:
    """The recurrence weight is [directions, gates · hidden, hidden]."""
    return Mend(attrs={"hidden_size": cuts.left(node.inputs[2], 2)})


def _max_pool(node: Node, _cuts: Cuts) -> Mend:
    if len(node.outputs) > 1 and not node.outputs[1].is_empty() and node.outputs[1].outputs:
        raise failure(node, "its indices count over the channels")
    return Mend()


def _constant(node: Node, cuts: Cuts) -> Mend:
    value = node.attr("value")
    if not isinstance(value, Constant):
        raise failure(node, "its value isn't a tensor")
    return Mend(attrs={"value": Constant("", cuts.compress(value.values, node.outputs[0]))})


_RULES: Mapping[str, Rule] = {
    "BatchNormalization": _normalization,
    "Constant": _constant,
    "ConstantOfShape": constant_of_shape_rule,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Expand": expand_rule,
    "GRU": _recurrent,
    "Gather": gather_rule,
    "GroupNormalization": _group_normalization,
    "InstanceNormalization": _normalization,
    "LSTM": _recurrent,
    "MaxPool": _max_pool,
    "Pad": pad_rule,
    "RNN": _recurrent,
    "Reshape": reshape_rule,
    "Resize": resize_rule,
    "Slice": slice_rule,
    "Split": split_rule,
    "Squeeze": squeeze_rule,
    "Tile": tile_rule,
}

_NOTHING_TO_MEND = (
    ELEMENTWISE_UNARY
    | ELEMENTWISE_BINARY
    | {"Cast", "CastLike", "Clip", "Dropout", "Flatten", "Concat", "Transpose", "Unsqueeze", "Upsample"}
    | {"LayerNormalization", "RMSNormalization", "LRN"}
    | {"LpNormalization", "MeanVarianceNormalization", "Softmax", "LogSoftmax", "Hardmax"}
    | {"AveragePool", "LpPool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GridSample", "MaxRoiPool"}
    | {"RoiAlign", "DepthToSpace", "SpaceToDepth", "Gemm", "MatMul", "Einsum", "CumSum", "Trilu"}
    | {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"}
    | {"ReduceProd", "ReduceSum", "ReduceSumSquare", "ArgMax", "ArgMin", "TopK", "Shape", "Size"}
    | {"QuantizeLinear", "DequantizeLinear"}
)
"""Operators that take all sizes from what they read. That what they do is right for the channels that stay is what
coupling answers for: it freezes axes that an operator normalizes, counts or searches over.
"""
