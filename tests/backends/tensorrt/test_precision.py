"""Builds whose outcome is known, both ways: the reading of a plan must tell them apart."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

from graphopt.backends.precision import NodePrecision, Planned
from graphopt.backends.tensorrt import precision
from graphopt.errors import ConfigError, UnsupportedError
from tests.backends.tensorrt.networks import LINEAR, PAD, SCALARS, integers, judge, network, plan_all, qdq, weight

IN_8_BITS = ("plain", "per_tensor", "grouped", "depthwise", "strided", "behind_relu", "product", "tokens")
IN_FLOAT = {
    "rank_one": r"the scale of its input 'd4' has shape \[1\]",
    "float_weight": "its input 'v' doesn't come out of DequantizeLinear",
    "float_input": "its input 'x' doesn't come out of DequantizeLinear",
    "behind_bare_relu": "its input 'bare' doesn't come out of DequantizeLinear",
    "transposed": "no deconvolution in 8 bits",
    "by_row": r"scales of its weight 'wr' run along axis 0: .* along axis 1",
}

BODY = f"""
    {qdq("x", "d")} {weight("w1")} {weight("w2")} {weight("w3", axis=0)} {weight("w4")} {weight("w5")}
    plain = Conv<{PAD}>(d, w1)
    per_tensor = Conv<{PAD}>(d, w2)
    grouped = Conv<group=4, {PAD}>(d, w3)
    depthwise = Conv<group=16, {PAD}>(d, w4)
    strided = Conv<strides=[2,2], {PAD}>(d, w5)

    relu = Relu(plain) {qdq("relu", "d2", "t")} {weight("w6")}
    behind_relu = Conv<{PAD}>(d2, w6)
    {qdq("per_tensor", "d3", "t")} {weight("w7")}
    bare = Relu(d3)
    behind_bare_relu = Conv<{PAD}>(bare, w7)
    {qdq("strided", "d4", "rank1", "zero1")} {weight("w8")}
    rank_one = Conv<{PAD}>(d4, w8)
    float_weight = Conv<{PAD}>(d2, v)
    {weight("w9")}
    float_input = Conv<{PAD}>(x, w9)
    {weight("wt", axis=1)}
    transposed = ConvTranspose<strides=[2,2]>(d2, wt)

    flat = Flatten(behind_relu) {qdq("flat", "d5", "t")} {weight("wg", axis=1)}
    product = Gemm(d5, wg)
    {qdq("words", "d6")} {weight("wm", axis=1)}
    tokens = MatMul(d6, wm)
    {weight("wr", axis=0)}
    by_row = MatMul(d6, wr)
