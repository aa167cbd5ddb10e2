"""4-bit weights in blocks: what is stored, for whom, that it is the model with those weights, and what is declined."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.ir import fill_types, from_proto, load, save, verify
from graphopt.ir.conditions import unmet
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context
from graphopt.report.inspection import inspect_model
from graphopt.targets import TARGETS
from tests.support.quantization import model
from tests.support.rewrite import random_feeds, rewrite, run

PASS = "quantize-weights{bits=4}"
INT4, UINT4 = TensorProto.INT4, TensorProto.UINT4


def optimize(net: onnx.ModelProto, passes: str = PASS, target: str | None = None, **options: Any) -> graphopt.Result:
    result = graphopt.optimize(net, passes=passes, **({} if target is None else {"target": target}), **options)
    onnx.checker.check_model(result.model, full_check=True)
    return result


def reasons(result: graphopt.Result) -> str:
    return "\n".join(r.message for r in result.report.remarks if r.kind == "declined")


def constants(net: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in net.graph.initializer}


def dequantizers(net: onnx.ModelProto) -> list[tuple[onnx.NodeProto, dict[str, int]]]:
    """Each DequantizeLinear, and its attributes."""
    found = [node for node in net.graph.node if node.op_type == "DequantizeLinear"]
    return [(node, {a.name: a.i for a in node.attribute}) for node in found]


def types(net: onnx.ModelProto) -> list[int]:
    """Element types of what is dequantized."""
    kinds = {tensor.name: tensor.data_type for tensor in net.graph.initializer}
    return [kinds[node.input[0]] for node, _ in dequantizers(net)]


def plain(net: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every dequantized weight as a float constant, by numpy alone: an oracle for what it computes."""
    copy, values = onnx.ModelProto(), constants(net)
    copy.CopyFrom(net)
    for node, attrs in dequantizers(net):
        q, scale = values[node.input[0]].astype(np.float32), values[node.input[1]]
        axis, size = attrs["axis"], attrs["block_size"]
        wide = [np.repeat(v.astype(np.float32), size, axis) for v in (scale, *(values[n] for n in node.input[2:]))]
        wide = [np.take(v, range(q.shape[axis]), axis) for v in wide]
        zero = wide[1] if len(wide) > 1 else np.float32(0)
        copy.graph.initializer.append(numpy_helper.from_array((q - zero) * wide[0], node.output[0]))
        copy.graph.node.remove(node)
    return copy


def assert_computes_what_it_stores(before: onnx.ModelProto, after: onnx.ModelProto, most_lost: float = 0.2) -> None:
    feeds = random_feeds(before)
    for old, new, told in zip(run(before, feeds), run(after, feeds), run(plain(after), feeds), strict=True):
        np.testing.assert_allclose(new, told, rtol=1e-5, atol=1e-5)
        assert 0 < np.linalg.norm(new - old) < most_lost * np.linalg.norm(old)


def product(inputs: int = 64, outputs: int = 24) -> onnx.ModelProto:
    return model("y = MatMul(x, w)", f"float[n,3,{inputs}] x", f"float[n,3,{outputs}] y", w=(inputs, outputs))


def gemm(attributes: str = "", shape: tuple[int, int] = (64, 24), bias: tuple[int, ...] = (24,)) -> onnx.ModelProto:
    return model(f"y = Gemm{attributes}(x, w, b)", "float[5,64] x", "float[5,24] y", w=shape, b=bias)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("inputs", "block"), [(64, 32), (70, 32), (20, 32), (300, 128)])
