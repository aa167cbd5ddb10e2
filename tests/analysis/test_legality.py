"""Every rule of `lint` flags the violation that is planted for it in a clean model, at the right node."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

from graphopt.analysis.legality import RULES, Finding, check_graph, findings_by_node
from graphopt.ir import load
from graphopt.targets import TARGETS, find_target
from tests.analysis.planting import Planted
from tests.support.quantization import model, quantize_model

NET = """
    c1 = Conv<pads=[1,1,1,1]>(x, W1, b1)
    r1 = Relu(c1)
    c2 = Conv<pads=[1,1,1,1]>(r1, W2, b2)
    a = Add(c2, r1)
    r2 = Relu(a)
    m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r2)
    c3 = Conv(m, W3, b3)
    p = GlobalAveragePool(c3)
    f = Flatten(p)
    y = Gemm<transB=1>(f, W4, b4)
"""
NET_WEIGHTS = {
    "W1": (4, 4, 3, 3),
    "W2": (4, 4, 3, 3),
    "W3": (4, 4, 1, 1),
    "W4": (8, 4),
    "b1": (4,),
    "b2": (4,),
    "b3": (4,),
    "b4": (8,),
}
JOIN = """
    c1 = Conv(x, W1, b1)
    c2 = Conv(x, W2, b2)
    j = Concat<axis=1>(c1, c2)
    y = Conv(j, W3, b3)
"""
JOIN_WEIGHTS = {"W1": (4, 4, 1, 1), "b1": (4,), "W2": (4, 4, 1, 1), "b2": (4,), "W3": (4, 8, 1, 1), "b3": (4,)}
STACK = "y = MatMul(x, W1)"
HEAD = """
    c1 = Conv(x, W1, b1)
    s = Sigmoid(c1)
    c2 = Conv(x, W2, b2)
    y = Concat<axis=1>(s, c2)
"""
AVERAGE = """
    c1 = Conv(x, W1, b1)
    p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(c1)
    y = Conv(p, W2, b2)
"""
TWICE = """
    c1 = Conv(x, W1)
    y1 = Relu(c1)
    y2 = Sigmoid(c1)
"""
GELU = """
    h = Gemm<transB=1>(x, W1, b1)
    root = Constant<value_float = 1.4142135>()
    one = Constant<value_float = 1.0>()
    d = Div(h, root)
    e = Erf(d)
    e1 = Add(e, one)
    g = Mul(h, e1)
    y = Gemm<transB=1>(g, W2, b2)
