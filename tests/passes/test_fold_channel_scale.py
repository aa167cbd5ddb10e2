import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.passes.fold_channel_scale import FoldChannelScale
from tests.support.rewrite import Rewritten, assert_same_outputs, parse, rewrite

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def noise(*shape: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def positive(*shape: int, seed: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.3, 3, size=shape).astype(np.float32)


def build(text: str, opset: int = 17, **constants: np.ndarray) -> onnx.ModelProto:
    """The text model with these initializers, shapes inferred as on loading."""
    model = onnx.parser.parse_model(HEADER.replace("17", str(opset)) + text)
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def folded(before: onnx.ModelProto, expected: list[str]) -> Rewritten:
    result = rewrite(FoldChannelScale(), before)
    assert result.ops == expected
    assert_same_outputs(before, result.model, rtol=1e-4, atol=1e-4)
    return result


CONV = "h = Conv<pads=[1,1,1,1]>(x, w)\n"
W = noise(6, 3, 3, 3)


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (), (1,), (1, 1, 1, 1)])
@pytest.mark.parametrize(
    "op", ["y = Mul(h, c)", "y = Mul(c, h)", "y = Div(h, c)", "y = Add(h, c)", "y = Sub(h, c)", "y = Sub(c, h)"]
)
def test_each_operation_and_constant_shape_after_a_conv(op: str, shape: tuple[int, ...]) -> None:
    before = build(f"g (float[2,3,5,5] x) => (float[2,6,5,5] y) {{ {CONV} {op} }}", w=W, c=positive(*shape))
    folded(before, ["Conv"])


def test_neg_is_a_scale() -> None:
    folded(build(f"g (float[2,3,5,5] x) => (float[2,6,5,5] y) {{ {CONV} y = Neg(h) }}", w=W), ["Conv"])


@pytest.mark.parametrize("op", ["h = Mul(x, c)", "h = Div(x, c)", "h = Add(x, c)", "h = Sub(c, x)"])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (1,)])
def test_each_operation_before_a_grouped_conv_without_padding(op: str, shape: tuple[int, ...]) -> None:
    text = f"g (float[2,4,5,5] x) => (float[2,6,3,3] y) {{ {op} y = Conv<group=2>(h, w) }}"
    folded(build(text, w=noise(6, 2, 3, 3), c=positive(*shape)), ["Conv"])


def test_before_a_padded_conv_a_scale_folds_and_a_shift_does_not() -> None:
    text = "g (float[2,3,5,5] x) => (float[2,6,5,5] y) { h = %s(x, c) y = Conv<pads=[1,1,1,1]>(h, w) }"
    folded(build(text % "Mul", w=W, c=noise(3, 1, 1)), ["Conv"])
    result = folded(build(text % "Add", w=W, c=noise(3, 1, 1)), ["Add", "Conv"])
    assert "it pads with zeros" in result.declined()[0]
    assert "'x' is a graph input" in result.declined()[0]


def test_input_normalisation_before_a_padded_conv_keeps_its_shift_only() -> None:
    text = "g (float[2,3,5,5] x) => (float[2,6,5,5] y) { a = Div(x, s) b = Sub(a, m) y = Conv<pads=[1,1,1,1]>(b, w) }"
    before = build(text, w=W, m=np.array(0.5, np.float32), s=np.array([0.25], np.float32))
    result = folded(before, ["Add", "Conv"])
    assert [i.name for i in result.model.graph.initializer if i.dims == []]  # still one number


def test_the_scale_that_ends_a_run_goes_into_a_padded_conv() -> None:
    text = "g (float[2,3,5,5] x) => (float[2,6,5,5] y) { a = Sub(x, m) b = Div(a, s) y = Conv<pads=[1,1,1,1]>(b, w) }"
    folded(build(text, w=W, m=noise(3, 1, 1), s=positive(3, 1, 1)), ["Sub", "Conv"])


@pytest.mark.parametrize(
    "constants", [{"s": noise(3, 1, 1), "t": noise(3, 1, 1)}, {"s": noise(1, 3, 1, 1), "t": np.float32(2).reshape(())}]
)
def test_scale_and_shift_go_into_the_next_conv(constants: dict[str, np.ndarray]) -> None:
    text = "g (float[2,3,5,5] x) => (float[2,6,3,3] y) { a = Mul(x, s) b = Add(a, t) y = Conv(b, w) }"
    folded(build(text, w=W, **constants), ["Conv"])


