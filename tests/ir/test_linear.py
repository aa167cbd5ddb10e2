"""The view against brute force: onnxruntime on the operation itself says what a channel is."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.ir import Graph, from_proto, to_proto
from graphopt.ir.linear import Linear, bias_add, linear_producer, linear_result, linear_view
from graphopt.ir.linear_edit import Declined, affine_input, affine_output
from tests.support.rewrite import parse, run

RNG = np.random.default_rng(5)

# node, activation, weight, bias
CASES = {
    "conv": (helper.make_node("Conv", ["x", "w", "b"], ["y"]), (2, 4, 5, 5), (6, 4, 3, 3), (6,)),
    "grouped": (helper.make_node("Conv", ["x", "w"], ["y"], group=2), (2, 4, 5, 5), (6, 2, 3, 3), None),
    "depthwise": (helper.make_node("Conv", ["x", "w", "b"], ["y"], group=4), (2, 4, 5), (8, 1, 3), (8,)),
    "transposed, grouped": (
        helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], group=2),
        (2, 4, 3, 3),
        (4, 3, 1, 1),
        (6,),
    ),
    "gemm": (helper.make_node("Gemm", ["x", "w", "b"], ["y"], alpha=2.0, beta=0.5), (5, 4), (4, 6), (1, 6)),
    "gemm transA transB": (helper.make_node("Gemm", ["x", "w", "b"], ["y"], transA=1, transB=1), (4, 5), (6, 4), (6,)),
    "gemm without bias": (helper.make_node("Gemm", ["x", "w"], ["y"], alpha=2.0), (5, 4), (4, 6), None),
    "gemm, beta 0": (helper.make_node("Gemm", ["x", "w", "b"], ["y"], beta=0.0), (5, 4), (4, 6), (6,)),
    "gemm, weight on the left": (helper.make_node("Gemm", ["w", "x", "b"], ["y"]), (4, 5), (6, 4), (6, 1)),
    "gemm, transposed weight on the left": (
        helper.make_node("Gemm", ["w", "x"], ["y"], transA=1, transB=1),
        (5, 4),
        (4, 6),
        None,
    ),
    "matmul": (helper.make_node("MatMul", ["x", "w"], ["y"]), (3, 5, 4), (4, 6), None),
    "matmul of a vector": (helper.make_node("MatMul", ["x", "w"], ["y"]), (4,), (4, 6), None),
    "matmul, weight on the left": (helper.make_node("MatMul", ["w", "x"], ["y"]), (3, 4, 5), (6, 4), None),
    "matmul, weight on the left of a vector": (helper.make_node("MatMul", ["w", "x"], ["y"]), (4,), (6, 4), None),
    "matmul, a batch of weights": (helper.make_node("MatMul", ["x", "w"], ["y"]), (3, 5, 4), (3, 4, 6), None),
}


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def build(case: str) -> tuple[onnx.ModelProto, np.ndarray]:
    node, x, w, b = CASES[case]
    constants = {"w": noise(w)} | ({} if b is None else {"b": noise(b)})
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model), noise(x)


def view(model: onnx.ModelProto) -> tuple[Graph, Linear]:
    graph = from_proto(model)
    linear = linear_view(graph, graph.nodes[0])
    assert linear is not None
    return graph, linear


def column(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


@pytest.mark.parametrize("case", CASES)
def test_channels(case: str) -> None:
    model, x = build(case)
    _, linear = view(model)
    y = run(model, {"x": x})[0]
    assert linear.data.name == "x"
    assert linear.weight.name == "w"
    assert y.shape[linear.output_channel_axis] == linear.out_channels == 8 if case == "depthwise" else 6
    assert x.shape[linear.data_channel_axis] == linear.in_channels == 4
    assert linear.is_depthwise == (case == "depthwise")
    values = linear.weight.values
    assert linear.by_output_channel(values).shape == (linear.out_channels, values.size // linear.out_channels)
    assert linear.by_input_channel(values).shape == (linear.in_channels, values.size // linear.in_channels)


@pytest.mark.parametrize("case", CASES)
def test_rows_by_channel_are_the_weights_of_that_channel(case: str) -> None:
    """Without the weights of one input channel, that channel of x no longer matters; the same for output channels."""
    model, x = build(case)
    graph, linear = view(model)
    constant = linear.weight
    kept = linear.by_input_channel(np.arange(constant.values.size).reshape(constant.shape))[1]
    graph.set_values(
        constant,
        np.where(np.isin(np.arange(constant.values.size), kept), 0, constant.values.reshape(-1))
        .astype(np.float32)
        .reshape(constant.shape),
    )
    without = to_proto(graph)
    moved = x.copy()
    np.moveaxis(moved, linear.data_channel_axis, 0)[1] += 1
    np.testing.assert_array_equal(run(without, {"x": moved})[0], run(without, {"x": x})[0])
    assert np.abs(run(model, {"x": moved})[0] - run(model, {"x": x})[0]).max() > 1e-3

    graph, linear = view(model)
    rows = linear.by_output_channel(np.arange(constant.values.size).reshape(constant.shape))[2]
    values = linear.weight.values.copy().reshape(-1)
    values[rows] += 1
    graph.set_values(linear.weight, values.reshape(constant.shape))
    change = np.abs(run(to_proto(graph), {"x": x})[0] - run(model, {"x": x})[0])
    changed = np.moveaxis(change, linear.output_channel_axis, 0).reshape(linear.out_channels, -1).max(axis=1) > 1e-4
    assert np.flatnonzero(changed).tolist() == [2]


@pytest.mark.parametrize("parts", ["scale", "shift", "both"])
@pytest.mark.parametrize("case", CASES)
def test_affine_output(case: str, parts: str) -> None:
    model, x = build(case)
    graph, linear = view(model)
    scale = None if parts == "shift" else RNG.normal(size=linear.out_channels)
    shift = None if parts == "scale" else RNG.normal(size=linear.out_channels)
    edit = affine_output(graph, linear, scale, shift)
    assert not isinstance(edit, Declined)
    edit.apply(graph)
    graph.sort()
    before = run(model, {"x": x})[0].astype(np.float64)
    along = [
        column(v, linear.output_channel_axis, before.ndim) if v is not None else d for v, d in ((scale, 1), (shift, 0))
    ]
    np.testing.assert_allclose(run(to_proto(graph), {"x": x})[0], before * along[0] + along[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("parts", ["scale", "shift", "both"])
@pytest.mark.parametrize("case", CASES)
def test_affine_input(case: str, parts: str) -> None:
    model, x = build(case)
    graph, linear = view(model)
    scale = None if parts == "shift" else RNG.normal(size=linear.in_channels)
    shift = None if parts == "scale" else RNG.normal(size=linear.in_channels)
    edit = affine_input(graph, linear, scale, shift)
    assert not isinstance(edit, Declined)
    edit.apply(graph)
    graph.sort()
    along = [column(v, linear.data_channel_axis, x.ndim) if v is not None else d for v, d in ((scale, 1), (shift, 0))]
    expected = run(model, {"x": (x * along[0] + along[1]).astype(np.float32)})[0]
    np.testing.assert_allclose(run(to_proto(graph), {"x": x})[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2,3] x, float[3,6] w) => (float[2,6] y) { y = MatMul(x, w) }",
        "g (float[2,3] x) => (float[2] y) <float[3] w = {1,2,3}> { y = MatMul(x, w) }",
        "g (float[2,3] x) => (float[2,3] y) <float[3] w = {1,2,3}> { y = Mul(x, w) }",
        "g (float[2,1] x) => (float[2,2] y) <float[1,2] v = {1,2}> { w = Identity(v) y = MatMul(x, w) }",
        "g (int32[2,1] x) => (int32[2,2] y) <int32[1,2] w = {1,2}> { y = MatMul(x, w) }",
    ],
)
def test_what_has_no_fixed_float_weight_or_no_channel_axis_has_no_view(text: str) -> None:
    graph = from_proto(parse('<ir_version: 8, opset_import: ["" : 17]>\n' + text))
    assert all(linear_view(graph, node) is None for node in graph.nodes)


def matmul_and_add(bias: tuple[int, ...], extra: str = "") -> Graph:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        f"g (float[2,3] x) => (float[2,6] y{', float[2,6] z' if extra else ''}) {{"
        f" h = MatMul(x, w) y = Add(b, h) {extra} }}"
    )
    model.graph.initializer.extend(numpy_helper.from_array(noise(s), n) for n, s in (("w", (3, 6)), ("b", bias)))
    return from_proto(model)


def test_an_add_holds_the_bias_of_a_matmul() -> None:
    graph = matmul_and_add((6,))
    linear = linear_view(graph, graph.nodes[0])
    assert linear is not None
    assert bias_add(graph, linear) is graph.nodes[1]
    assert linear_result(graph, linear).name == "y"
    found = linear_producer(graph, graph.nodes[1].outputs[0])
    assert found is not None
    assert found.node is graph.nodes[0]


def test_an_add_is_no_bias_when_the_matmul_is_read_elsewhere() -> None:
    graph = matmul_and_add((6,), "z = Neg(h)")
    linear = linear_view(graph, graph.nodes[0])
    assert linear is not None
    assert bias_add(graph, linear) is None
    assert linear_producer(graph, graph.nodes[1].outputs[0]) is None


def test_a_bias_from_outside_is_declined() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        "g (float[2,1] x, float[2] b) => (float[2,2] y) <float[1,2] w = {1,2}> { y = Gemm(x, w, b) }"
    )
    graph, linear = view(model)
    edit = affine_output(graph, linear, np.ones(2) * 2)
    assert isinstance(edit, Declined)
    assert "'b'" in edit.reason


def test_zero_padding_lets_a_scale_in_but_no_shift() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        "g (float[1,1,4,4] x) => (float[1,1,5,5] y) <float[1,1,1,1] w = {2}> { y = Conv<pads=[1,1,0,0]>(x, w) }"
    )
    graph, linear = view(model)
    assert not isinstance(affine_input(graph, linear, np.full(1, 3.0)), Declined)
    assert isinstance(affine_input(graph, linear, None, np.full(1, 3.0)), Declined)


def test_values_beyond_the_type_are_declined() -> None:
    model, _ = build("conv")
    graph, linear = view(model)
    assert isinstance(affine_output(graph, linear, np.full(6, 1e300)), Declined)
    assert isinstance(affine_output(graph, linear, None, np.full(6, np.nan)), Declined)
