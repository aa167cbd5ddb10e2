"""TensorRT, explicit quantization (strongly typed networks).

int8 with zero point 0 everywhere; a residual Add reads its convolution unquantized, so that Conv + Add (+ Relu) is one
kernel, and its skip branch quantized. Bias stays float: the parser rejects an int32 DequantizeLinear. Where
TensorRT-RTX 1.7.1, in which results are proven, has no integer kernel, the operator stays float.
Source: NVIDIA TensorRT documentation, "Explicit Quantization", "Q/DQ Layer-Placement Recommendations".
"""

from graphopt.quant import Scheme
from graphopt.targets import breaches
from graphopt.targets.spec import BlockRule, OpRule, PrecisionRule, Role, Target

_DOCS = "TensorRT documentation, Explicit Quantization"
_TYPED = "TensorRT documentation, Strongly Typed Networks; plans of TensorRT-RTX 1.7.1 for SM80 to SM121"
_CASTS = "a Cast where the other type is read, alone or fused into the kernel before it"
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
        "Conv": OpRule(
            Role.LINEAR,
            source=f"{_DOCS}, int8 in probe 'conv', float in probe 'conv, scales of rank 1'",
        ),
        "Gemm": OpRule(Role.LINEAR, source=f"{_DOCS}, int8 in probe 'gemm'"),
        "MatMul": OpRule(Role.LINEAR, source=f"{_DOCS}, int8 in probe 'matmul, tokens'"),
        "Add": OpRule(
            Role.COMPUTE,
            operands="skip",
            source=f"{_DOCS}, int8 in probe 'residual add, Q on skip, result not quantized'",
        ),
        # Without the attribute only odd squares with stride 1 were averaged from integers (2 × 2 to 28 × 28).
        "AveragePool": OpRule(
            Role.COMPUTE,
            needs_reader=True,
            conditions=("counts-pads",),
            source=(
                "int8 in probe 'average pool, pads counted, Q on both sides', float in probe "
                "'average pool, Q on both sides', float in probe 'average pool, pads counted, Q before only'"
            ),
        ),
        "GlobalAveragePool": OpRule(
            Role.COMPUTE, source=f"{_DOCS}, int8 in probe 'global average pool, Q before only'"
        ),
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
    float_reasons={
        # Probe 'conv transpose' and its variants: 1 to 3 axes, groups, scales per tensor and per channel.
        "ConvTranspose": "TensorRT-RTX has no integer ConvTranspose kernel",
    },
    breaches=breaches.TENSORRT,
    # Read from plans for SM80 to SM120: Conv, ConvTranspose, Gemm and MatMul, float16 and bfloat16.
    fuses_casts=True,
    # fp8 (Q/DQ of E4M3) builds for SM89 and SM120, and is refused for SM86; nothing here plans it.
    precisions={
        "int4-weights": PrecisionRule(
            written="DQ in blocks (opset 21)",
            operators=frozenset({"Gemm", "MatMul"}),
            conditions=("right-matrix", "matrix-data", "plain-gemm", "own-weight", "even-blocks", "even-count"),
            source="int4 weights and 'int4_block_dq' in the plans of TensorRT-RTX 1.7.1 for SM80, SM89 and SM120",
        ),
        "int8": PrecisionRule(
            written="Q/DQ before it",
            borders="Q where float32 is read in 8 bits; 8-bit kernels write float32 or 8 bits alike",
            source=_DOCS,
        ),
        "float16": PrecisionRule(written="Casts around it", borders=_CASTS, source=_TYPED),
        "bfloat16": PrecisionRule(
            written="Casts around it",
            borders=_CASTS,
            # Of 78 operators and forms that build in float16 (all that were tried), those that don't in bfloat16.
            without=frozenset({"ConvTranspose", "GRU", "HardSwish", "LpNormalization", "Mish"}),
            source=_TYPED,
        ),
        "float32": PrecisionRule(written="as it is", source="ONNX"),
    },
    block_weights=BlockRule(
        zero_points=False,
        signed=False,
        shared=False,
        # A weight that products of two tensors read crashed the builder.
        source='uint4 in TensorRT-RTX 1.7.1: "Failed to import initializer"',
    ),
)
