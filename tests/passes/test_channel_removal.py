"""Each operator's mend, on groups written by hand, against the whole model with the removed elements masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from graphopt.analysis.coupling import rules as coupling_rules
from graphopt.analysis.coupling.groups import Coupling, Freeze, Group, Slot
from graphopt.errors import InternalError
from graphopt.ir import Graph, Shape, from_proto, infer, print_graph, to_proto
from graphopt.passes import _removal_mends
from graphopt.passes._channel_removal import remove_channels
from graphopt.quant import Range, Scheme, TensorPlan
from tests.support.masking import Removed, assert_same_as_masked, remove
from tests.support.rewrite import random_feeds, run

Shapes = Mapping[str, Sequence[int]]


def network(signature: str, body: str, weights: Shapes, sizes: str = "", opset: int = 13) -> onnx.ModelProto:
    """ONNX text whose weights, given by shape, are filled with noise; `sizes` declares constants with their values."""
    declared = ", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in weights.items())
    inputs, outputs = signature.split("=>")
    text = f'<ir_version: 8, opset_import: ["" : {opset}]>\n g ({inputs}{", " if declared else ""}{declared})'
    model = onnx.parser.parse_model(f"{text} => ({outputs}) <{sizes}> {{ {body} }}")
    rng = np.random.default_rng(0)
    for value in [v for v in model.graph.input if v.name in weights]:
        array = rng.normal(size=tuple(weights[value.name])).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, value.name))
        model.graph.input.remove(value)
    onnx.checker.check_model(model)
    return model


def graph_of(model: onnx.ModelProto, stated: Mapping[str, Shape] | None = None) -> Graph:
    """The graph with the shapes that inference finds, and those that an exporter would have stated."""
    graph = from_proto(onnx.ModelProto.FromString(model.SerializeToString()))
    infer(graph)
    for name, shape in (stated or {}).items():
        graph.set_type(next(o for n in graph.nodes for o in n.outputs if o.name == name), np.dtype(np.float32), shape)
    return graph


def coupling_of(graph: Graph, units: int, slots: str, other: Mapping[str, Sequence[int]] | None = None) -> Coupling:
    """One group: `slots` lists "tensor:axis" whose element u is unit u, `other` the units of other slots' elements."""
    tensors = graph.tensors()
    members = {place: np.arange(units) for place in slots.split()} | {k: np.array(v) for k, v in (other or {}).items()}
    named = [(place.rsplit(":", 1), inside) for place, inside in members.items()]
    return Coupling((Group("g", units, {Slot(tensors[name], int(axis)): inside for (name, axis), inside in named}),))


def cut(
    model: onnx.ModelProto,
    stays: Sequence[int],
    units: int,
    slots: str,
    other: Mapping[str, Sequence[int]] | None = None,
    stated: Mapping[str, Shape] | None = None,
    dynamic: int = 2,
) -> Removed:
    """Keep these units, and hold the result to the masked model."""
    graph = graph_of(model, stated)
    keep = {"g": np.isin(np.arange(units), stays)}
    removed = remove(graph, coupling_of(graph, units, slots, other), keep)
    onnx.checker.check_model(removed.pruned, full_check=True)
    feeds = random_feeds(model, dynamic=dynamic)
    found = assert_same_as_masked(removed, feeds)
    # A mask that changes nothing would hold nothing.
    assert any(not np.allclose(a, b) for a, b in zip(run(model, feeds), found, strict=True))
    return removed


def attributes(removed: Removed, op: str) -> dict[str, Any]:
    node = next(n for n in removed.pruned.graph.node if n.op_type == op)
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def operand(removed: Removed, op: str, index: int) -> list[Any]:
    node = next(n for n in removed.pruned.graph.node if n.op_type == op)
    return numpy_helper.to_array(
        next(i for i in removed.pruned.graph.initializer if i.name == node.input[index])
    ).tolist()


def shapes(removed: Removed) -> dict[str, list[int]]:
    return {i.name: list(i.dims) for i in removed.pruned.graph.initializer}


TWO_CONVS = "a = Conv(x, w, b)\n r = Relu(a)\n y = Conv(r, v)"
TWO_CONVS_WEIGHTS = {"w": [6, 3, 3, 3], "b": [6], "v": [4, 6, 1, 1]}


def test_convolutions_lose_outputs_and_inputs() -> None:
    model = network("float[N,3,6,6] x => float[N,4,4,4] y", TWO_CONVS, TWO_CONVS_WEIGHTS)
    removed = cut(model, [0, 2, 5], 6, "a:1 r:1 w:0 b:0 v:1")
    assert shapes(removed) == {"w": [3, 3, 3, 3], "b": [3], "v": [4, 3, 1, 1]}
    before = numpy_helper.to_array(model.graph.initializer[0])
    after = numpy_helper.to_array(next(i for i in removed.pruned.graph.initializer if i.name == "w"))
    np.testing.assert_array_equal(after, before[[0, 2, 5]])
    assert removed.graph.tensors()["r"].shape == ("N", 3, 4, 4)


