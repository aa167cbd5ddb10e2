"""TFLite / LiteRT, int8 reference and XNNPACK kernels.

Every tensor of an integer region is int8 with one scale; the kernels below exist in int8, some with one scale for
inputs and outputs, some with a prescribed output. Source: LiteRT 8-bit quantization specification
(ai.google.dev/edge/litert/models/quantization_spec).
"""

from graphopt.quant import Scheme
from graphopt.targets import breaches
from graphopt.targets.spec import OpRule, Role, Target

_SPEC = "LiteRT 8-bit quantization specification"
_LINEAR = OpRule(Role.LINEAR, output_quantized=True, source=_SPEC)
_COMPUTE = OpRule(Role.COMPUTE, output_quantized=True, source=_SPEC)
_SAME_SCALE = OpRule(Role.SAME_SCALE, output_quantized=True, source=_SPEC)
_TO_ONE = OpRule(Role.FIXED_OUTPUT, output_quantized=True, fixed_output=(1 / 256, -128), source=_SPEC)

TFLITE = Target(
    name="tflite",
    title="TFLite / LiteRT",
    engine="litert",
    activation=Scheme("int8"),
    weight=Scheme("int8", symmetric=True, narrow=True),
    bias="int32",
    fused_activations=frozenset({"Relu", "Clip"}),
    rules={
        "Conv": _LINEAR,
        "ConvTranspose": _LINEAR,
        "Gemm": OpRule(Role.LINEAR, output_quantized=True, conditions=("column-bias",), source=_SPEC),
        "MatMul": _LINEAR,
        "Add": _COMPUTE,
        "Sub": _COMPUTE,
        "Mul": _COMPUTE,
        "LeakyRelu": _COMPUTE,
        "PRelu": _COMPUTE,
        "HardSwish": _COMPUTE,
        "Relu": _COMPUTE,
        "GlobalAveragePool": OpRule(Role.COMPUTE, output_quantized=True, source=f"{_SPEC}: MEAN"),
        "ReduceMean": _COMPUTE,
        "Sigmoid": _TO_ONE,
        "Softmax": _TO_ONE,
        "Tanh": OpRule(Role.FIXED_OUTPUT, output_quantized=True, fixed_output=(1 / 128, 0), source=_SPEC),
        "AveragePool": _SAME_SCALE,
        "Concat": _SAME_SCALE,
        "DepthToSpace": _SAME_SCALE,
        "Flatten": _SAME_SCALE,
        "Gather": _SAME_SCALE,
        "GlobalMaxPool": _SAME_SCALE,
        "MaxPool": OpRule(Role.SAME_SCALE, output_quantized=True, conditions=("sole-output",), source=_SPEC),
        "Pad": OpRule(Role.SAME_SCALE, output_quantized=True, conditions=("zero-pad",), source=_SPEC),
        "ReduceMax": _SAME_SCALE,
        "Reshape": _SAME_SCALE,
        "Resize": OpRule(Role.SAME_SCALE, output_quantized=True, conditions=("interpolates",), source=_SPEC),
        "Slice": _SAME_SCALE,
        "SpaceToDepth": _SAME_SCALE,
        "Split": _SAME_SCALE,
        "Squeeze": _SAME_SCALE,
        "Transpose": _SAME_SCALE,
        "Unsqueeze": _SAME_SCALE,
    },
    quantize_everywhere=True,
    breaches=breaches.TFLITE,
)
