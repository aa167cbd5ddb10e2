from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.passes.fold_batch_norm import FoldBatchNorm
from tests.support.rewrite import Rewritten, assert_same_outputs, rewrite

RNG = np.random.default_rng(7)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str]],
    outputs: dict[str, Sequence[int | str]],
    constants: dict[str, np.ndarray],
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(built)


def noise(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def bn_params(channels: int, prefix: str = "") -> dict[str, np.ndarray]:
    return {
        f"{prefix}gamma": noise(channels),
        f"{prefix}beta": noise(channels),
        f"{prefix}mean": noise(channels),
        f"{prefix}var": RNG.uniform(0.2, 2, channels).astype(np.float32),
    }


def bn(x: str, y: str, prefix: str = "", **attrs: Any) -> onnx.NodeProto:
    inputs = [x, *(f"{prefix}{p}" for p in ("gamma", "beta", "mean", "var"))]
    return helper.make_node("BatchNormalization", inputs, [y], name=f"bn_{y}", **attrs)


def folded(before: onnx.ModelProto, expected: list[str]) -> Rewritten:
    result = rewrite(FoldBatchNorm(), before)
    assert result.ops == expected
    assert_same_outputs(before, result.model, rtol=1e-4, atol=1e-4)
    return result


LINEAR_BEFORE = {
    "conv": (helper.make_node("Conv", ["x", "w", "b"], ["h"], pads=[1] * 4), (2, 3, 5, 5), (6, 3, 3, 3), 6),
    "conv without bias": (helper.make_node("Conv", ["x", "w"], ["h"]), (2, 3, 5, 5), (6, 3, 3, 3), 6),
    "conv with an empty bias": (helper.make_node("Conv", ["x", "w", ""], ["h"]), (2, 3, 5, 5), (6, 3, 3, 3), 6),
    "grouped conv": (helper.make_node("Conv", ["x", "w", "b"], ["h"], group=2), (2, 4, 5, 5), (6, 2, 3, 3), 6),
    "depthwise conv": (helper.make_node("Conv", ["x", "w"], ["h"], group=4), (2, 4, 5, 5), (4, 1, 3, 3), 4),
    "1-D conv": (helper.make_node("Conv", ["x", "w", "b"], ["h"]), (2, 3, 9), (6, 3, 3), 6),
    "3-D conv": (helper.make_node("Conv", ["x", "w", "b"], ["h"]), (1, 2, 4, 4, 4), (3, 2, 2, 2, 2), 3),
    "transposed conv": (helper.make_node("ConvTranspose", ["x", "w", "b"], ["h"]), (2, 3, 4, 4), (3, 6, 3, 3), 6),
    "grouped transposed conv": (
        helper.make_node("ConvTranspose", ["x", "w"], ["h"], group=2, strides=[2, 2]),
        (2, 4, 4, 4),
        (4, 3, 3, 3),
        6,
    ),
    "gemm": (helper.make_node("Gemm", ["x", "w", "b"], ["h"], alpha=0.5, beta=2.0), (4, 3), (3, 6), 6),
    "gemm transB": (helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1), (4, 3), (6, 3), 6),
    "gemm transA": (helper.make_node("Gemm", ["x", "w", "b"], ["h"], transA=1), (3, 4), (3, 6), 6),
    "gemm without bias": (helper.make_node("Gemm", ["x", "w"], ["h"], transB=1), (4, 3), (6, 3), 6),
    "gemm that ignores its bias": (helper.make_node("Gemm", ["x", "w", "b"], ["h"], beta=0.0), (4, 3), (3, 6), 6),
}


@pytest.mark.parametrize("kind", LINEAR_BEFORE)
def test_after_each_linear_operation(kind: str) -> None:
    node, x_shape, w_shape, channels = LINEAR_BEFORE[kind]
    constants = {"w": noise(*w_shape), **bn_params(channels)}
    if "b" in node.input:
        constants["b"] = noise(channels)
    before = model([node, bn("h", "y")], {"x": x_shape}, {"y": [None] * len(x_shape)}, constants)
    result = folded(before, [node.op_type])
    assert "folded into" in result.remarks.items[0].message


