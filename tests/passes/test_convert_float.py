"""Nodes that compute in 16 bits, what stays in float32 and why, and that types and values are right on both sides."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.backends.tensorrt.build import build
from graphopt.backends.tensorrt.kernels import read_kernels
from graphopt.errors import ConfigError
from tests.support.quantization import model
from tests.support.rewrite import run

F32, F16, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16


def convert(net: onnx.ModelProto, options: str = "", samples: dict[str, np.ndarray] | None = None) -> graphopt.Result:
    pipeline = "convert-float" + (f"{{{options}}}" if options else "")
    result = graphopt.optimize(net, passes=pipeline, calibration_data=samples)
    onnx.checker.check_model(result.model, full_check=True)
    return result


def types(net: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, by onnx's own strict inference."""
    inferred = onnx.shape_inference.infer_shapes(net, check_type=True, strict_mode=True).graph
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    return {v.name: v.type.tensor_type.elem_type for v in values} | {i.name: i.data_type for i in inferred.initializer}


def computes_in(net: onnx.ModelProto, op: str, position: int = 0) -> int:
    """Type of the first result of a node."""
    node = [n for n in net.graph.node if n.op_type == op][position]
    return types(net)[node.output[0]]


def ops(net: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in net.graph.node]


def reasons(result: graphopt.Result) -> str:
    return "\n".join(r.message for r in result.report.remarks if r.kind == "declined")


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    body = """
        a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w1, b1)
        ra = Relu(a)
        b = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(ra, w2)
        s = Add(ra, b)
        p = GlobalAveragePool(s)
        f = Flatten(p)
        y = Gemm(f, w3)
    """
    return model(
        body, "float[1,3,8,8] x", "float[1,10] y", 0,
        w1=(8, 3, 3, 3), b1=(8,), w2=(8, 8, 3, 3), w3=(8, 10),
    )  # fmt: skip


@pytest.fixture(scope="module")
def samples() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)}


def one(samples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values[:1] for name, values in samples.items()}


def test_everything_between_two_casts(net, samples) -> None:
    result = convert(net, samples=samples)
    assert ops(result.model) == ["Cast", "Conv", "Relu", "Conv", "Add", "GlobalAveragePool", "Flatten", "Gemm", "Cast"]
    assert {i.data_type for i in result.model.graph.initializer} == {F16}
    assert [v.type.tensor_type.elem_type for v in (*result.model.graph.input, *result.model.graph.output)] == [F32, F32]
    assert [v.name for v in (*result.model.graph.input, *result.model.graph.output)] == ["x", "y"]
    wanted, found = run(net, one(samples))[0], run(result.model, one(samples))[0]
    np.testing.assert_allclose(found, wanted, atol=5e-3 * np.abs(wanted).max())
    assert result.report.after.weight_bytes == result.report.before.weight_bytes / 2


def test_inputs_and_outputs_too(net, samples) -> None:
    found = convert(net, "keep-io=false", samples).model
    assert "Cast" not in ops(found)
    assert {v.type.tensor_type.elem_type for v in (*found.graph.input, *found.graph.output)} == {F16}


def test_bfloat16() -> None:
    """Conv has it since opset 22 only, MatMul since 13."""
    both = model(
        "m = MatMul(x, w) y = Conv<kernel_shape=[1,1]>(m, v)", "float[1,3,4,4] x", "float[1,2,4,4] y", 0,
        w=(4, 4), v=(2, 3, 1, 1),
    )  # fmt: skip
    result = convert(both, "dtype=bfloat16")
    assert (computes_in(result.model, "MatMul"), computes_in(result.model, "Conv")) == (BF16, F32)
    assert "Conv of opset 11 isn't defined for bfloat16" in reasons(result)
    stored, original = (
        next(numpy_helper.to_array(i) for i in m.graph.initializer if i.name.startswith("w"))
        for m in (result.model, both)
    )
    np.testing.assert_array_equal(stored, original.astype(ml_dtypes.bfloat16))


def test_without_samples_nothing_is_known_of_ranges(net) -> None:
    result = convert(net)
    assert any("no samples" in r.message for r in result.report.remarks)


