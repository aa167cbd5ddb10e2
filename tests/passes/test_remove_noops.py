import onnx
import pytest

from graphopt.passes.remove_noops import RemoveNoops
from tests.support.rewrite import Rewritten, assert_same_outputs, parse, rewrite

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
CONSTANTS = """float one = {1}, float zero = {0}, float[1] one1 = {1}, float[2,1,1,1] wide = {1, 1}, float two = {2},
    int64[4] ones = {1, 1, 1, 1}, int64[8] no_pads = {0, 0, 0, 0, 0, 0, 0, 0}, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1},
    int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2}, int64[1] i3 = {3}, int64[1] i4 = {4}, int64[1] im1 = {-1},
    int64[1] imin = {-9223372036854775807}, int64[1] imax = {9223372036854775807}, float[4] s1 = {1, 1, 1, 1},
        float[4] s2 = {1, 1, 2, 2},
    float inf = {inf}, float ninf = {-inf}, int64[4] same = {0, 3, -1, 5}, int64[4] other = {0, 4, 3, 5},
    int64[2] flat = {0, -1}, int64[2] six = {6, -1}, bool yes = {1}, bool no = {0}, int64[4] xshape = {1, 3, 4, 5}"""


def remove(body: str, shape: str = "1,3,4,5", opset: int = 17) -> Rewritten:
    """`body` computes t from x; a Relu before it and a Neg after it keep the interface out of the way."""
    header = HEADER.replace("17", str(opset))
    model = parse(
        f"{header} g (float[{shape}] in) => (float out) <{CONSTANTS}> {{ x = Abs(in)\n {body}\n out = Neg(t) }}"
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    result = rewrite(RemoveNoops(), model)
    assert_same_outputs(model, result.model)
    return result


@pytest.mark.parametrize(
    "body",
    [
        "t = Identity(x)",
        "t = Dropout(x)",
        "t, mask = Dropout(x, zero, no)",
        "t = Cast<to=1>(x)",
        "t = CastLike(x, two)",
        "t = Reshape(x, same)",
        "t = Reshape(x, xshape)",
        "t = Transpose<perm=[0, 1, 2, 3]>(x)",
        "t = Pad(x, no_pads)",
        "t = Slice(x, i0, imax, i2)",
        "t = Slice(x, imin, i4, i2)",
        "t = Slice(x, i0, i3, i1)",
        "t = Concat<axis=1>(x)",
        "t = Sum(x)",
        "t = Max(x)",
        "t = Mean(x)",
        "t = Split<axis=1>(x)",
        "t = Expand(x, xshape)",
        "t = Expand(x, ones)",
        "t = Tile(x, ones)",
        "t = Mul(x, one)",
        "t = Mul(one1, x)",
        "t = Div(x, one)",
        "t = Add(x, zero)",
        "t = Add(zero, x)",
        "t = Sub(x, zero)",
        "t = AveragePool<kernel_shape=[1, 1]>(x)",
        "t = MaxPool<kernel_shape=[1, 1], strides=[1, 1]>(x)",
        'r = Identity(x)\n t = Resize<mode="linear">(r, , s1)',
        "t = Resize(x, , , xshape)",
        "t = Clip(x)",
        "t = Clip(x, ninf, inf)",
        "t = Relu(x)",
        "a = Cast<to=11>(x)\n t = Cast<to=1>(a)",
        "a = Transpose<perm=[0, 2, 3, 1]>(x)\n t = Transpose<perm=[0, 3, 1, 2]>(a)",
        "a = Transpose(x)\n t = Transpose(a)",
        "a = Unsqueeze(x, i2)\n t = Squeeze(a, i2)",
        "a = Squeeze(x, i0)\n t = Unsqueeze(a, i0)",
        "a = Reshape(x, flat)\n b = Unsqueeze(a, i0)\n t = Reshape(b, xshape)",
    ],
)
def test_what_changes_nothing_goes(body: str) -> None:
    assert remove(body).ops == ["Abs", "Neg"]


@pytest.mark.parametrize(
    "body",
    [
        "t = Reshape(x, other)",
        "t = Transpose<perm=[0, 1, 3, 2]>(x)",
        "t = Transpose(x)",
        "t = Pad(x, pads)",
        "t = Slice(x, i1, imax, i2)",
        "t = Slice(x, i0, i3, i2)",
        "t = Slice(x, im1, imin, i2, im1)",
        "t, u = Split<axis=2>(x)",
        "t = Mul(x, two)",
        "t = Mul(x, wide)",
        "t = Div(one, x)",
        "t = Sub(zero, x)",
        "t = MaxPool<kernel_shape=[1, 1], strides=[2, 2]>(x)",
        "t = AveragePool<kernel_shape=[2, 1]>(x)",
        "t = Resize(x, , s2)",
        'r = Identity(x)\n t = Resize<coordinate_transformation_mode="tf_half_pixel_for_nn", mode="nearest">(x, , s1)',
        "t = Clip(x, zero)",
        "n = Neg(x)\n t = Relu(n)",
        "a = Cast<to=7>(x)\n t = Cast<to=1>(a)",
        "a = Cast<to=10>(x)\n t = Cast<to=1>(a)",
    ],
)
def test_near_misses_stay(body: str) -> None:
    kept = [
        line.split("=", 1)[1].strip().split("(")[0].split("<")[0] for line in body.split("\n") if "Identity" not in line
    ]
    assert remove(body).ops == ["Abs", *kept, "Neg"]


def test_transposes_compose() -> None:
    result = remove("a = Transpose<perm=[0, 2, 3, 1]>(x)\n t = Transpose<perm=[0, 2, 1, 3]>(a)")
    assert result.ops == ["Abs", "Transpose", "Neg"]


def test_reshapes_compose_and_zeros_are_written_out() -> None:
    result = remove("a = Reshape(x, six)\n t = Reshape(a, flat)")
    assert result.ops == ["Abs", "Reshape", "Neg"]


def test_casts_compose_where_nothing_is_lost() -> None:
    assert remove("a = Cast<to=11>(x)\n b = Cast<to=6>(a)\n t = Cast<to=1>(b)").ops.count("Cast") == 2


def test_a_shared_first_half_stays_for_its_other_reader() -> None:
    result = remove(
        "a = Transpose<perm=[0, 2, 3, 1]>(x)\n b = Transpose<perm=[0, 3, 1, 2]>(a)\n c = Relu(b)\n d = Transpo"
        "se<perm=[0, 3, 1, 2]>(a)"
        "\n e = Shape(a)\n f = Cast<to=1>(e)\n g = ReduceSum(f)\n h = Add(c, g)\n t = Add(h, d)"
    )
    assert result.ops.count("Transpose") == 1


def test_unknown_shapes_and_types_keep_a_node() -> None:
    text = HEADER + "g (float[N,M] x, int64[2] s) => (float[A,B] y) { t = Abs(x)\n r = Reshape(t, s)\n y = Neg(r) }"
    assert rewrite(RemoveNoops(), text).revision == 0
    # 1 of shape [1,1] may add an axis to an operand whose rank isn't known.
    model = parse(
        HEADER + "g (float[N] x, int64[K] s) => (float[M] y) <float[1,1,1] c = {1}, int64[1] all = {-1}>"
        "{ r = Reshape(x, s)\n m = Mul(r, c)\n y = Reshape(m, all) }"
    )
    assert rewrite(RemoveNoops(), model).revision == 0


def test_symbols_count_as_known() -> None:
    text = (
        HEADER
        + "g (float[N,4] x) => (float[N,4] y) <int64[2] s = {-1, 4}> { t = Abs(x)\n r = Reshape(t, s)\n y = Neg(r) }"
    )
    model = onnx.shape_inference.infer_shapes(parse(text))
    assert rewrite(RemoveNoops(), model).ops == ["Abs", "Neg"]


def test_outputs_keep_their_names() -> None:
    model = parse(HEADER + "g (float[2] x) => (float[2] y) { t = Exp(x)\n y = Identity(t) }")
    result = rewrite(RemoveNoops(), model)
    assert result.ops == ["Exp"]
    assert_same_outputs(model, result.model)


@pytest.mark.parametrize(
    "body", ["y = Identity(x)\n z = Exp(x)", "z = Exp(x)\n y = Identity(z)", "z = Exp(x)\n y = Identity(w)"]
)
def test_an_output_whose_name_nothing_can_take_stays(body: str) -> None:
    model = parse(HEADER + "g (float[2] x) => (float[2] y, float[2] z) <float[2] w = {1, 2}> { " + body + " }")
    result = rewrite(RemoveNoops(), model)
    assert sorted(result.ops) == ["Exp", "Identity"]
    assert "output 'y'" in result.declined()[0]


def test_a_mask_or_indices_that_are_read_keep_the_node() -> None:
    text = (
        HEADER + "g (float[1,1,4] x) => (float[1,1,4] y, int64[1,1,4] z)"
        " { t = Abs(x)\n u, z = MaxPool<kernel_shape=[1]>(t)\n y = Neg(u) }"
    )
    result = rewrite(RemoveNoops(), text)
    assert result.revision == 0
    assert "'z' is read too" in result.declined()[0]


def test_dropout_in_training_stays() -> None:
    text = (
        HEADER + "g (float[2] x) => (float[2] y) <float r = {0.5}, bool t = {1}>"
        " { a = Abs(x)\n b = Dropout(a, r, t)\n y = Neg(b) }"
    )
    assert rewrite(RemoveNoops(), text).revision == 0


def test_nested_graphs_are_simplified_too() -> None:
    text = (
        HEADER
        + """g (float[2] x, bool c) => (float[2] y) {
        y = If(c) <then_branch = t () => (float[2] p) { a = Identity(x) b = Exp(a) p = Identity(b) },
                   else_branch = e () => (float[2] r) { r = Identity(x) }>
    }"""
    )
    result = rewrite(RemoveNoops(), text)
    bodies = [[n.op_type for n in a.g.node] for a in result.model.graph.node[0].attribute]
    assert sorted(bodies) == [["Exp"], ["Identity"]]
    assert "output 'r'" in result.declined()[0]


def test_parameters_as_attributes() -> None:
    model = parse(
        """<ir_version: 6, opset_import: ["" : 9]>
        g (float[2,3] x) => (float[2,3] y) {
            a = Abs(x)
            b = Pad<pads=[0, 0, 0, 0]>(a)
            c = Slice<starts=[0], ends=[9], axes=[0]>(b)
            d = Unsqueeze<axes=[0]>(c)
            e = Squeeze<axes=[0]>(d)
            f = Dropout<ratio=0.5>(e)
            g = Clip(f)
            h = Split<axis=0>(g)
            y = Neg(h)
        }"""
    )
    result = rewrite(RemoveNoops(), onnx.shape_inference.infer_shapes(model))
    assert result.ops == ["Abs", "Neg"]
    assert_same_outputs(model, result.model)


def test_old_dropout_trains_by_default() -> None:
    model = parse(
        '<ir_version: 6, opset_import: ["" : 6]>\n'
        "g (float[2] x) => (float[2] y) { a = Abs(x)\n b = Dropout(a)\n y = Neg(b) }"
    )
    assert rewrite(RemoveNoops(), model).revision == 0
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("is_test", 1))
    assert rewrite(RemoveNoops(), model).ops == ["Abs", "Neg"]