@pytest.mark.parametrize("bias", [(6,), (1, 6), (1,), (4, 1), (4, 6)])
def test_after_a_gemm_whose_bias_broadcasts(bias: tuple[int, ...]) -> None:
    constants = {"w": noise(3, 6), "b": noise(*bias), **bn_params(6)}
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"], beta=0.5), bn("h", "y")]
    folded(model(nodes, {"x": (4, 3)}, {"y": (4, 6)}, constants), ["Gemm"])


def test_after_matmul_an_add_is_made() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), bn("h", "y")]
    folded(model(nodes, {"x": (4, 3)}, {"y": (4, 6)}, {"w": noise(3, 6), **bn_params(6)}), ["MatMul", "Add"])


@pytest.mark.parametrize("order", [["h", "b"], ["b", "h"]])
def test_after_matmul_and_add(order: list[str]) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", order, ["i"]), bn("i", "y")]
    constants = {"w": noise(3, 6), "b": noise(6), **bn_params(6)}
    folded(model(nodes, {"x": (4, 3)}, {"y": (4, 6)}, constants), ["MatMul", "Add"])


def test_after_matmul_with_the_weight_on_the_left() -> None:
    """Channels are on the second axis from the end: axis 1 of a [batch, channel, position] result."""
    nodes = [helper.make_node("MatMul", ["w", "x"], ["h"]), bn("h", "y")]
    folded(model(nodes, {"x": (2, 3, 5)}, {"y": (2, 6, 5)}, {"w": noise(6, 3), **bn_params(6)}), ["MatMul", "Add"])


