"""What the groups of a graph say: members, names, and why channels have to stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest

from graphopt.analysis.coupling.find import couple
from tests.support.coupling import couple_text, graph_of, members, reasons, typed
from tests.support.foreign import noise
from tests.support.hash_seeds import printed_under_two_hash_seeds

IMAGE = "float[N,6,8,8] x"


def test_a_residual_stream_is_one_group_and_the_inner_layer_another() -> None:
    coupling = couple_text(
        """a = Conv<pads=[1,1,1,1]>(x, w1, b1) n = BatchNormalization(a, g, b, m, v) r = Relu(n) c = Conv(r, w2)
        d = Conv(c, w3) s = Add(r, d) y = Conv(s, w4)""",
        "float[1,3,8,8] x",
        "float[1,2,8,8] y",
        w1=(8, 3, 3, 3), b1=(8,), g=(8,), b=(8,), m=(8,), v=np.ones(8, np.float32), w2=(4, 8, 1, 1),
        w3=(8, 4, 1, 1), w4=(2, 8, 1, 1),
    )  # fmt: skip
    outer, inner = coupling.removable
    assert (outer.name, outer.units, inner.name, inner.units) == ("a:1", 8, "c:1", 4)
    stream = ["a:1", "b1:0", "b:0", "d:1", "g:0", "m:0", "n:1", "r:1", "s:1", "v:0", "w1:0", "w2:1", "w3:0", "w4:1"]
    assert sorted(members(outer)) == stream
    assert all(units == list(range(8)) for units in members(outer).values())
    assert sorted(members(inner)) == ["c:1", "w2:0", "w3:1"]


def test_members_come_in_graph_order_with_operands_first() -> None:
    coupling = couple_text(
        "a = Conv(x, w, b) r = Relu(a) y = Conv(r, v)", IMAGE, "float[N,3,8,8] y",
        w=(4, 6, 1, 1), b=(4,), v=(3, 4, 1, 1),
    )  # fmt: skip
    assert list(members(coupling.removable[0])) == ["w:0", "b:0", "a:1", "r:1", "v:1"]
    assert [group.name for group in coupling.groups] == ["x:1", "a:1", "y:1"]


def test_units_take_several_elements() -> None:
    coupling = couple_text(
        "a = Conv(x, w) f = Flatten(a) y = MatMul(f, v)", "float[N,6,1,2] x", "float[N,3] y",
        w=(3, 6, 1, 1), v=(6, 3),
    )  # fmt: skip
    (group,) = coupling.removable
    assert members(group)["v:0"] == [0, 0, 1, 1, 2, 2]
    flat = next(slot for slot in group.members if slot.tensor.name == "f")
    assert group.elements(flat).tolist() == [2, 2, 2]


def test_parts_of_one_tensor_are_groups_with_numbers() -> None:
    coupling = couple_text(
        "a = Conv(x, w) b, c = Split<axis=1>(a, s) d = Conv(b, v) e = Conv(c, u) y = Add(d, e)",
        IMAGE, "float[N,3,8,8] y", w=(5, 6, 1, 1), s=np.array([2, 3]), v=(3, 2, 1, 1), u=(3, 3, 1, 1),
    )  # fmt: skip
    first, second = coupling.removable
    assert (first.name, second.name) == ("a:1", "a:1#2")
    assert members(first)["w:0"] == [0, 1, -1, -1, -1]
    assert members(second)["w:0"] == [-1, -1, 0, 1, 2]
    assert members(first)["b:1"] == [0, 1]


def test_the_k_th_channel_of_each_group() -> None:
    coupling = couple_text(
        "a = Conv(x, w) b = Conv<group=2>(a, g) y = Conv(b, v)", IMAGE, "float[N,3,8,8] y",
        w=(6, 6, 1, 1), g=(4, 3, 1, 1), v=(3, 4, 1, 1),
    )  # fmt: skip
    data, result = coupling.removable
    assert members(data) == {"w:0": [0, 1, 2] * 2, "a:1": [0, 1, 2] * 2, "g:1": [0, 1, 2]}
    assert members(result) == {"g:0": [0, 1] * 2, "b:1": [0, 1] * 2, "v:1": [0, 1] * 2}


def test_whole_groups() -> None:
    coupling = couple_text(
        "a = Conv(x, w) b = Conv<group=3>(a, g) y = Conv(b, v)", IMAGE, "float[N,3,8,8] y",
        w=(6, 6, 1, 1), g=(9, 2, 1, 1), v=(3, 9, 1, 1),
    )  # fmt: skip
    (group,) = coupling.removable
    twos, threes = [0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert members(group) == {"w:0": twos, "a:1": twos, "g:0": threes, "b:1": threes, "v:1": threes}


def test_whole_heads() -> None:
    coupling = couple_text(
        """q = MatMul(x, wq) r = Reshape(q, s) t = Transpose<perm=[0,2,1,3]>(r) k = Transpose<perm=[0,2,3,1]>(r)
        a = MatMul(t, k) p = Softmax<axis=-1>(a) o = MatMul(p, t) u = Transpose<perm=[0,2,1,3]>(o)
        f = Reshape(u, z) y = MatMul(f, wo)""",
        "float[N,5,6] x", "float[N,5,6] y", wq=(6, 4), wo=(4, 6), s=np.array([0, 0, 2, 2]), z=np.array([0, 0, 4]),
    )  # fmt: skip
    (group,) = coupling.removable
    assert group.units == 2
    found = members(group)
    assert found["wq:1"] == found["wo:0"] == found["q:2"] == found["f:2"] == [0, 0, 1, 1]
    assert found["r:2"] == found["t:1"] == found["k:1"] == found["a:1"] == found["p:1"] == found["o:1"] == [0, 1]


def test_a_tensor_that_loses_elements_of_two_axes() -> None:
    # A Gram matrix has the channels on both of its axes.
    coupling = couple_text(
        "a = Conv(x, w) f = Reshape(a, s) t = Transpose<perm=[0,2,1]>(f) g = MatMul(f, t) y = MatMul(g, v)",
        IMAGE, "float[N,4,3] y", w=(4, 6, 1, 1), s=np.array([0, 4, -1]), v=(4, 3),
    )  # fmt: skip
    found = reasons(coupling)
    assert {found[slot] for slot in ("g:1", "g:2", "w:0", "v:0")} == {"it is a graph output"}


def test_a_shared_weight_ties_its_layers() -> None:
    coupling = couple_text(
        "a = Conv(x, w) b = Conv(x, w) c = Conv(a, v) d = Conv(b, u) y = Add(c, d)", IMAGE, "float[N,3,8,8] y",
        w=(4, 6, 1, 1), v=(3, 4, 1, 1), u=(3, 4, 1, 1),
    )  # fmt: skip
    (group,) = coupling.removable
    assert sorted(members(group)) == ["a:1", "b:1", "u:1", "v:1", "w:0"]


CONVS = {"w": (4, 6, 1, 1), "v": (3, 4, 1, 1)}
ROWS = {"w": (6, 4), "v": (4, 3)}
ALONE = "it only goes as a whole, and something has to stay"


def through(op: str, **values: Any) -> tuple[str, dict[str, Any], str]:
    """An operation on channels between two convolutions."""
    return f"a = Conv(x, w) {op} y = Conv(b, v)", {**CONVS, **values}, IMAGE


def by_rows(op: str, **values: Any) -> tuple[str, dict[str, Any], str]:
    """An operation on the last axis between two products."""
    return f"a = MatMul(x, w) {op} y = MatMul(b, v)", {**ROWS, **values}, "float[N,5,6] x"


@pytest.mark.parametrize(
    ("network", "reason", "opset"),
    [
        (through("b = LRN<size=3>(a)"), "LRN normalizes over windows of it", 17),
        (through("b = Softmax<axis=1>(a)"), "Softmax normalizes over it", 17),
        (through("b = LogSoftmax<axis=1>(a)"), "LogSoftmax normalizes over it", 17),
        (by_rows("b = Softmax(a)"), "Softmax normalizes over it", 9),  # axis 1, and all behind it
        (by_rows("b = LayerNormalization(a, g)", g=(4,)), "LayerNormalization normalizes over it", 17),
        (through("b = MeanVarianceNormalization<axes=[0,1,2,3]>(a)"),
         "MeanVarianceNormalization normalizes over it", 17),
        (through("m = ReduceMean<axes=[1]>(a) b = Sub(a, m)"), "ReduceMean takes it together", 17),
        (through("m = ReduceMax(a) b = Sub(a, m)"), "ReduceMax takes it together", 17),
        (through("m = ReduceLogSumExp<axes=[-3]>(a) b = Sub(a, m)"), "ReduceLogSumExp takes it together", 17),
        (through("m = ReduceMean(a, i) b = Sub(a, m)", i=np.array([1])), "ReduceMean takes it together", 18),
        (through("m = ArgMax<axis=1>(a) c = Cast<to=1>(m) b = Add(a, c)"), "ArgMax compares along it", 17),
        (by_rows("b, i = TopK(a, k)", k=np.array([4])), "TopK compares along it", 17),
        (through('b = Pad<mode="reflect">(a, p)', p=np.array([0, 1, 0, 0, 0, -1, 0, 0])),
         "Pad copies elements of it", 17),
        (through("b = Resize(a, , s)", s=np.array([1, 1.1, 1, 1], np.float32)), "Resize interpolates along it", 17),
        (through("c = Slice(a, s, e, i, t) b = Concat<axis=1>(c, c)",
                 s=np.array([0]), e=np.array([4]), i=np.array([1]), t=np.array([3])), "Slice takes one in 3 of it", 17),
        (through("l, i = MaxPool<kernel_shape=[1,1]>(a) c = Cast<to=1>(i) b = Add(l, c)"),
         "the indices of MaxPool count over it", 17),
        (through("""d = Shape(a) k = Gather<axis=0>(d, o) n = Gather<axis=0>(d, z) m = Mul(k, n)
                 c = Cast<to=1>(m) b = Div(a, c)""", o=np.array([1]), z=np.array([0])), "Shape reads its size", 17),
        (through("b = Reshape(a, s)", w=(6, 6, 1, 1), s=np.array([0, 4, 96, 1])),
         "Reshape merges it with other axes", 17),
        (by_rows("t = Trilu(a) b = Identity(t)"), "Trilu takes its diagonal", 17),
        (by_rows("b = Bernoulli(a)"), "there is no rule for Bernoulli", 17),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_why_channels_stay(network: tuple[str, dict[str, Any], str], reason: str, opset: int) -> None:
    body, values, inputs = network
    outputs = "float[N,P,Q,R] y" if inputs == IMAGE else "float[P,Q,R] y"
    found = reasons(couple_text(body, inputs, outputs, opset, **values))
    axis = 1 if inputs == IMAGE else 2
    assert found[f"a:{axis}"] == reason
    assert found["w:0" if inputs == IMAGE else "w:1"] == reason


def test_lstm_keeps_its_state() -> None:
    coupling = couple_text(
        "h, hy, hc = LSTM<hidden_size=4>(x, w, r) q = Squeeze(h, i) y = MatMul(q, v)",
        "float[S,N,6] x", "float[S,N,3] y",
        w=(1, 16, 6), r=(1, 16, 4), v=(4, 3), i=np.array([1]),
    )  # fmt: skip
    assert reasons(coupling)["v:0"] == "LSTM carries it from step to step"


def test_what_the_caller_sees_stays() -> None:
    coupling = couple_text(
        "a = Conv(x, w) y = Conv(a, v)", IMAGE, "float[N,3,8,8] y, float[N,4,8,8] a", **CONVS
    )  # fmt: skip
    assert coupling.removable == ()
    found = reasons(coupling)
    assert found["w:1"] == "it is a graph input"
    assert found["w:0"] == found["v:0"] == found["v:1"] == "it is a graph output"


def test_an_initializer_that_the_caller_may_override_stays() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x, float[2,2] w = {1, 2, 3, 4}, float[2,1] v = {1, 2}) => (float[N,1] y)
        {a = MatMul(x, w) y = MatMul(a, v)}"""
    )
    assert reasons(couple(typed(model)))["w:1"] == "the caller may override it"


