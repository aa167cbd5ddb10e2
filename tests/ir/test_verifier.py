"""The verifier finds each kind of damage, and nothing in valid models."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.parser
import pytest

from graphopt.ir import Graph, Node, Variable, fill_types, from_proto, infer
from graphopt.ir.verifier import Violation, verify
from graphopt.quant import Edge, Scheme, TensorPlan
from tests.support.backend_suite import cases, in_one_worker

MODEL = """g (bool c, float[2,4] x) => (float[2,4] y) <float[4] w = {1,2,3,4}> {
  [first] t = Add(x, w)
  [branch] u = If(c) <then_branch = a () => (float[2,4] p) { [inner] p = Neg(t) },
                      else_branch = b () => (float[2,4] q) { [other] q = Mul(t, w) }>
  [last] y = Relu(u)
}"""


def graph_of(text: str = MODEL, opset: int = 17) -> Graph:
    graph = from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}'))
    infer(graph)
    return graph


def node(graph: Graph, name: str) -> Node:
    return next(n for scope in graph.walk() for n in scope.nodes if n.name == name)


def rename(graph: Graph) -> None:
    node(graph, "inner").output().name = "y"


def rename_node(graph: Graph) -> None:
    node(graph, "inner").name = "first"


def two_producers(graph: Graph) -> None:
    graph.add_node("Neg", [graph.inputs[1]], [node(graph, "first").output()])


def input_with_a_producer(graph: Graph) -> None:
    graph.add_node("Neg", [node(graph, "first").output()], [graph.inputs[1]])


def undefined(graph: Graph) -> None:
    graph.set_input(node(graph, "last"), 0, graph.variable("nothing"))


def inner_read_outside(graph: Graph) -> None:
    graph.set_input(node(graph, "last"), 0, node(graph, "inner").output())


def unsorted(graph: Graph) -> None:
    graph.gs.nodes.reverse()


def cycle(graph: Graph) -> None:
    graph.set_input(node(graph, "first"), 0, node(graph, "last").output())


def removed_producer(graph: Graph) -> None:
    first = node(graph, "first")
    first.scope = None
    graph.gs.nodes.remove(first)


def stale_reader(graph: Graph) -> None:
    list.append(graph.inputs[1].outputs, node(graph, "last"))


def lost_reader(graph: Graph) -> None:
    list.clear(node(graph, "branch").output().outputs)


def wrong_scope(graph: Graph) -> None:
    node(graph, "inner").output().scope = graph


def foreign_node(graph: Graph) -> None:
    node(graph, "inner").scope = graph


def stale_output_record(graph: Graph) -> None:
    graph.facts.output_uses[id(graph.inputs[0])] += 1


def undefined_output(graph: Graph) -> None:
    graph.set_interface(graph.inputs, [graph.variable("nothing")])


def wrong_size(graph: Graph) -> None:
    graph.set_type(node(graph, "first").output(), np.dtype(np.float32), (2, 5))


def wrong_rank(graph: Graph) -> None:
    graph.set_type(node(graph, "inner").output(), np.dtype(np.float32), (2,))


def wrong_dtype(graph: Graph) -> None:
    graph.set_type(node(graph, "last").output(), np.dtype(np.int64), (2, 4))


def plan_without_tensor(graph: Graph) -> None:
    graph.plan.add(TensorPlan("gone", Scheme("int8"), ()))


def plan_without_node(graph: Graph) -> None:
    graph.plan.add(TensorPlan("t", Scheme("int8"), (Edge("gone", 0),)))


def plan_of_another_use(graph: Graph) -> None:
    graph.plan.add(TensorPlan("t", Scheme("int8"), (Edge("last", 0),)))


def plan_of_no_output(graph: Graph) -> None:
    graph.plan.add(TensorPlan("t", Scheme("int8"), (), is_output=True))


def plan_of_a_removed_node(graph: Graph) -> None:
    graph.plan.quantized_nodes["gone"] = "why"


def unknown_attribute(graph: Graph) -> None:
    graph.set_attr(node(graph, "last"), "nonsense", 3)


def unfit_constant(graph: Graph) -> None:
    graph.set_input(node(graph, "first"), 1, graph.constant(np.zeros(3, np.float32), "three"))


def unfit_type(graph: Graph) -> None:
    graph.set_input(node(graph, "first"), 1, graph.inputs[0])


def unfit_in_a_body(graph: Graph) -> None:
    graph.set_input(node(graph, "other"), 1, graph.constant(np.zeros(3, np.float32), "three"))


def too_many_inputs(graph: Graph) -> None:
    graph.set_input(node(graph, "last"), 1, graph.inputs[1])


@pytest.mark.parametrize(
    ("damage", "rule", "where"),
    [
        (rename, "names", "y"),
        (rename_node, "names", "first"),
        (two_producers, "ssa", "t"),
        (input_with_a_producer, "ssa", "x"),
        (undefined, "defined", "last"),
        (inner_read_outside, "defined", "last"),
        (unsorted, "order", "last"),
        (cycle, "order", "first"),
        (removed_producer, "defined", "inner"),
        (stale_reader, "links", "x"),
        (lost_reader, "links", "u"),
        (wrong_scope, "links", "p"),
        (foreign_node, "links", "inner"),
        (stale_output_record, "links", "g"),
        (undefined_output, "defined", "nothing"),
        (wrong_size, "types", "t"),
        (wrong_rank, "types", "p"),
        (wrong_dtype, "types", "y"),
        (unfit_constant, "types", "first"),
        (unfit_type, "types", "first"),
        (unfit_in_a_body, "types", "other"),
        (plan_without_tensor, "plan", "gone"),
        (plan_without_node, "plan", "gone"),
        (plan_of_another_use, "plan", "last"),
        (plan_of_no_output, "plan", "t"),
        (plan_of_a_removed_node, "plan", "gone"),
        (unknown_attribute, "onnx", "g"),
        (too_many_inputs, "onnx", "g"),
    ],
)
def test_finds_damage(damage: Callable[[Graph], None], rule: str, where: str) -> None:
    graph = graph_of()
    assert verify(graph) == []
    damage(graph)
    found = verify(graph)
    assert (rule, where) in [(v.rule, v.node) for v in found], [str(v) for v in found]
    assert all("\n" not in v.message for v in found)


def test_changes_nothing() -> None:
    graph = graph_of("g (float[2,4] x) => (y) { t = Neg(x)  y = Relu(t) }")
    t = graph.nodes[0].output()
    graph.set_type(t, None, None)
    revision = graph.revision
    assert verify(graph) == []
    assert (t.dtype, t.shape) == (None, None)
    fill_types(graph)
    assert verify(graph) == []
    assert (t.dtype, t.shape) == (np.float32, (2, 4))
    assert graph.revision == revision


@pytest.mark.parametrize("filled", [False, True])
def test_filling_types_leaves_a_contradiction_as_it_is(filled: bool) -> None:
    graph = graph_of()
    wrong_size(graph)
    if filled:
        fill_types(graph)
    (violation,) = verify(graph)
    assert isinstance(violation, Violation)
    assert str(violation) == "[types] tensor 't' is stated as float32[2,5], but inference finds float32[2,4]"
    assert node(graph, "first").output().shape == (2, 5)


def test_missing_shapes_and_symbols_are_no_violation() -> None:
    graph = graph_of("g (float[N,4] x) => (y) { y = Relu(x) }")
    graph.set_type(graph.nodes[0].output(), np.dtype(np.float32), ("M", 4))
    assert verify(graph) == []


def test_names_the_operator_that_cannot_take_its_inputs() -> None:
    graph = graph_of("g (float[2,4] x, float[5,3] w) => (y) { t = Neg(x)  [product] p = MatMul(t, w)  y = Relu(p) }")
    (violation,) = verify(graph)
    assert (violation.rule, violation.node) == ("types", "product")
    assert "MatMul 'product' doesn't fit its inputs: Incompatible dimensions" in violation.message


def test_what_inference_found_is_used_until_the_graph_changes() -> None:
    graph = graph_of()
    fill_types(graph)
    assert graph.facts.inference is not None
    wrong_size(graph)
    assert graph.facts.inference is None
    assert verify(graph) != []
    fill_types(graph)
    unfit_constant(graph)
    assert graph.facts.inference is None


# ---- Q/DQ --------------------------------------------------------------------------------------------------

QDQ = """g (float[2,4] x) => (float[2,4] y) <{scale}, {zero}> {{
  [q] q = QuantizeLinear{attrs}(x, s, z)
  [dq] y = DequantizeLinear{attrs}(q, s, z)
}}"""


def qdq(scale: str, zero: str, attrs: str = "", opset: int = 21) -> list[Violation]:
    return [
        v for v in verify(graph_of(QDQ.format(scale=scale, zero=zero, attrs=attrs), opset)) if v.rule == "quantization"
    ]


@pytest.mark.parametrize(
    ("scale", "zero", "attrs", "opset"),
    [
        ("float s = {0.1}", "uint8 z = {128}", "", 10),
        ("float[1] s = {0.1}", "int8[1] z = {0}", "", 13),
        ("float s = {0.1}", "int8[1] z = {0}", "", 21),
        ("float[4] s = {0.1,1,2,3}", "int8[4] z = {0,0,0,0}", "<axis=1>", 13),
        ("float[2] s = {0.1,1}", "int8[2] z = {0,0}", "<axis=-2>", 13),
        ("float s = {0.1}", "int16 z = {0}", "", 21),
        ("float[2,2] s = {1,2,3,4}", "int8[2,2] z = {0,0,0,0}", "<axis=1, block_size=2>", 21),
    ],
)
def test_legal_quantization(scale: str, zero: str, attrs: str, opset: int) -> None:
    assert qdq(scale, zero, attrs, opset) == []


@pytest.mark.parametrize(
    ("scale", "zero", "attrs", "opset", "message"),
    [
        ("float s = {0}", "uint8 z = {128}", "", 13, "positive and finite"),
        ("float s = {-1}", "uint8 z = {128}", "", 13, "positive and finite"),
        ("float[4] s = {1,1,1,1}", "int8[4] z = {0,0,0,0}", "<axis=1>", 10, "needs opset 13; the model has 10"),
        ("float[3] s = {1,1,1}", "int8[3] z = {0,0,0}", "<axis=1>", 13, r"3 scales for 4 channels \(axis 1"),
        ("float[4] s = {1,1,1,1}", "int8[4] z = {0,0,0,0}", "<axis=2>", 13, "along axis 2"),
        ("float[4] s = {1,1,1,1}", "int8[2] z = {0,0}", "<axis=1>", 13, r"has shape \[2\], its scale \[4\]"),
        ("float s = {1}", "int16 z = {0}", "", 13, "int16 needs opset 21"),
    ],
)
def test_illegal_quantization(scale: str, zero: str, attrs: str, opset: int, message: str) -> None:
    found = qdq(scale, zero, attrs, opset)
    assert found
    assert all(v.node in {"q", "dq"} for v in found)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found[0].message)


def test_zero_points_of_another_type_and_of_int32() -> None:
    wrong = graph_of("""g (uint8[4] q) => (float[4] y) <float s = {1}, uint8 z = {3}> {
      [dq] y = DequantizeLinear(q, s, z)
    }""")
    wrong.set_input(wrong.nodes[0], 2, wrong.constant(np.array(3, np.int8), "signed"))
    assert any("is int8, but 'q' is uint8" in v.message for v in verify(wrong))
    bias = graph_of("""g (int32[4] q) => (float[4] y) <float s = {1}, int32 z = {3}> {
      [dq] y = DequantizeLinear(q, s, z)
    }""")
    assert any("must be 0 for int32" in v.message for v in verify(bias))
    bias.set_values(bias.constants[1], np.array(0, np.int32))
    assert verify(bias) == []


@in_one_worker
def test_no_false_alarm_in_the_backend_suite() -> None:
    alarms: dict[str, list[str]] = {}
    for case in cases():
        graph = from_proto(case.read()[0])
        if graph.opset < 7:  # some of PyTorch's exports of 2017 aren't valid by today's checker
            continue
        infer(graph)
        fill_types(graph)
        found = verify(graph)
        if found:
            alarms[case.name] = [str(v) for v in found]
    assert alarms == {}


def test_variables_of_unknown_type_are_fine() -> None:
    graph = graph_of("g (float[2,4] x) => (y) { y = Relu(x) }")
    assert isinstance(graph.outputs[0], Variable)
    graph.set_type(graph.outputs[0], None, None)
    assert verify(graph) == []
