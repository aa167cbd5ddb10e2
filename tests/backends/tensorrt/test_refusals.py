from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.backends.tensorrt import Refusal, precision, refusals
from tests.backends.tensorrt.networks import SCALARS, integers, network, plan_all, qdq, weight

ZEROS = np.zeros(8, np.int32)
SCALES = np.full(8, 1e-3, np.float32)


def int32_biases() -> onnx.ModelProto:
    """What onnxruntime and TFLite want: TensorRT refuses each bias; and an operator that it doesn't have."""
    body = f"""
        {qdq("x", "d")} {weight("w1")} {weight("w2")} {weight("w3")}
        b1 = DequantizeLinear<axis=0>(bq, bs, bz)
        a = Conv(d, w1, b1) {qdq("a", "d1", "t")}
        b2 = DequantizeLinear<axis=0>(cq, bs, bz)
        c = Conv(d1, w2, b2) {qdq("c", "d2", "s")}
        e = Conv(d2, w3)
        y = Det(e)
    """
    return network(
        body, "float[1,8,8,8] x", "float[A,B] y", bq=ZEROS, cq=ZEROS + 1, bs=SCALES, bz=ZEROS,
        **SCALARS, **integers("w1", 8, 8, 3, 3), **integers("w2", 8, 8, 3, 3), **integers("w3", 8, 8, 3, 3),
    )  # fmt: skip


def test_all_refusals_are_found_in_one_go() -> None:
    found = refusals(int32_biases())
    assert [(r.node, r.op_type) for r in found] == [
        ("b1", "DequantizeLinear"),
        ("b2", "DequantizeLinear"),
        ("y", "Det"),
    ]
    assert "b1: input has type Int32 but must have type" in found[0].message
    assert found[2].message == "TensorRT has no such operator (UNSUPPORTED_NODE)"
    assert not any("\n" in r.message or "cuda" in r.message.lower() for r in found)


def test_the_parser_s_words_are_the_reason() -> None:
    model = int32_biases()
    result = precision(model, plan_all(model))
    assert [n.precision for n in result.nodes] == ["unknown"] * 3
    first, second, third = (n.reason for n in result.nodes)
    assert first.startswith("TensorRT's parser refuses DequantizeLinear 'b1': ")
    assert second.startswith("TensorRT's parser refuses DequantizeLinear 'b2': ")
    assert third == "there is no engine: TensorRT's parser refuses the model at 'b1'"
    assert sum(note.startswith("refused: ") for note in result.notes) == 3


def test_a_model_that_it_takes() -> None:
    assert refusals(network("y = Relu(x)", "float[N,4] x", "float[N,4] y")) == []


@pytest.mark.parametrize("zero", [np.int8(3), np.uint8(128)])
def test_zero_points(zero: np.generic) -> None:
    body = f"{qdq('x', 'd')} {weight('w')} y = Conv(d, w)"
    constants = {**SCALARS, **integers("w", 8, 8, 3, 3), "z": zero}
    model = network(body, "float[1,8,8,8] x", "float[A,B,C,D] y", **constants)
    assert refusals(model)[0].node == "d_q"
    assert "Non-zero zero point is not supported" in refusals(model)[0].message
    assert "Non-zero zero point is not supported" in precision(model, plan_all(model)).nodes[0].reason


def test_a_type_that_it_doesn_t_know_is_a_refusal_of_the_model() -> None:
    model = network(
        qdq("x", "y"), "float[1,8] x", "float[1,8] y", opset=21, s=np.float32(0.1), z=np.uint16(0)
    )  # fmt: skip
    (found,) = refusals(model)
    assert (found.node, found.op_type) == ("", "")
    assert found.message.endswith("Failed to import initializer: z")


def test_a_nested_node_is_named() -> None:
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["":13]>
        g (float[2,2] x, bool c) => (float[] y) {
            y = If<
                then_branch = t () => (float[] a) { a = Det(x) }, else_branch = e () => (float[] b) { b = ReduceSum(x) }
            >(c)
        }""")
    assert refusals(model) == [Refusal("a", "Det", "TensorRT has no such operator (UNSUPPORTED_NODE)")]