def test_all_units_stay() -> None:
    graph = graph_of(network("float[N,3,6,6] x => float[N,4,4,4] y", TWO_CONVS, TWO_CONVS_WEIGHTS))
    coupling, revision = coupling_of(graph, 6, "a:1 r:1 w:0 b:0 v:1"), graph.revision
    remove_channels(graph, coupling, {"g": np.ones(6, dtype=bool)})
    assert graph.revision == revision


def test_one_tensor_cut_along_two_axes() -> None:
    body = "a = MatMul(x, e)\n c = MatMul(a, w)\n d = MatMul(c, w)\n y = MatMul(d, v)"
    model = network("float[N,6] x => float[N,3] y", body, {"e": [6, 5], "w": [5, 5], "v": [5, 3]})
    removed = cut(model, [1, 4], 5, "e:1 a:1 w:0 w:1 c:1 d:1 v:0")
    assert shapes(removed) == {"e": [6, 2], "w": [2, 2], "v": [2, 3]}


@pytest.mark.parametrize(
    ("group", "weight", "stays", "left"),
    [
        (6, [6, 1, 3, 3], [0, 1, 4], 3),  # depthwise
        (6, [12, 1, 3, 3], [5], 1),  # two results a channel
        (3, [6, 2, 3, 3], [0, 2], 2),  # whole groups
    ],
)  # fmt: skip
def test_groups_go(group: int, weight: list[int], stays: list[int], left: int) -> None:
    outs = weight[0]
    model = network(
        "float[N,3,6,6] x => float[N,4,4,4] y",
        f"a = Conv(x, w)\n c = Conv<group={group}>(a, k)\n y = Conv(c, v)",
        {"w": [6, 3, 1, 1], "k": weight, "v": [4, outs, 1, 1]},
    )
    ins = np.arange(6) // (6 // group)
    results = np.arange(outs) // (outs // group)
    other = {"w:0": ins, "a:1": ins, "k:0": results, "c:1": results, "v:1": results}
    removed = cut(model, stays, group, "", {k: v.tolist() for k, v in other.items()})
    assert removed.pruned.graph.node[1].attribute[0].i == left


def test_a_channel_of_each_group_goes() -> None:
    model = network(
        "float[N,3,6,6] x => float[N,4,4,4] y",
        "a = Conv(x, w)\n c = Conv<group=2>(a, k)\n y = Conv(c, v)",
        {"w": [6, 3, 1, 1], "k": [4, 3, 3, 3], "v": [4, 4, 1, 1]},
    )
    position = [0, 1, 2, 0, 1, 2]
    removed = cut(model, [0, 2], 3, "k:1", {"w:0": position, "a:1": position})
    assert shapes(removed)["k"] == [4, 2, 3, 3]
    assert removed.pruned.graph.node[1].attribute[0].i == 2


