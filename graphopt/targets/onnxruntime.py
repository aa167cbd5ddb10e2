"""onnxruntime, CPU execution provider.

u8 activations with s8 weights use the VNNI/AVX2 kernels (3× faster than float; s8 × s8 was 7× slower). QLinearConv is
formed only from DQ → Conv → Q; a Relu between Conv and Q disappears when the zero point is the type's minimum.
Gemm and MatMul also form an integer kernel with a float output. Measured with onnxruntime 1.31.1.
"""

from graphopt.quant import Scheme
from graphopt.targets import breaches
from graphopt.targets.spec import BlockRule, OpRule, PrecisionRule, Role, Target

_MOVES = "DropQDQNodesRules in onnxruntime's qdq_selector_action_transformer.cc"


def _compute(kernel: str, probe: str) -> OpRule:
    return OpRule(Role.COMPUTE, output_quantized=True, source=f"{kernel}, int8 in probe '{probe}'")


def _same_scale(probe: str, *conditions: str) -> OpRule:
    source = f"{_MOVES}, int8 in probe '{probe}, Q on both sides'"
    return OpRule(Role.SAME_SCALE, output_quantized=True, conditions=conditions, source=source)


ONNXRUNTIME = Target(
    name="onnxruntime",
    title="onnxruntime (CPU)",
    engine="onnxruntime",
    activation=Scheme("uint8"),
    weight=Scheme("int8", symmetric=True, narrow=True),
    bias="int32",
    fused_activations=frozenset({"Relu", "Clip"}),
    # WeightBiasQuantization, and NodeGroupSelector::GetQDQSelection, which takes a Relu or Clip for one of Q's.
    mistakes_products=True,
    # A Clip goes where its bounds are not inside the integers' range, which rounding the zero point decides for all
    # but 0: with -1 and 1 the convolution ran in float.
    fused_conditions={"Clip": ("from-zero",)},
    rules={
        "Conv": OpRule(
            Role.LINEAR,
            output_quantized=True,
            source=(
                "QLinearConv, int8 in probe 'conv', float in probe 'conv, result not quantized', int8 in probe "
                "'conv, float weights', float in probe 'conv, float weights, kept apart'"
            ),
        ),
        # QGemm takes an int32 bias of one value per column; with any other the product runs in float.
        "Gemm": OpRule(
            Role.LINEAR,
            conditions=("column-bias",),
            source=(
                "QGemm, int8 in probe 'gemm, result not quantized', float in probe 'gemm, alpha', float in probe "
                "'gemm and relu, result not quantized', int8 in probe 'gemm and relu, kept apart, result not quantized'"
            ),
        ),
        "MatMul": OpRule(
            Role.LINEAR,
            source=(
                "MatMulIntegerToFloat, int8 in probe 'matmul, tokens, int32 bias', float in probe "
                "'matmul, constant on the left'"
            ),
        ),
        "Add": _compute("QLinearAdd", "add of two convolutions, Q on both"),
        # Around convolutions, as in SiLU: with float Sigmoid and Mul small EfficientNet and YOLO nets took 1.2–1.3×.
        "Mul": _compute("QLinearMul", "mul of two convolutions, Q on both"),
        "Sigmoid": _compute("QLinearSigmoid", "conv → Q → sigmoid → Q"),
        "AveragePool": _compute("QLinearAveragePool", "average pool, Q on both sides"),
        "GlobalAveragePool": _compute("QLinearGlobalAveragePool", "global average pool, Q on both sides"),
        # Not fused into QLinearConv, so Q stands on both sides; one scale for both maps the positive half exactly.
        "LeakyRelu": OpRule(
            Role.SAME_SCALE,
            output_quantized=True,
            rescales=True,
            source=(
                "QLinearLeakyRelu, int8 in probe 'conv → Q → leaky relu → Q of the same scale', mixed in probe "
                "'conv → leaky relu, Q behind'"
            ),
        ),
        # QLinearConcat takes any scales, 7× slower per byte than with one. A Relu only disappears when the zero point
        # is the minimum, a Clip when its bounds are the type's: beside other values their Conv ran in float.
        "Concat": OpRule(
            Role.SAME_SCALE,
            output_quantized=True,
            rescales=True,
            source=(
                "QLinearConcat, int8 in probe 'concat, equal scales, Q on both sides', int8 in probe "
                "'concat, unequal scales, Q on both sides', float in probe 'concat, equal scales, Q before only'"
            ),
        ),
        "DepthToSpace": _same_scale("depth to space"),
        "Expand": _same_scale("expand"),
        "Flatten": _same_scale("flatten"),
        "Gather": _same_scale("gather channels"),
        "MaxPool": _same_scale("max pool", "sole-output"),
        "Reshape": _same_scale("reshape"),
        "Resize": _same_scale("resize nearest", "nearest"),
        "Slice": _same_scale("slice"),
        "Split": _same_scale("split"),
        "Squeeze": _same_scale("squeeze and unsqueeze"),
        "Transpose": _same_scale("transpose"),
        "Unsqueeze": _same_scale("squeeze and unsqueeze"),
    },
    float_reasons={
        "ConvTranspose": "onnxruntime has no integer ConvTranspose kernel on the CPU",
    },
    # LayerNormFusion, SimplifiedLayerNormFusion, GeluFusion and FastGeluFusion look for the scale: a decomposed
    # transformer with γ and ½ folded away took 1.10 to 1.13 times as long in 8 bits, and 1.03 in float.
    fused_patterns=frozenset({"layer-norm", "rms-norm", "erf-gelu-div", "tanh-gelu"}),
    breaches=breaches.ONNXRUNTIME,
    # float16 is no gain: the CPU provider has few kernels for it and casts to float32 and back around the others.
    precisions={
        "int4-weights": PrecisionRule(
            written="DQ in blocks (opset 21)",
            operators=frozenset({"Gemm", "MatMul"}),
            conditions=("right-matrix", "many-inputs", "plain-gemm", "no-matrix-added", "own-weight"),
            source="MatMulNBits of onnxruntime's CPU provider",
        ),
        "int8": PrecisionRule(
            written="Q/DQ on both sides",
            borders="Q where float32 is read in 8 bits, DQ where a kernel that writes 8 bits is read in float32",
            source="the rule of each operator",
        ),
        "float32": PrecisionRule(written="as it is", source="ONNX"),
    },
    block_weights=BlockRule(
        sizes=(16, 32, 64, 128, 256),
        transposed=False,
        shared=False,
        source="MatMulNBits, from DQMatMulToMatMulNBits in onnxruntime's qdq_selector_action_transformer.cc",
    ),
)