def test_a_value_that_does_not_fit_keeps_its_neighbours_in_float32(samples) -> None:
    """Only what writes and what reads the large tensor; both convolutions' borders are cast."""
    wide = model(
        """
        a = Conv<kernel_shape=[1,1]>(x, w1)
        big = Mul(a, k)
        small = Mul(big, l)
        y = Conv<kernel_shape=[1,1]>(small, w2)
        """,
        "float[1,3,8,8] x", "float[1,4,8,8] y", 0, w1=(4, 3, 1, 1), k=(1,), l=(1,), w2=(4, 4, 1, 1),
    )  # fmt: skip
    for value in wide.graph.initializer:
        if value.name in ("k", "l"):
            factor = np.asarray([3e4 if value.name == "k" else 1 / 3e4], np.float32)
            value.CopyFrom(numpy_helper.from_array(factor, value.name))
    result = convert(wide, samples=samples)
    assert [computes_in(result.model, "Mul", i) for i in (0, 1)] == [F32, F32]
    assert [computes_in(result.model, "Conv", i) for i in (0, 1)] == [F16, F16]
    assert "'big' reaches" in reasons(result)
    wanted, found = run(wide, one(samples))[0], run(result.model, one(samples))[0]
    np.testing.assert_allclose(found, wanted, atol=5e-3 * np.abs(wanted).max())
    # What it is for. onnxruntime itself computes pairs of such nodes in float32, so by the definition of the operators.
    blind = ReferenceEvaluator(convert(wide).model).run(None, one(samples))[0]
    assert not np.isfinite(blind).all()


def test_an_input_that_does_not_fit() -> None:
    scaled = model("s = Mul(x, k) y = Neg(s)", "float[1,4] x", "float[1,4] y", 0, k=(1,))
    scaled.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.asarray([1e-5], np.float32), "k"))
    result = convert(scaled, samples={"x": np.full((2, 4), 1e5, np.float32)})
    assert "'x' reaches 1e+05" in reasons(result)
    assert (computes_in(result.model, "Mul"), computes_in(result.model, "Neg")) == (F32, F16)


def test_an_epsilon_that_would_vanish(samples) -> None:
    layer_norm = model(
        "s = Sqrt(v) e = Add(s, eps) y = Div(x, e)", "float[1,3,8,8] x, float[1] v", "float[1,3,8,8] y", 0, eps=(1,)
    )
    layer_norm.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.asarray([1e-12], np.float32), "eps"))
    result = convert(layer_norm)
    assert "'eps' is 1e-12 at most, which is 0 in float16" in reasons(result)
    assert computes_in(result.model, "Add") == F32
    feeds = {"x": samples["x"][:1], "v": np.zeros(1, np.float32)}
    np.testing.assert_allclose(run(result.model, feeds)[0][0, 0, 0, 0] != 0, True)


def test_a_constant_that_would_be_infinite() -> None:
    masked = model("y = Add(x, mask)", "float[1,4] x", "float[1,4] y", 0, mask=(4,))
    masked.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.asarray([0, -1e9, 0, 0], np.float32), "mask"))
    result = convert(masked)
    assert "'mask' holds -1e+09, which is infinite in float16" in reasons(result)
    # −inf itself is what it is in every type.
    masked.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.asarray([0, -np.inf, 0, 0], np.float32), "mask"))
    assert computes_in(convert(masked).model, "Add") == F16


def test_a_sum_that_may_overflow_on_the_way() -> None:
    mean = model("a = Neg(x) y = ReduceMean<axes=[1]>(a)", "float[1,4096] x", "float[1,1] y", 0)
    data = {"x": np.random.default_rng(0).uniform(20, 40, (3, 4096)).astype(np.float32)}
    result = convert(mean, samples=data)
    assert "it adds up 4,096 values up to 40" in reasons(result)
    assert (computes_in(result.model, "Neg"), computes_in(result.model, "ReduceMean")) == (F16, F32)


def test_a_constant_of_readers_in_both_types(net) -> None:
    shared = model("a = MatMul(x, w) b = MatMul(a, w) y = Add(a, b)", "float[1,4] x", "float[1,4] y", 0, w=(4, 4))
    shared.graph.node[1].name = "precise"
    found = convert(shared, "keep-float=[precise]").model
    assert sorted(i.data_type for i in found.graph.initializer) == [F32, F16]
    assert [computes_in(found, "MatMul", i) for i in (0, 1)] == [F16, F32]
    # `a` is cast once for its one reader in float32, `b` once; the input and the output each once.
    assert ops(found).count("Cast") == 4