@pytest.mark.parametrize(("group", "stays"), [(1, [1, 3]), (2, [1])])
def test_transposed_convolution(group: int, stays: list[int]) -> None:
    model = network(
        "float[N,3,3,3] x => float[N,2,6,6] y",
        f"a = Conv(x, w)\n c = ConvTranspose<group={group}, strides=[2,2]>(a, k, b)\n y = Conv(c, v)",
        {"w": [4, 3, 1, 1], "k": [4, 6 // group, 2, 2], "b": [6], "v": [2, 6, 1, 1]},
    )
    if group == 1:
        removed = cut(model, stays, 4, "w:0 a:1 k:0")
        assert shapes(removed)["k"] == [2, 6, 2, 2]
    else:
        ins, outs = [0, 0, 1, 1], [0, 0, 0, 1, 1, 1]
        removed = cut(model, stays, 2, "", {"w:0": ins, "a:1": ins, "k:0": ins, "b:0": outs, "c:1": outs, "v:1": outs})
        assert attributes(removed, "ConvTranspose")["group"] == 1
        assert shapes(removed)["k"] == [2, 3, 2, 2]


def test_uneven_groups_are_refused_and_nothing_changes() -> None:
    model = network(
        "float[N,3,6,6] x => float[N,4,4,4] y",
        "a = Conv(x, w)\n c = Conv<group=2>(a, k)\n y = Conv(c, v)",
        {"w": [6, 3, 1, 1], "k": [4, 3, 3, 3], "v": [4, 4, 1, 1]},
    )
    graph = graph_of(model)
    before, revision = to_proto(graph).SerializeToString(), graph.revision
    with pytest.raises(InternalError, match="keep different channels"):
        remove_channels(graph, coupling_of(graph, 6, "w:0 a:1"), {"g": np.arange(6) != 1})
    assert (to_proto(graph).SerializeToString(), graph.revision) == (before, revision)


@pytest.mark.parametrize("slots", ["a:1 r:1 w:0 b:0", "a:1 r:1 b:0 v:1", "a:1 r:1 w:0 v:1", "w:0 b:0 v:1"])
def test_layers_whose_parameters_are_left_out_are_refused(slots: str) -> None:
    graph = graph_of(network("float[N,3,6,6] x => float[N,4,4,4] y", TWO_CONVS, TWO_CONVS_WEIGHTS))
    with pytest.raises(InternalError, match="keep different channels"):
        remove_channels(graph, coupling_of(graph, 6, slots), {"g": np.arange(6) < 4})


def test_what_inference_contradicts_is_put_back() -> None:
    body = "a = MatMul(x, w)\n r = Reshape(a, s)\n y = MatMul(r, v)"
    model = network("float[N,6] x => float[N,2,4] y", body, {"w": [6, 6], "v": [3, 4]}, "int64[3] s = {0, 2, 3}")
    graph = graph_of(model)
    before, feeds = print_graph(graph), random_feeds(model)
    with pytest.raises(InternalError, match="left the graph invalid"):
        remove_channels(graph, coupling_of(graph, 6, "w:1 a:1", {"r:1": [0, 5]}), {"g": np.arange(6) < 4})
    assert print_graph(graph) == before
    np.testing.assert_array_equal(run(to_proto(graph), feeds)[0], run(model, feeds)[0])


def test_stale_shapes_do_not_matter() -> None:
    model = network("float[4,3,6,6] x => float[4,4,4,4] y", TWO_CONVS, TWO_CONVS_WEIGHTS)
    graph = graph_of(model, {"r": (1, 6, 4, 4)})
    remove_channels(graph, coupling_of(graph, 6, "a:1 r:1 w:0 b:0 v:1"), {"g": np.arange(6) < 4})
    assert graph.tensors()["r"].shape == (1, 4, 4, 4)


def test_frozen_groups_are_refused() -> None:
    graph = graph_of(network("float[N,3,6,6] x => float[N,4,4,4] y", TWO_CONVS, TWO_CONVS_WEIGHTS))
    group = Group("g", 3, {Slot(graph.tensors()["a"], 1): np.arange(3)}, Freeze("it is"))
    with pytest.raises(ValueError, match="no group 'g'"):
        remove_channels(graph, Coupling((group,)), {"g": np.array([True, False, True])})


def test_a_graph_output_is_refused() -> None:
    graph = graph_of(network("float[N,3,6,6] x => float[N,4,4,4] y, float[N,6,4,4] r", TWO_CONVS, TWO_CONVS_WEIGHTS))
    with pytest.raises(InternalError, match="'r' axis 1"):
        remove_channels(graph, coupling_of(graph, 6, "a:1 r:1 w:0 b:0 v:1"), {"g": np.arange(6) < 4})


def test_every_operator_that_coupling_knows_can_be_mended() -> None:
    held = {"EyeLike", "OneHot", "RandomNormal", "RandomUniform", "Range"}  # what they make stays whole
    assert set(coupling_rules._RULES) - held == set(_removal_mends._RULES) | _removal_mends._NOTHING_TO_MEND


def test_an_operator_without_a_rule_is_refused() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 13, "my" : 1]>\n g (float[1,4] x, float[4,4] w) => (float[1,4] y)'
        " { a = MatMul(x, w)\n r = my.Op(a)\n y = MatMul(r, w) }"
    )
    graph = graph_of(onnx.parser.parse_model(text))
    with pytest.raises(InternalError, match="no rule"):
        remove_channels(graph, coupling_of(graph, 4, "a:1"), {"g": np.arange(4) < 2})


def test_splits_keep_what_stays_of_each_part() -> None:
    body = "a = Conv(x, w)\n p, q = Split<axis=1>(a, s)\n c = Conv(p, u)\n d = Conv(q, v)\n y = Add(c, d)"
    model = network(
        "float[N,3,4,4] x => float[N,2,4,4] y",
        body,
        {"w": [6, 3, 1, 1], "u": [2, 2, 1, 1], "v": [2, 4, 1, 1]},
        "int64[2] s = {2, 4}",
    )
    slots = {"p:1": [0, 1], "u:1": [0, 1], "q:1": [2, 3, 4, 5], "v:1": [2, 3, 4, 5]}
    assert operand(cut(model, [1, 2, 5], 6, "w:0 a:1", slots), "Split", 1) == [1, 2]


