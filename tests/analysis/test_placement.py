"""Where each target gets Q/DQ: DESIGN's table, one row a test."""

from __future__ import annotations

import onnx
import pytest

from graphopt.ir import Graph
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.targets import TARGETS
from tests.support.quantization import model, plan_of

CONV = {"w": (4, 4, 3, 3), "b": (4,), "v": (4, 4, 3, 3), "c": (4,)}


def planned(graph: Graph) -> dict[str, list[str]]:
    """Tensor → who reads it quantized, by the operators' names."""
    ops = {n.name: n.op for n in graph.nodes}
    return {e.tensor: [f"{ops[edge.node]}:{edge.index}" for edge in e.edges] for e in graph.plan}


def conv(x: str, y: str, w: str = "w", b: str = "b") -> str:
    return f"{y} = Conv<pads=[1,1,1,1]>({x}, {w}, {b})\n"


def chain(activation: str) -> onnx.ModelProto:
    body = conv("x", "a") + activation + conv("r", "y", "v", "c")
    return model(body, "float[1,4,8,8] x", "float[1,4,8,8] y", **CONV)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "activation",
    ["r = Relu(a)", "lo = Constant<value_float=0.0>() hi = Constant<value_float=6.0>() r = Clip(a, lo, hi)"],
)
def test_nothing_is_quantized_between_conv_and_relu(target: str, activation: str) -> None:
    graph, _ = plan_of(chain(activation + "\n"), target)
    found = planned(graph)
    assert "a" not in found
    assert found["r"] == ["Conv:0"]
    assert found["x"] == ["Conv:0"]
    assert found["w"] == ["Conv:1"]
    assert graph.plan.tensors["w"].scheme.channel_axis == 0


def test_onnxruntime_puts_one_scale_on_both_sides_of_leaky_relu() -> None:
    graph, _ = plan_of(chain("r = LeakyRelu(a)\n"), "onnxruntime")
    found = planned(graph)
    assert found["a"] == ["LeakyRelu:0"]
    assert graph.plan.tensors["a"].group == graph.plan.tensors["r"].group is not None


def test_openvino_fuses_leaky_relu() -> None:
    assert "a" not in planned(plan_of(chain("r = LeakyRelu(a)\n"), "openvino")[0])


@pytest.mark.parametrize("target", ["onnxruntime", "tflite"])
def test_a_last_conv_is_quantized_behind_where_the_kernel_needs_it(target: str) -> None:
    entry = plan_of(chain("r = Relu(a)\n"), target)[0].plan.tensors["y"]
    assert entry.is_output


@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
def test_a_last_conv_writes_float_elsewhere(target: str) -> None:
    assert "y" not in plan_of(chain("r = Relu(a)\n"), target)[0].plan.tensors


RESIDUAL = (
    "s = Relu(x)\n" + conv("s", "a") + "r = Relu(a)\n" + conv("r", "d", "v", "c") + "t = Add(d, s)\n u = Relu(t)\n"
    "y = Conv(u, w)\n"
)  # fmt: skip


@pytest.mark.parametrize(
    ("target", "quantized"),
    [("onnxruntime", {0, 1}), ("openvino", {1}), ("tflite", {0, 1}), ("tensorrt", {1})],
)
def test_residual_add(target: str, quantized: set[int]) -> None:
    graph, _ = plan_of(model(RESIDUAL, "float[1,4,8,8] x", "float[1,4,6,6] y", **CONV), target)
    (add,) = (n for n in graph.nodes if n.op == "Add")
    assert {e.index for t in graph.plan for e in t.edges if e.node == add.name} == quantized
    assert "t" not in planned(graph), "never between Add and Relu"
    assert planned(graph)["u"] == ["Conv:0"]


def test_tensorrt_quantizes_the_shortcut_when_two_convolutions_meet() -> None:
    body = conv("x", "short") + conv("x", "a") + "r = Relu(a)\n" + conv("r", "d", "v", "c")
    body += "t = Add(short, d)\n y = Conv(t, w)\n"
    graph, _ = plan_of(model(body, "float[1,4,8,8] x", "float[1,4,6,6] y", **CONV), "tensorrt")
    assert planned(graph)["short"] == ["Add:0"]
    assert "d" not in planned(graph)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt", "tflite"])
def test_what_moves_values_shares_the_scale(target: str) -> None:
    body = conv("x", "a") + "p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)\n" + "y = Conv(p, v)\n"
    graph, _ = plan_of(model(body, "float[1,4,8,8] x", "float[1,4,2,2] y", **CONV), target)
    assert planned(graph)["a"] == ["MaxPool:0"]
    assert graph.plan.tensors["a"].group == graph.plan.tensors["p"].group is not None


def test_openvino_carries_the_scale_through_what_moves_values() -> None:
    body = "t = Transpose<perm=[0,3,1,2]>(x)\n a = MaxPool<kernel_shape=[2,2]>(t)\n y = Conv(a, w)\n"
    graph, _ = plan_of(model(body, "float[1,8,8,4] x", "float[1,4,5,5] y", w=(4, 4, 3, 3)), "openvino")
    assert planned(graph) == {"x": ["Transpose:0"], "w": ["Conv:1"]}


