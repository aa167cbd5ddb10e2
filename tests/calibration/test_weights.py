"""Models whose weights are beside them."""

from __future__ import annotations

import gc

import numpy as np
import onnx.parser
import pytest
from onnx import TensorProto, numpy_helper

from graphopt.calibration.session import open_session
from graphopt.calibration.weights import Detached, detach, detached
from graphopt.ir import from_proto, to_proto

RNG = np.random.default_rng(0)


def model(dtype: type[np.generic] = np.float32, *, overridable: bool = False) -> onnx.ModelProto:
    """y = x · w + b, with w large and b small."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    name = TensorProto.DataType.Name(kind).lower()
    also = f", {name}[64,64] w" if overridable else ""
    header = '<ir_version: 8, opset_import: ["" : 17], doc_string: "kept">'
    text = f"{header} g ({name}[N,64] x{also}) => ({name}[N,64] y) {{ h = MatMul(x, w)\n y = Add(h, b) }}"
    parsed = onnx.parser.parse_model(text)
    for tensor, shape in {"w": (64, 64), "b": (64,)}.items():
        parsed.graph.initializer.append(numpy_helper.from_array(RNG.normal(size=shape).astype(dtype), tensor))
    return parsed


def test_the_structure_alone_is_copied() -> None:
    source = model()
    before = source.SerializeToString()
    detached = detach(source)
    assert source.SerializeToString() == before
    assert list(detached.weights) == ["w"]
    assert detached.model.doc_string == "kept"
    assert detached.model.ByteSize() < 1000
    w, b = detached.model.graph.initializer
    assert (w.name, w.data_location, list(w.dims)) == ("w", TensorProto.EXTERNAL, [64, 64])
    assert b == source.graph.initializer[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int32])
def test_a_session_reads_the_weights_in_place(dtype: type[np.generic]) -> None:
    source = model(dtype)
    x = RNG.normal(size=(3, 64)).astype(dtype)
    session = open_session(source)
    detached = open_session(detach(source))
    w, b = (numpy_helper.to_array(tensor) for tensor in source.graph.initializer)
    expected = x @ w + b
    del source, w, b
    gc.collect()
    tolerance = 0.1 if dtype is np.float16 else 1e-4
    for opened in (session, detached):
        np.testing.assert_allclose(opened.run(None, {"x": x})[0], expected, rtol=tolerance, atol=tolerance)


def test_a_weight_that_a_caller_may_override_stays() -> None:
    assert not detach(model(overridable=True)).weights


def test_a_graph_lends_its_own_arrays() -> None:
    graph = from_proto(model())
    lent = detached(graph)
    w = next(constant for constant in graph.constants if constant.name == "w")
    assert list(lent.weights) == ["w"]
    assert np.shares_memory(lent.weights["w"], w.values)
    x = RNG.normal(size=(2, 64)).astype(np.float32)
    outputs = [open_session(m).run(None, {"x": x})[0] for m in (lent, to_proto(graph))]
    np.testing.assert_array_equal(*outputs)


def test_a_transposed_array_of_a_graph_can_be_lent() -> None:
    """onnxruntime reads rows in place and refuses the copy that it would make of any other order."""
    weight = np.arange(64 * 32, dtype=np.float32).reshape(64, 32)
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[1,32] x, float[32,64] w) => (float[1,64] y) '
        "{ y = MatMul(x, w) }"
    )
    proto.graph.input.pop()
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((32, 64), np.float32), "w"))
    graph = from_proto(proto)
    graph.set_values(graph.constants[0], weight.T)
    (row,) = open_session(detached(graph)).run(None, {"x": np.ones((1, 32), np.float32)})
    np.testing.assert_array_equal(row[0], weight.sum(axis=1))


def test_the_content_counts() -> None:
    first = detach(model())
    assert first.content_hash() == Detached(first.model, dict(first.weights)).content_hash()
    other = Detached(first.model, {"w": first.weights["w"] + 1})
    assert other.content_hash() != first.content_hash()
