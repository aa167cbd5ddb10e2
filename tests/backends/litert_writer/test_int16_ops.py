"""Kernels of 16-bit activations and 8-bit weights: onnxruntime's integers, within a step of 16 bits."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.backends.litert_model import read_model
from graphopt.backends.litert_writer import write_tflite
from graphopt.errors import UnsupportedError
from graphopt.ir.upgrade import upgrade
from tests.backends.litert_writer.support import Quantized, between_pairs, noise, outcome, output_scale, parse, weight
from tests.backends.litert_writer.test_int8_ops import CASES, CONVERSIONS, ONE, X

FLOAT = {"QUANTIZE": 2, "DEQUANTIZE": 2}
# Other operators than with 8 bits, besides the conversions at the edges.
OTHERS = {
    "leaky": {**CONVERSIONS, "LEAKY_RELU": 1},
    "leaky-same": {**CONVERSIONS, "LEAKY_RELU": 1},
    "prelu-steep": {**FLOAT, "PRELU": 1},
    "hard-swish": {**FLOAT, "HARD_SWISH": 1},
    "depth-to-space": {**FLOAT, "DEPTH_TO_SPACE": 1},
    "space-to-depth": {**FLOAT, "SPACE_TO_DEPTH": 1},
    "log-softmax": {**FLOAT, "LOG_SOFTMAX": 1},
}
# LiteRT's TANH looks its values up.
STEPS = {"tanh": 2}
WIDE = [name for name in CASES if "unsigned" not in name]


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of `between_pairs` with activations of 16 bits: steps 256 times as fine, zero points 0."""
    wide = upgrade(model, 21)
    scales, zeros = {"dx_s", "dz_s", "y_s", "s_s"}, {"dx_z", "dz_z", "y_z", "s_z"}
    for tensor in wide.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name in scales:
            # What LiteRT prescribes: 1/256 for Sigmoid and Softmax and 1/128 for Tanh in 8 bits, 1/32768 in 16.
            fixed = tensor.name == "y_s" and values in (np.float32(1 / 256), np.float32(1 / 128))
            values = np.float32(2.0**-15 if fixed else values / 256)
        elif tensor.name in zeros:
            values = np.int16(0)
        elif tensor.name == "s_q":  # slopes of PRelu
            values = values.astype(np.int16) * np.int16(256)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(values), tensor.name))
    del wide.graph.value_info[:]
    onnx.checker.check_model(wide)
    return wide


@pytest.mark.parametrize("name", WIDE)
def test_integer_kernel(name):
    body, inputs, grids, constants, operators = CASES[name]
    made = widened(between_pairs(body, inputs, grids, **constants))
    feeds = {n: 2 * noise(*shape, seed=k) for k, (n, shape) in enumerate(inputs.items())}
    found = outcome(made, feeds)
    counted = {k: CONVERSIONS.get(k, 0) + operators.get(k, 0) for k in {*CONVERSIONS, *operators}}
    assert dict(found.written.operators) == OTHERS.get(name, counted)
    steps = np.rint(np.abs(found.lite["y"] - found.onnx["y"]) / output_scale(made))
    assert steps.max() <= STEPS.get(name, 1)


def product(
    size: int, weights: np.ndarray, before: str = "", bias: tuple[float, ...] = (0, 0, 0, 0)
) -> onnx.ModelProto:
    """x [1, size] times int8 weights [size, 4] in units of 1/127, and a bias; `before` makes e of the integers."""
    read = "e" if before else "dx"
    return widened(
        between_pairs(
            f"{before} w = DequantizeLinear<axis=1>(w_q, w_s, w_z) m = MatMul({read}, w) r = Add(m, b)",
            {"x": (1, size)},
            {"x": Quantized(256 / 32767), "y": Quantized(20.0)},
            w_q=weights,
            w_s=np.full(4, 1 / 127, np.float32),
            w_z=np.zeros(4, np.int8),
            b=np.array(bias, np.float32),
        )
    )


def matrix(content: bytes) -> list[str]:
    """Types of the operands of the only FULLY_CONNECTED."""
    (layer,) = [o for o in read_model(content).operators if o.kind == "FULLY_CONNECTED"]
    return [t.dtype for t in layer.inputs]


def test_sums_that_32_bits_dont_hold_are_kept_in_64():
    """2,000 products of 32,767 and 127 are beyond 32 bits."""
    made = product(2000, np.full((2000, 4), 127, np.int8), bias=(0, 100, -400, 0))
    found = outcome(made, {"x": np.ones((1, 2000), np.float32)})
    assert found.worst() <= output_scale(made) * 1.001
    np.testing.assert_allclose(found.lite["y"], [[2000, 2100, 1600, 2000]], atol=0.1)
    assert matrix(found.written.content) == ["int16", "int8", "int64"]


