"""TensorRT, explicit quantization (strongly typed networks).

int8 with zero point 0 everywhere; a residual Add reads its convolution unquantized, so that Conv + Add (+ Relu) is one
kernel, and its skip branch quantized. Bias stays float: the parser rejects an int32 DequantizeLinear.
Source: NVIDIA TensorRT documentation, "Explicit Quantization", "Q/DQ Layer-Placement Recommendations".
"""

from graphopt.quant import Scheme
from graphopt.targets import breaches
from graphopt.targets.spec import OpRule, Role, Target

_DOCS = "TensorRT documentation, Explicit Quantization"
_LINEAR = OpRule(Role.LINEAR, source=_DOCS)
_SAME_SCALE = OpRule(Role.SAME_SCALE, output_quantized=True, source=f"{_DOCS}: layers that Q/DQ may be moved across")

TENSORRT = Target(
    name="tensorrt",
    title="TensorRT",
    engine="tensorrt",
    activation=Scheme("int8", symmetric=True),
    weight=Scheme("int8", symmetric=True, narrow=True),
    bias="float",
    fused_activations=frozenset(
        {"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "Elu", "Selu", "Softplus"}
    ),
    rules={
        "Conv": _LINEAR,
        "ConvTranspose": _LINEAR,
        "Gemm": _LINEAR,
        "MatMul": _LINEAR,
        "Add": OpRule(Role.COMPUTE, operands="skip", source=_DOCS),
        "AveragePool": OpRule(Role.COMPUTE, source=_DOCS),
        "GlobalAveragePool": OpRule(Role.COMPUTE, source=_DOCS),
        "Concat": OpRule(Role.SAME_SCALE, output_quantized=True, source=f"{_DOCS}: Concat wants equal scales"),
        "Flatten": _SAME_SCALE,
        "MaxPool": OpRule(
            Role.SAME_SCALE, output_quantized=True, conditions=("sole-output",), source=_SAME_SCALE.source
        ),
        "Reshape": _SAME_SCALE,
        "Resize": OpRule(Role.SAME_SCALE, output_quantized=True, conditions=("nearest",), source=_SAME_SCALE.source),
        "Slice": _SAME_SCALE,
        "Squeeze": _SAME_SCALE,
        "Transpose": _SAME_SCALE,
        "Unsqueeze": _SAME_SCALE,
    },
    breaches=breaches.TENSORRT,
)