def test_a_mul_add_pair_after_a_conv_as_light_models_have_it() -> None:
    text = f"g (float[1,3,5,5] x) => (float[1,6,5,5] y) {{ {CONV} a = Mul(h, s) b = Add(a, t) y = Relu(b) }}"
    folded(build(text, w=W, s=noise(6, 1, 1), t=noise(6, 1, 1)), ["Conv", "Relu"])


BETWEEN = {
    "relu": "b = Relu(a)",
    "leaky relu": "b = LeakyRelu(a)",
    "prelu": "b = PRelu(a, slope)",
    "max pool": "b = MaxPool<kernel_shape=[2,2], pads=[1,1,1,1]>(a)",
    "average pool": "b = AveragePool<kernel_shape=[2,2], pads=[1,1,1,1], count_include_pad=1>(a)",
    "global average pool": "b = GlobalAveragePool(a)",
    "global max pool": "b = GlobalMaxPool(a)",
    "mean": "b = ReduceMean<axes=[2,3], keepdims=1>(a)",
    "pad": "b = Pad(a, edges)",
    "identity": "b = Identity(a)",
    "relu, pool, relu": "r = Relu(a) p = MaxPool<kernel_shape=[2,2]>(r) b = LeakyRelu(p)",
    "resize": 'b = Resize<mode="linear">(a, , factors)',
    "dropout": "b = Dropout(a)",
}
EXTRA = {
    "slope": noise(6, 1, 1, seed=9),
    "edges": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "factors": np.array([1, 1, 2, 2], np.float32),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_a_positive_scale_goes_up_through(between: str) -> None:
    text = f"g (float[2,3,6,6] x) => (float[2,6,H,W] y) {{ a = Conv(x, w) {BETWEEN[between]} y = Mul(b, c) }}"
    used = {k: v for k, v in EXTRA.items() if k in BETWEEN[between]}
    before = build(text, w=W, c=positive(6, 1, 1), **used)
    result = rewrite(FoldChannelScale(), before)
    assert "Mul" not in result.ops
    assert_same_outputs(before, result.model, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("between", BETWEEN)
def test_a_positive_scale_goes_down_through(between: str) -> None:
    text = f"g (float[2,6,6,6] x) => (float[2,4,H,W] y) {{ a = Mul(x, c) {BETWEEN[between]} y = Conv(b, w) }}"
    used = {k: v for k, v in EXTRA.items() if k in BETWEEN[between]}
    before = build(text, w=noise(4, 6, 1, 1), c=positive(6, 1, 1), **used)
    result = rewrite(FoldChannelScale(), before)
    assert "Mul" not in result.ops
    assert_same_outputs(before, result.model, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [-1.0, 0.0])
@pytest.mark.parametrize("between", ["relu", "leaky relu", "prelu", "max pool", "global max pool"])
def test_a_scale_that_is_not_positive_does_not_pass(between: str, value: float) -> None:
    scale = positive(6, 1, 1)
    scale[2] = value
    used = {k: v for k, v in EXTRA.items() if k in BETWEEN[between]}
    text = f"g (float[2,3,6,6] x) => (float[2,6,H,W] y) {{ a = Conv(x, w) {BETWEEN[between]} y = Mul(b, c) }}"
    result = rewrite(FoldChannelScale(), build(text, w=W, c=scale, **used))
    assert result.revision == 0
    assert "isn't positive" in result.declined()[0]


@pytest.mark.parametrize("between", ["max pool", "global average pool", "mean", "identity", "resize"])
def test_a_shift_passes_what_averages_or_selects(between: str) -> None:
    used = {k: v for k, v in EXTRA.items() if k in BETWEEN[between]}
    text = f"g (float[2,3,6,6] x) => (float[2,6,H,W] y) {{ a = Conv(x, w) {BETWEEN[between]} y = Add(b, c) }}"
    before = build(text, w=W, c=noise(6, 1, 1), **used)
    result = rewrite(FoldChannelScale(), before)
    assert "Add" not in result.ops
    assert_same_outputs(before, result.model, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("between", ["relu", "average pool", "pad"])
def test_a_shift_does_not_pass_zeros(between: str) -> None:
    used = {k: v for k, v in EXTRA.items() if k in BETWEEN[between]}
    text = f"g (float[2,3,6,6] x) => (float[2,6,H,W] y) {{ a = Conv(x, w) {BETWEEN[between]} y = Add(b, c) }}"
    result = rewrite(FoldChannelScale(), build(text, w=W, c=noise(6, 1, 1), **used))
    assert result.revision == 0
    assert "a shift doesn't pass through" in result.declined()[0]


def test_after_relu_the_scale_goes_up_and_the_shift_stays() -> None:
    text = f"""g (float[1,3,5,5] x) => (float[1,2,5,5] y) {{ {CONV} r = Relu(h) a = Mul(r, s) b = Add(a, t)
        y = Conv<pads=[1,1,1,1]>(b, v) }}"""
    before = build(text, w=W, v=noise(2, 6, 3, 3), s=positive(6, 1, 1), t=noise(6, 1, 1))
    folded(before, ["Conv", "Relu", "Add", "Conv"])


@pytest.mark.parametrize(
    ("between", "last", "shape", "constant"),
    [
        ("t = Transpose<perm=[0,2,3,1]>(a)", "Mul", "[2,5,5,6]", (6,)),
        ("t = Transpose<perm=[0,2,3,1]>(a)", "Add", "[2,5,5,6]", (1, 1, 1, 6)),
        ("t = Flatten(a)", "Mul", "[2,150]", ()),
        ("f = Reshape(a, flat) t = Transpose<perm=[0,2,1]>(f)", "Sub", "[2,25,6]", (6,)),
        ("p = GlobalAveragePool(a) t = Squeeze(p, spatial)", "Div", "[2,6]", (6,)),
        ("p = ReduceMean<axes=[2,3], keepdims=0>(a) t = Unsqueeze(p, spatial)", "Add", "[2,6,1,1]", (1, 6, 1, 1)),
    ],
)
def test_channels_are_followed_upwards(between: str, last: str, shape: str, constant: tuple[int, ...]) -> None:
    text = f"g (float[2,3,5,5] x) => (float{shape} y) {{ a = Conv<pads=[1,1,1,1]>(x, w) {between} y = {last}(t, c) }}"
    every = {"flat": np.array([2, 6, 25]), "spatial": np.array([2, 3])}
    used = {k: v for k, v in every.items() if k in between}
    before = build(text, w=W, c=positive(*constant), **used)
    result = rewrite(FoldChannelScale(), before)
    assert last not in result.ops
    assert_same_outputs(before, result.model, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("op", ["Mul", "Add"])
def test_a_scale_per_channel_becomes_one_per_feature_of_the_gemm_after_flatten(op: str, transposed: int) -> None:
    text = f"""g (float[2,4,3,3] x) => (float[2,5] y) {{
        a = {op}(x, c) f = Flatten(a) y = Gemm<transB={transposed}>(f, w) }}"""
    before = build(text, w=noise(5, 36) if transposed else noise(36, 5), c=noise(4, 1, 1))
    folded(before, ["Flatten", "Gemm"])


def test_a_scale_per_feature_goes_up_only_when_it_is_one_per_channel() -> None:
    text = "g (float[2,3,5,5] x) => (float[2,54] y) { a = Conv(x, w) f = Flatten(a) y = Mul(f, c) }"
    folded(build(text, w=W, c=np.repeat(noise(6), 9)), ["Conv", "Flatten"])
    result = folded(build(text, w=W, c=noise(54)), ["Conv", "Flatten", "Mul"])
    assert "doesn't keep the channels apart" in result.declined()[0]


def test_a_symbolic_batch_is_no_hindrance() -> None:
    text = "g (float[N,4,3,3] x) => (float[N,5] y) { a = Mul(x, c) f = Reshape(a, s) y = MatMul(f, w) }"
    folded(build(text, w=noise(36, 5), c=noise(4, 1, 1), s=np.array([-1, 36])), ["Reshape", "MatMul"])


def test_nhwc_matmul_forms() -> None:
    text = """g (float[2,5,3] x) => (float[2,5,6] y) {
        a = Mul(x, s) b = MatMul(a, w) c = Add(b, t) d = Mul(c, u) y = Relu(d) }"""
    before = build(text, w=noise(3, 6), s=noise(3), t=noise(6), u=noise(6))
    folded(before, ["MatMul", "Add", "Relu"])


def test_a_matmul_with_its_weight_on_the_left() -> None:
    text = "g (float[2,3,5] x) => (float[2,6,5] y) { a = Add(x, s) b = MatMul(w, a) y = Mul(b, u) }"
    folded(build(text, w=noise(6, 3), s=noise(3, 1), u=noise(6, 1)), ["MatMul", "Add"])


def test_a_batch_of_matmul_weights() -> None:
    text = "g (float[2,5,3] x) => (float[2,5,6] y) { a = Add(x, s) y = MatMul(a, w) }"
    folded(build(text, w=noise(2, 3, 6), s=noise(3)), ["MatMul", "Add"])


def test_an_add_that_is_already_a_bias_is_left_alone() -> None:
    text = "g (float[2,3] x) => (float[2,6] y) { b = MatMul(x, w) y = Add(b, t) }"
    assert rewrite(FoldChannelScale(), build(text, w=noise(3, 6), t=noise(6))).revision == 0


def test_concat_splits_the_scale_over_its_inputs() -> None:
    text = """g (float[1,3,5,5] x) => (float[1,12,5,5] y) {
        a = Conv<pads=[1,1,1,1]>(x, w) r = Relu(a) b = Conv<pads=[1,1,1,1]>(x, v)
        c = Concat<axis=1>(r, b, k) y = Mul(c, s) }"""
    before = build(text, w=W, v=noise(4, 3, 3, 3), k=noise(1, 2, 5, 5), s=positive(12, 1, 1))
    folded(before, ["Conv", "Relu", "Conv", "Concat"])


def test_a_scale_on_one_input_of_a_concat_goes_into_its_share_of_the_next_weight() -> None:
    text = """g (float[1,3,5,5] x, float[1,4,5,5] z) => (float[1,6,5,5] y) {
        a = Mul(x, s) c = Concat<axis=-3>(z, a) y = Conv<pads=[1,1,1,1]>(c, w) }"""
    folded(build(text, w=noise(6, 7, 3, 3), s=noise(3, 1, 1)), ["Concat", "Conv"])


def test_a_concat_read_twice_from_one_tensor_is_declined() -> None:
    text = "g (float[1,3,5,5] x) => (float[1,6,5,5] y) { a = Mul(x, s) c = Concat<axis=1>(a, a) y = Conv(c, w) }"
    result = folded(build(text, w=noise(6, 6, 1, 1), s=noise(3, 1, 1)), ["Mul", "Concat", "Conv"])
    assert "reached on two ways" in result.declined()[0]


def test_readers_after_a_squeeze_excitation_block_all_take_it() -> None:
    text = """g (float[1,4,5,5] x) => (float[1,6,5,5] y) { a = Div(x, six) p = GlobalAveragePool(a)
        q = Conv(p, v) g = Sigmoid(q) m = Mul(a, g) y = Conv<pads=[1,1,1,1]>(m, w) }"""
    before = build(text, w=noise(6, 4, 3, 3), v=noise(4, 4, 1, 1), six=np.array(6, np.float32))
    folded(before, ["GlobalAveragePool", "Conv", "Sigmoid", "Mul", "Conv"])


def test_a_square_takes_no_scale() -> None:
    text = "g (float[1,4,5,5] x) => (float[1,6,5,5] y) { a = Mul(x, c) m = Mul(a, a) y = Conv(m, w) }"
    folded(build(text, w=noise(6, 4, 1, 1), c=noise(4, 1, 1)), ["Mul", "Mul", "Conv"])


def test_a_tensor_read_elsewhere_or_a_graph_output_stays() -> None:
    text = f"g (float[1,3,5,5] x) => (float[1,6,5,5] y, float[1,6,5,5] z) {{ {CONV} y = Mul(h, c) z = Neg(h) }}"
    result = folded(build(text, w=W, c=noise(6, 1, 1)), ["Conv", "Mul", "Neg"])
    assert "also read by Neg" in result.declined()[1]
    text = f"g (float[1,3,5,5] x) => (float[1,6,5,5] y, float[1,6,5,5] h) {{ {CONV} y = Mul(h, c) }}"
    result = folded(build(text, w=W, c=noise(6, 1, 1)), ["Conv", "Mul"])
    assert "also a graph output" in result.declined()[0]


def test_a_shared_weight_is_copied() -> None:
    text = (
        "g (float[1,3,5,5] x) => (float[1,6,3,3] y, float[1,6,3,3] z) { h = Conv(x, w) y = Mul(h, c) z = Conv(x, w) }"
    )
    result = folded(build(text, w=W, c=noise(6, 1, 1)), ["Conv", "Conv"])
    assert len(result.model.graph.initializer) == 2


def test_a_long_run_becomes_one_mul_and_one_add() -> None:
    text = """g (float[1,3,5,5] x) => (float[1,3,5,5] y) {
        a = Mul(x, s) b = Add(a, t) c = Div(b, u) d = Sub(c, v) y = Sigmoid(d) }"""
    constants = {name: positive(3, 1, 1, seed=i) for i, name in enumerate("stuv")}
    folded(build(text, **constants), ["Mul", "Add", "Sigmoid"])


def test_a_constant_divided_by_the_activation_is_declined() -> None:
    text = f"g (float[1,3,5,5] x) => (float[1,6,5,5] y) {{ {CONV} y = Div(c, h) }}"
    result = folded(build(text, w=W, c=noise(6, 1, 1)), ["Conv", "Div"])
    assert "isn't linear in it" in result.declined()[0]


@pytest.mark.parametrize(
    ("constant", "reason"),
    [
        (noise(5), "pads|output channels"),  # along the width
        (noise(6, 5, 1), "more than one axis"),
        (noise(1, 1, 6, 1, 1), "more axes"),
        (np.zeros((6, 1, 1), np.float32), "divides by zero"),
    ],
)
def test_constants_that_are_not_per_channel_are_declined(constant: np.ndarray, reason: str) -> None:
    rank = "1,1,6,5,5" if constant.ndim == 5 else "1,6,5,5"
    text = f"g (float[1,3,5,5] x) => (float[{rank}] y) {{ {CONV} y = Div(h, c) }}"
    result = rewrite(FoldChannelScale(), build(text, w=W, c=constant))
    assert result.revision == 0
    assert any(word in result.declined()[0] for word in reason.split("|"))


def test_a_constant_that_broadcasts_the_channels_is_declined() -> None:
    text = "g (float[1,3,5,5] x) => (float[1,6,5,5] y) { h = Conv<pads=[1,1,1,1]>(x, w) y = Mul(h, c) }"
    result = folded(build(text, w=noise(1, 3, 3, 3), c=noise(6, 1, 1)), ["Conv", "Mul"])
    assert "isn't known to have 6 channels" in result.declined()[0]


def test_unknown_shapes_are_declined() -> None:
    model = parse(
        HEADER
        + """g (float[1,3,5,5] x, float[6,3,3,3] w, float[6,1,1] c) => (float[1,6,3,3] y) {
            h = Conv(x, w) y = Mul(h, c) }"""
    )
    del model.graph.input[2]
    model.graph.initializer.append(numpy_helper.from_array(noise(6, 1, 1), "c"))
    result = rewrite(FoldChannelScale(), model)
    assert "shape of 'h' isn't known" in result.declined()[0]


def test_a_result_that_overflows_half_precision_is_declined() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Mul", ["h", "c"], ["y"])]
    types = [helper.make_tensor_value_info(n, TensorProto.FLOAT16, (1, 2, 2, 2)) for n in "xhy"]
    constants = {"w": np.full((2, 2, 1, 1), 300, np.float16), "c": np.full((2, 1, 1), 300, np.float16)}
    graph = helper.make_graph(
        nodes, "g", types[:1], types[2:], [numpy_helper.from_array(v, n) for n, v in constants.items()],
        value_info=types[1:2],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert "aren't finite in float16" in rewrite(FoldChannelScale(), model).declined()[0]


OLD_FORMS = {
    "Pad": "b = Pad<pads=[0,0,1,1,0,0,1,1]>(a)",
    "Squeeze": "p = GlobalAveragePool(a) s = Squeeze<axes=[2,3]>(p) b = Unsqueeze<axes=[2,3]>(s)",
    "ReduceSum": "b = ReduceSum<axes=[2,-1]>(a)",
    "Slice": "b = Slice<axes=[2,3], starts=[0,1], ends=[2,3]>(a)",
    "Upsample": "b = Upsample<scales=[1.0,1.0,2.0,2.0]>(a)",
    "Dropout": "b = Dropout(a)",
}


@pytest.mark.parametrize("op", OLD_FORMS)
def test_parameters_that_were_attributes_in_opset_7(op: str) -> None:
    text = f"g (float[2,3,6,6] x) => (float[2,6,H,W] y) {{ a = Conv(x, w) {OLD_FORMS[op]} y = Mul(b, c) }}"
    before = build(text, 7, w=W, c=noise(6, 1, 1))
    result = rewrite(FoldChannelScale(), before)
    assert "Mul" not in result.ops
    assert_same_outputs(before, result.model, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "between",
    [
        "b = Pad<pads=[0,1,0,0,0,0,0,0]>(a)",
        "b = Pad<pads=[0,-1,0,0,0,1,0,0]>(a)",
        "b = Pad<pads=[0,0,1,1,0,0,1,1], value=2.0>(a)",
        "b = Slice<axes=[1], starts=[0], ends=[3]>(a)",
    ],
)
def test_what_moves_or_fills_channels_lets_no_scale_per_channel_through(between: str) -> None:
    text = f"g (float[2,3,6,6] x) => (float[2,C,H,W] y) {{ a = Conv(x, w) {between} y = Mul(b, c) }}"
    channels = {"b = P": 6, "b = S": 3}[between[:5]] + ("[0,1,0" in between)
    assert rewrite(FoldChannelScale(), build(text, 9, w=W, c=noise(channels, 1, 1))).revision == 0


def test_a_reader_of_the_shape_only_is_no_hindrance() -> None:
    text = f"g (float[N,3,5,5] x) => (float[N,6,5,5] y, int64[4] s) {{ {CONV} y = Mul(h, c) s = Shape(h) }}"
    assert sorted(folded(build(text, w=W, c=noise(6, 1, 1)), ["Conv", "Shape"]).ops) == ["Conv", "Shape"]
    text = "g (float[N,3,5,5] x) => (float[N,6,3,3] y, int64[4] s) { h = Mul(x, c) y = Conv(h, w) s = Shape(h) }"
    before = build(text, w=W, c=noise(3, 1, 1))
    result = rewrite(FoldChannelScale(), before)
    assert sorted(result.ops) == ["Conv", "Shape"]
    assert_same_outputs(before, result.model, rtol=1e-4, atol=1e-4)


def test_up_through_a_residual_add_both_branches_take_the_scale_and_one_the_shift() -> None:
    text = """g (float[1,3,5,5] x) => (float[1,6,5,5] y) {
        a = Conv<pads=[1,1,1,1]>(x, w) b = Conv(x, v) r = Relu(b) s = Add(a, r) m = Mul(s, c) y = Add(m, t) }"""
    before = build(text, w=W, v=noise(6, 3, 1, 1), c=positive(6, 1, 1), t=noise(6, 1, 1))
    folded(before, ["Conv", "Conv", "Relu", "Add"])


@pytest.mark.parametrize(("scale", "gone"), [(np.full((), 6, np.float32), True), (positive(4, 1, 1), False)])
def test_down_past_a_residual_add_only_a_uniform_scale_goes(scale: np.ndarray, gone: bool) -> None:
    text = """g (float[1,4,5,5] x) => (float[1,2,5,5] y) { a = Div(x, c) b = Conv(a, w) r = Relu(b) d = Conv(r, v)
        s = Add(a, d) e = Relu(s) y = Conv(e, u) }"""
    before = build(text, w=noise(4, 4, 1, 1), v=noise(4, 4, 1, 1), u=noise(2, 4, 1, 1), c=scale)
    result = rewrite(FoldChannelScale(), before)
    assert ("Div" not in result.ops) == gone
    assert_same_outputs(before, result.model, rtol=1e-4, atol=1e-4)


def test_an_addend_that_broadcasts_the_channels_is_declined() -> None:
    text = """g (float[1,3,5,5] x) => (float[1,6,5,5] y) {
        a = Conv(x, w) b = Conv(x, v) s = Add(a, b) y = Mul(s, c) }"""
    before = build(text, w=noise(6, 3, 1, 1), v=noise(1, 3, 1, 1), c=positive(6, 1, 1))
    result = folded(before, ["Conv", "Conv", "Add", "Mul"])
    assert "broadcasts" in result.declined()[0]