@pytest.mark.parametrize(("opset", "attrs"), [(11, "axis=1"), (13, "axis=1"), (18, "axis=1, num_outputs=2")])
def test_equal_splits_are_spelled_out_where_they_become_unequal(opset: int, attrs: str) -> None:
    body = f"a = Conv(x, w)\n p, q = Split<{attrs}>(a)\n c = Conv(p, u)\n d = Conv(q, v)\n y = Add(c, d)"
    weights = {"w": [4, 3, 1, 1], "u": [2, 2, 1, 1], "v": [2, 2, 1, 1]}
    model = network("float[N,3,4,4] x => float[N,2,4,4] y", body, weights, opset=opset)
    slots = {"p:1": [0, 1], "u:1": [0, 1], "q:1": [2, 3], "v:1": [2, 3]}
    uneven, even = (cut(model, stays, 4, "w:0 a:1", slots) for stays in ([0, 2, 3], [1, 2]))
    found = attributes(uneven, "Split").get("split") if opset < 13 else operand(uneven, "Split", 1)
    assert found == [1, 2]
    assert "num_outputs" not in attributes(uneven, "Split")
    assert len(even.pruned.graph.node[1].input) == 1


def test_a_part_that_nobody_reads_shrinks_too() -> None:
    body = "a = Conv(x, w)\n p, o, q = Split<axis=1>(a, s)\n c = Conv(p, u)\n d = Conv(q, v)\n y = Add(c, d)"
    model = network(
        "float[N,3,4,4] x => float[N,2,4,4] y",
        body,
        {"w": [6, 3, 1, 1], "u": [2, 2, 1, 1], "v": [2, 1, 1, 1]},
        "int64[3] s = {2, 3, 1}",
    )
    slots = {"p:1": [0, 1], "u:1": [0, 1], "o:1": [2, 3, 4], "q:1": [5], "v:1": [5]}
    assert operand(cut(model, [1, 3, 5], 6, "w:0 a:1", slots), "Split", 1) == [1, 1, 1]


def test_reshape_targets() -> None:
    # Shuffle: [N, 2·3, 4, 4] as 2 groups of 3; a unit is one place in both groups.
    body = (
        "a = Conv(x, w)\n r = Reshape(a, s)\n t = Transpose<perm=[0,2,1,3,4]>(r)\n f = Reshape(t, back)\n"
        " y = Conv(f, v)"
    )
    model = network(
        "float[N,3,4,4] x => float[N,2,4,4] y",
        body,
        {"w": [6, 3, 1, 1], "v": [2, 6, 1, 1]},
        "int64[5] s = {0, 2, 3, 4, 4}, int64[4] back = {-1, 6, 4, 4}",
    )
    by_group, by_place = [0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 2, 2]
    slots = {"w:0": by_group, "a:1": by_group, "r:2": [0, 1, 2], "t:1": [0, 1, 2], "f:1": by_place, "v:1": by_place}
    removed = cut(model, [0, 2], 3, "", slots)
    assert operand(removed, "Reshape", 1) == [0, 2, 2, 4, 4]
    targets = [n.input[1] for n in removed.pruned.graph.node if n.op_type == "Reshape"]
    stored = {i.name: numpy_helper.to_array(i).tolist() for i in removed.pruned.graph.initializer}
    assert stored[targets[1]] == [-1, 4, 4, 4]


def test_a_target_that_others_read_too_is_copied() -> None:
    body = "a = MatMul(x, w)\n r = Reshape(a, s)\n q = Reshape(x, s)\n t = ReduceSum<keepdims=0>(r, axes)\n"
    body += " u = ReduceSum<keepdims=0>(q, axes)\n y = Add(t, u)"
    model = network("float[6,8] x => float[6] y", body, {"w": [8, 8]}, "int64[3] s = {6, 4, 2}, int64[2] axes = {1, 2}")
    graph = graph_of(model)
    units = [0, 0, 1, 1, 2, 2, 3, 3]
    coupling = coupling_of(graph, 4, "r:1", {"w:1": units, "a:1": units})
    removed = remove(graph, coupling, {"g": np.arange(4) != 1})
    assert_same_as_masked(removed, random_feeds(model))
    stored = {i.name: numpy_helper.to_array(i).tolist() for i in removed.pruned.graph.initializer}
    assert [stored[n.input[1]] for n in removed.pruned.graph.node if n.op_type == "Reshape"] == [[6, 3, 2], [6, 4, 2]]


COMPUTED = "h = Shape(x)\n n = Gather<axis=0>(h, zero)\n k = Gather<axis=0>(h, two)\n"


