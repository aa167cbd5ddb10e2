"""Facts about the standard operators, as data. Passes ask here instead of keeping lists of names of their own."""

from __future__ import annotations

from graphopt.ir.elements import Constant, Node, Tensor, is_fixed

RESHAPES: frozenset[str] = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
"""Same elements in the same order under another shape."""

ELEMENTWISE_UNARY: frozenset[str] = frozenset(
    {
        *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu", "Cos", "Cosh"),
        *("Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu"),
        *("Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin"),
        *("Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
    }
)
"""One input, one output of the same shape; each element depends on the same element only."""

ELEMENTWISE_BINARY: frozenset[str] = frozenset(
    {
        *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater"),
        *("GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow"),
        *("Sub", "Sum", "Where", "Xor"),
    }
)
"""Two or more inputs, broadcast against each other."""

COMMUTATIVE: frozenset[str] = frozenset(
    {
        *("Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Equal", "Max", "Mean", "Min", "Mul", "Or"),
        *("Sum", "Xor"),
    }
)
"""The order of two inputs doesn't matter, not even for rounding. Three or more float addends do round by order."""

RANDOM: frozenset[str] = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
"""Another value at each run. Dropout in training is random too: see `is_random`."""

QUANTIZE: frozenset[str] = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
"""Backends match these by position: each wants its own, and a weight's DequantizeLinear must stay at the weight."""

ENGINE_DEFINED: frozenset[str] = frozenset({"Attention", "DFT", "FlexAttention", "MaxUnpool", "Resize", "STFT"})
"""Where onnx's reference implementation and onnxruntime differ by more than rounding (measured on onnx's own backend
suite): leave their result to the engine.
"""

NEVER_NEGATIVE: frozenset[str] = frozenset(
    {"Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt", "ThresholdedRelu"}
)
"""The output is at least 0 whatever the input (or NaN), with default attributes; `is_never_negative` looks further."""

MOVES_VALUES: frozenset[str] = RESHAPES | {
    *("Concat", "DepthToSpace", "Expand", "Gather", "GatherElements", "GatherND", "GlobalMaxPool", "Identity"),
    *("MaxPool", "Slice", "SpaceToDepth", "Split", "Tile", "Transpose"),
}
"""Each value of the output is one of the input: what is read on a grid comes out on the same grid."""

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Sums of products of an activation and a weight: what runs in integers, and where the time goes."""

_KEEPS_SIGN = frozenset(
    {"AveragePool", "DepthToSpace", "Dropout", "GlobalAveragePool", "GlobalMaxPool", "Identity", "MaxPool", "Slice"}
    | {"SpaceToDepth", "Split", "Transpose"}
    | RESHAPES
)
_SIGN_SEARCH_DEPTH = 8


def is_random(node: Node, opset: int) -> bool:
    """Whether the node, or one in its bodies, may give another value each time.

    Dropout: training is the default before opset 7, impossible from 7 to 11, an input from 12 on.
    """
    if node.is_op(*RANDOM):
        return True
    if node.is_op("Dropout"):
        if opset < 7:
            return not node.attr("is_test", 0)
        training = node.input(2)
        if training is None:
            return False
        return not (is_fixed(training) and not training.values.any())
    return any(is_random(inner, opset) for _, body in node.bodies() for inner in body.nodes)


def is_never_negative(tensor: Tensor) -> bool:
    """Whether the values of `tensor` are certainly ≥ 0, from the operators that compute it."""
    for _ in range(_SIGN_SEARCH_DEPTH):
        if isinstance(tensor, Constant):
            return not tensor.is_input and tensor.dtype.kind in "fiu" and bool((tensor.values >= 0).all())
        if not tensor.inputs:
            return False
        node = tensor.inputs[0]
        if node.is_op(*NEVER_NEGATIVE):
            # ThresholdedRelu with a negative alpha lets negative values through.
            return node.op != "ThresholdedRelu" or node.attr("alpha", 1.0) >= 0
        if not node.is_op(*_KEEPS_SIGN) or node.input(0) is None:
            return False
        tensor = node.inputs[0]
    return False


def is_plain_tensor(tensor: Tensor) -> bool:
    """Whether it is a tensor as far as is known, and not a sequence, optional, map or sparse tensor."""
    return isinstance(tensor, Constant) or tensor.type_proto is None
