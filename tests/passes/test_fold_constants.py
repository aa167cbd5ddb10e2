import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.ir import from_proto
from graphopt.ir.elements import Node, Variable
from graphopt.ir.evaluate import evaluate
from graphopt.ir.kernels import NotEvaluableError
from graphopt.ir.shapes import infer
from graphopt.passes.fold_constants import FoldConstants
from graphopt.pipeline import Context
from tests.support.rewrite import Rewritten, assert_same_outputs, parse, rewrite, run

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def fold(text: str, **options: int) -> tuple[onnx.ModelProto, Rewritten]:
    """With inferred shapes, as a loaded model has them."""
    model = onnx.shape_inference.infer_shapes(parse(HEADER + text), data_prop=True)
    return model, rewrite(FoldConstants(**options), model)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def test_constant_nodes_become_initializers_under_the_same_name() -> None:
    before, result = fold(
        """g (float[3] x) => (float[3] y) {
            c = Constant <value: tensor = float[3] {1, 2, 3}> ()
            s = Constant <value_float: float = 2.0> ()
            a = Mul(c, s)
            y = Add(x, a)
        }"""
    )
    assert result.ops == ["Add"]
    np.testing.assert_array_equal(constants(result.model)["a"], np.array([2, 4, 6], np.float32))
    assert_same_outputs(before, result.model)


def test_a_constant_cast_to_the_type_of_an_activation_is_constant() -> None:
    """What torch.onnx.export(dynamo=True, optimize=False) makes of a Conv without a bias."""
    before, result = fold(
        """g (float[N,2,4,4] x) => (float[N,3,4,4] y, float[N,2,4,4] z)
            <float[3,2,1,1] w = {1, 2, 3, 4, 5, 6}, int64 six = {6}> {
            zero = Constant <value: tensor = float16[3] {0, 0, 0}> ()
            b = CastLike(zero, x)
            y = Conv(x, w, b)
            high = CastLike(six, x)
            z = Clip(x, , high)
        }"""
    )
    assert sorted(result.ops) == ["Clip", "Conv"]
    assert_same_outputs(before, result.model)


def test_a_computed_cast_like_becomes_a_cast_of_the_same_name_and_type() -> None:
    before, result = fold(
        """g (float[3] x, int64[1] like) => (int64[3] y) {
            y = CastLike(x, like)
        }"""
    )
    assert result.ops == ["Cast"]
    assert_same_outputs(before, result.model)


def test_a_shape_chain_with_an_unknown_batch_ends_in_a_constant_target() -> None:
    before, result = fold(
        """g (float[N,4,6] x) => (float[M,K] y)
            <int64 zero = {0}, int64 one = {1}, int64[1] axis = {0}, int64[1] six = {6}> {
            s = Shape(x)
            n = Gather<axis=0>(s, zero)
            c = Gather<axis=0>(s, one)
            n1 = Unsqueeze(n, axis)
            c1 = Unsqueeze(c, axis)
            c6 = Mul(c1, six)
            t = Concat<axis=0>(n1, c6)
            y = Reshape(x, t)
        }"""
    )
    target = next(n for n in result.model.graph.node if n.op_type == "Reshape").input[1]
    assert constants(result.model)[target].tolist() == [-1, 24]
    assert_same_outputs(before, result.model)


def test_the_same_symbol_is_copied_where_minus_one_is_taken() -> None:
    before, result = fold(
        """g (float[N,4,6] x) => (float[M,K] y) <int64[1] zero = {0}, int64[1] rest = {-1}> {
            s = Shape(x)
            n = Gather<axis=0>(s, zero)
            t = Concat<axis=0>(n, rest)
            y = Reshape(x, t)
        }"""
    )
    target = next(n for n in result.model.graph.node if n.op_type == "Reshape").input[1]
    assert constants(result.model)[target].tolist() == [0, -1]
    assert_same_outputs(before, result.model)


def test_a_shape_is_followed_through_casts() -> None:
    before, result = fold(
        """g (float[N,4,6] x) => (float[M,K] y) <int64[1] i0 = {0}, int64[1] i1 = {1}, int32[1] rest = {-1}> {
            s = Shape(x)
            c = Cast<to=6>(s)
            n = Slice(c, i0, i1)
            t = Concat<axis=0>(n, rest)
            d = Cast<to=7>(t)
            y = Reshape(x, d)
        }"""
    )
    assert result.ops == ["Reshape"]
    assert_same_outputs(before, result.model)


def test_two_unknown_axes_stay() -> None:
    _, result = fold(
        """g (float[A,B,6] x, float[C,D] z) => (float[M,K,L] y) <int64[1] six = {6}> {
            s = Shape(z)
            t = Concat<axis=0>(s, six)
            y = Reshape(x, t)
        }"""
    )
    assert "Shape" in result.ops


