"""Which nodes a Q/DQ model plans in 8 bits, for models written by hand the way different tools write them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import graphopt
from graphopt.backends.planned import float_layers, planned_nodes
from graphopt.targets import find_target

STORED = {
    "s": np.float32(0.02),
    "z": np.uint8(128),
    "zw": np.int8(0),
    "z16": np.uint16(0),
    "k": np.ones((4, 4, 1, 1), np.int8),
    "kf": np.ones((4, 4, 1, 1), np.float32),
    "m": np.ones((4, 4), np.int8),
    "b": np.zeros(4, np.int32),
}
IMAGE, ROWS = "float[1,4,4,4]", "float[4,4]"
Q = "QuantizeLinear"
DQ = "DequantizeLinear"
PAIR = f"xq = {Q}(x, s, z) xd = {DQ}(xq, s, z)"
WEIGHT = f"w = {DQ}(k, s, zw)"


def parse(body: str, kind: str = IMAGE, opset: int = 21, more: str = "") -> onnx.ModelProto:
    header = f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>'
    model = onnx.parser.parse_model(f"{header} g ({kind} x{more}) => ({kind} y) {{ {body} }}")
    used = {name for n in nodes_of(model.graph) for name in n.input}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in STORED.items() if k in used)
    return model


def nodes_of(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    inner = [g for n in graph.node for a in n.attribute for g in (a.g, *a.graphs)]
    return [*graph.node, *(n for g in inner for n in nodes_of(g))]


def planned(model: onnx.ModelProto, target: str) -> list[str]:
    graph = graphopt.load(model, min_opset=1)
    found = planned_nodes(graph, find_target(target))
    assert all(p.output in graph.tensors() or len(list(graph.walk())) > 1 for p in found)
    return [p.op_type for p in found]


def pair(x: str, y: str) -> str:
    return f"{y}_q = {Q}({x}, s, z) {y} = {DQ}({y}_q, s, z) "


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt", "tflite"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"{PAIR} {WEIGHT} c = Conv(xd, w) {pair('c', 'y')}", ["Conv"]),
        # An integer weight is meant, whatever becomes of the result.
        (f"{PAIR} {WEIGHT} c = Conv(xd, w) y = Abs(c)", ["Conv"]),
        # The scale is carried through what moves values.
        (f"{PAIR} {WEIGHT} t = Transpose<perm=[0,1,3,2]>(xd) c = Conv(t, w) {pair('c', 'y')}", ["Conv"]),
        # Only one of the two is quantized.
        (f"{PAIR} c = Conv(xd, kf) {pair('c', 'y')}", []),
        (f"{WEIGHT} c = Conv(x, w) {pair('c', 'y')}", []),
        # A float operator in between.
        (f"{PAIR} {WEIGHT} e = Exp(xd) c = Conv(e, w) {pair('c', 'y')}", []),
        # Not 8 bits.
        (f"xq = {Q}(x, s, z16) xd = {DQ}(xq, s, z16) {WEIGHT} y = Conv(xd, w)", []),
        # PyTorch quantizes the weight in the graph.
        (f"{PAIR} wq = {Q}(kf, s, zw) w = {DQ}(wq, s, zw) c = Conv(xd, w) {pair('c', 'y')}", ["Conv"]),
        # onnxruntime's own Q/DQ operators.
        (
            f"{PAIR} {WEIGHT} c = Conv(xd, w) {pair('c', 'y')}".replace(Q, f"com.microsoft.{Q}").replace(
                DQ, f"com.microsoft.{DQ}"
            ),
            ["Conv"],
        ),
        ("y = Conv(x, kf)", []),
    ],
)
def test_linear_nodes(target: str, body: str, expected: list[str]) -> None:
    assert planned(parse(body), target) == expected


def test_integer_weights_behind_a_transpose_are_weights() -> None:
    body = f"{PAIR} wd = {DQ}(m, s, zw) w = Transpose<perm=[1,0]>(wd) y = MatMul(xd, w)"
    assert planned(parse(body, ROWS), "openvino") == ["MatMul"]


@pytest.mark.parametrize(("end", "expected"), [("y = Abs(p)", []), (pair("p", "y"), ["MatMul"])])
def test_a_product_of_two_activations_needs_q_behind_it(end: str, expected: list[str]) -> None:
    """Integers that other layers want may reach both its inputs."""
    assert planned(parse(f"{PAIR} p = MatMul(xd, xd) {end}", ROWS), "onnxruntime") == expected


@pytest.mark.parametrize(
    ("target", "end", "expected"),
    [
        # onnxruntime has QLinearAdd only where the result is quantized, behind a fused Relu at most.
        ("onnxruntime", pair("a", "y"), ["Add"]),
        ("onnxruntime", f"r = Relu(a) {pair('r', 'y')}", ["Add"]),
        ("onnxruntime", f"r = Tanh(a) {pair('r', 'y')}", []),
        ("onnxruntime", "y = Abs(a)", []),
        # OpenVINO's integer Add writes float alike.
        ("openvino", "y = Abs(a)", ["Add"]),
    ],
)
def test_other_operators(target: str, end: str, expected: list[str]) -> None:
    assert planned(parse(f"{PAIR} a = Add(xd, xd) {end}"), target) == expected


def test_all_operands_must_be_integers() -> None:
    assert planned(parse(f"{PAIR} a = Add(xd, x) {pair('a', 'y')}"), "onnxruntime") == []


def test_tensorrt_reads_the_skip_branch_only() -> None:
    body = f"{PAIR} {WEIGHT} c = Conv(xd, w) a = Add(c, xd) y = Relu(a)"
    assert planned(parse(body), "tensorrt") == ["Conv", "Add"]
    assert planned(parse(body), "onnxruntime") == ["Conv"]


def test_an_operator_that_moves_values_is_not_counted() -> None:
    body = f"{PAIR} p = MaxPool<kernel_shape=[1,1]>(xd) {pair('p', 'y')}"
    assert planned(parse(body), "onnxruntime") == []


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (f"xq = {Q}(x, s, z) yq = QLinearConv(xq, s, z, k, s, zw, s, z) y = {DQ}(yq, s, z)", IMAGE, "QLinearConv"),
        (f"xq = {Q}(x, s, z) yq = com.microsoft.QGemm(xq, s, z, m, s, zw, b, s, z) y = {DQ}(yq, s, z)", ROWS, "QGemm"),
        ("xq, xs, xz = DynamicQuantizeLinear(x) i = MatMulInteger(xq, m, xz) y = Cast<to=1>(i)", ROWS, "MatMulInteger"),
    ],
)
def test_integer_operators_are_planned_by_nature(body: str, kind: str, expected: str) -> None:
    assert planned(parse(body, kind), "onnxruntime") == [expected]


def test_nested_graphs_and_what_stays_float() -> None:
    body = f"""{PAIR} {WEIGHT} y = If<
        then_branch = t () => ({IMAGE} a) {{ n = Conv(xd, w) {pair("n", "a")} }},
        else_branch = e () => ({IMAGE} b) {{ b = Conv(x, kf) }}>(c)"""
    graph = graphopt.load(parse(body, more=", bool c"), min_opset=1)
    found = planned_nodes(graph, find_target("onnxruntime"))
    assert [(p.op_type, p.output, p.linear) for p in found] == [("Conv", "n", True)]
    assert [n.outputs[0].name for n in float_layers(graph, found)] == ["b"]


@pytest.mark.parametrize(("counted", "expected"), [(0, []), (1, ["AveragePool"])])
def test_a_node_that_the_targets_rule_declines_is_not_planned(counted: int, expected: list[str]) -> None:
    """TensorRT averages integers only with count_include_pad; a convolution beside the pool reads the same ones."""
    pool = f"a = AveragePool<kernel_shape=[1,1], count_include_pad={counted}>(xd)"
    model = parse(f"{PAIR} {WEIGHT} {pool} c = Conv(xd, w) y = Add(a, c)")
    assert planned(model, "tensorrt") == [*expected, "Conv"]


@pytest.mark.parametrize("target", ["onnxruntime", "tflite"])
@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        (pair("a", "y"), ["Add"]),
        (f"r = Relu(a) {pair('r', 'y')}", ["Add"]),
        (f"{pair('a', 'd')} e = Exp(a) y = Mul(d, e)", []),
        (f"{pair('a', 'd')} r = Relu(a) {pair('r', 'y')}", []),
    ],
)
def test_a_result_that_is_also_read_in_float_is_not_planned(target: str, behind: str, expected: list[str]) -> None:
    """As in a model of mixed precision: an Add in float between integers, one reader of which is float."""
    assert planned(parse(f"{PAIR} a = Add(xd, xd) {behind}"), target) == expected
