import onnx
import pytest

from graphopt.passes.fold_pad import FoldPad
from tests.support.rewrite import Rewritten, assert_same_outputs, parse, rewrite

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
CONSTANTS = """int64[8] p = {0, 0, 1, 2, 0, 0, 0, 1}, int64[8] p1 = {0, 0, 1, 1, 0, 0, 1, 1},
    int64[8] cut = {0, 0, -1, 1, 0, 0, 1, 1}, int64[8] channel = {0, 1, 1, 1, 0, 0, 1, 1},
    float zero = {0}, float five = {5}, float ninf = {-inf}"""


def fold(body: str, header: str = HEADER, constants: str = CONSTANTS) -> Rewritten:
    """`body` computes y from a: float[1,2,7,8] (never negative: r); the weight W is float[3,2,3,3]."""
    inputs = "float[1,2,7,8] a, float[3,2,3,3] W"
    text = f"{header} g ({inputs}) => (float[A,B,C,D] y) <{constants}> {{ r = Relu(a)\n {body} }}"
    model = parse(text)
    result = rewrite(FoldPad(), model)
    assert_same_outputs(model, result.model)
    return result


def pads(result: Rewritten) -> list[int]:
    node = next(n for n in result.model.graph.node if n.op_type in ("Conv", "MaxPool", "AveragePool", "LpPool"))
    return next((list(a.ints) for a in node.attribute if a.name == "pads"), [])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("q = Pad(a, p)\n y = Conv(q, W)", [1, 2, 0, 1]),
        ("q = Pad(a, p, zero)\n y = Conv<pads=[1, 0, 0, 1]>(q, W)", [2, 2, 0, 2]),
        ('q = Pad(a, p1)\n y = Conv<auto_pad="VALID", strides=[2, 2], dilations=[2, 1]>(q, W)', [1, 1, 1, 1]),
        ("q = Pad(a, p1)\n y = AveragePool<kernel_shape=[3, 3]>(q)", [1, 1, 1, 1]),
        (
            "q = Pad(a, p1)\n y = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1>(q)",
            [2, 2, 2, 2],
        ),
        ("q = Pad(a, p1)\n y = LpPool<kernel_shape=[3, 3]>(q)", [1, 1, 1, 1]),
        ("q = Pad(a, p1, ninf)\n y = MaxPool<kernel_shape=[3, 3], strides=[2, 2]>(q)", [1, 1, 1, 1]),
        ("q = Pad(r, p1)\n y = MaxPool<kernel_shape=[3, 3], strides=[2, 2]>(q)", [1, 1, 1, 1]),
        ("q = Pad(a, p1)\n s = Pad(q, p)\n y = Conv(s, W)", [2, 3, 1, 2]),
    ],
)
def test_the_reader_pads_itself(body: str, expected: list[int]) -> None:
    result = fold(body)
    assert "Pad" not in result.ops
    assert pads(result) == expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('q = Pad<mode="reflect">(a, p)\n y = Conv(q, W)', "reflect"),
        ("q = Pad(a, p, five)\n y = Conv(q, W)", "pads with 5"),
        ("q = Pad(a, cut)\n y = Conv(q, W)", "negative"),
        ("q = Pad(a, channel)\n y = LpPool<kernel_shape=[3, 3]>(q)", "channels"),
        ('q = Pad(a, p)\n y = Conv<auto_pad="SAME_UPPER">(q, W)', "auto_pad"),
        ("q = Pad(a, p1)\n y = MaxPool<kernel_shape=[3, 3]>(q)", "negative"),
        ("q = Pad(r, p1, five)\n y = MaxPool<kernel_shape=[3, 3]>(q)", "−∞"),
        ("q = Pad(r, p1)\n y = MaxPool<kernel_shape=[3, 3], dilations=[2, 2]>(q)", "dilated"),
        ("q = Pad(r, p1)\n y = MaxPool<kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1>(q)", "ceil_mode"),
        ("q = Pad(r, p1)\n y, i = MaxPool<kernel_shape=[3, 3]>(q)", "indices"),
        ("q = Pad(r, p1)\n y = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(q)", "leaves out"),
        ("q = Pad(r, p)\n y = AveragePool<kernel_shape=[2, 2]>(q)", "as long as the window"),
        ("z = Cast<to=7>(p1)\n q = Pad(a, z)\n y = Conv(q, W)", "run time"),
    ],
)
def test_it_declines_and_says_why(body: str, reason: str) -> None:
    result = fold(body)
    assert result.revision == 0
    assert any(reason in message for message in result.declined())


def test_each_reader_is_treated_on_its_own() -> None:
    result = fold("q = Pad(a, p1)\n c = Conv(q, W)\n n = Exp(q)\n m = ReduceSum<keepdims=1>(n)\n y = Add(c, m)")
    assert "Pad" in result.ops
    assert pads(result) == [1, 1, 1, 1]


def test_a_pad_that_is_an_output_stays_one() -> None:
    model = parse(
        HEADER + "g (float[1,2,7,8] a, float[3,2,3,3] W)"
        " => (float[1,3,7,8] y, float[1,2,9,10] q) <int64[8] p = {0,0,1,1,0,0,1,1}>"
        "{ q = Pad(a, p)\n y = Conv(q, W) }"
    )
    result = rewrite(FoldPad(), model)
    assert result.ops == ["Pad", "Conv"]
    assert pads(result) == [1, 1, 1, 1]
    assert_same_outputs(model, result.model)


def test_a_padded_weight_is_not_padded_data() -> None:
    result = fold("V = Pad(W, p1)\n y = Conv(a, V)")
    assert result.revision == 0


def test_axes_as_an_input() -> None:
    header = HEADER.replace("17", "18")
    result = fold("q = Pad(a, two, , last)\n y = Conv(q, W)", header, "int64[2] two = {1, 2}, int64[1] last = {-1}")
    assert pads(result) == [0, 1, 0, 2]


def test_pads_as_an_attribute_and_one_axis() -> None:
    model = parse(
        """<ir_version: 6, opset_import: ["" : 9]>
        g (float[1,2,7] a, float[3,2,3] W) => (float[1,3,8] y) { q = Pad<pads=[0, 0, 1, 0, 0, 2],
            value=0.0>(a)\n y = Conv(q, W) }"""
    )
    result = rewrite(FoldPad(), model)
    assert result.ops == ["Conv"]
    assert pads(result) == [1, 2]
    assert_same_outputs(model, result.model)


def test_inside_a_branch() -> None:
    text = (
        HEADER
        + """g (float[1,1,4] x, bool c, float[1,1,3] W) => (float[1,1,4] y) <int64[6] p = {0, 0, 1, 0, 0, 1}> {
        y = If(c) <then_branch = t () => (float[1,1,4] u) { q = Pad(x, p) u = Conv(q, W) },
                   else_branch = e () => (float[1,1,4] r) { r = Neg(x) }>
    }"""
    )
    result = rewrite(FoldPad(), text)
    body: onnx.GraphProto = next(a.g for a in result.model.graph.node[0].attribute if a.name == "then_branch")
    assert [n.op_type for n in body.node] == ["Conv"]