def test_a_graph_output_that_is_read_in_16_bits() -> None:
    inner = model("a = MatMul(x, w) y = MatMul(a, w)", "float[1,4] x", "float[1,4] a, float[1,4] y", 0, w=(4, 4))
    found = convert(inner).model
    assert [o.name for o in found.graph.output] == ["a", "y"]
    assert [types(found)[n] for n in ("a", "y")] == [F32, F32]
    assert [computes_in(found, "MatMul", i) for i in (0, 1)] == [F16, F16]
    # The second reads the first's own result, not what was cast for the output.
    assert ops(found).count("Cast") == 3


def test_parameters_that_are_float32_in_every_type() -> None:
    resized = model(
        'n = Neg(x) y = Resize<mode="nearest">(n, , scales)', "float[1,2,4,4] x", "float[1,2,8,8] y", 0, scales=(4,)
    )
    resized.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.asarray([1, 1, 2, 2], np.float32), "scales"))
    found = convert(resized).model
    assert (computes_in(found, "Resize"), types(found)["scales"]) == (F16, F32)


def test_what_nested_graphs_read_is_float32() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,4] x, bool c, float[4,4] w) => (float[1,4] y) {
            a = MatMul(x, w)
            r = If<
                then_branch = t () => (float[1,4] u) { u = Neg(a) },
                else_branch = e () => (float[1,4] v) { v = Identity(a) }
            >(c)
            y = MatMul(r, w)
        }"""
    branching = onnx.parser.parse_model(text)
    found = convert(branching).model
    assert [computes_in(found, "MatMul", i) for i in (0, 1)] == [F16, F16]
    feeds = {
        "x": np.ones((1, 4), np.float32),
        "w": np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32),
    }
    for condition in (True, False):
        given = {**feeds, "c": np.asarray(condition)}
        np.testing.assert_allclose(run(found, given)[0], run(branching, given)[0], atol=1e-2)


def test_casts_operators_without_the_type_and_unknown_ones() -> None:
    mixed = model("i = Cast<to=7>(x) f = Cast<to=1>(i) r = Neg(f) y = Neg(r)", "float[1,4] x", "float[1,4] y", 0)
    result = convert(mixed)
    assert "a Cast's type is what it is for" in reasons(result)
    assert [computes_in(result.model, "Neg", i) for i in (0, 1)] == [F16, F16]


def test_kernels_in_8_bits_stay_whole(net, samples) -> None:
    """No Cast between DequantizeLinear, what it belongs to, and the QuantizeLinear behind it."""
    options: dict[str, object] = {"target": "openvino", "calibration_data": samples}
    plain = graphopt.optimize(net, preset="int8", keep_float=["Gemm"], **options)
    pipeline = plain.report.pipeline + ",convert-float"
    result = graphopt.optimize(net, passes=pipeline, **options)
    producers = {o: n for n in result.model.graph.node for o in n.output}
    for node in result.model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert producers.get(node.input[0]) is None or producers[node.input[0]].op_type != "Cast"
    assert computes_in(result.model, "Gemm") == F16
    integer = [n for n in result.model.graph.node if n.op_type == "Conv"]
    assert all(producers[n.input[0]].op_type == "DequantizeLinear" for n in integer)


def test_a_plan_comes_first(net, samples) -> None:
    with pytest.raises(ConfigError, match="comes behind insert-qdq"):
        graphopt.optimize(
            net, target="openvino", passes="plan-quantization,calibrate,convert-float", calibration_data=samples
        )


def test_tensorrt_computes_in_the_types_of_the_model() -> None:
    """A layer alone between Casts is another matter: TensorRT-RTX computes it in half, where its values were."""
    pytest.importorskip("tensorrt_rtx")
    chain = model(
        """
        a = Conv<kernel_shape=[1,1]>(x, w1)
        b = Conv<kernel_shape=[1,1]>(a, w2)
        c = Conv<kernel_shape=[1,1]>(b, w3)
        y = Conv<kernel_shape=[1,1]>(c, w4)
        """,
        "float[1,8,8,8] x", "float[1,8,8,8] y", 0, w1=(8, 8, 1, 1), w2=(8, 8, 1, 1), w3=(8, 8, 1, 1), w4=(8, 8, 1, 1),
    )  # fmt: skip
    for number, node in enumerate(chain.graph.node):
        node.name = f"conv{number}"
    built = build(convert(chain, "keep-float=[conv1, conv2]").model, "SM89")
    assert built.plan is not None
    found = {
        built.names.restore(node): kernel.operands
        for kernel in read_kernels(built.plan, "")
        for node in kernel.nodes
        if kernel.is_matrix
    }
    half, whole = ("half", "half"), ("float", "float")
    assert [found[f"conv{i}"] for i in range(4)] == [half, whole, whole, half]
