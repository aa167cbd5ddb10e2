"""OpenVINO, CPU plugin.

Integer convolutions and matrix products write float or integers alike, and fuse any chain of elementwise operators
behind them, so Q/DQ stands only before what computes in integers. A residual Add fuses into the convolution when
both its inputs are quantized. Operators that move values carry the scale through by themselves: with a second Q/DQ
behind a Transpose of the graph input, the first convolution ran in f32. Measured with OpenVINO 2026.4.1
(`runtimePrecision` of the compiled model).
"""

from graphopt.quant import Scheme
from graphopt.targets import breaches
from graphopt.targets.spec import OpRule, Role, Target

_SAME_SCALE = OpRule(
    Role.SAME_SCALE, source="precision-preserved operations of OpenVINO's low precision transformations"
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
    fused_activations=frozenset(
        {"Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Elu"}
    ),
    rules={
        "Conv": OpRule(Role.LINEAR),
        # With a zero point other than 0 the Deconvolution layer runs in f32 (a Convolution doesn't mind).
        # With groups it runs in f32 whatever their size (2 to all channels, strides 1 and 2).
        "ConvTranspose": OpRule(Role.LINEAR, signed_input=Scheme("int8", symmetric=True), conditions=("one-group",)),
        "Gemm": OpRule(Role.LINEAR),
        "MatMul": OpRule(Role.LINEAR),
        "Add": OpRule(Role.COMPUTE, source="Add + Relu fuse into the convolution only with Q/DQ on both inputs"),
        "AveragePool": OpRule(Role.COMPUTE),
        "GlobalAveragePool": OpRule(Role.COMPUTE, source="the Reduce runs in float without Q before it"),
        "ReduceMean": OpRule(Role.COMPUTE),
        "Concat": _SAME_SCALE,
        "DepthToSpace": _SAME_SCALE,
        "Flatten": _SAME_SCALE,
        "MaxPool": OpRule(Role.SAME_SCALE, conditions=("sole-output",), source=_SAME_SCALE.source),
        "Reshape": _SAME_SCALE,
        "Resize": OpRule(Role.SAME_SCALE, conditions=("nearest",), source=_SAME_SCALE.source),
        "Slice": _SAME_SCALE,
        "Split": _SAME_SCALE,
        "Squeeze": _SAME_SCALE,
        "Transpose": _SAME_SCALE,
        "Unsqueeze": _SAME_SCALE,
    },
    breaches=breaches.OPENVINO,
)
