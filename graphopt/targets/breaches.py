"""What each engine does with a Q/DQ model that breaks a rule: the targets' columns for `graphopt lint`.

The rules themselves are in `analysis.legality`; one that a target's table lacks doesn't hold there. Measured where no
document is named, with the versions that pyproject.toml pins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Breach:
    """What comes of breaking one rule.

    Attributes:
        severity: "error" where the engine refuses the model, computes something else or runs the layer in float;
            "warning" where it loses speed or accuracy.
        why: what the engine does.
    """

    severity: Severity
    why: str


def _error(why: str) -> Breach:
    return Breach("error", why)


def _warning(why: str) -> Breach:
    return Breach("warning", why)


# What the ONNX operators themselves, or any integer kernel, make of it.
_COMMON: Mapping[str, Breach] = {
    "scale-value": _error("values divided by such a scale overflow or vanish"),
    "scale-constant": _error("integer kernels are chosen by constant scales: the layer runs in float"),
    "opset": _error("the operator has no such form in this opset, and engines refuse the model or misread it"),
    "block-scale": _error("no kernel takes scales per block there"),
    "float-input": _error("QuantizeLinear takes float values"),
    "loose-integers": _warning("engines look for Q/DQ around float operators and may not recognise this"),
    "pair-mismatch": _error("the real values change between the two nodes"),
    "double-pair": _warning("values are rounded twice"),
    "activation-bits": _error("there is no kernel for it: the layers around it run in float"),
    "activation-per-channel": _error("integer kernels take one scale per activation: the layer runs in float"),
    "mixed-ranges": _warning("one 8-bit step is larger than the smaller tensor: detectors fell to mAP 0"),
    "half-quantized": _error("integer kernels multiply integers by integers: the layer runs in float"),
    # No more than float-between is: planning itself leaves operators in float whose values a grid would erase.
    "partial-operands": _warning("integer kernels take integers on every input: the operator runs in float"),
    "float-between": _warning("it runs in float between integer layers"),
    "useless-pair": _warning("it costs accuracy and time, and no integer kernel reads it"),
}

_FLOAT_WEIGHT = "the layer runs in float"

ONNXRUNTIME: Mapping[str, Breach] = {
    **_COMMON,
    "block-form": _error("no MatMulNBits is formed: the weights are dequantized at each run, the layer runs in float"),
    "scale-rank": _error("onnxruntime refuses some models with a scale of shape [1]"),
    "activation-type": _warning(
        "onnxruntime converts it to uint8; its int8 × int8 kernels are 7 times slower than float"
    ),
    "activation-type-shared": _error(
        "onnxruntime converts int8 to uint8, but not what several nodes read: layers between the two run in float"
    ),
    "activation-clamp": _error("the activation isn't fused, and its layer runs in float"),
    "weight-zero-point": _warning("kernels that subtract it are slower"),
    "weight-type": _warning("uint8 weights have no fast kernel on most CPUs"),
    "weight-axis": _error("QLinearConv wants a scale per output channel"),
    "weight-stack": _error("onnxruntime fails when it runs MatMul with a scale per channel of a stack"),
    "bias-bits": _error("QLinearConv and QGemm want an int32 bias: the layer runs in float"),
    "bias-float": _warning("QGemm wants an int32 bias unless its output is quantized"),
    "bias-scale": _error("the kernel adds the int32 values as they are: the result is wrong"),
    "bias-zero-point": _error("the kernel adds the int32 values as they are: the result is wrong"),
    "same-scale": _error("values are only moved as integers with one scale: the operator runs in float"),
    "rescaling": _warning("QLinearConcat takes 7 times as long per byte; a LeakyRelu loses 3 dB"),
    "float-output": _error("the integer kernel also writes integers: without Q on its result it runs in float"),
    "inside-kernel": _warning("the activation isn't fused: values go through memory once more"),
}

OPENVINO: Mapping[str, Breach] = {
    **_COMMON,
    "block-form": _error("it refuses a shorter last block, and else dequantizes the weights when it loads the model"),
    "activation-zero-point": _error("a ConvTranspose that reads a zero point runs in f32"),
    "weight-type": _error("weights other than int8 need a zero point: the layer runs in f32"),
    "weight-zero-point": _error("a weight's zero point makes every layer that reads it run in f32"),
    "weight-axis": _error("weights want a scale per output channel: the layer runs in f32"),
    "bias-bits": _warning("a bias has too few steps in 8 bits"),
    "bias-missing": _error(
        "with a symbolic batch an integer convolution without a bias gave all readers of its result zeros or garbage"
    ),
    "residual-fusion": _warning("OpenVINO leaves that pair out: its results aren't those of the model (2.4 dB apart)"),
    "signed-concat": _error("the convolution takes the int8 for uint8: its result is wrong"),
    "counted-pads": _error("padding counts as the integer 0 instead of the zero point: the result is wrong"),
    "constant-pair": _error("OpenVINO fails to compile the model"),
    "same-scale": _warning("values are scaled once more to join them"),
    "contrib-operator": _error("OpenVINO can't read onnxruntime's own operators"),
    "inside-kernel": _warning("it isn't fused: an operator of its own in f32, and a conversion, behind every layer"),
    "pair-behind-move": _warning("behind a Transpose of the graph input the second pair made the layer run in f32"),
}

TENSORRT: Mapping[str, Breach] = {
    **_COMMON,
    "block-form": _error("TensorRT-RTX refuses the model, or crashes while it builds it"),
    "scale-rank": _error("TensorRT-RTX builds every convolution in float, without a word"),
    "integer-operator": _error("the parser refuses it"),
    "contrib-operator": _error("the parser refuses it"),
    "activation-type": _error("TensorRT has no uint8 kernels; zero point 0 it reads as int8, which halves the range"),
    "activation-zero-point": _error("TensorRT takes zero point 0 only: the parser refuses any other"),
    "weight-type": _error("TensorRT takes int8 weights only"),
    "weight-zero-point": _error("TensorRT takes zero point 0 only: the parser refuses any other"),
    "weight-axis": _error("TensorRT wants a scale per output channel"),
    "bias-int32": _error("the parser refuses a DequantizeLinear of int32"),
    "bias-bits": _warning("a bias has too few steps in 8 bits"),
    "same-scale": _warning("TensorRT requantizes one side (TensorRT documentation, Explicit Quantization)"),
    "float-output": _warning("the operator reads integers and writes float (TensorRT documentation)"),
    "inside-kernel": _warning("the two aren't fused (TensorRT documentation, Q/DQ placement recommendations)"),
    "residual-fusion": _warning("Add isn't fused with the convolution (TensorRT documentation, Q/DQ placement)"),
    "lone-float32": _warning(
        "TensorRT-RTX computes it in 16 bits, with its weights in them: those beyond float16 become infinite"
    ),
}

_SPEC = "LiteRT 8-bit quantization specification"

TFLITE: Mapping[str, Breach] = {
    **_COMMON,
    "integer-operator": _error("it has no counterpart in a .tflite file"),
    "contrib-operator": _error("it has no counterpart in a .tflite file"),
    "activation-type": _error(f"tensors are int8 ({_SPEC})"),
    "weight-type": _error(f"weights are int8 ({_SPEC})"),
    "weight-zero-point": _error(f"weights have zero point 0 ({_SPEC})"),
    "weight-axis": _error(f"weights have a scale per output channel ({_SPEC})"),
    "weight-stack": _error("there is no kernel with a scale per channel for a stack of matrices"),
    "weight-narrow": _error(f"kernels may rely on weights in [−127, 127] ({_SPEC})"),
    "bias-bits": _error(f"the bias is int32 in units of s_x · s_w ({_SPEC})"),
    "bias-float": _warning(f"the bias is int32 in units of s_x · s_w ({_SPEC})"),
    "bias-scale": _error("the kernel adds the int32 values as they are: the result is wrong"),
    "bias-zero-point": _error("the kernel adds the int32 values as they are: the result is wrong"),
    "same-scale": _error(f"inputs and outputs share one scale ({_SPEC}): the operator runs in float"),
    "fixed-output": _error(f"the kernel's output parameters are prescribed ({_SPEC})"),
    "float-output": _error("an integer kernel writes integers: without Q on its result it runs in float"),
    "inside-kernel": _warning("the activation is an operator of its own then"),
}