def test_blocks_run_along_the_summed_axis(inputs: int, block: int, symmetric: bool) -> None:
    before = product(inputs)
    after = optimize(before, f"quantize-weights{{bits=4, block={block}, symmetric={str(symmetric).lower()}}}").model
    assert types(after) == [INT4 if symmetric else UINT4]
    ((node, attrs),) = dequantizers(after)
    assert attrs == {"axis": 0, "block_size": block}
    assert len(node.input) == (2 if symmetric else 3)
    assert constants(after)[node.input[1]].shape == (-(-inputs // block), 24)
    assert "w" not in constants(after)
    assert_computes_what_it_stores(before, after)


@pytest.mark.parametrize(("target", "axis"), [("onnxruntime", 0), ("openvino", 1), ("tensorrt", 1), (None, 1)])
def test_a_gemm_keeps_its_layout_where_the_target_takes_it(target: str | None, axis: int) -> None:
    before = gemm("<transB=1>", (24, 64))
    after = optimize(before, target=target).model
    ((_, attrs),) = dequantizers(after)
    assert attrs["axis"] == axis
    transposed = [a.i for a in after.graph.node[-1].attribute if a.name == "transB"]
    assert transposed == ([1] if axis == 1 else [0])
    assert_computes_what_it_stores(before, after)


def test_a_gemm_that_is_not_turned_over() -> None:
    before = gemm()
    after = optimize(before, target="onnxruntime").model
    assert dequantizers(after)[0][1]["axis"] == 0
    assert_computes_what_it_stores(before, after)


@pytest.mark.parametrize(("target", "inputs", "size"), [
    ("onnxruntime", 48, 32), ("openvino", 48, 24), ("tensorrt", 48, 24), ("openvino", 20, 20), ("openvino", 17, 17),
])  # fmt: skip
def test_where_blocks_must_be_of_one_size_the_largest_that_divides_is_taken(
    target: str, inputs: int, size: int
) -> None:
    before = product(inputs)
    after = optimize(before, target=target).model
    assert dequantizers(after)[0][1]["block_size"] == size
    assert_computes_what_it_stores(before, after)


def test_zero_points_only_where_the_target_takes_them() -> None:
    asked = "quantize-weights{bits=4, symmetric=false}"
    found = {target: types(optimize(product(), asked, target).model)[0] for target in ("openvino", "tensorrt")}
    assert found == {"openvino": UINT4, "tensorrt": INT4}


@pytest.mark.parametrize("opset", [11, 13, 17, 21, 22])
def test_an_older_opset_is_brought_up(opset: int) -> None:
    before = model("m = MatMul(x, w) s = ReduceMean<axes=[1], keepdims=0>(m) y = Relu(s)", "float[n,3,64] x",
                   "float[n,24] y", w=(64, 24))  # fmt: skip
    if opset > 17:
        before = onnx.version_converter.convert_version(before, opset)
    else:
        before.opset_import[0].version = opset  # these operators are what they were in all of them
    after = optimize(before).model
    assert after.opset_import[0].version == max(opset, 21)
    assert_computes_what_it_stores(before, after)


def test_products_that_share_a_weight_get_their_own_integers() -> None:
    before = model("a = MatMul(x, w) r = Relu(a) y = MatMul(r, w)", "float[2,64] x", "float[2,64] y", w=(64, 64))
    after = optimize(before, target="onnxruntime").model
    first, second = (node for node, _ in dequantizers(after))
    assert first.input[0] != second.input[0]
    assert_computes_what_it_stores(before, after, 0.3)
    again = optimize(after, "merge-duplicates").model
    assert len({node.input[0] for node, _ in dequantizers(again)}) == 2, "onnxruntime fuses no shared weight"


TWO = model("a = MatMul(x, w) b = Relu(a) y = MatMul(b, v)", "float[2,64] x", "float[2,24] y", w=(64, 64), v=(64, 24))
DECLINED = {
    "the left": (model("y = MatMul(w, x)", "float[64,2] x", "float[24,2] y", w=(24, 64)), "on the right"),
    "a stack": (model("y = MatMul(x, w)", "float[3,2,64] x", "float[3,2,24] y", w=(3, 64, 24)), "on the right"),
    "alpha": (gemm("<alpha=0.5>"), "alpha"),
    "transposed data": (model("y = Gemm<transA=1>(x, w)", "float[64,5] x", "float[5,24] y", w=(64, 24)), "transposed"),
    "a table": (
        model(
            "t = Gather(w, i) y = MatMul(x, w) z = Identity(t)", "float[2,64] x, int64[3] i",
            "float[2,24] y, float[3,24] z", w=(64, 24),
        ), "stored twice",
    ),
    "an output": (model("y = MatMul(x, w)", "float[2,64] x", "float[2,24] y, float[64,24] w", w=(64, 24)), "twice"),
    "a matrix that is added": (
        model("m = MatMul(x, w) y = Add(m, r)", "float[n,64] x, float[n,24] r", "float[n,24] y", w=(64, 24)),
        "a matrix is added",
    ),
    "a bias that is no vector": (gemm(bias=(1, 24)), "bias"),
}  # fmt: skip


@pytest.mark.parametrize("case", DECLINED)
def test_what_no_kernel_takes_stays_float(case: str) -> None:
    before, reason = DECLINED[case]
    result = optimize(before, target="onnxruntime")
    assert reason in reasons(result)
    assert not dequantizers(result.model)
    assert result.model.opset_import[0].version == 13, "nothing was stored, so the opset stays"


@pytest.mark.parametrize(("target", "inputs", "outputs", "reason"), [
    ("openvino", 67, 24, "no block of 16 to 32"), ("tensorrt", 67, 24, "no block of 16 to 32"),
    ("tensorrt", 27, 25, "odd number"), ("onnxruntime", 15, 24, "fewer than 16"),
    ("openvino", 15, 24, "no block of 16"),
])  # fmt: skip
def test_what_one_target_does_not_take(target: str, inputs: int, outputs: int, reason: str) -> None:
    result = optimize(product(inputs, outputs), target=target)
    assert reason in reasons(result)
    assert not dequantizers(result.model)


def test_a_target_without_kernels_is_told_once() -> None:
    result = optimize(TWO, target="tflite")
    (said,) = [r.message for r in result.report.remarks if r.kind == "declined"]
    assert "has no kernels for 4-bit weights" in said
    assert not dequantizers(result.model)


def test_weights_that_are_not_finite_or_may_be_given_stay() -> None:
    broken = product()
    values = numpy_helper.to_array(broken.graph.initializer[0]).copy()
    values[3, 3] = np.nan
    broken.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
    assert "isn't finite" in reasons(optimize(broken, target="onnxruntime"))
    given = product()
    given.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 24]))
    assert not dequantizers(rewrite(QuantizeWeights(bits=4), given).model)


