"""Differences between graphs: how nodes are matched, what has changed, what belongs together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, parser

from graphopt import optimize
from graphopt.analysis.graph_diff import GraphDiff, diff_outlines
from graphopt.ir import Graph, load
from graphopt.ir.outline import ConstantOutline, Outline, outline
from graphopt.passes import find_pass
from graphopt.pipeline import Context, PassManager
from graphopt.pipeline.spec import passes_from_text

_CONV_BN = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1,2,4,4] x) => (float[1,2,4,4] y)
<float[2,2,1,1] w = {1,2,3,4}, float[2] g = {1,2}, float[2] b = {0,1}, float[2] m = {0,0}, float[2] v = {1,1}>
{
    [conv] c = Conv(x, w)
    [bn] n = BatchNormalization(c, g, b, m, v)
    [relu] y = Relu(n)
}
"""


def _by_values(one: ConstantOutline, other: ConstantOutline) -> bool:
    return np.array_equal(_array(one), _array(other))


def _array(constant: ConstantOutline) -> np.ndarray:
    return constant.values if isinstance(constant.values, np.ndarray) else constant.values.load()


def _outline(text: str) -> Outline:
    return outline(load(parser.parse_model(text)))


def _after(model: ModelProto | str, passes: str) -> GraphDiff:
    graph = load(parser.parse_model(model) if isinstance(model, str) else model)
    before = outline(graph)
    PassManager(passes_from_text(passes, find_pass)).run(graph, Context())
    return diff_outlines(before, outline(graph))


def test_the_same_graph_has_no_difference() -> None:
    graph = load(parser.parse_model(_CONV_BN))
    diff = diff_outlines(outline(graph), outline(graph))
    assert not diff
    assert diff.same == 3
    assert diff.rewrites == ()


def test_a_folded_batch_normalization_is_one_rewrite_with_its_convolution() -> None:
    diff = _after(_CONV_BN, "fold-batch-norm")
    assert [n.name for n in diff.removed] == ["bn"]
    assert diff.added == ()
    (rewrite,) = diff.rewrites
    assert [n.name for n in rewrite.removed] == ["bn"]
    (conv,) = (c for c in rewrite.changed if c.before.name == "conv")
    assert "input 1: other values" in conv.what or any(w.startswith("input 1") for w in conv.what)
    assert any(w.startswith("input 2: none → ") for w in conv.what)


def test_rewrites_in_different_places_are_apart() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1,4] x) => (float[1,4] y)
    {
        [i] a = Identity(x)
        [r] b = Relu(a)
        [s] c = Sigmoid(b)
        [j] d = Identity(c)
        [t] y = Tanh(d)
    }
    """
    diff = _after(text, "remove-noops")
    assert [[n.name for n in r.removed] for r in diff.rewrites] == [["i"], ["j"]]
    assert [[c.after.name for c in r.changed] for r in diff.rewrites] == [["r"], ["t"]]


def test_other_values_are_seen_without_comparing_them() -> None:
    graph = load(parser.parse_model(_CONV_BN))
    before = outline(graph)
    weight = next(c for c in graph.constants if c.name == "w")
    graph.set_values(weight, weight.values * 2)
    (changed,) = diff_outlines(before, outline(graph)).changed
    assert changed.what == ("input 1: other values",)


def test_merged_duplicates_are_no_other_values() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1,2,4,4] x) => (float[1,2,4,4] y)
    <float[2,2,1,1] w = {1,2,3,4}, float[2,2,1,1] again = {1,2,3,4}>
    {
        [one] h = Conv(x, w)
        [two] y = Conv(h, again)
    }
    """
    graph = load(parser.parse_model(text))
    before = outline(graph)
    PassManager(passes_from_text("merge-duplicates", find_pass)).run(graph, Context())
    assert [c.name for c in graph.constants] == ["w"]
    assert not diff_outlines(before, outline(graph))


def test_attributes_and_operators() -> None:
    one = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[2] x) => (float[2] y) { [a] t = LeakyRelu<alpha=0.1>(x) [b] y = Relu(t) }
    """
    other = one.replace("0.1", "0.2").replace("Relu(t)", "Tanh(t)")
    diff = diff_outlines(_outline(one), _outline(other))
    assert [(c.before.name, c.what) for c in diff.changed] == [
        ("a", ("alpha: 0.1 → 0.2",)),
        ("b", ("operator Relu → Tanh",)),
    ]


def _renamed(model: ModelProto, suffix: str, *, ends: bool = False) -> ModelProto:
    """With other names for all nodes and tensors; `ends`: those of the model's inputs and outputs, too."""
    copy = ModelProto()
    copy.CopyFrom(model)
    values = (*copy.graph.input, *copy.graph.output)
    outer = set[str]() if ends else {v.name for v in values}
    for value in values if ends else ():
        value.name = f"{value.name}{suffix}"
    for node in copy.graph.node:
        node.name = f"{node.name}{suffix}"
        for names in (node.input, node.output):
            names[:] = [n if n in outer or not n else f"{n}{suffix}" for n in names]
    for tensor in copy.graph.initializer:
        tensor.name = f"{tensor.name}{suffix}"
    del copy.graph.value_info[:]
    return copy


