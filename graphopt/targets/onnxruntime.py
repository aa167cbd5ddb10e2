"""onnxruntime, CPU execution provider.

u8 activations with s8 weights use the VNNI/AVX2 kernels (3× faster than float; s8 × s8 was 7× slower). QLinearConv is
formed only from DQ → Conv → Q; a Relu between Conv and Q disappears when the zero point is the type's minimum.
Gemm and MatMul also form an integer kernel with a float output. Measured with onnxruntime 1.31.1.
"""

from graphopt.quant import Scheme
from graphopt.targets import breaches
from graphopt.targets.spec import OpRule, Role, Target

_MOVES = "DropQDQNodesRules in onnxruntime's qdq_selector_action_transformer.cc"
_SAME_SCALE = OpRule(Role.SAME_SCALE, output_quantized=True, source=_MOVES)

ONNXRUNTIME = Target(
    name="onnxruntime",
    title="onnxruntime (CPU)",
    engine="onnxruntime",
    activation=Scheme("uint8"),
    weight=Scheme("int8", symmetric=True, narrow=True),
    bias="int32",
    fused_activations=frozenset({"Relu", "Clip"}),
    # A Clip goes where its bounds are not inside the integers' range, which rounding the zero point decides for all
    # but 0: with -1 and 1 the convolution ran in float.
    fused_conditions={"Clip": ("from-zero",)},
    rules={
        "Conv": OpRule(Role.LINEAR, output_quantized=True, source="QLinearConv"),
        # QGemm takes an int32 bias of one value per column; with any other the product runs in float.
        "Gemm": OpRule(Role.LINEAR, conditions=("column-bias",), source="QGemm"),
        "MatMul": OpRule(Role.LINEAR, source="MatMulIntegerToFloat, QLinearMatMul"),
        "Add": OpRule(Role.COMPUTE, output_quantized=True, source="QLinearAdd"),
        # Around convolutions, as in SiLU: with float Sigmoid and Mul small EfficientNet and YOLO nets took 1.2–1.3×.
        "Mul": OpRule(Role.COMPUTE, output_quantized=True, source="QLinearMul"),
        "Sigmoid": OpRule(Role.COMPUTE, output_quantized=True, source="QLinearSigmoid"),
        "AveragePool": OpRule(Role.COMPUTE, output_quantized=True, source="QLinearAveragePool"),
        "GlobalAveragePool": OpRule(Role.COMPUTE, output_quantized=True, source="QLinearGlobalAveragePool"),
        # Not fused into QLinearConv, so Q stands on both sides; one scale for both maps the positive half exactly.
        "LeakyRelu": OpRule(Role.SAME_SCALE, output_quantized=True, rescales=True, source="QLinearLeakyRelu"),
        # QLinearConcat takes any scales, 7× slower per byte than with one. A Relu only disappears when the zero point
        # is the minimum, a Clip when its bounds are the type's: beside other values their Conv ran in float.
        "Concat": OpRule(Role.SAME_SCALE, output_quantized=True, rescales=True, source="QLinearConcat"),
        "DepthToSpace": _SAME_SCALE,
        "Expand": _SAME_SCALE,
        "Flatten": _SAME_SCALE,
        "Gather": _SAME_SCALE,
        "MaxPool": OpRule(Role.SAME_SCALE, output_quantized=True, conditions=("sole-output",), source=_MOVES),
        "Reshape": _SAME_SCALE,
        "Resize": OpRule(Role.SAME_SCALE, output_quantized=True, conditions=("nearest",), source=_MOVES),
        "Slice": _SAME_SCALE,
        "Split": _SAME_SCALE,
        "Squeeze": _SAME_SCALE,
        "Transpose": _SAME_SCALE,
        "Unsqueeze": _SAME_SCALE,
    },
    float_reasons={
        "ConvTranspose": "onnxruntime has no integer ConvTranspose kernel on the CPU",
    },
    breaches=breaches.ONNXRUNTIME,
)
