"""Channels that are constant or unheard go, and nothing else: shapes, remarks, and the outputs of onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.ir import from_proto, to_proto
from graphopt.passes import eliminate_dead_channels
from graphopt.passes.eliminate_dead_channels import EliminateDeadChannels
from graphopt.passes.fold_batch_norm import FoldBatchNorm
from graphopt.pipeline import Context, Pass, PassManager
from graphopt.pipeline.instruments import Verify
from tests.support.rewrite import assert_same_outputs

Array = np.ndarray


@dataclass(frozen=True)
class Eliminated:
    """The model after the pass."""

    model: onnx.ModelProto
    applied: list[str]
    declined: list[str]
    changed: bool

    def shape(self, name: str) -> list[int]:
        return list(next(i.dims for i in self.model.graph.initializer if i.name == name))

    def values(self, name: str) -> Array:
        return numpy_helper.to_array(next(i for i in self.model.graph.initializer if i.name == name))

    @property
    def ops(self) -> list[str]:
        return [n.op_type for n in self.model.graph.node]


def noise(*shape: int, seed: int = 0, zero: dict[int, list[int]] | None = None) -> Array:
    """Normal noise; `zero={axis: channels}` sets channels to 0."""
    values = np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)
    for axis, channels in (zero or {}).items():
        np.moveaxis(values, axis, 0)[channels] = 0
    return values


def build(body: str, interface: str, opset: int = 17, **constants: Array) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g {interface} {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    onnx.checker.check_model(model)
    return model


def eliminate(model: onnx.ModelProto, *before: Pass, align: int = 1) -> Eliminated:
    graph, ctx = from_proto(model), Context()
    *_, record = PassManager([*before, EliminateDeadChannels(align)], [Verify()]).run(graph, ctx)
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    assert_same_outputs(model, after)
    said = ctx.remarks.of("eliminate-dead-channels")
    applied, declined = ([r.message for r in said if r.kind == kind] for kind in ("applied", "declined"))
    assert record.changed == bool(applied)
    return Eliminated(after, applied, declined, record.changed)


CHAIN = "c = Conv(x, w, b)\n r = Relu(c)\n y = Conv(r, v, e)"
SMALL = "(float[N,3,6,6] x) => (float[N,2,H,W] y)"


def chain(
    body: str = CHAIN,
    rows: tuple[int, ...] = (),
    columns: tuple[int, ...] = (),
    biases: dict[int, float] | None = None,
    interface: str = SMALL,
    **constants: Array,
) -> Eliminated:
    """Conv of 8 channels, Relu, Conv of 2: `rows` of the first and `columns` of the second have zero weights."""
    b = noise(8)
    for channel, value in (biases or {}).items():
        b[channel] = value
    own = {
        "w": noise(8, 3, 3, 3, zero={0: list(rows)}),
        "b": b,
        "v": noise(2, 8, 3, 3, zero={1: list(columns)}),
        "e": noise(2),
    }
    used = {name: value for name, value in {**own, **constants}.items() if f" {name}" in body}
    return eliminate(build(body, interface, **used))


def test_constant_channels_go_into_the_next_bias() -> None:
    result = chain(rows=(1, 4), biases={1: 2.0, 4: 0.5})
    assert (result.shape("w"), result.shape("b"), result.shape("v")) == ([6, 3, 3, 3], [6], [2, 6, 3, 3])
    v = noise(2, 8, 3, 3).astype(np.float64)
    expected = noise(2) + 2.0 * v[:, 1].sum(axis=(1, 2)) + 0.5 * v[:, 4].sum(axis=(1, 2))
    np.testing.assert_allclose(result.values("e"), expected, rtol=1e-6)
    assert result.applied == [
        "2 of 8 channels removed from Conv 'c_Conv', Conv 'y_Conv'; their constants are in the bias of Conv 'y_Conv'"
    ]
    assert result.declined == []


def test_what_nothing_hears_goes() -> None:
    result = chain(columns=(0, 7))
    assert (result.shape("w"), result.shape("b"), result.shape("v")) == ([6, 3, 3, 3], [6], [2, 6, 3, 3])
    np.testing.assert_array_equal(result.values("w"), noise(8, 3, 3, 3)[1:7])
    np.testing.assert_array_equal(result.values("e"), noise(2))


def test_a_relu_of_a_negative_constant_is_nothing_even_where_zeros_are_padded() -> None:
    padded = CHAIN.replace("Conv(r", "Conv<pads=[1,1,1,1]>(r")
    result = chain(padded, rows=(1, 4), biases={1: -2.0, 4: -0.5})
    assert result.shape("v") == [2, 6, 3, 3]
    np.testing.assert_array_equal(result.values("e"), noise(2))


def test_a_missing_bias_is_made() -> None:
    result = chain(CHAIN.replace(", e)", ")"), rows=(2,), biases={2: 3.0})
    assert result.shape("v") == [2, 7, 3, 3]
    node = result.model.graph.node[-1]
    np.testing.assert_allclose(result.values(node.input[2]), 3.0 * noise(2, 8, 3, 3)[:, 2].sum(axis=(1, 2)), rtol=1e-5)


def test_matmul_gets_an_add() -> None:
    body = "c = MatMul(x, w)\n s = Add(c, b)\n h = Sigmoid(s)\n y = MatMul(h, v)"
    model = build(
        body,
        "(float[N,5,3] x) => (float[N,5,2] y)",
        w=noise(3, 8, zero={1: [0, 3]}),
        b=noise(8),
        v=noise(8, 2),
    )
    result = eliminate(model)
    assert (result.shape("w"), result.shape("b"), result.shape("v")) == ([3, 6], [6], [6, 2])
    assert result.ops == ["MatMul", "Add", "Sigmoid", "MatMul", "Add"]


def test_gemm_with_factors_and_a_flatten_between() -> None:
    body = "c = Conv(x, w, b)\n f = Flatten(c)\n y = Gemm<alpha=0.5, beta=2.0, transB=1>(f, v, e)"
    result = chain(
        body, rows=(6,), biases={6: 1.5}, interface="(float[N,3,6,6] x) => (float[N,2] y)", v=noise(2, 128), e=noise(2)
    )
    assert (result.shape("w"), result.shape("v")) == ([7, 3, 3, 3], [2, 112])


@pytest.mark.parametrize(
    ("gemm", "e"),
    [
        ("Gemm<beta=0.0>(f, v, e)", noise(2)),
        ("Gemm<beta=0.0>(f, v, computed)", noise(2)),
        ("Gemm(f, v, e)", noise(1)),
        ("Gemm(f, v, e)", noise(1)[0]),
        ("Gemm(f, v)", noise(2)),
    ],
)
def test_biases_that_have_no_room_yet(gemm: str, e: Array) -> None:
    body = f"c = Conv(x, w, b)\n g = GlobalAveragePool(c)\n f = Flatten(g)\n computed = Identity( e)\n y = {gemm}"
    interface = "(float[N,3,6,6] x) => (float[N,2] y)"
    result = chain(body, rows=(6,), biases={6: 1.5}, interface=interface, v=noise(8, 2), e=np.asarray(e))
    assert (result.shape("w"), result.shape("v")) == ([7, 3, 3, 3], [7, 2])


def test_a_batch_norm_whose_gamma_is_zero() -> None:
    gamma = noise(8)
    gamma[[2, 5]] = 0
    statistics = {"gamma": gamma, "beta": noise(8, seed=1), "mean": noise(8, seed=2), "var": np.ones(8, np.float32)}
    body = "c = Conv(x, w, b)\n n = BatchNormalization(c, gamma, beta, mean, var)\n r = Relu(n)\n y = Conv(r, v, e)"
    assert chain(body, **statistics).shape("v") == [2, 6, 3, 3]
    own = {"w": noise(8, 3, 3, 3), "b": noise(8), "v": noise(2, 8, 3, 3), "e": noise(2)}
    folded = eliminate(build(body, SMALL, **own, **statistics), FoldBatchNorm())
    assert (folded.shape("w"), folded.shape("v")) == ([6, 3, 3, 3], [2, 6, 3, 3])


def test_a_dead_channel_kills_what_only_it_feeds() -> None:
    # The last layer hears only channels 0 and 1 of d, which hear only channels 0 … 2 of c.
    body = "c = Conv(x, w, b)\n d = Conv(c, u)\n y = Conv(d, v, e)"
    u = noise(6, 8, 1, 1)
    u[:2, 3:] = 0
    v = noise(2, 6, 3, 3, zero={1: [2, 3, 4, 5]})
    result = chain(body, u=u, v=v)
    assert (result.shape("w"), result.shape("u"), result.shape("v")) == ([3, 3, 3, 3], [2, 3, 1, 1], [2, 2, 3, 3])
    assert result.declined == []


def test_a_residual_stream_whose_branches_all_leave_a_channel_alone() -> None:
    body = """c = Conv(x, w, b)\n r = Relu(c)\n d = Conv<pads=[1,1,1,1]>(r, u, f)\n s = Add(c, d)\n t = Relu(s)
        y = Conv(t, v, e)"""
    u, f = noise(8, 8, 3, 3, zero={0: [1, 2]}), noise(8, seed=5)
    f[[1, 2]] = [-3, 0]
    dead = chain(body, rows=(1, 2), biases={1: -1.0, 2: 0.0}, u=u, f=f)
    assert dead.shape("w") == [6, 3, 3, 3]
    assert dead.shape("u") == [6, 6, 3, 3]
    assert dead.shape("v") == [2, 6, 3, 3]


def test_a_depthwise_layer_between() -> None:
    body = "c = Conv(x, w, b)\n r = Relu(c)\n d = Conv<group=8, pads=[1,1,1,1]>(r, k, f)\n y = Conv(d, v, e)"
    result = chain(body, rows=(3,), biases={3: -1.0}, k=noise(8, 1, 3, 3), f=noise(8, seed=7))
    # Channel 3 is 0 in r, f[3] in d: there it goes into the last bias.
    assert (result.shape("w"), result.shape("k"), result.shape("v")) == ([7, 3, 3, 3], [7, 1, 3, 3], [2, 7, 3, 3])
    node = next(n for n in result.model.graph.node if "k" in n.input)
    assert next(a.i for a in node.attribute if a.name == "group") == 7
    still = chain(body, k=noise(8, 1, 3, 3, zero={0: [6]}), f=noise(8, seed=7))
    assert still.shape("k") == [7, 1, 3, 3]


def test_groups_lose_the_same_channel_each() -> None:
    # Channels 1 and 5 are the second ones of both groups.
    body = "c = Conv(x, w, b)\n r = Relu(c)\n y = Conv<group=2>(r, v, e)"
    result = chain(body, rows=(1, 5), biases={1: 1.0, 5: 2.0}, v=noise(2, 4, 3, 3))
    assert (result.shape("w"), result.shape("v")) == ([6, 3, 3, 3], [2, 3, 3, 3])
    alone = chain(body, rows=(1, 4), biases={1: 1.0, 4: 2.0}, v=noise(2, 4, 3, 3))
    assert not alone.changed
    assert any("isn't constant" in reason for reason in alone.declined)


def test_concat_and_split() -> None:
    body = """c = Conv(x, w, b)\n d = Conv(x, u)\n j = Concat<axis=1>(c, d)\n p, q = Split<axis=1>(j)
        a = Relu(p)\n y = Add(ya, yb)"""
    body = body.replace("y = Add(ya, yb)", "ya = Conv(a, v, e)\n yb = Conv(q, v2)\n y = Add(ya, yb)")
    u = noise(4, 3, 3, 3, zero={0: [1]})
    result = chain(body, rows=(0,), biases={0: 2.0}, u=u, v=noise(2, 6, 3, 3), v2=noise(2, 6, 3, 3, seed=9))
    assert (result.shape("w"), result.shape("u")) == ([7, 3, 3, 3], [3, 3, 3, 3])
    assert (result.shape("v"), result.shape("v2")) == ([2, 5, 3, 3], [2, 5, 3, 3])


def test_what_a_slice_leaves_out() -> None:
    bounds = {"start": np.array([2]), "stop": np.array([6]), "axis": np.array([1])}
    body = "c = Conv(x, w, b)\n r = Relu(c)\n s = Slice(r, start, stop, axis)\n y = Conv(s, v, e)"
    result = chain(body, v=noise(2, 4, 3, 3), **bounds)
    assert result.shape("w")[0] < 8
    assert result.shape("v") == [2, 4, 3, 3]


def test_squeeze_and_excite_of_a_channel_that_is_zero() -> None:
    body = """c = Conv(x, w, b)\n r = Relu(c)\n g = GlobalAveragePool(r)\n h = Conv(g, s1)\n i = Relu(h)
        k = Conv(i, s2)
        m = Sigmoid(k)\n z = Mul(r, m)\n y = Conv<pads=[1,1,1,1]>(z, v, e)"""
    result = chain(body, rows=(2,), biases={2: -1.0}, s1=noise(4, 8, 1, 1), s2=noise(8, 4, 1, 1))
    assert (result.shape("w"), result.shape("s1"), result.shape("s2")) == ([7, 3, 3, 3], [4, 7, 1, 1], [7, 4, 1, 1])


def test_attention_loses_a_dimension_of_queries_that_are_zero() -> None:
    body = """q = MatMul(x, wq)\n k = MatMul(x, wk)\n v = MatMul(x, wv)\n kt = Transpose<perm=[0,2,1]>(k)
        s = MatMul(q, kt)\n a = Softmax<axis=-1>(s)\n o = MatMul(a, v)\n y = MatMul(o, wo)"""
    model = build(
        body,
        "(float[N,5,6] x) => (float[N,5,6] y)",
        wq=noise(6, 4, zero={1: [2]}),
        wk=noise(6, 4, seed=1),
        wv=noise(6, 4, seed=2, zero={1: [0]}),
        wo=noise(4, 6, seed=3),
    )
    result = eliminate(model)
    assert [result.shape(name) for name in ("wq", "wk", "wv", "wo")] == [[6, 3], [6, 3], [6, 3], [3, 6]]


def test_nhwc() -> None:
    body = """t = Transpose<perm=[0,3,1,2]>(x)\n c = Conv(t, w, b)\n u = Transpose<perm=[0,2,3,1]>(c)
        m = Mul(u, scale)
        r = Transpose<perm=[0,3,1,2]>(m)\n y = Conv(r, v, e)"""
    scale = np.array([1, 2, 0, 1, 1, 0, 3, 1], np.float32)
    result = chain(body, interface="(float[N,6,6,3] x) => (float[N,2,H,W] y)", scale=scale)
    assert (result.shape("w"), result.shape("scale"), result.shape("v")) == ([6, 3, 3, 3], [6], [2, 6, 3, 3])


def test_one_channel_stays_where_all_are_dead() -> None:
    result = chain(rows=tuple(range(8)))
    assert (result.shape("w"), result.shape("v")) == ([1, 3, 3, 3], [2, 1, 3, 3])
    assert result.applied == [
        "7 of 8 channels removed from Conv 'c_Conv', Conv 'y_Conv'; their constants are in the bias of Conv 'y_Conv'"
    ]


@pytest.mark.parametrize(
    ("channels", "dead", "align", "stay"),
    [
        (64, 1, 8, 64),
        (64, 7, 8, 64),
        (64, 8, 8, 56),
        (64, 9, 8, 56),
        (64, 9, 1, 55),
        (64, 9, 16, 64),
        (64, 60, 8, 4),  # so few cost little anyhow
        (64, 64, 8, 1),
        (20, 3, 8, 20),
        (20, 5, 8, 16),
    ],
)
def test_as_many_stay_as_engines_run_well(channels: int, dead: int, align: int, stay: int) -> None:
    model = build(
        CHAIN,
        SMALL,
        w=noise(channels, 3, 3, 3, zero={0: list(range(dead))}),
        b=noise(channels),
        v=noise(2, channels, 3, 3),
        e=noise(2),
    )
    result = eliminate(model, align=align)
    assert (result.shape("w"), result.shape("v")) == ([stay, 3, 3, 3], [2, stay, 3, 3])
    assert not eliminate(result.model, align=align).changed
    if stay == channels:
        count = "1 channel" if dead == 1 else f"{dead} channels"
        reason = f"engines run {channels} as fast as {channels - dead} (align={align})"
        assert result.declined == [f"{count} of 'c' constant or unheard, but not removed: {reason}"]


def test_channels_that_come_back_bring_what_they_hear() -> None:
    # Nothing hears channels 12 … 19 of d but the last layer; 4 of them come back, and with them what they hear of c.
    body = "c = Conv(x, w, b)\n d = Conv(c, u)\n y = Conv(d, v)"
    w, u = noise(24, 3, 3, 3), noise(20, 24, 1, 1)
    u[:12, 10:] = 0
    model = build(body, SMALL, w=w, b=noise(24), u=u, v=noise(2, 20, 3, 3, zero={1: list(range(12, 20))}))
    result = eliminate(model, align=8)
    assert (result.shape("w"), result.shape("u")) == ([24, 3, 3, 3], [16, 24, 1, 1])
    assert [eliminate(model).shape(name) for name in ("w", "u")] == [[10, 3, 3, 3], [12, 10, 1, 1]]


def test_it_is_done_after_one_run() -> None:
    first = chain(rows=tuple(range(8)))
    assert not eliminate(first.model).changed


@pytest.mark.parametrize(
    ("body", "biases", "reason"),
    [
        (CHAIN.replace("Conv(r", "Conv<pads=[1,1,1,1]>(r"), {1: 2.0}, "pads with zeros"),
        (CHAIN.replace("Conv(r", 'Conv<auto_pad="SAME_UPPER">(r'), {1: 2.0}, "pads with zeros"),
        ("c = Conv(x, w, b)\n r = Sigmoid(c)\n y = Conv<pads=[1,1,1,1]>(r, v, e)", {1: 0.0}, "pads with zeros"),
        ("c = Conv(x, w, b)\n r = LeakyRelu(c)\n y = ConvTranspose(r, vt)", {1: -2.0}, "ConvTranspose"),
        ("c = Conv(x, w, b)\n r = Mul(c, inf)\n y = Conv(r, v, e)", {1: 1.0}, "isn't finite"),
        ("c = Conv(x, w, b)\n m = ReduceSum(c, one)\n y = Concat<axis=1>(m, m)", {1: 1.0}, "has no bias"),
        ("c = Conv(x, w, b)\n l = LRN<size=3>(c)\n y = Conv(l, v, e)", {1: 1.0}, "LRN normalizes"),
        ("c = Conv(x, w, b)\n d = Conv(x, u)\n s = Add(c, d)\n y = Conv(s, v, e)", {1: 1.0}, "isn't constant"),
    ],
)
def test_it_declines_and_says_why(body: str, biases: dict[int, float], reason: str) -> None:
    extra = {
        "vt": noise(8, 2, 3, 3),
        "u": noise(8, 3, 3, 3, seed=4),
        "one": np.array([1]),
        "inf": np.array([1, np.inf, 1, 1, 1, 1, 1, 1], np.float32).reshape(8, 1, 1),
    }
    own = {"w": noise(8, 3, 3, 3, zero={0: [1]}), "b": noise(8), "v": noise(2, 8, 3, 3), "e": noise(2), **extra}
    for channel, value in biases.items():
        own["b"][channel] = value
    model = build(body, SMALL, **{name: value for name, value in own.items() if f" {name}" in body})
    result = eliminate(model)
    assert not result.changed
    assert any(reason in message for message in result.declined), result.declined


@pytest.mark.parametrize(
    ("between", "zero_goes"),
    [
        ("n = LpNormalization<axis=1, p=2>(r)", False),
        ("q = Reshape(r, merge)\n p = ReduceSum(q, first)\n m = ReduceMean(p)\n n = Add(r, m)", False),
        ('g = Einsum<equation="nchw,nchw->nhw">(r, r)\n u = Unsqueeze(g, first_)\n n = Add(x2, u)', True),
        (
            (
                "q = Reshape(r, flat)\n t = Transpose<perm=[0,2,1]>(q)\n g = MatMul(t, q)\n m = ReduceMax(g)\n"
                " n = Add(x2, m)"
            ),
            True,
        ),
        ("i, j = TopK<axis=1>(r, four)\n m = ReduceMax<axes=[1]>(i)\n n = Add(r, m)", False),
        ("u = CumSum(r, one)\n n = Conv(u, v8)", False),
    ],
)
def test_readers_that_sum_over_channels_hear_a_constant(between: str, zero_goes: bool) -> None:
    """A channel that is 2 stays, whatever else looks dead; one that is 0 goes where nothing counts channels."""
    body = f"c = Conv(x, w, b)\n r = Relu(c)\n x2 = Conv(x, w2)\n {between}\n y = Conv(n, v, e)"
    constants = {
        "merge": np.array([-1, 4, 4]),
        "flat": np.array([1, 8, 16]),
        "first": np.array([0]),
        "first_": np.array([1]),
        "one": np.array(1),
        "four": np.array([4]),
        "w2": noise(8, 3, 3, 3, seed=6),
        "v8": noise(8, 8, 1, 1),
        "v": noise(2, 8, 3, 3),
    }
    one = "(float[1,3,6,6] x) => (float[1,2,H,W] y)"
    for value, goes in ((2.0, False), (-2.0, zero_goes)):
        result = chain(body, rows=(3,), biases={3: value}, interface=one, **constants)
        assert (result.shape("w")[0] == 7) == goes, (value, result.applied, result.declined)


def test_almost_zero_is_not_zero() -> None:
    w, v = noise(8, 3, 3, 3), noise(2, 8, 3, 3)
    w[1], v[:, 4] = 1e-30, 1e-40  # the second is subnormal
    result = chain(w=w, v=v)
    assert (result.changed, result.declined) == (False, [])


def test_graph_outputs_stay() -> None:
    result = chain(
        rows=(1,), columns=(2,), biases={1: 2.0}, interface="(float[1,3,6,6] x) => (float[1,2,2,2] y, float[1,8,4,4] r)"
    )
    assert not result.changed
    assert any("graph output" in message for message in result.declined)


def test_a_weight_that_another_layer_reads_too() -> None:
    # The second reader of w gives channel 1 another bias, and pads: it has to stay everywhere.
    body = """c = Conv<pads=[1,1,1,1]>(x, w, b)\n d = Conv<pads=[1,1,1,1]>(x, w, f)\n r = Conv<pads=[1,1,1,1]>(c, v, e)
        s = Conv<pads=[1,1,1,1]>(d, v)\n y = Add(r, s)"""
    stay = chain(body, rows=(1,), biases={1: 0.0}, f=noise(8, seed=8))
    assert not stay.changed
    zero = noise(8, seed=8)
    zero[1] = 0
    gone = chain(body, rows=(1,), biases={1: 0.0}, f=zero)
    assert (gone.shape("w"), gone.shape("v")) == ([7, 3, 3, 3], [2, 7, 3, 3])


def test_a_bias_that_others_read_is_not_changed_for_them() -> None:
    body = "c = Conv(x, w, b)\n y1 = Conv(c, v, e)\n p = Conv(x, v2, e)\n y = Add(y1, p2)"
    body = body.replace("y = Add(y1, p2)", "p2 = MaxPool<kernel_shape=[3,3]>(p)\n y = Add(y1, p2)")
    result = chain(body, rows=(1,), biases={1: 2.0}, v2=noise(2, 3, 3, 3))
    assert result.shape("v") == [2, 7, 3, 3]
    np.testing.assert_array_equal(result.values("e"), noise(2))


def test_what_a_nested_graph_reads_stays() -> None:
    text = """c = Conv(x, w, b)
        y = If(flag) <then_branch = t () => (float[N,2,H,W] u) { u = Conv(c, v, e) },
                      else_branch = f () => (float[N,2,H,W] o) { q = Conv(c, v, e)\n o = Neg(q) }>"""
    model = build(
        text,
        "(float[N,3,6,6] x) => (float[N,2,H,W] y)",
        flag=np.array(True),
        w=noise(8, 3, 3, 3, zero={0: [1]}),
        b=noise(8),
        v=noise(2, 8, 3, 3, zero={1: [3]}),
        e=noise(2),
    )
    result = eliminate(model)
    assert not result.changed
    assert any("nested graph" in message for message in result.declined)


def test_how_channels_hang_together_is_not_asked_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_graph: object) -> object:
        raise AssertionError("coupling was asked for")

    monkeypatch.setattr(eliminate_dead_channels, "couple", never)
    assert not chain().changed
    with pytest.raises(Exception, match="coupling was asked for"):
        chain(columns=(1,))


@pytest.mark.parametrize("opset", [7, 11, 13, 22])
def test_any_opset(opset: int) -> None:
    model = build(
        CHAIN,
        SMALL,
        opset,
        w=noise(8, 3, 3, 3, zero={0: [1]}),
        b=noise(8),
        v=noise(2, 8, 3, 3, zero={1: [3]}),
        e=noise(2),
    )
    if opset < 9:
        model.ir_version = 8
    assert eliminate(model).shape("v") == [2, 6, 3, 3]


@pytest.mark.parametrize("seed", range(12))
def test_random_masks_over_a_residual_network(seed: int) -> None:
    """Rows and columns that are zeroed at random; constants everywhere, padded and not."""
    rng = np.random.default_rng(seed)
    body = """c = Conv<pads=[1,1,1,1]>(x, w0, b0)\n r0 = Relu(c)
        d = Conv<pads=[1,1,1,1]>(r0, w1, b1)\n r1 = Relu(d)\n f = Conv(r1, w2, b2)\n s = Add(r0, f)\n r2 = Relu(s)
        g = Conv<group=2>(r2, w3, b3)\n h = HardSwish(g)\n k = Concat<axis=1>(h, h2)\n p = GlobalAveragePool(k)
        z = Flatten(p)\n y = Gemm<transB=1>(z, w4, b4)"""
    body = body.replace("k = Concat", "h2 = Conv<kernel_shape=[1,1]>(r2, w5)\n k = Concat")
    shapes = {
        "w0": (8, 3, 3, 3),
        "w1": (6, 8, 3, 3),
        "w2": (8, 6, 1, 1),
        "w3": (8, 4, 1, 1),
        "w4": (5, 14),
        "w5": (6, 8, 1, 1),
    }
    constants = {name: noise(*shape, seed=seed) for name, shape in shapes.items()}
    biases = {f"b{i}": noise(constants[f"w{i}"].shape[0], seed=seed) for i in range(5)}
    for weight in constants.values():
        for axis in (0, 1):
            np.moveaxis(weight, axis, 0)[rng.random(weight.shape[axis]) < 0.3] = 0
    for bias in biases.values():
        bias[rng.random(len(bias)) < 0.5] = -1
    model = build(body, "(float[2,3,6,6] x) => (float[2,5] y)", **constants, **biases)
    result = eliminate(model)
    assert result.applied
