"""Type and shape inference."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser

from graphopt.ir import Graph, fill_types, from_proto, infer, to_proto
from graphopt.ir.from_proto import attribute_value
from graphopt.ir.shapes import has_small_value, run_inference, shapes_with
from graphopt.ir.verifier import verify

HEADER = '<ir_version: 8, opset_import: ["" : 17, "my.ops" : 1]>'


def graph_of(text: str) -> Graph:
    return from_proto(onnx.parser.parse_model(f"{HEADER} {text}"))


def shapes(graph: Graph) -> dict[str, object]:
    return {t.name: t.shape for scope in graph.walk() for n in scope.nodes for t in n.outputs}


def test_fills_what_is_unknown() -> None:
    graph = graph_of("""g (float[N,3,8,8] x) => (y) <int64[2] shape = {0,-1}> {
      a = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)
      b = Cast<to=11>(a)
      y = Reshape(b, shape)
    }""")
    infer(graph)
    assert shapes(graph) == {"a": ("N", 3, 4, 4), "b": ("N", 3, 4, 4), "y": ("N", 48)}
    assert [n.output().dtype for n in graph.nodes] == [np.float32, np.float64, np.float64]


def test_large_weights_become_typed_inputs_of_the_skeleton() -> None:
    graph = graph_of("g (float[N,64] x) => (y) { y = Neg(x) }")
    weights = graph.constant(np.zeros((64, 500), np.float32), "w")
    out = graph.variable("m")
    graph.add_node("MatMul", [graph.inputs[0], weights], [out])
    graph.set_interface(graph.inputs, [out])
    skeleton = to_proto(graph, keep_value=has_small_value)
    assert [i.name for i in skeleton.graph.input] == ["x", "w"]
    assert len(skeleton.SerializeToString()) < 1000
    infer(graph)
    assert out.shape == ("N", 500)


def test_large_constants_of_bodies_and_constant_nodes_are_hoisted() -> None:
    graph = graph_of("""g (bool c, float[300] x) => (y) {
      y = If(c) <then_branch = a () => (p) { p = Neg(x) }, else_branch = b () => (q) { q = Abs(x) }>
    }""")
    body = next(b for _, b in graph.nodes[0].bodies())
    values = np.arange(300, dtype=np.float32)
    sum_ = body.variable("sum")
    body.add_node("Add", [body.nodes[0].output(), body.constant(values, "inner")], [sum_])
    body.set_interface([], [sum_])
    big = graph.variable("big")
    attr = onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.zeros((20, 300), np.float32)))
    graph.add_node("Constant", [], [big], {"value": attribute_value(attr)})
    total = graph.variable("total")
    graph.add_node("Add", [big, graph.nodes[0].output()], [total])
    graph.set_interface(graph.inputs, [total])
    graph.sort()
    assert verify(graph) == []
    infer(graph)
    assert (sum_.shape, total.shape) == ((300,), (20, 300))
    assert len(run_inference(graph, stated=False).skeleton.SerializeToString()) < 1500


def test_known_sizes_are_never_lost() -> None:
    graph = graph_of("""g (float[N,4] x, int64[2] shape) => (float[2,3] y) <float[2,"M"] a> {
      a = Reshape(x, shape)
      y = Neg(a)
    }""")
    graph.set_type(graph.nodes[0].output(), np.dtype(np.float32), (2, "M"))
    infer(graph)
    assert graph.nodes[0].output().shape == (2, "M")  # inference only knows the rank
    assert graph.outputs[0].shape == (2, 3)


def test_made_up_symbols_are_not_taken_for_real_ones() -> None:
    graph = graph_of("g (float[N] x, float[M] z) => (y) { a = NonZero(x)  b = NonZero(z)  y = Concat<axis=1>(a, b) }")
    infer(graph)
    assert shapes(graph)["a"] == (1, None)
    assert shapes(graph)["b"] == (1, None)


def test_nested_graphs() -> None:
    graph = graph_of("""g (bool c, float[2,3] x) => (y) {
      y = If(c) <then_branch = a () => (p) { t = Transpose(x)  p = Neg(t) },
                 else_branch = b () => (q) { q = Transpose(x) }>
    }""")
    infer(graph)
    assert shapes(graph) == {"y": (3, 2), "t": (3, 2), "p": (3, 2), "q": (3, 2)}


def test_custom_operators_stay_as_stated() -> None:
    graph = graph_of("g (float[2] x) => (y) { a = my.ops.Magic(x)  b = Neg(x)  y = Concat<axis=0>(a, b) }")
    infer(graph)
    assert shapes(graph) == {"a": None, "b": (2,), "y": None}
    graph.set_type(graph.nodes[0].output(), np.dtype(np.float32), (5,))
    fill_types(graph)
    assert verify(graph) == []
    assert shapes(graph) == {"a": (5,), "b": (2,), "y": (7,)}


def test_failure_is_tolerated() -> None:
    graph = graph_of("g (float[2,3] x, float[4,5] z) => (float[7] y) { y = MatMul(x, z) }")
    infer(graph)
    assert graph.outputs[0].shape == (7,)


def test_the_result_of_an_unknown_operator_has_the_type_its_reader_takes() -> None:
    """Else no layer behind a custom operator could be quantized; the type then goes on through the layer."""
    graph = graph_of("""g (float[N,4] x) => (y, z) <float16[4,2] w = {1,2,3,4,5,6,7,8}, int64[1] axes = {0}> {
      a = my.ops.Odd(x)
      b = MatMul(a, w)
      y = Neg(b)
      z = my.ops.Odd(y)
    }""")
    infer(graph)
    assert [n.output().dtype for n in graph.nodes] == [np.float16, np.float16, np.float16, None]
    assert verify(graph) == []


def test_operators_that_onnx_infers_nothing_for() -> None:
    graph = graph_of("g (float[N,8,4,4] x) => (y) { m = MeanVarianceNormalization(x) y = Relu(m) }")
    infer(graph)
    assert shapes(graph) == {"m": ("N", 8, 4, 4), "y": ("N", 8, 4, 4)}
    graph = from_proto(
        onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 21]>
        g (float[N,8,4,4] x, float[8] s) => (y) { m = GroupNormalization<num_groups=2>(x, s, s) y = Relu(m) }""")
    )
    infer(graph)
    assert shapes(graph) == {"m": ("N", 8, 4, 4), "y": ("N", 8, 4, 4)}
    assert graph.nodes[0].op == "GroupNormalization"


def test_sizes_in_place_of_symbols() -> None:
    graph = graph_of("""g (float[N,S,12] x) => (y) <int64[4] t = {0,-1,3,4}> { y = Reshape(x, t) }""")
    infer(graph)
    (y,) = graph.nodes[0].outputs
    assert shapes_with(graph, {"N": 5, "S": 7}) == {graph.inputs[0]: (5, 7, 12), y: (5, 7, 3, 4)}
    assert y.shape == ("N", None, 3, 4)


def test_sizes_that_the_model_does_not_allow_for() -> None:
    graph = graph_of("g (float[N,3] x, float[M,3] z) => (y) { y = Add(x, z) }")
    assert shapes_with(graph, {"N": 5, "M": 7}) is None