"""
SHAPE = "float[1,4,8,8]"


@functools.cache
def clean(target: str, kind: str) -> onnx.ModelProto:
    """A small network as graphopt writes it for a target."""
    if kind == "net":
        source = model(NET, f"{SHAPE} x", "float[1,8] y", **NET_WEIGHTS)
    elif kind == "join":
        source = model(JOIN, f"{SHAPE} x", f"{SHAPE} y", **JOIN_WEIGHTS)
    elif kind == "head":
        source = model(
            HEAD, f"{SHAPE} x", "float[1,8,8,8] y", **{k: v for k, v in JOIN_WEIGHTS.items() if "3" not in k}
        )
    elif kind == "average":
        source = model(AVERAGE, f"{SHAPE} x", f"{SHAPE} y", **{k: v for k, v in JOIN_WEIGHTS.items() if "3" not in k})
    elif kind == "twice":
        source = model(TWICE, "float[N,4,8,8] x", "float[N,4,8,8] y1, float[N,4,8,8] y2", W1=(4, 4, 1, 1))
    elif kind == "gelu":  # its Mul stays in float, one operand comes in integers
        source = model(GELU, "float[2,4] x", "float[2,3] y", W1=(8, 4), b1=(8,), W2=(3, 8), b2=(3,))
    else:
        source = model(STACK, "float[2,3,4] x", "float[2,3,4] y", W1=(2, 4, 4))
    return quantize_model(source, target).after


@dataclass(frozen=True)
class Case:
    """A violation: where it is planted, what it breaks, and the node of the model that should be named."""

    rule: str
    target: str
    plant: Callable[[Planted], None]
    affects: str  # output of a node that the finding concerns
    kind: str = "net"


def scale_of_shape_one(p: Planted) -> None:
    p.set_value("x_scale", p.value("x_scale").reshape(1))
    p.set_value("x_zero_point", p.value("x_zero_point").reshape(1))


def subnormal_scale(p: Planted) -> None:
    p.set_value("x_scale", 1e-40)


def scale_at_run_time(p: Planted) -> None:
    p.model.graph.input.append(helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, []))
    for node in (p.find("QuantizeLinear"), p.producer("x_dequantized")):
        node.input[1] = "s"


def per_channel_in_opset_12(p: Planted) -> None:
    p.set_opset(12, ir=7)
    for node in p.nodes:
        if node.op_type == "DequantizeLinear":
            del node.attribute[:]


def blocks(p: Planted) -> None:
    p.set_opset(21)
    node = p.producer("W4_dequantized")
    node.input[1] = p.constant(np.full((8, 2), 0.01), np.float32)
    node.input[2] = p.constant(np.zeros((8, 2)), np.int8)
    del node.attribute[:]
    node.attribute.extend([helper.make_attribute("axis", 1), helper.make_attribute("block_size", 2)])


def blocks_of_4_bits(p: Planted) -> None:
    blocks(p)
    node = p.producer("W4_dequantized")
    node.input[0] = p.constant(np.ones((8, 4)), ml_dtypes.int4)
    node.input[2] = p.constant(np.zeros((8, 2)), ml_dtypes.int4)


def integer_matmul(p: Planted) -> None:
    p.insert(p.find("Gemm"), helper.make_node("DynamicQuantizeLinear", ["f"], ["dq", "ds", "dz"], "dynamic"))


def contrib_add(p: Planted) -> None:
    p.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    one = [p.constant(0.1, np.float32), p.constant(0, np.uint8)]
    integers = p.find("QuantizeLinear").output[0]
    added = helper.make_node(
        "QLinearAdd", [integers, *one, integers, *one, *one], ["added"], "own", domain="com.microsoft"
    )
    p.insert(p.find("Gemm"), added)


def integers_moved(p: Planted) -> None:
    node = p.producer(p.find("Gemm").input[0])
    p.insert(node, helper.make_node("Identity", [node.input[0]], ["moved"], "mover"))
    p.producer(p.find("Gemm").input[0]).input[0] = "moved"


def integer_input(p: Planted) -> None:
    quantize = p.find("QuantizeLinear")
    p.insert(quantize, helper.make_node("Cast", ["x"], ["cast"], "cast", to=onnx.TensorProto.INT32))
    p.find("QuantizeLinear").input[0] = "cast"


def other_scale_behind(p: Planted) -> None:
    p.producer("x_dequantized").input[1] = p.constant(p.value("x_scale") * 2, np.float32)


def twice_quantized(p: Planted) -> None:
    p.pair("x_dequantized", ["c1"], scale=0.1, zero=7)


def signed(p: Planted) -> None:
    p.set_value("x_zero_point", int(p.value("x_zero_point")) - 128, np.int8)


def signed_and_shared(p: Planted) -> None:
    p.set_value("r1_zero_point", int(p.value("r1_zero_point")) - 128, np.int8)


def sixteen_bits(p: Planted) -> None:
    p.set_opset(21)
    p.set_value("x_zero_point", 0, np.int16)


def zero_point(p: Planted) -> None:
    p.set_value("x_zero_point", 3)


def per_channel_activation(p: Planted) -> None:
    p.set_value("x_scale", np.full(4, 0.1))
    p.set_value("x_zero_point", np.full(4, 0))


def zero_point_behind_relu(p: Planted) -> None:
    p.set_value("r1_zero_point", 10)


def one_scale_for_a_head(p: Planted) -> None:
    node = p.find("Concat")
    node.output[0] = "joined"
    params = [p.constant(0.25, np.float32), p.constant(128, np.uint8)]
    p.model.graph.node.extend(
        [
            helper.make_node("QuantizeLinear", ["joined", *params], ["joined_q"], "head_Q"),
            helper.make_node("DequantizeLinear", ["joined_q", *params], ["y"], "head_DQ"),
        ]
    )


def signed_join(p: Planted) -> None:
    for name in {p.producer(i).input[2] for i in p.find("Concat").input}:
        p.set_value(name, int(p.value(name)) - 128, np.int8)


def pair_behind_join(p: Planted) -> None:
    """The operands stay float: OpenVINO moves the pair in front of the Concat by itself."""
    for tensor in ("c1", "c2"):
        p.unpair(tensor, "j")
    p.pair("j", ["y"], zero=3, dtype=np.int8)


def counted_pads(p: Planted) -> None:
    p.pair("c1", ["p"], zero=128)


def constant_on_a_grid(p: Planted) -> None:
    constant = p.constant(np.ones((4, 1, 1)), np.float32)
    p.find("Add").input[0] = constant
    p.pair(constant, ["a"])


def pool_with_two_scales(p: Planted) -> None:
    for node in (p.readers("m")[0], p.producer(p.find("Conv", 2).input[0])):
        node.input[1] = p.constant(p.value(node.input[1]) * 2, np.float32)


def join_with_two_scales(p: Planted) -> None:
    for node in (p.readers("c1")[0], p.producer(p.find("Concat").input[0])):
        node.input[1] = p.constant(p.value(node.input[1]) * 2, np.float32)


def sigmoid_with_own_scale(p: Planted) -> None:
    for node in (p.readers("s")[0], next(n for n in p.nodes if p.is_dequantized(n.output[0], "s"))):
        node.input[1] = p.constant(0.01, np.float32)


def unsigned_weight(p: Planted) -> None:
    p.set_value("W1_quantized", p.value("W1_quantized").astype(np.int16) + 128, np.uint8)
    p.set_value("W1_zero_point", np.full(4, 128), np.uint8)


def weight_zero_point(p: Planted) -> None:
    p.set_value("W1_zero_point", np.array([0, 5, 0, 0]))


def weight_scales_of_inputs(p: Planted) -> None:
    node = p.producer("W2_dequantized")
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", 1))


def stack_per_channel(p: Planted) -> None:
    node = p.producer("W1_dequantized")
    p.set_value("W1_scale", np.full(4, float(p.value("W1_scale"))))
    p.set_value("W1_zero_point", np.zeros(4))
    node.attribute.append(helper.make_attribute("axis", 2))


def weight_of_minus_128(p: Planted) -> None:
    stored = p.value("W1_quantized").copy()
    stored[0, 0, 0, 0] = -128
    p.set_value("W1_quantized", stored)


def int32_bias(p: Planted) -> None:
    zeros = [p.constant(np.full(4, 7), np.int32), p.constant(np.full(4, 1e-3), np.float32)]
    p.insert(p.find("Conv"), helper.make_node("DequantizeLinear", zeros, ["b1_real"], "bias_DQ", axis=0))
    p.redirect("c1", "b1", "b1_real")


def float_bias(p: Planted) -> None:
    p.float_constant("b1_dequantized")


def bias_of_8_bits(p: Planted) -> None:
    p.float_constant("b1_dequantized")
    stored = [p.constant(np.full(4, 7), np.int8), p.constant(0.1, np.float32)]
    p.insert(p.find("Conv"), helper.make_node("DequantizeLinear", stored, ["b1_real"], "bias_DQ"))
    p.find("Conv").input[2] = "b1_real"


def bias_scale(p: Planted) -> None:
    scale = p.value("b1_scale").copy()
    scale[2] *= 1.01
    p.set_value("b1_scale", scale)


def bias_zero_point(p: Planted) -> None:
    p.set_value("b1_zero_point", np.array([0, 0, 0, 4]))


def no_bias(p: Planted) -> None:
    del p.find("Conv").input[2:]


def float_activation(p: Planted) -> None:
    p.unpair("x", "c1")


def float_weight(p: Planted) -> None:
    p.float_constant("W1_dequantized")


def one_operand(p: Planted) -> None:
    p.unpair("c2", "a")


def float_pool(p: Planted) -> None:
    p.unpair("c3", "p")


def float_reader(p: Planted) -> None:
    p.model.graph.output.append(helper.make_tensor_value_info("r1", onnx.TensorProto.FLOAT, [1, 4, 8, 8]))


def pair_before_relu(p: Planted) -> None:
    p.pair("c1", ["r1"], dtype=np.uint8, zero=128)


def pair_on_both_operands(p: Planted) -> None:
    p.pair("c2", ["a"], dtype=np.int8)


def pair_behind_pool(p: Planted) -> None:
    p.pair("m", ["c3"])


def pair_at_the_end(p: Planted) -> None:
    p.find("Gemm").output[0] = "logits"
    p.model.graph.node.append(helper.make_node("Identity", ["logits"], ["y"], "end"))
    p.pair("logits", ["y"], dtype=np.int8)


def alone_between_casts(p: Planted) -> None:
    p.float_constant("W4_dequantized")
    gemm = p.producer("y")
    data = gemm.input[0]
    gemm.input[0], gemm.output[0] = "single", "scores"
    p.insert(
        gemm,
        helper.make_node("Cast", [data], ["half"], "to_half", to=onnx.TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["single"], "from_half", to=onnx.TensorProto.FLOAT),
    )
    p.model.graph.node.append(helper.make_node("Cast", ["scores"], ["narrow"], "back", to=onnx.TensorProto.FLOAT16))
    p.model.graph.node.append(helper.make_node("Cast", ["narrow"], ["y"], "out", to=onnx.TensorProto.FLOAT))


CASES = (
    Case("lone-float32", "tensorrt", alone_between_casts, "scores"),
    Case("scale-rank", "tensorrt", scale_of_shape_one, "c1"),
    Case("scale-rank", "onnxruntime", scale_of_shape_one, "c1"),
    Case("scale-value", "openvino", subnormal_scale, "c1"),
    Case("scale-constant", "tensorrt", scale_at_run_time, "c1"),
    Case("opset", "tensorrt", per_channel_in_opset_12, "c1"),
    Case("block-scale", "openvino", blocks, "y"),
    Case("block-form", "onnxruntime", blocks_of_4_bits, "y"),
    Case("integer-operator", "tensorrt", integer_matmul, "dq"),
    Case("contrib-operator", "openvino", contrib_add, "added"),
    Case("loose-integers", "tflite", integers_moved, "moved"),
    Case("float-input", "tflite", integer_input, "c1"),
    Case("pair-mismatch", "onnxruntime", other_scale_behind, "c1"),
    Case("double-pair", "openvino", twice_quantized, "c1"),
    Case("activation-type", "onnxruntime", signed, "c1"),
    Case("activation-type-shared", "onnxruntime", signed_and_shared, "c2"),
    Case("activation-bits", "openvino", sixteen_bits, "c1"),
    Case("activation-zero-point", "tensorrt", zero_point, "c1"),
    Case("activation-per-channel", "tensorrt", per_channel_activation, "c1"),
    Case("activation-clamp", "onnxruntime", zero_point_behind_relu, "c1"),
    Case("mixed-ranges", "onnxruntime", one_scale_for_a_head, "joined", "head"),
    Case("signed-concat", "openvino", signed_join, "y", "join"),
    Case("signed-concat", "openvino", pair_behind_join, "y", "join"),
    Case("counted-pads", "openvino", counted_pads, "p", "average"),
    Case("constant-pair", "openvino", constant_on_a_grid, "a"),
    Case("same-scale", "tflite", pool_with_two_scales, "m"),
    Case("rescaling", "onnxruntime", join_with_two_scales, "j", "join"),
    Case("fixed-output", "tflite", sigmoid_with_own_scale, "s", "head"),
    Case("weight-type", "tensorrt", unsigned_weight, "c1"),
    Case("weight-zero-point", "openvino", weight_zero_point, "c1"),
    Case("weight-axis", "tensorrt", weight_scales_of_inputs, "c2"),
    Case("weight-stack", "onnxruntime", stack_per_channel, "y", "stack"),
    Case("weight-narrow", "tflite", weight_of_minus_128, "c1"),
    Case("bias-int32", "tensorrt", int32_bias, "c1"),
    Case("bias-float", "tflite", float_bias, "c1"),
    Case("bias-bits", "onnxruntime", bias_of_8_bits, "c1"),
    Case("bias-scale", "onnxruntime", bias_scale, "c1"),
    Case("bias-zero-point", "tflite", bias_zero_point, "c1"),
    Case("bias-missing", "openvino", no_bias, "c1", "twice"),
    Case("half-quantized", "openvino", float_activation, "c1"),
    Case("half-quantized", "tensorrt", float_weight, "c1"),
    Case("partial-operands", "onnxruntime", one_operand, "a"),
    Case("float-between", "openvino", float_pool, "p"),
    Case("float-output", "onnxruntime", float_reader, "c1"),
    Case("inside-kernel", "openvino", pair_before_relu, "c1"),
    Case("residual-fusion", "tensorrt", pair_on_both_operands, "a"),
    Case("residual-fusion", "openvino", pair_on_both_operands, "a"),
    Case("pair-behind-move", "openvino", pair_behind_pool, "m"),
    Case("useless-pair", "openvino", pair_at_the_end, "y"),
)  # fmt: skip


def check(proto: onnx.ModelProto, target: str) -> list[Finding]:
    return check_graph(load(proto, min_opset=1), find_target(target))


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.rule}-{c.target}-{c.plant.__name__}")
def test_a_planted_violation_is_found(case: Case) -> None:
    source = clean(case.target, case.kind)
    assert check(source, case.target) == []
    planted = Planted(source)
    case.plant(planted)
    graph = load(planted.model, min_opset=1)
    found = [f for f in check_graph(graph, find_target(case.target)) if f.rule == case.rule]
    assert found, f"nothing says {case.rule}"
    breach = find_target(case.target).breaches[case.rule]
    assert all((f.severity, f.why) == (breach.severity, breach.why) for f in found)
    names = {t.name: node.name for node in graph.nodes for t in node.outputs}
    if case.rule != "useless-pair":  # nobody's kernel: it names the pair
        assert any(names[case.affects] in f.affects for f in found)


def test_every_rule_has_a_planted_violation() -> None:
    assert {case.rule for case in CASES} == set(RULES)


def test_targets_list_rules_that_exist_and_every_rule_holds_somewhere() -> None:
    assert {rule for target in TARGETS.values() for rule in target.breaches} == set(RULES)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["net", "join", "head", "average", "twice", "gelu", "stack"])
def test_what_graphopt_writes_is_clean(target: str, kind: str) -> None:
    assert check(clean(target, kind), target) == []


def test_the_model_is_not_changed() -> None:
    graph = load(clean("tensorrt", "net"), min_opset=1)
    before = graph.revision
    check_graph(graph, find_target("onnxruntime"))
    assert graph.revision == before


def test_findings_are_listed_under_the_operators_on_both_sides_of_a_pair() -> None:
    planted = Planted(clean("tensorrt", "net"))
    name = planted.producer(planted.find("Conv", 1).input[0]).input[2]
    planted.set_value(name, 3)
    graph = load(planted.model, min_opset=1)
    by_node = findings_by_node(graph, find_target("tensorrt"))
    names = {t.name: node.name for node in graph.nodes for t in node.outputs}
    for output in ("c2", "r1"):
        assert [f.rule for f in by_node[names[output]]].count("activation-zero-point") == 1


def test_a_float_model_and_a_layer_left_in_float_are_no_findings() -> None:
    source = model(NET, f"{SHAPE} x", "float[1,8] y", **NET_WEIGHTS)
    assert check(source, "onnxruntime") == []
    planted = Planted(clean("openvino", "net"))
    planted.float_constant("W1_dequantized")
    planted.unpair("x", "c1")
    assert [f for f in check(planted.model, "openvino") if f.severity == "error"] == []


def test_a_linear_layer_with_its_weight_behind_a_transpose_is_understood() -> None:
    # torch.onnx.export writes DQ(W) → Transpose → MatMul.
    source = quantize_model(model("y = MatMul(x, W1)", "float[2,4] x", "float[2,3] y", W1=(4, 3)), "tensorrt").after
    planted = Planted(source)
    planted.set_value("W1_quantized", planted.value("W1_quantized").T.copy())
    node = planted.producer("W1_dequantized")
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", 0))
    planted.insert(
        planted.find("MatMul"), helper.make_node("Transpose", ["W1_dequantized"], ["W1_t"], "t", perm=[1, 0])
    )
    planted.redirect("y", "W1_dequantized", "W1_t")
    assert check(planted.model, "tensorrt") == []
    planted.producer("W1_dequantized").attribute[0].i = 1
    planted.set_value("W1_scale", np.ones(4))
    planted.set_value("W1_zero_point", np.zeros(4))
    assert [f.rule for f in check(planted.model, "tensorrt")] == ["weight-axis"]


def test_scales_in_constant_nodes_are_read() -> None:
    planted = Planted(clean("tensorrt", "net"))
    value = planted.value("x_scale")
    constant = helper.make_node("Constant", [], ["scale_node"], "k", value=onnx.numpy_helper.from_array(value))
    planted.insert(planted.nodes[0], constant)
    for node in (planted.find("QuantizeLinear"), planted.producer("x_dequantized")):
        node.input[1] = "scale_node"
    assert check(planted.model, "tensorrt") == []