@pytest.mark.parametrize("target", TARGETS)
def test_a_concat_that_feeds_a_conv_is_one_group(target: str) -> None:
    body = conv("x", "a") + conv("x", "b2", "v") + "j = Concat<axis=1>(a, b2)\n" + "y = Conv(j, k)\n"
    graph, _ = plan_of(
        model(body, "float[1,4,8,8] x", "float[1,2,8,8] y", w=(4, 4, 3, 3), b=(4,), v=(4, 4, 3, 3), k=(2, 8, 1, 1)),
        target,
    )
    joined = ("a", "b2") if target == "openvino" else ("a", "b2", "j")
    groups = {graph.plan.tensors[t].group for t in joined}
    assert len(groups) == 1
    assert None not in groups


@pytest.mark.parametrize(
    ("first", "second", "groups"),
    [("Relu(a)", "Relu(d)", 1), ("Relu(a)", "MaxPool<kernel_shape=[1,1]>(d)", 2), ("Relu(a)", "Clip(d, lo, hi)", 3)],
)
def test_onnxruntime_joins_activations_with_other_bounds_by_their_own_scales(
    first: str, second: str, groups: int
) -> None:
    bounds = "lo = Constant<value_float=0.0>()\n hi = Constant<value_float=6.0>()\n"
    body = conv("x", "a") + conv("x", "d", "v", "c") + bounds + f"r = {first}\n s = {second}\n"
    body += "j = Concat<axis=1>(r, s)\n y = Conv(j, k)\n"
    graph, _ = plan_of(model(body, "float[1,4,8,8] x", "float[A,B,C,D] y", **CONV, k=(2, 8, 1, 1)), "onnxruntime")
    assert len({graph.plan.tensors[t].group or t for t in ("r", "s", "j")}) == groups


@pytest.mark.parametrize("target", TARGETS)
def test_a_detection_head_keeps_boxes_and_scores_apart(target: str) -> None:
    body = conv("x", "a") + conv("x", "s0", "v", "c") + "s = Sigmoid(s0)\n y = Concat<axis=1>(a, s)\n"
    graph, remarks = plan_of(model(body, "float[1,4,8,8] x", "float[1,8,8,8] y", **CONV), target)
    assert "y" not in graph.plan.tensors
    assert all(e.group is None for e in graph.plan)
    if target == "tflite":
        assert any("could erase" in r.message for r in remarks.items)


def test_tflite_prescribes_what_softmax_writes() -> None:
    body = "h = Gemm(x, w)\n s = Softmax(h)\n y = Gemm(s, v)"
    source = model(body, "float[1,4] x", "float[1,2] y", w=(4, 3), v=(3, 2))
    entry = plan_of(source, "tflite")[0].plan.tensors["s"]
    assert entry.fixed
    assert entry.range is not None
    assert (float(entry.range.low), float(entry.range.high)) == (0, 255 / 256)


@pytest.mark.parametrize("target", TARGETS)
def test_gemm_axis_follows_trans_b(target: str) -> None:
    source = model("h = Gemm<transB=1>(x, w)\n y = Gemm(h, v)", "float[1,4] x", "float[1,2] y", w=(3, 4), v=(3, 2))
    graph, _ = plan_of(source, target)
    assert graph.plan.tensors["w"].scheme.channel_axis == 0
    assert graph.plan.tensors["v"].scheme.channel_axis == 1


def test_a_weight_used_along_two_axes_is_planned_twice() -> None:
    source = model("h = Gemm(x, w)\n y = Gemm<transB=1>(h, w)", "float[1,4] x", "float[1,4] y", w=(4, 4))
    graph, _ = plan_of(source, "openvino")
    assert sorted(e.scheme.channel_axis for e in graph.plan if e.reason == "weight") == [0, 1]


@pytest.mark.parametrize(("before", "scheme"), [("r = Relu(x)", "uint8 asym"), ("r = Tanh(x)", "int8 sym")])
def test_openvino_transposed_convolution_reads_zero_point_0(before: str, scheme: str) -> None:
    source = model(f"{before}\n y = ConvTranspose(r, w)", "float[1,4,8,8] x", "float[1,4,10,10] y", w=(4, 4, 3, 3))
    assert str(plan_of(source, "openvino")[0].plan.tensors["r"].scheme) == scheme


def test_declines_say_why() -> None:
    body = "y = ConvTranspose(x, w)\n z = Conv(x, k)\n q = MatMul(x, x)"
    source = model(
        body,
        "float[1,4,8,8] x, float[4,4,3,3] k",
        "float[1,4,10,10] y, float[1,4,6,6] z, float[1,4,8,8] q",
        w=(4, 4, 3, 3),
    )
    graph, remarks = plan_of(source, "onnxruntime")
    said = {r.op: r.message for r in remarks.items if r.kind == "declined"}
    assert "no integer ConvTranspose kernel" in said["ConvTranspose"]
    assert "not a constant" in said["Conv"]
    assert "not a constant" in said["MatMul"]
    assert len(graph.plan.float_nodes) == 3
    assert not graph.plan


def test_the_user_keeps_nodes_in_float() -> None:
    source = chain("r = Relu(a)\n")
    name = plan_of(source, "onnxruntime")[0].nodes[0].name
    graph, remarks = plan_of(source, "onnxruntime", PlanQuantization(keep_float=(name,)))
    assert "w" not in graph.plan.tensors
    assert "v" in graph.plan.tensors
    assert any("the user keeps it" in r.message for r in remarks.items)


def test_float16_and_integers_are_left_alone() -> None:
    source = model(
        "c = Cast<to=10>(x)\n d = Cast<to=10>(w)\n y = MatMul(c, d)\n", "float[2,4] x", "float16[2,3] y", w=(4, 3)
    )
    graph, _ = plan_of(source, "onnxruntime")
    assert not graph.plan