def test_what_a_nested_graph_computes_stays() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]>
    g (float[2,64] x, bool c, float[64,24] w) => (float[2,24] y) {
        y = If (c) <then_branch = t () => (float[2,24] a) { a = MatMul(x, w) },
                    else_branch = e () => (float[2,24] b) { m = MatMul(x, w) b = Neg(m) }>
    }"""
    before = onnx.parser.parse_model(text)
    before.graph.input.pop()
    values = np.random.default_rng(0).normal(size=(64, 24)).astype(np.float32)
    before.graph.initializer.append(numpy_helper.from_array(values, "w"))
    assert not dequantizers(optimize(before).model)


def test_an_assignment_says_which() -> None:
    for bits in (4, 8):
        graph = from_proto(TWO)
        graph.plan.precisions[graph.nodes[2].name] = "int4-weights"
        QuantizeWeights(bits=bits).run(graph, Context())
        graph.sort()
        assert [n.op for n in graph.nodes] == ["MatMul", "Relu", "DequantizeLinear", "MatMul"]
        assert verify(graph) == []


def test_beside_8_bits() -> None:
    """One product in 8 bits by the plan, the other with 4-bit weights."""
    samples = {"x": np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)}
    net = model(
        "a = MatMul(x, w) b = Sigmoid(a) y = MatMul(b, v)", "float[n,64] x", "float[n,24] y", w=(64, 64), v=(64, 24)
    )
    name = from_proto(net).nodes[2].name
    pipeline = f"plan-quantization{{keep-float=[{name}]}},calibrate,quantize-weights{{bits=4}},insert-qdq"
    result = optimize(net, pipeline, "onnxruntime", calibration_data=samples)
    assert sorted(types_of_weights(result.model)) == sorted([INT4, TensorProto.INT8])
    found = graphopt.verify(result.model, target="onnxruntime")
    assert found.ok
    assert sorted(n.precision for n in found.precision.nodes) == ["int4-weights", "uint8"]


def types_of_weights(net: onnx.ModelProto) -> list[int]:
    """Element types of the stored matrices."""
    return [t.data_type for t in net.graph.initializer if len(t.dims) == 2 and t.data_type != TensorProto.FLOAT]


def test_two_in_a_byte(tmp_path: Path) -> None:
    net = product(512, 400)
    result = optimize(net)
    stored = 512 * 400 // 2 + 512 // 32 * 400 * 4
    assert stored < len(result.model.SerializeToString()) < stored + 1000
    graph = from_proto(result.model)
    inspected = inspect_model(graph, "")
    assert (inspected.weight_bytes, inspected.block_layers, inspected.quantized_layers) == (stored, 1, 0)
    assert verify(graph) == []
    for external in (True, False):
        path = tmp_path / f"{external}.onnx"
        save(graph, path, external_data=external)
        again = load(path)
        for old, new in zip(graph.constants, again.constants, strict=True):
            assert (old.name, old.dtype, old.shape) == (new.name, new.dtype, new.shape)
            np.testing.assert_array_equal(old.values, new.values)


def test_odd_numbers_are_packed_too() -> None:
    before = product(33, 3)
    after = optimize(before).model
    ((node, _),) = dequantizers(after)
    stored = next(t for t in after.graph.initializer if t.name == node.input[0])
    assert len(stored.raw_data) == math.ceil(33 * 3 / 2)
    assert numpy_helper.to_array(stored).dtype == ml_dtypes.int4
    assert_computes_what_it_stores(before, after)


OF_ONE = {"a matrix that is added": "onnxruntime"}


@pytest.mark.parametrize("target", [t for t in TARGETS if "int4-weights" in TARGETS[t].precisions])
@pytest.mark.parametrize("case", DECLINED)
def test_the_targets_tables_name_the_same_conditions(case: str, target: str) -> None:
    """What the pass declines, the assignment of precisions never offers."""
    if OF_ONE.get(case, target) != target:
        assert dequantizers(optimize(DECLINED[case][0], target=target).model)
        return
    graph = from_proto(DECLINED[case][0])
    fill_types(graph)
    node = next(n for n in graph.nodes if n.op in ("Gemm", "MatMul"))
    assert unmet(graph, node, TARGETS[target].precisions["int4-weights"].conditions) is not None