def test_a_computed_target_keeps_what_is_computed() -> None:
    # [N, 6, L] → [N, 2, 3, L], then [N, 6·L] flat again with a target that follows from the shape by itself.
    body = COMPUTED + (
        " t = Concat<axis=0>(n, mid, k)\n a = Conv(x, w)\n r = Reshape(a, t)\n p = ReduceSum(r, axes)\n"
        " y = Squeeze(p, axes)"
    )
    sizes = "int64[1] zero = {0}, int64[1] two = {2}, int64[2] mid = {2, 3}, int64[1] axes = {2}"
    model = network("float[N,3,L] x => float[N,2,L] y", body, {"w": [6, 3, 1]}, sizes)
    units = [0, 1, 2, 0, 1, 2]
    removed = cut(model, [0, 2], 3, "r:2", {"w:0": units, "a:1": units}, {"r": ("N", 2, 3, "L")}, dynamic=4)
    stored = {i.name: numpy_helper.to_array(i).tolist() for i in removed.pruned.graph.initializer}
    concat = [n for n in removed.pruned.graph.node if n.op_type == "Concat"][-1]
    assert [stored.get(name) for name in concat.input] == [None, [2, 2], None]


def test_a_target_that_follows_from_the_shape_is_left_alone() -> None:
    body = (
        "a = Conv(x, w)\n h = Shape(a)\n c = Gather<axis=0>(h, one)\n half = Div(c, two)\n"
        " n = Gather<axis=0>(h, zero)\n t = Concat<axis=0>(n, two, half, rest)\n"
        " r = Reshape(a, t)\n p = ReduceSum(r, axes)\n y = Squeeze(p, axes)"
    )
    sizes = "int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] rest = {-1}, int64[1] axes = {2}"
    model = network("float[N,3,L] x => float[N,2,L] y", body, {"w": [6, 3, 1]}, sizes)
    units = [0, 1, 2, 0, 1, 2]
    graph = graph_of(model, {"r": ("N", 2, 3, "L")})
    coupling = coupling_of(graph, 3, "r:2", {"w:0": units, "a:1": units})
    removed = remove(graph, coupling, {"g": np.array([True, False, True])})
    assert [n.op_type for n in removed.pruned.graph.node] == [n.op_type for n in model.graph.node]
    assert_same_as_masked(removed, random_feeds(model, dynamic=4))


def test_a_factor_made_of_a_size_stays_what_it_was() -> None:
    # 1/√d of attention: removing channels mustn't change the factor.
    body = (
        "a = MatMul(x, w)\n h = Shape(a)\n d = Gather<axis=0>(h, last)\n f = Cast<to=1>(d)\n s = Sqrt(f)\n"
        " q = Div(a, s)\n y = MatMul(q, v)"
    )
    model = network("float[N,3] x => float[N,2] y", body, {"w": [3, 6], "v": [6, 2]}, "int64 last = {1}")
    removed = cut(model, [0, 1, 4], 6, "w:1 a:1 q:1 v:0")
    div = next(n for n in removed.pruned.graph.node if n.op_type == "Div")
    stored = {i.name: numpy_helper.to_array(i) for i in removed.pruned.graph.initializer}
    np.testing.assert_allclose(stored[div.input[1]], np.sqrt(6), rtol=1e-6)
    assert [n.op_type for n in removed.pruned.graph.node] == ["MatMul", "Div", "MatMul"]


def test_an_output_that_tells_a_size_is_refused() -> None:
    body = "a = MatMul(x, w)\n h = Shape(a)\n y = MatMul(a, v)"
    model = network("float[N,3] x => float[N,2] y, int64[2] h", body, {"w": [3, 6], "v": [6, 2]})
    graph = graph_of(model)
    with pytest.raises(InternalError, match="graph output 'h'"):
        remove_channels(graph, coupling_of(graph, 6, "w:1 a:1 v:0"), {"g": np.arange(6) < 4})


def test_expand_tile_and_constant_of_shape() -> None:
    body = (
        "a = MatMul(x, w)\n e = Expand(c, shape)\n k = ConstantOfShape<value=float[1]{0.5}>(row)\n"
        " t = Tile(one, times)\n p = Add(a, e)\n q = Add(p, k)\n r = Mul(q, t)\n y = MatMul(r, v)"
    )
    sizes = "int64[2] shape = {2, 1}, int64[1] row = {6}, int64[2] times = {1, 6}"
    model = network("float[2,3] x => float[2,2] y", body, {"w": [3, 6], "c": [6], "v": [6, 2], "one": [1, 1]}, sizes)
    removed = cut(model, [0, 3, 4], 6, "w:1 a:1 c:0 e:1 k:0 t:1 p:1 q:1 r:1 v:0")
    assert operand(removed, "Expand", 1) == [2, 1]
    assert operand(removed, "ConstantOfShape", 0) == [3]
    assert operand(removed, "Tile", 1) == [1, 3]


