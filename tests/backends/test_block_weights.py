"""4-bit weights in blocks: each engine has a kernel for what graphopt writes, and none for what lint refuses."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt.backends import engines
from graphopt.targets import find_target
from tests.passes.test_block_weights import PASS, dequantizers, optimize, plain
from tests.support.quantization import model
from tests.support.rewrite import random_feeds, run

RUNNING = ("onnxruntime", "openvino")
NET = model(
    """a = MatMul(x, w) b = Add(a, p) c = Relu(b) d = Flatten<axis=2>(c) e = Gemm<transB=1>(d, v, q) f = Sigmoid(e)
       y = MatMul(f, u)""",
    "float[3,4,64] x", "float[12,30] y", w=(64, 96), p=(96,), v=(48, 96), q=(48,), u=(48, 30),
)  # fmt: skip


@pytest.mark.parametrize("options", ["", ", symmetric=false", ", block=16"])
@pytest.mark.parametrize("target", RUNNING)
def test_every_product_reads_4_bits_and_computes_what_is_stored(target: str, options: str) -> None:
    made = optimize(NET, f"quantize-weights{{bits=4{options}}}", target).model
    assert graphopt.lint(made, target=target) == []
    found = graphopt.verify(made, target=target)
    assert found.ok
    assert [n.precision for n in found.precision.nodes] == ["int4-weights"] * 3
    feeds = random_feeds(NET)
    engine = engines.find_engine(find_target(target))
    assert engine.run is not None
    (outputs,) = engine.run(made, [feeds], 1)
    (expected,) = run(plain(made), feeds)
    # Both engines quantize what such a kernel reads to 8 bits, block by block.
    assert np.linalg.norm(outputs[0] - expected) < 0.04 * np.linalg.norm(expected)
    if not options:
        (stored,) = run(made, feeds)
        signs = [numpy_helper.to_array(t) for t in made.graph.initializer if t.name.endswith("_scale")]
        assert any((s < 0).any() for s in signs), "negative scales are understood, too"
        np.testing.assert_allclose(stored, expected, rtol=1e-4, atol=1e-4)


def test_tensorrt_stores_and_reads_int4() -> None:
    made = optimize(NET, PASS, "tensorrt").model
    assert graphopt.lint(made, target="tensorrt") == []
    found = graphopt.verify(made, target="tensorrt", device="SM89")
    assert found.ok
    assert [n.precision for n in found.precision.nodes] == ["int4-weights"] * 3


def test_onnxruntimes_own_operator_is_seen() -> None:
    shapes = {"q": (24, 2, 16), "s": (48,)}
    node = helper.make_node("MatMulNBits", ["x", "q", "s"], ["y"], "nbits", domain="com.microsoft", K=64, N=24, bits=4,
                            block_size=32)  # fmt: skip
    stored = [
        numpy_helper.from_array(np.full(shapes["q"], 0x9A, np.uint8), "q"),
        numpy_helper.from_array(np.full(shapes["s"], 0.1, np.float32), "s"),
    ]
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", 1, [2, 64])], [helper.make_tensor_value_info("y", 1, [2, 24])],
        stored,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    found = graphopt.verify(helper.make_model(graph, opset_imports=opsets, ir_version=10), target="onnxruntime")
    assert [(n.layer, n.precision) for n in found.precision.nodes] == [("MatMulNBits 'nbits'", "int4-weights")]


def blocks(block: int, *, axis: int = 0, dtype: type = ml_dtypes.int4, inputs: int = 64) -> onnx.ModelProto:
    """A product with a weight [inputs, 32] (axis 1: [32, inputs]) in blocks."""
    rng = np.random.default_rng(0)
    shape = (inputs, 32) if axis == 0 else (32, inputs)
    count = -(-inputs // block)
    scales = (count, 32) if axis == 0 else (32, count)
    stored = {
        "q": rng.integers(0, 7, shape).astype(dtype), "s": rng.uniform(0.1, 1, scales).astype(np.float32),
        **({"z": np.full(scales, 3).astype(dtype)} if dtype is ml_dtypes.uint4 else {}),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", [*stored], ["w"], "dequantize", axis=axis, block_size=block),
        helper.make_node("MatMul", ["x", "w"], ["y"], "product"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, [4, inputs])],
        [helper.make_tensor_value_info("y", 1, [4, 32])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def turned(net: onnx.ModelProto) -> onnx.ModelProto:
    """The product as a Gemm with transB."""
    del net.graph.node[1:]
    net.graph.node.append(helper.make_node("Gemm", ["x", "w"], ["y"], "product", transB=1))
    return net


def on_the_left(net: onnx.ModelProto) -> onnx.ModelProto:
    net.graph.node[1].input[:] = ["w", "x"]
    net.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", 1, [64, 4]))
    net.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [32, 4]))
    return net


def read_twice(net: onnx.ModelProto) -> onnx.ModelProto:
    net.graph.node.extend([helper.make_node("Relu", ["x"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["z"])])
    net.graph.output.append(helper.make_tensor_value_info("z", 1, [4, 32]))
    return net


def with_bias(net: onnx.ModelProto) -> onnx.ModelProto:
    del net.graph.node[1:]
    net.graph.node.append(helper.make_node("Gemm", ["x", "w", "b"], ["y"], "product"))
    net.graph.initializer.append(numpy_helper.from_array(np.ones((1, 32), np.float32), "b"))
    return net


def with_a_matrix_added(net: onnx.ModelProto) -> onnx.ModelProto:
    net.graph.node[1].output[0] = "m"
    net.graph.node.append(helper.make_node("Add", ["m", "r"], ["y"], "sum"))
    net.graph.input.append(helper.make_tensor_value_info("r", 1, [4, 32]))
    return net


def of_a_vector(net: onnx.ModelProto) -> onnx.ModelProto:
    net.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", 1, [64]))
    net.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [32]))
    return net


FORMS: dict[str, tuple[Callable[[], onnx.ModelProto], str, str]] = {
    "onnxruntime, 8 to a block": (lambda: blocks(8), "onnxruntime", "blocks of 8"),
    "onnxruntime, transB": (lambda: turned(blocks(32, axis=1)), "onnxruntime", "turned over"),
    "onnxruntime, on the left": (lambda: on_the_left(blocks(32, axis=1)), "onnxruntime", "on the right"),
    "onnxruntime, read twice": (lambda: read_twice(blocks(32)), "onnxruntime", "read by 2 nodes"),
    "onnxruntime, bias": (lambda: with_bias(blocks(32)), "onnxruntime", "bias isn't a vector"),
    "onnxruntime, a sum": (lambda: with_a_matrix_added(blocks(32)), "onnxruntime", "a matrix is added"),
    "openvino, a vector": (lambda: of_a_vector(blocks(32)), "openvino", "reads a vector"),
    "openvino, on the left": (lambda: on_the_left(blocks(32, axis=1)), "openvino", "on the right"),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_lint_refuses_the_engine_computes_in_float(form: str) -> None:
    make, target, said = FORMS[form]
    net = make()
    found = [f for f in graphopt.lint(net, target=target) if f.rule == "block-form"]
    assert any(said in f.found for f in found)
    verified = graphopt.verify(net, target=target)
    assert not verified.ok
    assert all(n.precision == "float32" for n in verified.precision.nodes)
    assert any(said in n.reason for n in verified.precision.nodes)


def test_openvino_refuses_a_shorter_last_block() -> None:
    net = blocks(32, inputs=48)
    (found,) = graphopt.lint(net, target="openvino")
    assert "don't divide" in found.found
    with pytest.raises(graphopt.GraphoptError, match="OpenVINO can't compile the model"):
        graphopt.verify(net, target="openvino")


def test_tensorrt_refuses_zero_points() -> None:
    net = blocks(32, dtype=ml_dtypes.uint4)
    (found,) = graphopt.lint(net, target="tensorrt")
    assert "zero points" in found.found
    assert not graphopt.verify(net, target="tensorrt").ok


@pytest.mark.parametrize(("net", "target"), [
    (blocks(32), "onnxruntime"), (blocks(32, inputs=48), "onnxruntime"), (blocks(256, inputs=512), "onnxruntime"),
    (blocks(32, dtype=ml_dtypes.uint4), "onnxruntime"), (blocks(8), "openvino"),
    (turned(blocks(32, axis=1)), "openvino"), (blocks(32, dtype=ml_dtypes.uint4), "openvino"),
])  # fmt: skip
def test_what_lint_takes_the_engine_has_a_kernel_for(net: onnx.ModelProto, target: str) -> None:
    assert graphopt.lint(net, target=target) == []
    assert graphopt.verify(net, target=target).ok


def test_litert_has_none() -> None:
    assert {f.rule for f in graphopt.lint(blocks(32), target="tflite")} == {"block-scale"}
    assert not dequantizers(optimize(NET, PASS, "tflite").model)
