import onnx
import pytest

from graphopt.passes.merge_duplicates import MergeDuplicates
from tests.support.rewrite import assert_same_outputs, parse, rewrite

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def merge(text: str) -> tuple[onnx.ModelProto, list[str], list[str]]:
    before = parse(HEADER + text)
    result = rewrite(MergeDuplicates(), before)
    assert_same_outputs(before, result.model)
    return result.model, result.ops, result.declined()


def test_equal_chains_are_computed_once() -> None:
    _, ops, _ = merge(
        "g (float[2] x) => (float[2] y) { a = Exp(x)\n b = Neg(a)\n c = Exp(x)\n d = Neg(c)\n y = Add(b, d) }"
    )
    assert ops == ["Exp", "Neg", "Add"]


def test_operands_of_commutative_operators_may_be_swapped() -> None:
    assert merge("g (float[2] x, float[2] z) => (float[2] y) { a = Add(x, z)\n b = Add(z, x)\n y = Mul(a, b) }")[1] == [
        "Add",
        "Mul",
    ]
    assert (
        len(merge("g (float[2] x, float[2] z) => (float[2] y) { a = Sub(x, z)\n b = Sub(z, x)\n y = Mul(a, b) }")[1])
        == 3
    )


def test_three_addends_round_by_order() -> None:
    text = (
        "g (float[2] x, float[2] z, float[2] w) => (float[2] y) { a = Sum(x, z, w)\n b = Sum(w, z, x)\n y = Mul(a, b) }"
    )
    assert merge(text)[1] == ["Sum", "Sum", "Mul"]


@pytest.mark.parametrize(
    "pair",
    [
        "a = LeakyRelu<alpha=0.1>(x)\n b = LeakyRelu<alpha=0.2>(x)",
        "a = Exp(x)\n b = Neg(x)",
        "a = Clip(x, l)\n b = Clip(x, , l)",
    ],
)
def test_different_nodes_stay(pair: str) -> None:
    text = "g (float[2] x) => (float[2] y) <float l = {0.5}> { " + pair + "\n y = Add(a, b) }"
    assert len(merge(text)[1]) == 3


def test_equal_constants_are_stored_once_and_so_their_readers_merge() -> None:
    model, ops, _ = merge(
        """g (float[2] x) => (float[2] y)
            <float[2] v = {1, 2}, float[2] w = {1, 2}, float[1,2] u = {1, 2}, int32[2] i = {1, 2}> {
            a = Mul(x, v)
            b = Mul(x, w)
            c = Add(a, b)
            d = Cast<to=1>(i)
            e = Squeeze(u)
            f = Add(c, d)
            y = Add(f, e)
        }"""
    )
    assert sorted(i.name for i in model.graph.initializer) == ["i", "u", "v"]
    assert ops.count("Mul") == 1


def test_an_output_keeps_its_name() -> None:
    model, ops, _ = merge("g (float[2] x) => (float[2] y, float[2] z) { a = Exp(x)\n y = Exp(x)\n z = Neg(a) }")
    assert ops == ["Exp", "Neg"]
    assert [o.name for o in model.graph.output] == ["y", "z"]


def test_two_outputs_stay_two_and_it_is_said() -> None:
    _, ops, declined = merge("g (float[2] x) => (float[2] y, float[2] z) { y = Exp(x)\n z = Exp(x) }")
    assert ops == ["Exp", "Exp"]
    assert "both outputs" in declined[0]


def test_nodes_with_several_outputs_merge_whole() -> None:
    text = """g (float[4] x) => (float[2] y, float[2] z) {
        a, b = Split<axis=0>(x)
        c, d = Split<axis=0>(x)
        y = Add(a, d)
        z = Sub(b, c)
    }"""
    assert merge(text)[1] == ["Split", "Add", "Sub"]


def test_random_and_quantizing_nodes_stay() -> None:
    text = (
        HEADER
        + "g (float[2] x) => (float[2] y) { a = RandomUniformLike(x)\n b = RandomUniformLike(x)\n y = Sub(a, b) }"
    )
    assert len(rewrite(MergeDuplicates(), text).ops) == 3
    text = """g (float[2] x) => (float[2] y) <float s = {0.5}, uint8 z = {0}> {
        a = QuantizeLinear(x, s, z)
        b = QuantizeLinear(x, s, z)
        c = DequantizeLinear(a, s, z)
        d = DequantizeLinear(b, s, z)
        y = Add(c, d)
    }"""
    assert len(merge(text)[1]) == 5


def test_a_branch_is_treated_on_its_own() -> None:
    text = (
        HEADER
        + """g (float[2] x, bool c) => (float[2] y) {
        a = Exp(x)
        z = If(c) <then_branch = t () => (float[2] p) { q = Exp(x) r = Exp(x) p = Add(q, r) },
                   else_branch = e () => (float[2] s) { s = Neg(x) }>
        y = Add(a, z)
    }"""
    )
    result = rewrite(MergeDuplicates(), text)
    body = next(a.g for a in result.model.graph.node[1].attribute if a.name == "then_branch")
    assert [n.op_type for n in body.node] == ["Exp", "Add"]
    assert result.ops == ["Exp", "If", "Add"]


def test_a_default_that_the_caller_may_override_is_not_merged() -> None:
    model = parse(
        HEADER
        + "g (float[2] x) => (float[2] y) <float[2] v = {1, 2}, float[2] w = {1, 2}> { a = Add(x, v)\n y = Mul(a, w) }"
    )
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [2]))
    assert rewrite(MergeDuplicates(), model).revision == 0
