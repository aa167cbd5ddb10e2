"""What onnxruntime would take for something else is kept apart, and computes what the model says."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import graphopt
from graphopt.analysis.legality import check_graph
from graphopt.backends import onnxruntime
from graphopt.backends.measures import sqnr_db
from graphopt.backends.onnxruntime import kernel_precision, open_session
from graphopt.ir import fill_types, from_proto, to_proto
from graphopt.passes._kept_apart import keep_apart
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context
from graphopt.targets import find_target
from tests.support.quantization import model, quantize_model
from tests.support.rewrite import parse, random_feeds, run

X, Y = "float[N,8,12,12] x", "float[A,B,C,D] y"
CONV = {"w": (8, 8, 3, 3), "v": (8, 8, 3, 3), "k": (4, 8, 1, 1), "b": (8,)}
# The channels' weights are of very different sizes: one scale for all of them ruins the small ones.
LAYER = "a = Conv(x, w) r = Relu(a) c = {op}(r, v{bias}) s = {act}(c) y = Conv(s, k)"


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("act", ["Relu", "MaxPool<kernel_shape=[2,2]>"])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_a_layer_that_is_kept_in_float_is_computed_in_float(op: str, act: str, bias: str) -> None:
    shapes = CONV if bias else {name: shape for name, shape in CONV.items() if name != "b"}
    source = model(LAYER.format(op=op, act=act, bias=bias), X, Y, **shapes)
    weight = next(i for i in source.graph.initializer if i.name == "v")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[:6] *= 1e-3
    values[:, :6] *= 1e-3
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "v"))
    for node in source.graph.node:
        node.name = node.output[0]
    quantized = quantize_model(source, "onnxruntime", plan=PlanQuantization(keep_float=("c",)))
    assert quantized.ops().count("LeakyRelu") == 1
    feeds = random_feeds(source)
    (ours,), (theirs,) = run(quantized.after, feeds), *onnxruntime.run(quantized.after, [feeds])
    assert sqnr_db(ours, theirs) > 50
    assert [k.integer for k in kernel_precision(quantized.after)] == [True, False, True]
    # What is kept apart is meant: lint has nothing to say.
    assert check_graph(graphopt.load(quantized.after), find_target("onnxruntime")) == []


@pytest.mark.parametrize("activation", ["r = Relu(a)", "r = Clip(a)"])
@pytest.mark.parametrize("product", ["a = Gemm(x, w, b)", "m = MatMul(x, w) a = Add(m, b)", "a = MatMul(x, w)"])
def test_a_product_in_8_bits_with_a_float_activation_runs_in_8_bits(product: str, activation: str) -> None:
    shapes = {"w": (8, 6), "b": (6,)} if "b" in product else {"w": (8, 6)}
    source = model(f"{product} {activation} y = Softmax(r)", "float[N,8] x", "float[N,6] y", **shapes)
    after = quantize_model(source, "onnxruntime").after
    assert [k.integer for k in kernel_precision(after)] == [True]
    feeds = random_feeds(source)
    (ours,), (theirs,) = run(after, feeds), *onnxruntime.run(after, [feeds])
    assert sqnr_db(ours, theirs) > 50


@pytest.mark.parametrize("product", ["a = Gemm(x, w)", "a = MatMul(x, w)"])
def test_a_product_that_is_read_both_ways_runs_in_8_bits(product: str) -> None:
    source = model(
        f"{product} g = Gemm(a, v) e = Exp(a) y = Add(g, e)", "float[N,8] x", "float[N,6] y", w=(8, 6), v=(6, 6)
    )
    after = quantize_model(source, "onnxruntime").after
    assert [k.integer for k in kernel_precision(after)] == [True, True]
    feeds = random_feeds(source)
    (ours,), (theirs,) = run(after, feeds), *onnxruntime.run(after, [feeds])
    assert sqnr_db(ours, theirs) > 50


def test_nothing_is_put_where_the_engine_makes_no_mistake() -> None:
    source = model("a = Conv(x, w) r = Relu(a) y = Conv(r, k)", X, Y, w=(8, 8, 3, 3), k=(4, 8, 1, 1))
    assert "LeakyRelu" not in quantize_model(source, "onnxruntime").ops()
    assert "LeakyRelu" not in quantize_model(source, "onnxruntime", plan=PlanQuantization(keep_float=("Conv",))).ops()
    gemms = model("a = Gemm(x, w) r = Relu(a) y = Gemm(r, v)", "float[N,8] x", "float[N,6] y", w=(8, 8), v=(8, 6))
    assert "LeakyRelu" not in quantize_model(gemms, "onnxruntime").ops()


def test_4_bit_weights_alone_are_read_by_their_kernel(tmp_path: Path) -> None:
    source = model(
        "a = Gemm(x, w) r = Relu(a) y = Gemm(r, v)", "float[N,64] x", "float[N,64] y", w=(64, 64), v=(64, 64)
    )
    graph = from_proto(source)
    fill_types(graph)
    QuantizeWeights(bits=4).run(graph, Context(target=find_target("onnxruntime")))
    graph.sort()
    path = tmp_path / "optimized.onnx"
    open_session(to_proto(graph), optimized_path=path)
    assert [n.op_type for n in onnx.load(path).graph.node] == ["MatMulNBits", "LeakyRelu", "Relu", "MatMulNBits"]


@pytest.mark.parametrize(
    ("behind", "kept"),
    [
        ("y = Exp(p)", 0),
        ("y = Relu(p)", 1),
        ("r = Relu(p) y = Exp(r)", 1),
        ("q = QuantizeLinear(p, s, z) y = DequantizeLinear(q, s, z)", 1),
        ("a = Exp(p) c = Relu(p) y = Add(a, c)", 0),
    ],
)
def test_weights_in_blocks(behind: str, kept: int) -> None:
    source = parse(f"""<ir_version: 10, opset_import: ["" : 21]> g (float[1,16] x, int4[16,2] i) => (float[1,2] y)
        <float[1,2] t = {{0.5, 0.25}}, float s = {{0.1}}, uint8 z = {{3}}> {{
        w = DequantizeLinear<axis=0, block_size=16>(i, t)
        p = MatMul(x, w)
        {behind}
    }}""")
    source.graph.input.pop()
    source.graph.initializer.append(onnx.helper.make_tensor("i", onnx.TensorProto.INT4, [16, 2], [1, -3] * 16))
    graph = from_proto(source)
    fill_types(graph)
    assert sum(keep_apart(graph, node) for node in list(graph.nodes)) == kept
    assert sum(keep_apart(graph, node) for node in list(graph.nodes)) == 0
    graph.sort()
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    feeds = random_feeds(source)
    assert (run(source, feeds)[0] == run(after, feeds)[0]).all()