def test_a_count_of_detections_is_not_inferred_beside_minus_one() -> None:
    # NonZero may find nothing: Reshape can't work −1 out when another axis is 0.
    _, result = fold(
        """g (float[8] x) => (float[M,K] y) <int64[1] one = {1}, int64[1] rest = {-1}, int64[1] axis0 = {0}> {
            n = NonZero(x)
            p = Transpose<perm=[1, 0]>(n)
            f = Cast<to=1>(p)
            s = Shape(f)
            d = Slice(s, axis0, one)
            t = Concat<axis=0>(d, rest)
            y = Reshape(f, t)
        }"""
    )
    assert "Shape" in result.ops


def test_shape_with_start_and_size() -> None:
    before, result = fold(
        "g (float[N,4,6] x, float[2,5] z) => (int64[2] y, int64 w) { s = Shape<start=1>(x)\n y = Neg(s)\n w = Size(z) }"
    )
    assert result.ops == ["Constant", "Constant"]
    assert_same_outputs(before, result.model)


def test_what_a_fold_makes_known_is_inferred_and_used() -> None:
    # Range and Expand hide the shape from inference; once the target is constant, Shape(r) is known too.
    before, result = fold(
        """g (float[N,4,6] x) => (int64[1] y)
            <int64 a = {1}, int64 b = {3}, int64 d = {1}, int64[1] i0 = {0}, int64 i2 = {2}> {
            s = Shape(x)
            r = Range(a, b, d)
            g = Gather<axis=0>(s, r)
            n = Gather<axis=0>(s, i0)
            t = Concat<axis=0>(n, g)
            v = Reshape(x, t)
            e = Relu(v)
            s2 = Shape(e)
            k = Gather<axis=0>(s2, i2)
            k1 = Unsqueeze(k, i0)
            y = Identity(k1)
        }"""
    )
    assert result.ops == ["Constant"]
    assert_same_outputs(before, result.model)


@pytest.mark.parametrize("condition", [0, 1])
def test_a_decided_if_is_replaced_by_its_branch(condition: int) -> None:
    before, result = fold(
        f"""g (float[2] x) => (float[2] y) <bool c = {{{condition}}}> {{
            z = If(c) <then_branch = t () => (float[2] p) <float[2] w = {{1, 2}}> {{ q = Add(x, w) p = Relu(q) }},
                       else_branch = e () => (float[2] r) {{ r = Neg(x) }}>
            y = Exp(z)
        }}"""
    )
    assert result.ops == (["Add", "Relu", "Exp"] if condition else ["Neg", "Exp"])
    assert_same_outputs(before, result.model)


def test_a_branch_that_gives_back_an_outer_tensor_or_a_constant() -> None:
    before, result = fold(
        """g (float[2] x) => (float[2] y, float[2] z, float[2] u) <bool c = {1}> {
            y, z, u = If(c) <then_branch = t () => (float[2] p, float[2] w, float[2] a) <float[2] w = {1, 2}>
                          { a = Neg(x) p = Identity(x) },
                          else_branch = e () => (float[2] r, float[2] s, float[2] v) { r = Neg(x) s = Neg(r)
                              v = Neg(s) }>
        }"""
    )
    assert "If" not in result.ops
    assert_same_outputs(before, result.model)


def test_a_decided_if_inside_a_decided_if() -> None:
    before, result = fold(
        """g (float[2] x) => (float[2] y) <bool c = {1}> {
            a = Neg(x)
            y = If(c) <then_branch = t () => (float[2] p) {
                n = Not(c)
                p = If(n) <then_branch = t2 () => (float[2] p2) { p2 = Neg(a) },
                           else_branch = e2 () => (float[2] r2) { r2 = Exp(a) }> },
              else_branch = e () => (float[2] r) { r = Neg(x) }>
        }"""
    )
    assert result.ops == ["Neg", "Exp"]
    assert_same_outputs(before, result.model)


def test_constants_inside_a_branch_fold_there() -> None:
    before, result = fold(
        """g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
            y = If(c) <then_branch = t () => (float[2] p) { e = Exp(w) p = Add(x, e) },
                       else_branch = e () => (float[2] r) { r = Neg(x) }>
        }"""
    )
    body = next(a.g for a in result.model.graph.node[0].attribute if a.name == "then_branch")
    assert [n.op_type for n in body.node] == ["Add"]
    for c in (True, False):
        feeds = {"x": np.ones(2, np.float32), "c": np.array(c)}
        np.testing.assert_allclose(run(result.model, feeds)[0], run(before, feeds)[0], rtol=1e-6)


def test_a_big_result_of_a_small_constant_is_kept_and_said() -> None:
    text = """g (float[1000,1000] x) => (float[1000,1000] y) <int64[2] s = {1000, 1000}> {
        z = ConstantOfShape(s)
        y = Add(x, z)
    }"""
    _, result = fold(text)
    assert result.ops == ["ConstantOfShape", "Add"]
    assert "4,000,000 bytes" in result.declined()[0]
    assert fold(text, max_bytes=4_000_000)[1].ops == ["Add"]


def test_a_big_weight_may_be_rearranged() -> None:
    weight = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info("x", TensorProto.FLOAT, [1, 3])], [info("y", TensorProto.FLOAT, [1, 2])], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert rewrite(FoldConstants(max_bytes=1), model).ops == ["MatMul"]