def test_tile_of_copies() -> None:
    body = "a = MatMul(x, w)\n t = Tile(a, times)\n y = MatMul(t, v)"
    model = network("float[2,3] x => float[2,2] y", body, {"w": [3, 3], "v": [6, 2]}, "int64[2] times = {1, 2}")
    removed = cut(model, [0, 2], 3, "w:1 a:1", {"t:1": [0, 1, 2, 0, 1, 2], "v:0": [0, 1, 2, 0, 1, 2]})
    assert operand(removed, "Tile", 1) == [1, 2]


@pytest.mark.parametrize(
    ("start", "end", "step", "read", "stays", "left"),
    [
        (1, 4, 1, [1, 2, 3], [0, 1, 3, 5], [1, 3, 1]),
        (-4, 9, 1, [2, 3, 4, 5], [0, 1, 3, 5], [2, 4, 1]),
        (0, 6, 2, [0, 2, 4], [0, 1, 4, 5], [0, 3, 2]),
        (4, -100, -2, [4, 2, 0], [0, 1, 4, 5], [2, -(2**31), -2]),
        (5, 1, -1, [5, 4, 3, 2], [0, 1, 2, 5], [3, 1, -1]),
    ],
)
def test_slices_count_what_stays(
    start: int, end: int, step: int, read: list[int], stays: list[int], left: list[int]
) -> None:
    body = "a = MatMul(x, w)\n p = Slice(a, starts, ends, axes, steps)\n q = MatMul(a, v)\n r = MatMul(p, u)\n"
    body += " y = Add(q, r)"
    sizes = (
        f"int64[1] starts = {{{start}}}, int64[1] ends = {{{end}}}, int64[1] axes = {{-1}}, int64[1] steps = {{{step}}}"
    )
    model = network("float[N,3] x => float[N,2] y", body, {"w": [3, 6], "v": [6, 2], "u": [len(read), 2]}, sizes)
    removed = cut(model, stays, 6, "w:1 a:1 v:0", {"p:1": read, "u:0": read})
    assert [operand(removed, "Slice", index)[0] for index in (1, 2, 4)] == left


def test_a_slice_whose_steps_no_longer_fit_is_refused() -> None:
    body = "a = MatMul(x, w)\n p = Slice(a, starts, ends, axes, steps)\n y = MatMul(p, u)"
    sizes = "int64[1] starts = {0}, int64[1] ends = {6}, int64[1] axes = {1}, int64[1] steps = {2}"
    graph = graph_of(network("float[N,3] x => float[N,2] y", body, {"w": [3, 6], "u": [3, 2]}, sizes))
    coupling = coupling_of(graph, 6, "w:1 a:1", {"p:1": [0, 2, 4], "u:0": [0, 2, 4]})
    with pytest.raises(InternalError, match="evenly spaced"):
        remove_channels(graph, coupling, {"g": np.arange(6) != 1})


def test_slices_with_attributes() -> None:
    body = "a = MatMul(x, w)\n p = Slice<starts=[2], ends=[100], axes=[1]>(a)\n y = MatMul(p, u)"
    model = network("float[N,3] x => float[N,2] y", body, {"w": [3, 6], "u": [4, 2]}, opset=9)
    removed = cut(model, [0, 3, 5], 6, "w:1 a:1", {"p:1": [2, 3, 4, 5], "u:0": [2, 3, 4, 5]})
    assert attributes(removed, "Slice") == {"starts": [1], "ends": [3], "axes": [1]}


def test_indices_are_renumbered() -> None:
    body = "a = MatMul(x, w)\n p = Gather<axis=-1>(a, i)\n y = MatMul(p, u)"
    model = network("float[N,3] x => float[N,2] y", body, {"w": [3, 6], "u": [4, 2]}, "int64[4] i = {5, 0, -4, 5}")
    removed = cut(model, [2, 4, 5], 6, "w:1 a:1", {"p:1": [5, 0, 2, 5], "u:0": [5, 0, 2, 5]})
    assert operand(removed, "Gather", 1) == [2, 0, 2]


def test_an_index_of_a_removed_channel_is_refused() -> None:
    body = "a = MatMul(x, w)\n y = Gather<axis=1>(a, i)"
    graph = graph_of(network("float[N,3] x => float[N,2] y", body, {"w": [3, 6]}, "int64[2] i = {5, 0}"))
    with pytest.raises(InternalError, match="reads a channel that is to be removed"):
        remove_channels(graph, coupling_of(graph, 6, "w:1 a:1"), {"g": np.arange(6) > 0})


