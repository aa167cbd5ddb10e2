"""TFLite / LiteRT, int8 reference and XNNPACK kernels.

Every tensor of an integer region is int8 with one scale; the kernels below exist in int8, some with one scale for
inputs and outputs, some with a prescribed output. Source: LiteRT 8-bit quantization specification
(ai.google.dev/edge/litert/models/quantization_spec).
"""

from dataclasses import replace

from graphopt.quant import Scheme
from graphopt.targets import breaches
from graphopt.targets.spec import OpRule, PrecisionRule, Role, Target

_SPEC = "LiteRT 8-bit quantization specification"
_LINEAR = OpRule(Role.LINEAR, output_quantized=True, source=_SPEC)
_COMPUTE = OpRule(Role.COMPUTE, output_quantized=True, source=_SPEC)


def _compute(probe: str) -> OpRule:
    return OpRule(Role.COMPUTE, output_quantized=True, source=f"{_SPEC}, int8 in probe '{probe}'")


def _same_scale(probe: str, *conditions: str) -> OpRule:
    source = f"{_SPEC}, int8 in probe '{probe}, Q on both sides'"
    return OpRule(Role.SAME_SCALE, output_quantized=True, conditions=conditions, source=source)


_RULES: dict[str, OpRule] = {
    "Conv": OpRule(
        Role.LINEAR,
        output_quantized=True,
        source=f"{_SPEC}, int8 in probe 'conv', float in probe 'conv, result not quantized'",
    ),
    "ConvTranspose": _LINEAR,
    "Gemm": OpRule(Role.LINEAR, output_quantized=True, conditions=("column-bias",), source=_SPEC),
    "MatMul": _LINEAR,
    "Add": _compute("add of two convolutions, Q on both"),
    "Sub": _compute("sub of two convolutions, Q on both"),
    "Mul": _compute("mul of two convolutions, Q on both"),
    "LeakyRelu": _compute("conv → Q → leaky relu → Q"),
    "PRelu": _COMPUTE,
    "HardSwish": _compute("conv → Q → hard swish → Q"),
    "Relu": _compute("conv → Q → relu → Q of the same scale"),
    "GlobalAveragePool": OpRule(Role.COMPUTE, output_quantized=True, source=f"{_SPEC}: MEAN"),
    "ReduceMean": _compute("reduce mean over the picture, Q on both sides"),
    "Sigmoid": OpRule(
        Role.FIXED_OUTPUT,
        output_quantized=True,
        fixed_output=(1 / 256, -128),
        source=f"{_SPEC}, int8 in probe 'sigmoid, Q of 1/256', mixed in probe 'conv → Q → sigmoid → Q'",
    ),
    # LiteRT refuses any other scale than 1/256: of 1,000 classes that are nearly alike nothing would be left.
    "Softmax": OpRule(
        Role.FIXED_OUTPUT,
        output_quantized=True,
        fixed_output=(1 / 256, -128),
        conditions=("inner",),
        source=f"{_SPEC}, int8 in probe 'softmax over the last axis, Q of 1/256', float in probe "
        "'softmax over the last axis, Q on both sides'",
    ),
    "Tanh": OpRule(Role.FIXED_OUTPUT, output_quantized=True, fixed_output=(1 / 128, 0), source=_SPEC),
    "AveragePool": _compute("average pool, Q on both sides"),
    "Concat": _same_scale("concat, equal scales"),
    "DepthToSpace": _same_scale("depth to space"),
    "Flatten": _same_scale("flatten"),
    "Gather": _same_scale("gather channels"),
    "GlobalMaxPool": _same_scale("global max pool"),
    "MaxPool": _same_scale("max pool", "sole-output"),
    "Pad": _same_scale("pad with 0", "zero-pad"),
    "ReduceMax": _same_scale("reduce max over channels"),
    "Reshape": _same_scale("reshape"),
    "Resize": _same_scale("resize linear", "interpolates"),
    "Slice": _same_scale("slice"),
    "SpaceToDepth": _same_scale("space to depth"),
    "Split": _same_scale("split"),
    "Squeeze": _same_scale("squeeze and unsqueeze"),
    "Transpose": _same_scale("transpose"),
    "Unsqueeze": _same_scale("squeeze and unsqueeze"),
}

_FLOAT_IN_16_BITS = frozenset({"DepthToSpace", "HardSwish", "SpaceToDepth"})


def _in_16_bits(op: str, rule: OpRule) -> OpRule:
    """The rule of the same operator with 16-bit activations."""
    fixed = None if rule.fixed_output is None else (2.0**-15, 0)
    conditions = (*rule.conditions, *(("gentle",) if op == "PRelu" else ()))
    source = "kernels of LiteRT 2.3.0 (tests/backends/litert_writer/test_int16_ops.py)"
    return replace(rule, fixed_output=fixed, conditions=conditions, source=source)


_WIDE_RULES = {op: _in_16_bits(op, rule) for op, rule in _RULES.items() if op not in _FLOAT_IN_16_BITS}

TFLITE = Target(
    name="tflite",
    title="TFLite / LiteRT",
    engine="litert",
    activation=Scheme("int8"),
    weight=Scheme("int8", symmetric=True, narrow=True),
    bias="int32",
    fused_activations=frozenset({"Relu", "Clip"}),
    rules=_RULES,
    wide_rules=_WIDE_RULES,
    quantize_everywhere=True,
    breaches=breaches.TFLITE,
    precisions={
        "int8": PrecisionRule(
            written="Q/DQ on both sides",
            borders="QUANTIZE where float32 is read in 8 bits, DEQUANTIZE where 8 bits are read in float32",
            source=_SPEC,
        ),
        "int16x8": PrecisionRule(
            written="Q/DQ of int16 on both sides",
            borders="QUANTIZE between 8 and 16 bits",
            operators=frozenset(op for op, rule in _WIDE_RULES.items() if rule.role is not Role.SAME_SCALE),
            source="kernels of LiteRT 2.3.0 (tests/backends/litert_writer/test_int16_ops.py)",
        ),
        "float16-weights": PrecisionRule(
            written="a Cast behind the weight",
            operators=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
            source="LiteRT documentation, float16 quantization (tests/passes/test_store_float16_weights.py)",
        ),
        "float32": PrecisionRule(written="as it is", source="ONNX"),
    },
    own_format=".tflite",
)