def test_renamed_models_match_by_neighbourhood() -> None:
    model = parser.parse_model(_CONV_BN)
    diff = diff_outlines(outline(load(model)), outline(load(_renamed(model, "_x"))), _by_values)
    assert dict(diff.matched) == {"conv": "conv_x", "bn": "bn_x", "relu": "relu_x"}
    assert [c.what for c in diff.changed] == [(f"name {n} → {n}_x",) for n in ("conv", "bn", "relu")]
    assert all(c.only_renamed for c in diff.changed)
    assert diff.rewrites == ()
    assert (diff.inputs, diff.outputs) == (None, None)


def test_inputs_and_outputs_with_other_names_are_said_once() -> None:
    model = parser.parse_model(_CONV_BN)
    diff = diff_outlines(outline(load(model)), outline(load(_renamed(model, "_x", ends=True))), _by_values)
    assert all(c.only_renamed for c in diff.changed)
    assert (diff.inputs, diff.outputs) == ((("x",), ("x_x",)), (("y",), ("y_x",)))


def test_a_change_among_renamed_nodes_is_a_rewrite_of_its_own() -> None:
    model = parser.parse_model(_CONV_BN)
    other = load(_renamed(model, "_x"))
    PassManager(passes_from_text("fold-batch-norm", find_pass)).run(other, Context())
    diff = diff_outlines(outline(load(model)), outline(other), _by_values)
    (rewrite,) = diff.rewrites
    assert [n.name for n in rewrite.removed] == ["bn"]
    assert {c.after.name for c in rewrite.changed} >= {"conv_x"}


def test_branches_that_are_alike_are_matched_in_their_order() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[2] x) => (float[2] y) {
        [a] p = Relu(x)  [b] q = Relu(x)  [c] r = Relu(x)
        [d] s = Neg(p)  [e] t = Abs(q)
        [f] y = Sum(s, t, r)
    }
    """
    model = parser.parse_model(text)
    found = _outline(text), outline(load(_renamed(model, "_x")))
    assert dict(diff_outlines(*found).matched) == {n: f"{n}_x" for n in "abcdef"}


def test_alike_nodes_come_before_others() -> None:
    """Two convolutions read the input; their names, their order and what reads them are no help."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1,1,4,4] x) => (float[1,1,4,4] y, float[1,1,2,2] z)
    <float[1,1,1,1] v = {1}, float[1,1,3,3] w = {1,2,3,4,5,6,7,8,9}> {
        [small] a = Conv(x, v)  [large] b = Conv(x, w)
        [r] y = Relu(a)  [s] z = Tanh(b)
    }
    """
    model = _renamed(parser.parse_model(text), "_x")
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([nodes[1], nodes[0], nodes[3], nodes[2]])
    for node, op in zip(model.graph.node[2:], ("Sigmoid", "Softplus"), strict=True):
        node.op_type = op
    diff = diff_outlines(_outline(text), outline(load(model)), _by_values)
    assert {a: b for a, b in diff.matched.items() if a in ("small", "large")} == {
        "small": "small_x",
        "large": "large_x",
    }


def test_renamed_real_model_matches_wholly(digits: ModelProto) -> None:
    graph = load(digits)
    other = load(_renamed(digits, "_x"))
    diff = diff_outlines(outline(graph), outline(other), _by_values)
    assert diff.removed == diff.added == ()
    assert all(other == f"{name}_x" for name, other in diff.matched.items())
    assert all(c.only_renamed for c in diff.changed)


def test_nodes_of_bodies() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (bool c, float[2] x) => (float[2] y) {
        [if] y = If (c) <
            then_branch = t () => (float[2] u) { [r] u = Relu(x) },
            else_branch = e () => (float[2] w) { [s] w = Sigmoid(x) }
        >
    }
    """
    found = _outline(text)
    assert [(n.name, n.scope) for n in found.nodes.values()] == [("if", ()), ("r", ("if",)), ("s", ("if",))]
    diff = diff_outlines(found, _outline(text.replace("Relu", "Tanh")))
    assert [c.before.name for c in diff.changed] == ["r"]


def test_quantized_pairs_belong_to_the_layers_that_read_them(digits: ModelProto) -> None:
    rng = np.random.default_rng(0)
    name = digits.graph.input[0].name
    data = [{name: rng.random((1, 1, 8, 8), np.float32)} for _ in range(4)]
    graph = load(digits)
    result = optimize(digits, target="openvino", preset="int8", calibration_data=data)
    diff = diff_outlines(outline(graph), outline(result.graph))
    assert {n.op for n in diff.added} >= {"QuantizeLinear", "DequantizeLinear"}
    assert len(diff.rewrites) > 3


@pytest.fixture(scope="module")
def digits() -> ModelProto:
    return ModelProto.FromString(Path("calibration_data/digits_cnn.onnx").read_bytes())


def test_large_graphs_take_linear_time() -> None:
    graph = Graph("chain")
    tensor = graph.variable("x", np.dtype(np.float32), [1])
    graph.set_interface([tensor], [])
    for k in range(4000):
        made = graph.variable(f"t{k}", np.dtype(np.float32), [1])
        graph.add_node("Relu", [tensor], [made], hint=f"n{k}")
        tensor = made
    graph.set_interface(graph.inputs, [tensor])
    before = outline(graph)
    assert diff_outlines(before, outline(graph)).same == 4000