"""


@pytest.fixture(scope="module")
def controls() -> onnx.ModelProto:
    images = ("grouped", "depthwise", "behind_bare_relu", "rank_one", "float_weight", "float_input", "transposed")
    full = {k: v for i in (1, 5, 6, 7, 8, 9) for k, v in integers(f"w{i}", 16, 16, 3, 3).items()}
    return network(
        BODY, "float[1,16,8,8] x, float[1,7,32] words",
        ", ".join(f"float[A,B,C,D] {o}" for o in images)
        + ", float[E,F] product, float[G,H,I] tokens, float[J,K,L] by_row",
        **SCALARS, **full, **integers("w2", 16, 16, 3, 3, axis=None), **integers("w3", 16, 4, 3, 3),
        **integers("w4", 16, 1, 3, 3), **integers("wt", 16, 16, 2, 2, axis=1), **integers("wg", 1024, 10, axis=1),
        **integers("wm", 32, 24, axis=1), **integers("wr", 32, 24),
        rank1=np.array([0.07], np.float32), zero1=np.zeros(1, np.int8),
        v=np.random.default_rng(0).normal(size=(16, 16, 3, 3)).astype(np.float32),
    )  # fmt: skip


@pytest.mark.parametrize("capability", ["SM80", "SM86", "SM89", "SM120"])
def test_controls(controls: onnx.ModelProto, capability: str) -> None:
    found = judge(controls, capability=capability)
    assert {name: found[name].precision for name in IN_8_BITS} == dict.fromkeys(IN_8_BITS, "int8")
    assert {name: found[name].precision for name in IN_FLOAT} == dict.fromkeys(IN_FLOAT, "float32")
    assert found.keys() == {*IN_8_BITS, *IN_FLOAT}
    for name, reason in IN_FLOAT.items():
        assert re.search(reason, found[name].reason), found[name].reason
    assert all(not found[name].reason for name in IN_8_BITS)
    assert found["plain"].layer == "corrltn 'plain'"
    assert found["transposed"].layer == "deconvolution 'transposed'"
    assert found["product"].layer == "fully_connected 'product'"


def test_what_is_in_float_without_a_plan_is_a_note(controls: onnx.ModelProto) -> None:
    planned = [p for p in plan_all(controls) if p.name in IN_8_BITS]
    result = precision(controls, planned, capability="SM86")
    assert result.missed == []
    assert (result.engine, result.version, result.device) == ("TensorRT-RTX", "1.7.1.116", "SM86")
    (note,) = result.notes
    assert note.startswith("not planned in 8 bits, and in float: ")
    assert set(note.partition(": ")[2].split(", ")) == set(IN_FLOAT)


def squeeze(second: str, scale: str = "s", zero: str = "z", **more: np.ndarray) -> onnx.ModelProto:
    """A second convolution so small that it becomes part of a generated kernel."""
    body = f"""
        {qdq("x", "d")} pool = GlobalAveragePool(d) {qdq("pool", "d1", "t")} {weight("w1")}
        first = Conv(d1, w1)
        relu = Relu(first) {qdq("relu", "d2", scale, zero)} {weight("w2")}
        second = Conv({second})
        gate = HardSigmoid(second)
        y = Mul(x, gate)
    """
    return network(
        body, "float[1,8,16,16] x", "float[A,B,C,D] y",
        **SCALARS, **integers("w1", 4, 8, 1, 1), **integers("w2", 8, 4, 1, 1), **more,
    )  # fmt: skip


RANK_ONE = {"r": np.array([0.02], np.float32), "rz": np.zeros(1, np.int8)}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (squeeze("d2, w2"), "int8"),
        (squeeze("relu, w2"), "float32"),
        (squeeze("d2, v", v=np.ones((8, 4, 1, 1), np.float32)), "float32"),
        (squeeze("d2, w2", "r", "rz", **RANK_ONE), "float32"),
    ],
    ids=["quantized", "float input", "float weight", "rank-1 scale"],
)
def test_a_convolution_in_a_generated_kernel(model: onnx.ModelProto, expected: str) -> None:
    found = judge(model, (*LINEAR, "GlobalAveragePool"))
    assert found["second"].layer.startswith("function '__myl_")
    assert "Corr" in found["second"].layer
    assert found["second"].precision == expected
    assert found["first"].precision == "int8"
    assert found["pool"].precision == "int8"


def elementwise() -> dict[str, NodePrecision]:
    body = f"""
        {qdq("x", "d")} {weight("w1")} {weight("w2")} {weight("w3")}
        a = Conv<{PAD}>(d, w1)
        sum = Add(a, d)
        r = Relu(sum) {qdq("r", "d1", "t")}
        counted = AveragePool<kernel_shape=[2,2], count_include_pad=1>(d1) {qdq("counted", "d2", "s")}
        uncounted = AveragePool<kernel_shape=[4,4]>(d1) {qdq("uncounted", "d3", "s")}
        y = Conv(d2, w2)
        e = Conv(d3, w3)
        bare = Add(a, a)
        bare_relu = Relu(bare)
    """
    model = network(
        body, "float[1,16,8,8] x", "float[A,B,C,D] y, float[I,J,K,L] e, float[E,F,G,H] bare_relu",
        **SCALARS, **integers("w1", 16, 16, 3, 3), **integers("w2", 8, 16, 1, 1), **integers("w3", 8, 16, 1, 1),
    )  # fmt: skip
    return judge(model, ("Add", "AveragePool"))


def test_other_operators_are_in_8_bits_where_integers_reach_them() -> None:
    found = elementwise()
    assert found["sum"].precision == "int8"
    assert found["counted"].precision == "int8"
    assert found["counted"].layer.startswith("avgpool ")
    assert found["uncounted"].precision == "float32"
    assert "count_include_pad" in found["uncounted"].reason
    assert found["bare"].precision == "float32"


def test_names_don_t_matter() -> None:
    """Neither empty ones, nor the same twice, nor what could end a text in the plan."""
    body = f"""
        {qdq("x", "d")} {weight("w1")} {weight("w2")} {weight("w3")}
        a = Conv<{PAD}>(d, w1) {qdq("a", "d1", "t")}
        b = Conv<{PAD}>(d1, w2) {qdq("b", "d2", "s")}
        y = Conv<{PAD}>(d2, w3)
    """
    constants = {k: v for i in (1, 2, 3) for k, v in integers(f"w{i}", 16, 16, 3, 3).items()}
    model = network(body, "float[1,16,8,8] x", "float[A,B,C,D] y", **SCALARS, **constants)
    odd = '"} layers="[ONNX Layer: z]\x1f'
    names = {"a": odd, "b": "", "y": odd}
    for node in model.graph.node:
        node.name = names.get(node.output[0], "same")
        for side in (node.input, node.output):
            side[:] = ['b" }={\\' if t == "b" else t for t in side]
    nodes = precision(model, plan_all(model)).nodes
    assert [n.precision for n in nodes] == ["int8"] * 3
    assert [n.layer for n in nodes] == [f"corrltn '{odd}'", "corrltn 'b\" }={\\'", f"corrltn '{odd}'"]


def one_conv(shape: str = "1,16,8,8", scale: str = "s", zero: str = "z", **more: np.ndarray) -> onnx.ModelProto:
    body = f"{qdq('x', 'd', scale, zero)} {weight('w')} y = Conv(d, w)"
    return network(body, f"float[{shape}] x", "float[A,B,C,D] y", **{**SCALARS, **integers("w", 8, 16, 3, 3), **more})


def test_unsigned_integers_are_not_what_the_model_says() -> None:
    found = judge(one_conv(z=np.uint8(0)))["y"]
    assert (found.precision, found.integer) == ("unknown", False)
    assert "'d' is quantized to uint8, which TensorRT reads as int8" in found.reason


def test_open_axes_get_sizes() -> None:
    assert judge(one_conv("N,16,H,W"))["y"].precision == "int8"
    two = network("y = Add(a, b)", "float[N,3,H,W] a, float[N,3,K,W] b", "float[N,3,L,W] y")
    assert precision(two, [], shapes={"b": (2, 3, 1, 7)}).nodes == []
    with pytest.raises(
        UnsupportedError, match=r"broadcast dimensions .* \(built for 'a' \[2, 3, 256, 7\], 'b' \[2, 3, 5, 7\]: give"
    ):
        precision(two, [], shapes={"b": (2, 3, 5, 7)})


def test_a_plan_of_another_model_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no node 'c' with output 'elsewhere'"):
        precision(one_conv(), [Planned("c", "Conv", "elsewhere", True)])
