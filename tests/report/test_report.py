from __future__ import annotations

import math

import numpy as np
import onnx
import onnx.parser
import pytest

from graphopt.ir import load
from graphopt.report import Line, Table, inspect_model, to_text
from graphopt.report.units import bytes_text, change_text, count_text, decibel_text, seconds_text

LAYERS = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,4,10,10] x, float[5,6] m) => (float[N,8,5,5] y, float[N,2,20,20] z, float[5,3] w, float[N,?,5,7] u)
<float[8,2,3,3] conv, float[4,2,2,2] up, float[3,6] gemm, float[5,7] mat>
{
    y = Conv <group = 2, strides = [2, 2], pads = [1, 1, 1, 1]> (x, conv)
    z = ConvTranspose <strides = [2, 2]> (x, up)
    w = Gemm <transB = 1> (m, gemm)
    u = MatMul (y, mat)
}
"""


def filled(text: str) -> onnx.ModelProto:
    """The model, with zeros for the weights that it only gives a type for."""
    model = onnx.parser.parse_model(text)
    for value in model.graph.value_info:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(shape, np.float32), value.name))
    return model


def test_multiply_accumulates_against_counting_by_hand() -> None:
    found = inspect_model(load(filled(LAYERS)), "layers")
    conv = 8 * 5 * 5 * (2 * 3 * 3)  # output values · (channels of a group · kernel)
    up = 4 * 10 * 10 * (2 * 2 * 2)  # input values · (output channels · kernel)
    gemm = 5 * 3 * 6
    mat = 8 * 5 * 7 * 5
    assert found.macs == conv + up + gemm + mat
    assert found.macs_unknown == 0
    assert found.parameters == 8 * 2 * 9 + 4 * 2 * 4 + 18 + 35
    assert found.weight_bytes == 4 * found.parameters
    assert (found.linear_layers, found.quantized_layers) == (4, 0)
    assert [(p.name, p.shape) for p in found.inputs] == [("x", ("N", 4, 10, 10)), ("m", (5, 6))]


def test_layers_of_unknown_shape_are_counted_apart() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1,3,H,W] x) => (float[1,4,h,w] y) <float[4,3,1,1] k> { y = Conv (x, k) }
    """
    found = inspect_model(load(filled(text)), "dynamic")
    assert (found.macs, found.macs_unknown, found.linear_layers) == (0, 1, 1)


def test_layers_read_integers_through_what_only_moves_them() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (uint8[1,4] a, uint8[1,4] b, float[1,8] x) => (float[1,2] p, float[1,2] q, float[1,2] r)
    <float s = {0.5}, int8[8,2] w = {%s}> {
        wf = DequantizeLinear (w, s)
        af = DequantizeLinear (a, s)
        bf = DequantizeLinear (b, s)
        joined = Concat <axis = 1> (af, bf)
        moved = Flatten (joined)
        p = Gemm (moved, wf)
        active = Relu (moved)
        q = Gemm (active, wf)
        r = Gemm (x, wf)
    }
    """
    found = inspect_model(load(onnx.parser.parse_model(text % ", ".join(["1"] * 16))), "moved")
    assert (found.linear_layers, found.quantized_layers) == (3, 1)  # behind a Relu, or without Q/DQ, it reads floats


def test_text_aligns_columns() -> None:
    page = [Line("title"), Table(("name", ">count"), (("a", "1"), ("longer", "1000")))]
    assert to_text(page) == "title\n  name    count\n  a           1\n  longer   1000"
    assert to_text([Table(("", ""), (("k", "v"),))]) == "  k  v"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (bytes_text(999), "999 B"),
        (bytes_text(45_230), "45.2 kB"),
        (bytes_text(999_949), "999.9 kB"),
        (bytes_text(999_960), "1.0 MB"),
        (bytes_text(7_200_000_000_000), "7200.0 GB"),
        (count_text(12), "12"),
        (count_text(4_100_000_000), "4.1 G"),
        (seconds_text(0.0071), "7 ms"),
        (seconds_text(1.239), "1.24 s"),
        (decibel_text(math.inf), "exact"),
        (decibel_text(math.nan), "not comparable"),
        (decibel_text(35.17), "35.2 dB"),
        (change_text("3", "3"), "3"),
        (change_text("3", "4"), "3 → 4"),
    ],
)
def test_numbers_as_people_read_them(shown: str, expected: str) -> None:
    assert shown == expected