def test_sums_that_fit_into_32_bits_are_kept_there():
    """The largest number of weights with which none can overflow: 2¹⁵ · 127 · 516 < 2³¹."""
    made = product(516, np.full((516, 4), -127, np.int8))
    found = outcome(made, {"x": np.full((1, 516), -1, np.float32)})
    assert found.worst() <= output_scale(made) * 1.001
    assert matrix(found.written.content) == ["int16", "int8", "int32"]
    assert matrix(write_tflite(product(517, np.full((517, 4), -127, np.int8))).content) == ["int16", "int8", "int64"]


def test_behind_a_relu_only_weights_of_one_sign_add_up():
    weights = np.full((1000, 4), 127, np.int8)
    weights[::2] = -127
    relu = "c = Relu(dx) q = QuantizeLinear(c, dx_s, dx_z) e = DequantizeLinear(q, dx_s, dx_z)"
    assert matrix(write_tflite(product(1000, weights)).content) == ["int16", "int8", "int64"]
    made = product(1000, weights, relu)
    found = outcome(made, {"x": np.tile([1, -1], 500)[None].astype(np.float32)})
    assert matrix(found.written.content) == ["int16", "int8", "int32"]
    assert found.worst() <= output_scale(made) * 1.001
    assert found.onnx["y"].min() < -400


def test_integers_of_8_and_16_bits_meet_in_a_conversion():
    text, constants = weight("w", 4, 6, 3, 3, axis=0)
    other, more = weight("v", 5, 4, 1, 1, axis=0, seed=4)
    body = (
        "g (float[2,6,9,8] x) => (float[2,5,7,6] y) { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
        f"{text} c = Conv(d, w) cq = QuantizeLinear(c, t, z) cd = DequantizeLinear(cq, t, z) "
        "eq = QuantizeLinear(cd, u, l) ed = DequantizeLinear(eq, u, l) "
        f"{other} f = Conv(ed, v) fq = QuantizeLinear(f, o, l) y = DequantizeLinear(fq, o, l) }}"
    )
    scales = {name: np.float32(value) for name, value in (("s", 0.031), ("t", 0.5), ("u", 0.002), ("o", 0.003))}
    made = upgrade(parse(body.replace(" l)", " z)"), **constants, **more, **scales, z=np.int8(0)), 21)
    wide = {"eq", "ed", "fq", "y"}
    made.graph.initializer.append(numpy_helper.from_array(np.int16(0), "l"))
    for node in made.graph.node:
        if wide & set(node.output) and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.input[2] = "l"
    del made.graph.value_info[:]
    onnx.checker.check_model(made, full_check=True)
    found = outcome(made)
    assert dict(found.written.operators) == {"QUANTIZE": 2, "CONV_2D": 2, "DEQUANTIZE": 1}
    steps = np.rint(np.abs(found.lite["y"] - found.onnx["y"]) / 0.003)
    # One step of the 8 bits in between is 250 of those of 16.
    assert (steps > 1).mean() < 0.01


def test_a_zero_point_in_16_bits_is_refused():
    made = widened(between_pairs("r = Relu(dx)", ONE, {"x": X, "y": X}))
    for tensor in made.graph.initializer:
        if tensor.name == "dx_z":
            tensor.CopyFrom(numpy_helper.from_array(np.array(5, np.int16), "dx_z"))
    with pytest.raises(UnsupportedError, match="integers of 16 bits have zero point 0"):
        write_tflite(made)


def test_uint16_around_its_middle_is_int16():
    made = widened(between_pairs("r = MaxPool<kernel_shape=[2,2]>(dx)", ONE, {"x": X, "y": X}))
    for tensor in made.graph.initializer:
        if tensor.name in ("dx_z", "y_z"):
            tensor.CopyFrom(numpy_helper.from_array(np.array(2**15, np.uint16), tensor.name))
    found = outcome(made)
    assert dict(found.written.operators) == {"QUANTIZE": 1, "MAX_POOL_2D": 1, "DEQUANTIZE": 1}
    assert found.worst() == 0


def test_steps_that_litert_cant_add_are_added_in_float():
    made = widened(between_pairs("r = Add(dx, dz)", {"x": (2, 8), "z": (2, 8)}, {"x": X, "z": X, "y": Quantized(2e-6)}))
    found = outcome(made)
    assert dict(found.written.operators) == {"QUANTIZE": 3, "DEQUANTIZE": 3, "ADD": 1}
    assert found.worst() <= output_scale(made) * 1.001


def test_the_file_says_which_runtime_it_needs():
    text, constants = weight("w", 4, 6, 3, 3, axis=0)
    content = write_tflite(widened(between_pairs(text + "r = Conv(dx, w)", ONE, {"x": X, "y": X}, **constants))).content
    assert b"2.15.0" in content  # CONV_2D with 16-bit activations and an int32 bias
