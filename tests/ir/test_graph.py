"""The graph's mutators, on the cases that graph rewriters get wrong."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from graphopt.errors import InternalError
from graphopt.ir import Body, Constant, Graph, Node, fixed_value, from_proto, to_proto
from graphopt.ir.verifier import verify
from graphopt.quant import Edge, Range, Scheme, TensorPlan

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
CHAIN = "g (float[4] x) => (float[4] y) { [first] t = Neg(x)  [second] y = Relu(t) }"
# The body of `branch` reads the main graph's t and w; `loop` nests another level.
BODIES = """g (bool c, float[4] x) => (float[4] y) <float[4] w = {1,2,3,4}> {
  [producer] t = Neg(x)
  [branch] y = If(c) <
    then_branch = then_graph () => (float[4] a) {
      [inner] a = If(c) <then_branch = deep () => (float[4] d) { [deep] d = Add(t, w) },
                         else_branch = flat () => (float[4] e) { [flat] e = Neg(t) }>
    },
    else_branch = else_graph () => (float[4] b) { [other] b = Mul(w, w) }
  >
}"""


def graph_of(text: str) -> Graph:
    return from_proto(onnx.parser.parse_model(f"{HEADER} {text}"))


def node(graph: Graph, name: str) -> Node:
    return next(n for scope in graph.walk() for n in scope.nodes if n.name == name)


def valid(graph: Graph) -> Graph:
    graph.sort()
    assert verify(graph) == []
    return graph


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


# ---- replace_uses ------------------------------------------------------------------------------------------


def test_replacing_an_output_keeps_its_name() -> None:
    graph = graph_of(CHAIN)
    y, t = node(graph, "second").output(), node(graph, "first").output()
    y.extras.doc_string = "the result"
    assert graph.replace_uses(y, t)
    graph.remove(node(graph, "second"))
    proto = to_proto(valid(graph))
    assert [n.op_type for n in proto.graph.node] == ["Neg"]
    assert proto.graph.node[0].output == ["y"]
    assert proto.graph.output[0].doc_string == "the result"
    assert graph.is_output(t)
    assert not graph.is_output(y)


def test_an_output_is_not_replaced_by_what_cannot_take_its_name() -> None:
    graph = graph_of("g (float[4] x) => (float[4] y, float[4] z) <float[4] w = {1,2,3,4}> { y = Neg(x) z = Relu(x) }")
    revision = graph.revision
    y, z = graph.outputs
    w = graph.constant(np.ones(4, np.float32), "one")
    for new in (graph.inputs[0], z, w, graph.variable("fresh")):
        assert not graph.can_replace_uses(y, new)
        assert not graph.replace_uses(y, new)
    assert [t.name for t in graph.outputs] == ["y", "z"]
    assert graph.revision == revision + 1  # the constant


def test_replacing_renames_the_plan() -> None:
    graph = graph_of(CHAIN)
    y, t = node(graph, "second").output(), node(graph, "first").output()
    graph.plan.add(TensorPlan("t", Scheme("int8"), (Edge("second", 0),)))
    graph.replace_uses(y, t)
    assert graph.plan.tensors["y"].tensor == "y"


def test_replacing_a_tensor_by_itself_is_nothing() -> None:
    graph = graph_of(CHAIN)
    y = node(graph, "second").output()
    revision = graph.revision
    assert graph.replace_uses(y, y)
    assert (graph.revision, y.name) == (revision, "y")


def test_replacing_reaches_into_bodies_and_every_use() -> None:
    graph = graph_of(BODIES)
    t = node(graph, "producer").output()
    new = graph.variable_like(t, "new")
    graph.add_node("Abs", [graph.inputs[1]], [new])
    assert graph.replace_uses(t, new)
    assert [n.name for n in graph.consumers(new)] == ["deep", "flat"]
    assert graph.consumers(t) == []
    graph.remove(node(graph, "producer"))
    valid(graph)


def test_one_node_may_read_a_tensor_twice() -> None:
    graph = graph_of("g (float[4] x) => (float[4] y) { t = Neg(x)  [twice] y = Add(t, t) }")
    t = graph.nodes[0].output()
    assert graph.sole_consumer(t) is None
    assert graph.consumers(t) == [node(graph, "twice")]
    assert graph.uses(t) == [(node(graph, "twice"), 0), (node(graph, "twice"), 1)]
    assert graph.replace_uses(t, graph.inputs[0])
    assert t.outputs == []
    assert [i.name for i in node(graph, "twice").inputs] == ["x", "x"]
    graph.remove(graph.nodes[0])
    valid(graph)


def test_a_body_that_gives_an_outer_tensor_as_its_output() -> None:
    # onnx.checker lets this pass; the outer tensor must count as an output, and can't be renamed away.
    graph = graph_of("""g (bool c, float[4] x) => (float[4] y) {
      t = Neg(x)
      y = If(c) <then_branch = a () => (float[4] p) { p = Relu(t) }, else_branch = b () => (float[4] q) { q = Abs(t) }>
    }""")
    body = next(b for _, b in graph.nodes[1].bodies())
    t, spare = graph.nodes[0].output(), graph.variable("spare")
    graph.add_node("Abs", [graph.inputs[1]], [spare])
    body.set_interface([], [t])
    assert graph.is_output(t)
    assert graph.sole_consumer(t) is None
    assert not graph.replace_uses(t, spare)
    assert graph.captured(graph.nodes[1]) == [t]


def test_sole_consumer_says_no_to_graph_outputs() -> None:
    graph = graph_of("g (float[4] x) => (float[4] t, float[4] y) { t = Neg(x)  y = Relu(t) }")
    assert graph.sole_consumer(graph.nodes[0].output()) is None


# ---- inputs and attributes ---------------------------------------------------------------------------------


def test_set_input_fills_the_gap_with_omitted_inputs() -> None:
    graph = graph_of("g (float[4] x) => (float[4] y) { y = Clip(x) }")
    clip = graph.nodes[0]
    graph.set_input(clip, 2, graph.constant(np.array(1, np.float32), "high"))
    assert [t.name for t in clip.inputs] == ["x", "", "high"]
    assert [i for i, _ in clip.present_inputs()] == [0, 2]
    assert clip.input(1) is None
    valid(graph)
    graph.remove_input(clip, 2)
    assert [t.name for t in clip.inputs] == ["x"]
    revision = graph.revision
    graph.set_input(clip, 0, graph.inputs[0])
    assert graph.revision == revision  # it was that already


def test_removing_an_input_in_the_middle_keeps_positions() -> None:
    graph = graph_of("g (float[4] x, float low, float high) => (float[4] y) { y = Clip(x, low, high) }")
    graph.remove_input(graph.nodes[0], 1)
    assert [t.name for t in graph.nodes[0].inputs] == ["x", "", "high"]
    assert graph.consumers(graph.inputs[1]) == []


def test_set_attr_counts_real_changes_only() -> None:
    graph = graph_of("g (float[4] x) => (float[4] y) { y = LeakyRelu<alpha=0.5>(x) }")
    leaky, start = graph.nodes[0], graph.revision
    graph.set_attr(leaky, "alpha", 0.5)
    graph.set_attr(leaky, "missing", None)
    assert graph.revision == start
    graph.set_attr(leaky, "alpha", 1.0)
    graph.set_attr(leaky, "alpha", 1)  # an int attribute isn't a float one
    assert type(leaky.attrs["alpha"]) is int
    graph.set_attr(leaky, "axes", [1, 2])
    graph.set_attr(leaky, "axes", [1, 2])
    assert graph.revision == start + 3
    graph.set_attr(leaky, "axes", None)
    assert "axes" not in leaky.attrs


def test_replacing_a_body_lets_go_of_what_it_read() -> None:
    graph = graph_of(BODIES)
    t = node(graph, "producer").output()
    branch = node(graph, "branch")
    other = branch.attrs["else_branch"]
    assert isinstance(other, Body)
    graph.set_attr(branch, "then_branch", None)
    assert t.outputs == []
    assert graph.remove_unused([node(graph, "producer")])


# ---- constants ---------------------------------------------------------------------------------------------


def test_own_constant_copies_what_others_read() -> None:
    graph = graph_of("""g (float[4] x) => (float[4] y) <float[4] w = {1,2,3,4}> {
      [a] t = Add(x, w)
      [b] y = Mul(t, w)
    }""")
    a, b = graph.nodes
    copy = graph.own_constant(a, 1)
    assert copy is not b.inputs[1]
    graph.set_values(copy, np.zeros(4, np.float32))
    np.testing.assert_array_equal(fixed_value(b.inputs[1]), [1, 2, 3, 4])
    assert graph.own_constant(b, 1) is b.inputs[1]  # its only reader by now
    assert [c.name for c in graph.constants] == ["w", "w_1"]
    valid(graph)


def test_own_constant_of_an_outer_graph_moves_in() -> None:
    graph = graph_of(BODIES)
    deep = node(graph, "deep")
    copy = graph.own_constant(deep, 1)
    assert copy.scope is deep.scope
    assert copy.name != "w"
    valid(graph)


def test_own_constant_of_a_node_that_reads_it_twice() -> None:
    graph = graph_of("g (float[4] x) => (float[4] y) <float[4] w = {1,2,3,4}> { t = Add(w, w)  y = Mul(x, t) }")
    copy = graph.own_constant(graph.nodes[0], 0)
    assert [t.name for t in graph.nodes[0].inputs] == [copy.name, "w"]


def test_a_constant_that_is_an_output_is_copied() -> None:
    graph = graph_of("g (float[4] x) => (float[4] y, float[4] w) <float[4] w = {1,2,3,4}> { y = Add(x, w) }")
    assert graph.own_constant(graph.nodes[0], 1).name != "w"
    valid(graph)


def test_a_default_is_no_constant() -> None:
    graph = graph_of("g (float[4] x, float[4] w) => (float[4] y) { y = Add(x, w) }")
    with pytest.raises(ValueError, match="not a constant"):
        graph.own_constant(graph.nodes[0], 1)


def test_unread_constants_are_not_written() -> None:
    graph = graph_of("g (float[4] x) => (float[4] y) <float[4] w = {1,2,3,4}> { y = Add(x, w) }")
    graph.set_input(graph.nodes[0], 1, graph.inputs[0])
    assert graph.constants == []
    assert len(to_proto(graph).graph.initializer) == 0


# ---- removing and sorting ----------------------------------------------------------------------------------


def test_what_is_read_cannot_be_removed() -> None:
    graph = graph_of(CHAIN)
    for name in ("first", "second"):
        with pytest.raises(InternalError, match="still read"):
            graph.remove(node(graph, name))


def test_removing_a_node_with_bodies_frees_what_they_captured() -> None:
    graph = graph_of(BODIES)
    branch, producer = node(graph, "branch"), node(graph, "producer")
    assert [t.name for t in graph.captured(branch)] == ["c", "t", "w"]
    graph.set_interface(graph.inputs, [])
    assert graph.remove_unused([branch]) == [branch, producer]
    assert list(graph.nodes) == []
    assert all(t.outputs == [] for t in graph.inputs)
    assert graph.constants == []
    assert sum(graph.facts.output_uses.values()) == 0


def test_unused_nodes_that_others_need_stay() -> None:
    graph = graph_of("g (float[4] x) => (float[4] y) { t = Neg(x)  y = Relu(t)  [dead] u = Abs(t) }")
    removed = graph.remove_unused([node(graph, "dead")])
    assert [n.name for n in removed] == ["dead"]
    assert ops(graph) == ["Neg", "Relu"]


def test_sort_moves_nothing_that_is_in_order() -> None:
    graph = graph_of("g (float[4] x) => (float[4] y) { a = Neg(x)  b = Abs(x)  c = Relu(a)  y = Add(b, c) }")
    before = list(graph.nodes)
    graph.sort()
    assert list(graph.nodes) == before


def test_sort_puts_an_appended_producer_first_also_for_bodies() -> None:
    graph = graph_of(BODIES)
    t = node(graph, "producer").output()
    new = graph.variable_like(t, "new")
    graph.replace_uses(t, new)
    graph.add_node("Abs", [t], [new])
    assert ops(graph) == ["Neg", "If", "Abs"]
    assert [v.rule for v in verify(graph)] == ["order", "order"]
    valid(graph)
    assert ops(graph) == ["Neg", "Abs", "If"]


def test_sort_reports_a_cycle() -> None:
    graph = graph_of(CHAIN)
    graph.set_input(node(graph, "first"), 0, node(graph, "second").output())
    with pytest.raises(InternalError, match="cycle"):
        graph.sort()
    (violation,) = verify(graph)
    assert violation.rule == "order"
    assert "cycle" in violation.message


def test_a_deep_chain_sorts_without_recursion() -> None:
    graph = Graph()
    graph.facts.opset_imports[""] = 17
    x = graph.variable("x", np.dtype(np.float32), (4,))
    tensors = [x]
    made: list[tuple[object, object]] = []
    for i in range(5000):
        out = graph.variable(f"t{i}")
        made.append((tensors[-1], out))
        tensors.append(out)
    for source, out in reversed(made):
        graph.add_node("Neg", [source], [out])  # type: ignore[list-item]
    graph.set_interface([x], [tensors[-1]])
    graph.sort()
    assert [n.output().name for n in graph.nodes[:3]] == ["t0", "t1", "t2"]


# ---- names -------------------------------------------------------------------------------------------------


def test_fresh_names_never_repeat() -> None:
    graph = graph_of(CHAIN)
    assert [graph.fresh_name("t"), graph.fresh_name("t"), graph.fresh_name("new"), graph.fresh_name("")] == [
        "t_1",
        "t_2",
        "new",
        "_1",
    ]
    graph.set_interface(graph.inputs, [])
    graph.remove_unused([node(graph, "second")])
    assert graph.fresh_name("y") == "y_1"  # a removed tensor's name isn't given to another


def test_nodes_keep_their_names_and_get_unique_ones() -> None:
    graph = graph_of("g (float[4] x) => (float[4] y) { [t] t = Neg(x)  [t] u = Relu(t)  y = Abs(u) }")
    assert [n.name for n in graph.nodes] == ["t", "t_1", "y_Abs"]
    assert [n.output().name for n in graph.nodes] == ["t", "u", "y"]


def test_sibling_bodies_may_use_one_name_for_two_tensors() -> None:
    graph = graph_of("""g (bool c, float[4] x) => (float[4] y) {
      y = If(c) <then_branch = a () => (float[4] r) <float[4] k = {1,2,3,4}> { s = Add(x, k)  r = Neg(s) },
                 else_branch = b () => (float[4] r) <float[4] k = {5,6,7,8}> { s = Mul(x, k)  r = Abs(s) }>
    }""")
    names = [name for scope in graph.walk() for name in scope.tensors()]
    assert len(names) == len(set(names))
    valid(graph)
    values = [c.values.tolist() for scope in graph.walk() for c in scope.constants]
    assert values == [[1, 2, 3, 4], [5, 6, 7, 8]]
    onnx.checker.check_model(to_proto(graph), full_check=True)


def test_a_body_may_hide_an_outer_name() -> None:
    graph = graph_of("""g (bool c, float[4] x) => (float[4] y) {
      t = Neg(x)
      z = If(c) <then_branch = a () => (float[4] r) { t = Abs(x)  r = Relu(t) },
                 else_branch = b () => (float[4] q) { q = Exp(t) }>
      y = Add(z, t)
    }""")
    assert [n.op for n in graph.consumers(graph.nodes[0].output())] == ["Exp", "Add"]
    valid(graph)


def test_constants_of_a_graph_are_its_own() -> None:
    graph = graph_of(BODIES)
    constant = graph.constant(np.zeros(2), "zeros")
    assert isinstance(constant, Constant)
    assert constant.scope is graph


def test_plan_entries_survive_other_renames() -> None:
    graph = graph_of(CHAIN)
    graph.plan.add(TensorPlan("x", Scheme("uint8"), (Edge("first", 0),), range=Range.of(0, 1)))
    graph.replace_uses(node(graph, "second").output(), node(graph, "first").output())
    assert list(graph.plan.tensors) == ["x"]
