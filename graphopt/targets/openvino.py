"""OpenVINO, CPU plugin.

Integer convolutions and matrix products write float or integers alike, and fuse any chain of elementwise operators
behind them, so Q/DQ stands only before what computes in integers. A residual Add fuses into the convolution when
both its inputs are quantized. Operators that move values carry the scale through by themselves: with a second Q/DQ
behind a Transpose of the graph input, the first convolution ran in f32. Measured with OpenVINO 2026.4.1
(`runtimePrecision` of the compiled model).
"""

from graphopt.quant import Scheme
from graphopt.targets import breaches
from graphopt.targets.spec import BlockRule, OpRule, PrecisionRule, Role, Target

_KEEPS_PRECISION = "precision-preserved operations of OpenVINO's low precision transformations"
_SAME_SCALE = OpRule(Role.SAME_SCALE, source=_KEEPS_PRECISION)


def _extreme(name: str) -> OpRule:
    return OpRule(
        Role.SAME_SCALE,
        source=f"int8 in probe '{name}, signed, Q before only', wrong in probe '{name}, signed, Q behind only'",
    )


OPENVINO = Target(
    name="openvino",
    title="OpenVINO (CPU)",
    engine="openvino",
    activation=Scheme("uint8"),
    weight=Scheme("int8", symmetric=True, narrow=True),
    bias="float",
    # With a symbolic batch, an integer convolution without a bias gave all readers zeros or garbage as soon as there
    # were two of them (2026.4.1; two readers are a skip, a gate, an output). A bias of zeros is optimized away; this
    # one is too small to change a sum.
    shared_result_bias=1e-30,
    # ConvStridesPropagation; with another reader beside it, it writes a MaxPool behind the DequantizeLinear, as we do.
    moves_strides=True,
    fused_activations=frozenset(
        {"Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Elu"}
    ),
    rules={
        "Conv": OpRule(
            Role.LINEAR,
            source=(
                "int8 in probe 'conv', float in probe 'conv, s8 weights with a zero point', float in probe "
                "'conv 1x1 with strides', int8 in probe 'conv 1x1, strides in front', int8 in probe "
                "'conv 1x1 with strides, another reader'"
            ),
        ),
        # With a zero point other than 0 the Deconvolution layer runs in f32 (a Convolution doesn't mind).
        # With groups it runs in f32 whatever their size (2 to all channels, strides 1 and 2).
        # A Convolution that reads a Concat of int8 takes the integers for uint8, and its result is wrong (28 instead
        # of 45 dB on a detector of another tool): a signed input must not reach a Concat.
        "ConvTranspose": OpRule(
            Role.LINEAR,
            signed_input=Scheme("int8", symmetric=True),
            conditions=("one-group", "unjoined"),
            source=(
                "int8 in probe 'conv transpose', float in probe 'conv transpose, u8 activations', "
                "float in probe 'conv transpose, groups', wrong in probe 'concat of s8 zero point 0, Q before only'"
            ),
        ),
        "Gemm": OpRule(Role.LINEAR, source="int8 in probe 'gemm', int8 in probe 'gemm, alpha'"),
        "MatMul": OpRule(
            Role.LINEAR, source="int8 in probe 'matmul, tokens', float in probe 'matmul of two activations'"
        ),
        # Q/DQ on the operand that Add is fused with is left out by the engine: written without it, the model says what
        # the engine computes (0.1 dB apart instead of 2.4 on a ResNet), and is as fast.
        "Add": OpRule(
            Role.COMPUTE,
            operands="all but one",
            source=(
                "int8 in probe 'residual add, Q on skip', int8 in probe 'residual add, Q on both', int8 in probe "
                "'residual add, Q on skip, result not quantized', int8 in probe "
                "'add of two results that others read, Q before only', refused in probe "
                "'add, constant, Q on both sides'"
            ),
        ),
        # Padding is the integer 0 there, not the zero point: with zero point 128 the result was 200 steps off.
        "AveragePool": OpRule(
            Role.COMPUTE,
            needs_reader=True,
            conditions=("floors", "no-zeros-counted"),
            source=(
                "int8 in probe 'average pool, Q on both sides', float in probe 'average pool, Q before only', "
                "float in probe 'average pool, ceil mode, Q on both sides', wrong in probe "
                "'average pool of signed values, pads counted, Q on both sides'"
            ),
        ),
        "GlobalAveragePool": OpRule(Role.COMPUTE, source="int8 in probe 'global average pool, Q before only'"),
        "ReduceMean": OpRule(Role.COMPUTE, source="int8 in probe 'reduce mean over the picture, Q before only'"),
        # In float with Q behind, what reads that got wrong values: 18 to 335 steps off, in whole networks 8 dB.
        "GlobalMaxPool": _extreme("global max pool"),
        "ReduceMax": _extreme("reduce max over the picture"),
        "ReduceMin": _extreme("reduce min over the picture"),
        # With scales of its own on each side the layer behind runs in f32.
        "Concat": OpRule(
            Role.SAME_SCALE,
            source=(
                f"{_KEEPS_PRECISION}, int8 in probe 'concat, equal scales, Q before only', mixed in probe "
                "'concat, unequal scales, Q before only'"
            ),
        ),
        "DepthToSpace": _SAME_SCALE,
        "Flatten": _SAME_SCALE,
        "MaxPool": OpRule(
            Role.SAME_SCALE, conditions=("sole-output",), source="int8 in probe 'max pool, Q before only'"
        ),
        "Reshape": _SAME_SCALE,
        "Resize": OpRule(
            Role.SAME_SCALE,
            conditions=("nearest", "fixed-sizes"),
            source=(
                "int8 in probe 'resize nearest, Q before only', float in probe 'resize linear, Q before only', "
                "float in probe 'resize nearest, computed sizes, Q before only'"
            ),
        ),
        "Slice": _SAME_SCALE,
        "Split": _SAME_SCALE,
        "Squeeze": _SAME_SCALE,
        "Transpose": _SAME_SCALE,
        "Unsqueeze": _SAME_SCALE,
    },
    # Without ½ the gate is a layer of its own behind each product (1.03 to 1.05 times as long). MVN and RMS are found
    # with the scale or without it.
    fused_patterns=frozenset({"erf-gelu", "erf-gelu-div", "tanh-gelu"}),
    breaches=breaches.OPENVINO,
    precisions={
        "int4-weights": PrecisionRule(
            written="DQ in blocks (opset 21)",
            operators=frozenset({"Gemm", "MatMul"}),
            conditions=("right-matrix", "matrix-data", "plain-gemm", "own-weight", "even-blocks"),
            source="OpenVINO documentation, 4-bit Weight Quantization; FullyConnected with i4 weights in 2026.4.1",
        ),
        "int8": PrecisionRule(
            written="Q/DQ before it",
            borders="Q where float32 is read in 8 bits; 8-bit kernels write float32 or 8 bits alike",
            source="the rule of each operator",
        ),
        # bfloat16 is a hint to the plugin, not a type of the model.
        "float32": PrecisionRule(written="as it is", source="ONNX"),
    },
    block_weights=BlockRule(source="FullyConnected with i4 or u4 weights in the compiled model, 2026.4.1"),
)