def test_what_a_nested_graph_reads_stays() -> None:
    coupling = couple_text(
        """a = MatMul(x, w) c = Greater(s, z)
        b = If(c) <then_branch = t () => (float[N,4] p) {p = Relu(a)},
                   else_branch = e () => (float[N,4] q) {q = Neg(a)}>
        y = MatMul(b, v)""",
        "float[N,6] x, float s", "float[N,3] y", z=np.float32(0), **ROWS,
    )  # fmt: skip
    found = reasons(coupling)
    assert found["w:1"] == "a nested graph reads it"
    assert found["v:0"] == "there is no rule for If"


def test_a_custom_operator_freezes_what_it_touches() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "my.ops" : 1]>
        g (float[N,6] x, float[6,4] w0, float[4,3] v0) => (float[N,3] y) <float[N,4] b> {
        a = MatMul(x, w0) b = my.ops.Mix(a) y = MatMul(b, v0) }"""
    )
    weights = (("w0", noise(6, 4)), ("v0", noise(4, 3)))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(values, name) for name, values in weights)
    del model.graph.input[1:]
    found = reasons(couple(typed(model)))
    assert found["w0:1"] == found["v0:0"] == "there is no rule for my.ops.Mix"


def test_what_only_goes_as_a_whole_stays() -> None:
    coupling = couple_text(
        "a = Conv(x, w) f = Reshape(a, s) g = Conv<group=2>(f, u) y = Conv(g, v)", IMAGE, "float[N,3,H,W] y",
        w=(4, 6, 1, 1), u=(4, 2, 1, 1), v=(3, 4, 1, 1), s=np.array([0, 4, 8, 8]),
    )  # fmt: skip
    assert [group.units for group in coupling.removable] == [2, 2]
    coupling = couple_text(
        "a = Conv(x, w) b = Conv(x, u) c = Concat<axis=1>(a, b) y = Conv(c, v)", IMAGE, "float[N,3,8,8] y",
        w=(1, 6, 1, 1), u=(3, 6, 1, 1), v=(3, 4, 1, 1),
    )  # fmt: skip
    assert reasons(coupling)["a:1"] == ALONE
    assert [group.name for group in coupling.removable] == ["b:1"]


def test_results_that_nobody_reads_do_not_matter() -> None:
    # Inference leaves the mask of an old Dropout without a shape.
    coupling = couple_text("a = Conv(x, w) b, m = Dropout(a) y = Conv(b, v)", IMAGE, "float[N,3,8,8] y", 9, **CONVS)
    assert [group.units for group in coupling.removable] == [4]


def test_the_graph_is_left_alone() -> None:
    graph = graph_of("a = Conv(x, w) y = Conv(a, v)", IMAGE, "float[N,3,8,8] y", **CONVS)
    revision, shapes = graph.revision, {name: t.shape for name, t in graph.tensors().items()}
    couple(graph)
    assert graph.revision == revision
    assert {name: t.shape for name, t in graph.tensors().items()} == shapes


SAID = """
import numpy as np
from graphopt.analysis.coupling.find import couple
from tests.support.coupling import graph_of, members
graph = graph_of(
    "a = Conv(x, w) b = Conv<group=2>(a, g) r = Reshape(b, s) t = Transpose<perm=[0,2,1,3,4]>(r) q = Reshape(t, z) "
    "y = Conv(q, v)",
    "float[N,6,8,8] x", "float[N,3,8,8] y", w=(8, 6, 1, 1), g=(8, 4, 1, 1), v=(3, 8, 1, 1),
    s=np.array([0, 2, 4, 8, 8]), z=np.array([0, 8, 8, 8]),
)
for group in couple(graph).groups:
    print(group.name, group.units, group.frozen and group.frozen.reason, members(group))
"""


def test_two_processes_with_different_hash_seeds_agree() -> None:
    (said,) = printed_under_two_hash_seeds(SAID)
    assert len(said.splitlines()) == 4