@pytest.mark.parametrize("opset", [9, 13, 18])
def test_channels_that_pad_adds(opset: int) -> None:
    calls = {
        9: ("Pad<pads=[0,2,1,1,0,1,1,1]>(e)", ""),
        13: ("Pad(e, pads)", "int64[8] pads = {0, 2, 1, 1, 0, 1, 1, 1}"),
        18: ("Pad(e, pads, , axes)", "int64[6] pads = {1, 2, 1, 1, 1, 1}, int64[3] axes = {-1, 1, 2}"),
    }
    call, sizes = calls[opset]
    body = f"a = Conv(x, w)\n e = Exp(a)\n p = {call}\n y = Conv(p, v)"
    weights = {"w": [4, 3, 1, 1], "v": [2, 7, 1, 1]}
    model = network("float[N,3,4,4] x => float[N,2,6,6] y", body, weights, sizes, opset)
    data, padded = [0, 1, 2, 3], [-1, 4, 0, 1, 2, 3, -1]
    removed = cut(model, [0, 3], 5, "", {"w:0": data, "a:1": data, "e:1": data, "p:1": padded, "v:1": padded})
    found = attributes(removed, "Pad").get("pads") if opset < 11 else operand(removed, "Pad", 1)
    assert found == ([1, 1, 1, 1, 1, 1] if opset == 18 else [0, 1, 1, 1, 0, 1, 1, 1])
    assert shapes(removed)["v"] == [2, 4, 1, 1]


def test_channels_that_pad_drops() -> None:
    model = network(
        "float[N,3,4,4] x => float[N,2,4,4] y",
        "a = Conv(x, w)\n p = Pad(a, pads)\n y = Conv(p, v)",
        {"w": [6, 3, 1, 1], "v": [2, 3, 1, 1]},
        "int64[8] pads = {0, -2, 0, 0, 0, -1, 0, 0}",
    )
    removed = cut(model, [1, 2, 4, 5], 6, "w:0 a:1", {"p:1": [2, 3, 4], "v:1": [2, 3, 4]})
    assert operand(removed, "Pad", 1) == [0, -1, 0, 0, 0, -1, 0, 0]
    graph, dropped = graph_of(model), [0, 1, -1, -1, -1, -1]
    coupling = coupling_of(graph, 2, "", {"w:0": dropped, "a:1": dropped})
    removed = remove(graph, coupling, {"g": np.array([False, True])})
    assert_same_as_masked(removed, random_feeds(model))
    assert operand(removed, "Pad", 1) == [0, -1, 0, 0, 0, -1, 0, 0]


def test_resize_to_sizes() -> None:
    body = 'a = Conv(x, w)\n r = Resize<mode="nearest">(a, , , sizes)\n y = Conv(r, v)'
    weights = {"w": [6, 3, 1, 1], "v": [2, 6, 1, 1]}
    model = network("float[2,3,4,4] x => float[2,2,8,8] y", body, weights, "int64[4] sizes = {2, 6, 8, 8}")
    assert operand(cut(model, [1, 2], 6, "w:0 a:1 r:1 v:1"), "Resize", 3) == [2, 2, 8, 8]


def test_group_normalization_by_whole_groups() -> None:
    body = "a = Conv(x, w)\n n = GroupNormalization<num_groups=3>(a, s, b)\n y = Conv(n, v)"
    weights = {"w": [6, 3, 1, 1], "s": [6], "b": [6], "v": [2, 6, 1, 1]}
    model = network("float[2,3,4,4] x => float[2,2,4,4] y", body, weights, opset=21)
    slots = {place: [0, 0, 1, 1, 2, 2] for place in ("w:0", "a:1", "n:1", "v:1", "s:0", "b:0")}
    removed = cut(model, [0, 2], 3, "", slots, {"n": (2, 6, 4, 4)})
    assert attributes(removed, "GroupNormalization")["num_groups"] == 2


def test_squeeze_without_axes_keeps_an_axis_that_shrinks_to_one() -> None:
    body = "a = Conv(x, w)\n g = GlobalAveragePool(a)\n s = Squeeze(g)\n y = MatMul(s, v)"
    model = network("float[2,3,4,4] x => float[2,2] y", body, {"w": [6, 3, 1, 1], "v": [6, 2]})
    assert operand(cut(model, [4], 6, "w:0 a:1 g:1 s:1 v:0"), "Squeeze", 1) == [2, 3]


def test_squeeze_without_axes_of_a_dynamic_batch() -> None:
    body = "a = Conv(x, w)\n g = GlobalAveragePool(a)\n s = Squeeze(g)\n y = MatMul(s, v)"
    model = network("float[N,3,4,4] x => float[N,2] y", body, {"w": [6, 3, 1, 1], "v": [6, 2]}, opset=11)
    removed = cut(model, [1, 4], 6, "w:0 a:1 g:1 s:1 v:0", stated={"s": ("N", 6)})
    assert attributes(removed, "Squeeze") == {"axes": [2, 3]}