def test_a_matmul_whose_channels_are_elsewhere_is_not_folded() -> None:
    """Axis 1 of a [2, 6, 6] MatMul result is a position."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), bn("h", "y")]
    result = folded(model(nodes, {"x": (2, 6, 3)}, {"y": (2, 6, 6)}, {"w": noise(3, 6), **bn_params(6)}),
                    ["MatMul", "Mul", "Add"])  # fmt: skip
    assert "aren't known to be on axis 1" in result.remarks.items[0].message


def test_a_result_read_elsewhere_is_not_changed() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
        bn("h", "y"),
        helper.make_node("Relu", ["h"], ["z"], name="other"),
    ]
    before = model(nodes, {"x": (1, 3, 4, 4)}, {"y": (1, 6, 4, 4), "z": (1, 6, 4, 4)},
                   {"w": noise(6, 3, 1, 1), **bn_params(6)})  # fmt: skip
    result = folded(before, ["Conv", "Relu", "Mul", "Add"])
    assert "also read by Relu 'other'" in result.remarks.items[0].message


def test_a_result_that_is_a_graph_output_is_not_changed() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), bn("h", "y")]
    before = model(nodes, {"x": (1, 3, 4, 4)}, {"h": (1, 6, 4, 4), "y": (1, 6, 4, 4)},
                   {"w": noise(6, 3, 1, 1), **bn_params(6)})  # fmt: skip
    result = folded(before, ["Conv", "Mul", "Add"])
    assert "also a graph output" in result.remarks.items[0].message


def test_a_shared_weight_is_copied() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"]),
        bn("h", "y"),
        helper.make_node("Conv", ["x", "w", "b"], ["z"]),
    ]
    before = model(nodes, {"x": (1, 3, 4, 4)}, {"y": (1, 6, 4, 4), "z": (1, 6, 4, 4)},
                   {"w": noise(6, 3, 1, 1), "b": noise(6), **bn_params(6)})  # fmt: skip
    result = folded(before, ["Conv", "Conv"])
    assert len(result.model.graph.initializer) == 4


def test_parameters_shared_by_two_norms_are_kept_apart() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        bn("h", "i"),
        helper.make_node("Relu", ["i"], ["r"]),
        bn("r", "y"),
    ]
    constants = {"w": noise(6, 3, 1, 1), **bn_params(6)}
    folded(model(nodes, {"x": (1, 3, 4, 4)}, {"y": (1, 6, 4, 4)}, constants), ["Conv", "Relu", "Mul", "Add"])


LINEAR_AFTER = {
    "conv without padding": (helper.make_node("Conv", ["h", "w", "b"], ["y"]), (2, 4, 5, 5), (6, 4, 3, 3)),
    "strided, dilated": (
        helper.make_node("Conv", ["h", "w"], ["y"], strides=[2, 2], dilations=[2, 2]),
        (2, 4, 7, 7),
        (6, 4, 3, 3),
    ),
    "grouped": (helper.make_node("Conv", ["h", "w"], ["y"], group=2), (2, 4, 5, 5), (6, 2, 3, 3)),
    "depthwise": (helper.make_node("Conv", ["h", "w"], ["y"], group=4), (2, 4, 5, 5), (8, 1, 3, 3)),
    "pointwise, SAME": (helper.make_node("Conv", ["h", "w"], ["y"], auto_pad="SAME_UPPER"), (2, 4, 5, 5), (6, 4, 1, 1)),
    "VALID": (helper.make_node("Conv", ["h", "w"], ["y"], auto_pad="VALID"), (2, 4, 5, 5), (6, 4, 3, 3)),
    "pointwise transposed": (helper.make_node("ConvTranspose", ["h", "w"], ["y"]), (2, 4, 5, 5), (4, 6, 1, 1)),
    "gemm": (helper.make_node("Gemm", ["h", "w", "b"], ["y"], alpha=0.5, beta=2.0), (3, 4), (4, 6)),
    "gemm transB, no bias": (helper.make_node("Gemm", ["h", "w"], ["y"], transB=1, alpha=3.0), (3, 4), (6, 4)),
}


@pytest.mark.parametrize("kind", LINEAR_AFTER)
def test_before_each_linear_operation(kind: str) -> None:
    node, x_shape, w_shape = LINEAR_AFTER[kind]
    constants = {"w": noise(*w_shape), **bn_params(4)}
    if "b" in node.input:
        constants["b"] = noise(6)
    before = model([bn("x", "h"), node], {"x": x_shape}, {"y": [None] * len(x_shape)}, constants)
    folded(before, [node.op_type])


def test_before_matmul_an_add_is_made_though_the_result_is_read_twice() -> None:
    nodes = [bn("x", "h"), helper.make_node("MatMul", ["h", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    before = model(nodes, {"x": (3, 4)}, {"y": (3, 6), "z": (3, 6)}, {"w": noise(4, 6), **bn_params(4)})
    folded(before, ["MatMul", "Add", "Relu"])


def test_before_two_convolutions_goes_into_both() -> None:
    nodes = [bn("x", "h"), helper.make_node("Conv", ["h", "w"], ["y"]), helper.make_node("Conv", ["h", "w"], ["z"])]
    before = model(nodes, {"x": (1, 4, 3, 3)}, {"y": (1, 6, 3, 3), "z": (1, 6, 3, 3)},
                   {"w": noise(6, 4, 1, 1), **bn_params(4)})  # fmt: skip
    folded(before, ["Conv", "Conv"])


@pytest.mark.parametrize(
    ("attrs", "reason"),
    [
        ({"pads": [1, 1, 1, 1]}, "pads with zeros"),
        ({"auto_pad": "SAME_LOWER"}, "pads with zeros"),
    ],
)
def test_a_shift_does_not_pass_zero_padding(attrs: dict[str, Any], reason: str) -> None:
    nodes = [bn("x", "h"), helper.make_node("Conv", ["h", "w"], ["y"], **attrs)]
    before = model(nodes, {"x": (1, 4, 5, 5)}, {"y": (1, 6, 5, 5)}, {"w": noise(6, 4, 3, 3), **bn_params(4)})
    result = folded(before, ["Mul", "Add", "Conv"])
    assert reason in result.remarks.items[0].message


def test_a_scale_alone_passes_zero_padding() -> None:
    nodes = [bn("x", "h"), helper.make_node("Conv", ["h", "w"], ["y"], pads=[1, 1, 1, 1])]
    constants = {
        "w": noise(6, 4, 3, 3),
        **bn_params(4),
        "beta": np.zeros(4, np.float32),
        "mean": np.zeros(4, np.float32),
    }
    folded(model(nodes, {"x": (1, 4, 5, 5)}, {"y": (1, 6, 5, 5)}, constants), ["Conv"])


def test_a_strided_transposed_convolution_takes_no_shift() -> None:
    nodes = [bn("x", "h"), helper.make_node("ConvTranspose", ["h", "w"], ["y"], strides=[2, 2])]
    before = model(nodes, {"x": (1, 4, 3, 3)}, {"y": (1, 6, None, None)}, {"w": noise(4, 6, 1, 1), **bn_params(4)})
    folded(before, ["Mul", "Add", "ConvTranspose"])


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 5), (2, 4, 5, 5), (1, 4, 2, 2, 2)])
def test_without_a_linear_neighbour_it_becomes_mul_and_add(shape: tuple[int, ...]) -> None:
    before = model([bn("x", "y")], {"x": shape}, {"y": shape}, bn_params(4))
    result = folded(before, ["Mul", "Add"])
    assert all(list(i.dims) == [4] + [1] * (len(shape) - 2) for i in result.model.graph.initializer)
    assert "a graph input" in result.remarks.items[0].message


def test_a_chain_of_norms_collapses_into_either_side() -> None:
    chain = [bn("x", "a"), bn("a", "b", "p_")]
    constants = {"w": noise(6, 4, 1, 1), **bn_params(4), **bn_params(4, "p_")}
    after = [*chain, helper.make_node("Conv", ["b", "w"], ["y"])]
    folded(model(after, {"x": (1, 4, 3, 3)}, {"y": (1, 6, 3, 3)}, constants), ["Conv"])
    constants = {"w": noise(4, 6, 1, 1), **bn_params(4), **bn_params(4, "p_")}
    before = [helper.make_node("Conv", ["i", "w"], ["x"]), *chain]
    folded(model(before, {"i": (1, 6, 3, 3)}, {"b": (1, 4, 3, 3)}, constants), ["Conv"])


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 14, 15, 21])
def test_every_opset_form(opset: int) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), bn("h", "y", epsilon=1e-3)]
    before = model(nodes, {"x": (1, 3, 4, 4)}, {"y": (1, 6, 4, 4)}, {"w": noise(6, 3, 1, 1), **bn_params(6)}, opset)
    folded(before, ["Conv"])


def test_training_mode_is_declined() -> None:
    node = helper.make_node(
        "BatchNormalization", ["x", "gamma", "beta", "mean", "var"], ["y", "m", "v"], training_mode=1
    )
    result = rewrite(FoldBatchNorm(), model([node], {"x": (2, 4, 3, 3)}, {"y": (2, 4, 3, 3)}, bn_params(4)))
    assert result.revision == 0
    assert "training mode" in result.declined()[0]


def test_statistics_that_are_read_are_declined_and_unread_ones_are_not() -> None:
    outputs = ["y", "m", "v", "sm", "sv"]
    node = helper.make_node("BatchNormalization", ["x", "gamma", "beta", "mean", "var"], outputs)
    unread = model([node], {"x": (2, 4, 3, 3)}, {"y": (2, 4, 3, 3)}, bn_params(4), 9)
    assert rewrite(FoldBatchNorm(), unread).ops == ["Mul", "Add"]
    read = model([node], {"x": (2, 4, 3, 3)}, {"y": (2, 4, 3, 3), "m": (4,)}, bn_params(4), 9)
    result = rewrite(FoldBatchNorm(), read)
    assert result.revision == 0
    assert "statistics are read" in result.declined()[0]


def test_spatial_zero_is_declined() -> None:
    before = model([bn("x", "y", spatial=0)], {"x": (2, 4)}, {"y": (2, 4)}, bn_params(4), 8)
    assert "spatial=0" in rewrite(FoldBatchNorm(), before).declined()[0]


def test_parameters_from_outside_are_declined() -> None:
    constants = bn_params(4)
    del constants["beta"]
    before = model([bn("x", "y")], {"x": (2, 4), "beta": (4,)}, {"y": (2, 4)}, constants)
    assert "'beta' isn't a fixed initializer" in rewrite(FoldBatchNorm(), before).declined()[0]


@pytest.mark.parametrize(("variance", "epsilon"), [(-1.0, 1e-5), (0.0, 0.0), (np.nan, 1e-5)])
def test_a_scale_that_is_not_finite_is_declined(variance: float, epsilon: float) -> None:
    constants = {**bn_params(4), "var": np.array([1, variance, 1, 1], np.float32)}
    result = rewrite(FoldBatchNorm(), model([bn("x", "y", epsilon=epsilon)], {"x": (2, 4)}, {"y": (2, 4)}, constants))
    assert result.revision == 0
    assert "isn't finite" in result.declined()[0]


def test_half_precision_that_would_overflow_is_declined() -> None:
    half = {k: v.astype(np.float16) for k, v in bn_params(2).items()}
    half |= {"var": np.full(2, 1e-7, np.float16), "gamma": np.full(2, 1000, np.float16)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), bn("h", "y", epsilon=0.0)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, (1, 2, 3, 3))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, (1, 2, 3, 3))],
        [numpy_helper.from_array(v, n) for n, v in {"w": noise(2, 2, 1, 1).astype(np.float16), **half}.items()],
    )
    before = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    result = rewrite(FoldBatchNorm(), onnx.shape_inference.infer_shapes(before))
    assert result.revision == 0
    assert "aren't finite in float16" in result.declined()[0]


def test_in_a_branch() -> None:
    branch = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["h"]), bn("h", "t")],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, (1, 6, 4, 4))],
    )
    other = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["e"])],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, (1, 6, 4, 4))],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other),
    ]
    constants = {"w": noise(6, 3, 1, 1), "zero": np.zeros((), np.float32), **bn_params(6)}
    before = model(nodes, {"x": (1, 3, 4, 4)}, {"y": (1, 6, 4, 4)}, constants)
    result = rewrite(FoldBatchNorm(), before)
    then = next(a.g for a in result.model.graph.node[2].attribute if a.name == "then_branch")
    assert [n.op_type for n in then.node] == ["Conv"]
    for seed in range(4):  # both branches are taken
        assert_same_outputs(before, result.model, rtol=1e-4, atol=1e-4, seed=seed)


def test_a_reader_of_the_shape_only_is_no_hindrance() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("Shape", ["h"], ["s"]),
        bn("h", "y"),
        helper.make_node("Reshape", ["y", "s"], ["z"]),
    ]
    before = model(nodes, {"x": ("N", 3, 4, 4)}, {"z": ("N", 6, 4, 4)}, {"w": noise(6, 3, 1, 1), **bn_params(6)})
    folded(before, ["Conv", "Shape", "Reshape"])


def test_an_initializer_that_callers_may_override_is_declined() -> None:
    before = model([bn("x", "y")], {"x": (2, 4), "var": (4,)}, {"y": (2, 4)}, bn_params(4))
    assert "'var' isn't a fixed initializer" in rewrite(FoldBatchNorm(), before).declined()[0]


def test_an_unknown_rank_is_declined() -> None:
    nodes = [helper.make_node("Sigmoid", ["x"], ["h"]), bn("h", "i"), helper.make_node("Sigmoid", ["i"], ["y"])]
    before = model(nodes, {"x": (2, 4)}, {"y": (2, 4)}, bn_params(4))
    before.graph.ClearField("value_info")
    result = rewrite(FoldBatchNorm(), before)
    assert result.revision == 0
    assert "shape of 'h' isn't known" in result.declined()[0]