def test_a_default_that_the_caller_may_override_is_not_constant() -> None:
    model = parse(HEADER + "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { e = Exp(w)\n y = Add(x, e) }")
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))
    assert rewrite(FoldConstants(), model).ops == ["Exp", "Add"]


def test_a_constant_output_of_the_model_stays_a_node() -> None:
    before, result = fold(
        "g (float[2] x) => (float[2] y, float[2] z) <float[2] w = {1, 2}> { z = Exp(w)\n y = Add(x, z) }"
    )
    assert sorted(result.ops) == ["Add", "Constant"]
    assert [o.name for o in result.model.graph.output] == ["y", "z"]
    assert_same_outputs(before, result.model)


@pytest.mark.parametrize(
    "body",
    [
        "s = RandomUniformLike<seed=1.0>(w)\n y = Add(x, s)",
        "s = Bernoulli(w)\n y = Add(x, s)",
        "s, m = Dropout(w, half, yes)\n y = Add(x, s)",
    ],
)
def test_random_operators_stay(body: str) -> None:
    text = "g (float[2] x) => (float[2] y) <float[2] w = {0, 1}, float half = {0.5}, bool yes = {1}> { " + body + " }"
    _, result = fold(text)
    assert len(result.ops) == 2
    assert "each run" in result.declined()[0]


def test_weights_stay_quantized() -> None:
    _, result = fold(
        """g (float[2] x) => (float[2] y) <int8[2] w = {1, 2}, float s = {0.5}> {
            d = DequantizeLinear(w, s)
            y = Add(x, d)
        }"""
    )
    assert result.revision == 0


def test_strings_and_custom_operators_stay() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17, "my.ops" : 1]>\n'
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { e = my.ops.Exp(w)\n y = Add(x, e) }"
    )
    result = rewrite(FoldConstants(), model)
    assert result.ops == ["Exp", "Add"]
    assert "my.ops" in result.declined()[0]


def value_of(op: str, *inputs: np.ndarray, **attrs: object) -> np.ndarray:
    node = Node(op, "n", dict(attrs), [Variable(f"i{i}") for i in range(len(inputs))], [Variable("o")])
    return evaluate(node, list(inputs), 17)[0]


def test_integer_division_cuts_towards_zero() -> None:
    out = value_of("Div", np.array([-7, 7, -7, 6]), np.array([2, -2, -2, 3]))
    assert out.tolist() == [-3, -3, 3, 2]
    with pytest.raises(NotEvaluableError, match="zero"):
        value_of("Div", np.array([1]), np.array([0]))


def test_a_cast_out_of_range_is_left_to_the_machine() -> None:
    assert value_of("Cast", np.array([-1.5, 2.9], np.float32), to=TensorProto.INT32).tolist() == [-1, 2]
    for value in (np.inf, np.nan, 3e9):
        with pytest.raises(NotEvaluableError, match="out of the range"):
            value_of("Cast", np.array([value], np.float32), to=TensorProto.INT32)


@pytest.mark.parametrize(
    ("start", "end", "step", "expected"),
    [(0, 2**31, 1, [0, 1, 2, 3]), (-1, -(2**31), -1, [3, 2, 1, 0]), (3, -5, -2, [3, 1]), (-10, 2, 1, [0, 1])],
)
def test_slices_clamp_as_onnx_says(start: int, end: int, step: int, expected: list[int]) -> None:
    arrays = [np.array([v], np.int64) for v in (start, end, 0, step)]
    assert value_of("Slice", np.arange(4), *arrays).tolist() == expected


def test_an_old_meaning_is_not_guessed() -> None:
    node = Node("Softmax", "n", {}, [Variable("i")], [Variable("o")])
    with pytest.raises(NotEvaluableError, match="opset 13"):
        evaluate(node, [np.ones((2, 3, 4), np.float32)], 11)


def test_a_value_that_contradicts_the_model_is_not_used() -> None:
    node = Node("Exp", "n", {}, [Variable("i")], [Variable("o", np.dtype(np.float32), (3,))])
    with pytest.raises(NotEvaluableError, match="the model says"):
        evaluate(node, [np.ones(2, np.float32)], 17)


def test_old_opsets_with_attributes() -> None:
    model = parse(
        """<ir_version: 6, opset_import: ["" : 9]>
        g (float[2,1,3] x) => (float[2,3] y) <float[2,1,3] w = {1,2,3,4,5,6}> {
            s = Slice<starts=[0], ends=[1], axes=[0]>(w)
            q = Squeeze<axes=[0, 1]>(s)
            u = Unsqueeze<axes=[0]>(q)
            z = Squeeze<axes=[1]>(x)
            y = Add(z, u)
        }"""
    )
    graph = from_proto(model)
    infer(graph)
    FoldConstants().run(graph, Context())
    assert [n.op for n in graph.nodes] == ["Squeeze", "Add"]
    assert_same_outputs(model, rewrite(FoldConstants(), model).model)