def test_a_slice_of_other_axes_with_computed_bounds() -> None:
    body = (
        "a = Conv(x, w)\n h = Shape(x)\n l = Gather<axis=0>(h, two)\n half = Div(l, two)\n"
        " c = Slice(a, zero, half, two)\n y = Conv(c, v)"
    )
    sizes = "int64[1] zero = {0}, int64[1] two = {2}"
    model = network("float[N,3,L] x => float[N,2,M] y", body, {"w": [6, 3, 1], "v": [2, 6, 1]}, sizes)
    cut(model, [1, 4], 6, "w:0 a:1 c:1 v:1", stated={"c": ("N", 6, None)}, dynamic=4)


def test_what_nobody_reads_has_no_stated_shape_any_more() -> None:
    body = "a = Conv(x, w)\n p, indices = MaxPool<kernel_shape=[2,2]>(a)\n y = Conv(p, v)"
    model = network("float[2,3,4,4] x => float[2,2,3,3] y", body, {"w": [6, 3, 1, 1], "v": [2, 6, 1, 1]})
    graph = graph_of(model)
    assert graph.tensors()["indices"].shape == (2, 6, 3, 3)
    removed = remove(graph, coupling_of(graph, 6, "w:0 a:1 p:1 v:1"), {"g": np.arange(6) < 2})
    assert_same_as_masked(removed, random_feeds(model))
    assert graph.tensors()["indices"].shape is None


def test_scales_of_quantized_weights_are_cut_with_them() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]>
    g (float[1,2] x) => (float[1,2] y)
      <int8[3,2] w = {1, 2, 3, 4, 5, 6}, float[3] s = {0.5, 1, 2}, int8[3] z = {0, 0, 0},
       float[3,2] v = {1,2,3,4,5,6}>
    {
        d = DequantizeLinear<axis=0>(w, s, z)
        t = Transpose<perm=[1,0]>(d)
        a = MatMul(x, t)
        y = MatMul(a, v)
    }"""
    removed = cut(onnx.parser.parse_model(text), [0, 2], 3, "w:0 s:0 z:0 d:0 t:1 a:1 v:0")
    assert shapes(removed) == {"w": [2, 2], "s": [2], "z": [2], "v": [2, 2]}


def test_constant_nodes_are_cut_too() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]>
    g (float[1,2] x) => (float[1,2] y) {
        w = Constant<value = float[2,3] {1, 2, 3, 4, 5, 6}>()
        a = MatMul(x, w)
        v = Constant<value = float[3,2] {6, 5, 4, 3, 2, 1}>()
        y = MatMul(a, v)
    }"""
    removed = cut(onnx.parser.parse_model(text), [0, 2], 3, "w:1 a:1 v:0")
    found = numpy_helper.to_array(attributes(removed, "Constant")["value"])
    np.testing.assert_array_equal(found, [[1, 3], [4, 6]])


def test_nested_graphs_that_read_a_cut_tensor_are_refused() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]>
    g (float[1,2] x, bool c, float[2,3] w, float[3,2] v) => (float[1,2] y) {
        a = MatMul(x, w)
        b = If(c) <then_branch = t () => (float[1,3] p) { p = Exp(a) },
                   else_branch = e () => (float[1,3] q) { q = Neg(a) }>
        y = MatMul(b, v)
    }"""
    graph = graph_of(onnx.parser.parse_model(text))
    with pytest.raises(InternalError, match="nested graph"):
        remove_channels(graph, coupling_of(graph, 3, "a:1 b:1"), {"g": np.arange(3) < 2})


def test_the_plan_forgets_ranges_of_activations_and_cuts_those_of_weights() -> None:
    model = network("float[N,3,6,6] x => float[N,4,4,4] y", TWO_CONVS, TWO_CONVS_WEIGHTS)
    graph = graph_of(model)
    low, high = -np.arange(1.0, 7.0), np.arange(1.0, 7.0)
    graph.plan.add(TensorPlan("w", Scheme("int8", True, 0), (), range=Range(low, high)))
    graph.plan.add(TensorPlan("v", Scheme("int8", True, 0), (), range=Range(low[:4], high[:4])))
    graph.plan.add(TensorPlan("r", Scheme("uint8"), (), range=Range.of(0.0, 3.0)))
    graph.plan.add(TensorPlan("y", Scheme("uint8"), (), range=Range.of(0.0, 1.0), fixed=True))
    remove_channels(graph, coupling_of(graph, 6, "a:1 r:1 w:0 b:0 v:1"), {"g": np.isin(np.arange(6), [1, 5])})
    ranges = {name: entry.range for name, entry in graph.plan.tensors.items()}
    assert ranges["r"] is None
    assert ranges["y"] == Range.of(0.0, 1.0)
    assert [ranges[n].high.tolist() for n in ("w", "v")] == [[2.0, 6.0], [1.0, 2.0, 3.0, 4.0]]
