"""Every integer kernel: the .tflite has no float operator, and gives onnxruntime's integers."""

import numpy as np
import pytest

from tests.backends.litert_writer.support import Quantized, between_pairs, noise, outcome, output_scale, parse, weight
from tests.support.quantization import model, quantize_model

CONVERSIONS = {"QUANTIZE": 1, "DEQUANTIZE": 1}
X, Y, HALF = Quantized(0.031, -9), Quantized(0.055, 7), Quantized(0.0155, -20)
IMAGE = (2, 6, 9, 8)

# name → (body, input shapes, grids, constants, operators besides the conversions at the edges)
CASES: dict[str, tuple] = {}


def case(name, body, inputs, grids, operators, *weights_, **constants):
    text = "".join(w[0] for w in weights_)
    for w in weights_:
        constants.update(w[1])
    CASES[name] = (text + body, inputs, grids, constants, operators)


# Shares of values that may be off by one where they are more than 1 %. Every fourth average of 2 × 2 and every 16th
# value that RESIZE_BILINEAR makes here, is a half: the float reference rounds it as its last bit happens to fall,
# LiteRT away from zero. HardSwish's gate is rounded before it is multiplied.
OFF_BY_ONE = {"resize": 0.1, "average": 0.1, "average-edge": 0.02, "average-ceil": 0.02, "hard-swish": 0.1}

ONE, TWO = {"x": IMAGE}, {"x": IMAGE, "z": IMAGE}
W = weight("w", 4, 6, 3, 3, axis=0)
case("conv", "r = Conv<pads=[1,1,1,1]>(dx, w)", ONE, {"x": X, "y": Quantized(0.5)}, {"CONV_2D": 1}, W)
case("conv-one-scale", "r = Conv(dx, w)", ONE, {"x": X, "y": Quantized(0.5)}, {"CONV_2D": 1}, weight("w", 4, 6, 3, 3))
case(
    "conv-padded", "r = Conv<pads=[1,1,1,1], strides=[2,2]>(dx, w)", ONE, {"x": X, "y": Quantized(0.5)},
    {"PAD": 1, "CONV_2D": 1}, W,
)  # fmt: skip
case("conv-float-bias", "r = Conv(dx, w, b)", ONE, {"x": X, "y": Quantized(0.5, 3)}, {"CONV_2D": 1}, W, b=noise(4))
case("conv-relu", "c = Conv(dx, w) r = Relu(c)", ONE, {"x": X, "y": Quantized(0.02, -128)}, {"CONV_2D": 1}, W)
case(
    "conv-relu-zero-inside", "c = Conv(dx, w) r = Relu(c)", ONE, {"x": X, "y": Quantized(0.02, -40)}, {"CONV_2D": 1}, W
)
case(
    "conv-clip", "c = Conv(dx, w) r = Clip(c, low, high)", ONE, {"x": X, "y": Quantized(0.02, 0)},
    {"CONV_2D": 1, "MAXIMUM": 1, "MINIMUM": 1}, W, low=np.float32(-0.5), high=np.float32(1.25),
)  # fmt: skip
case(
    "conv-grouped", "r = Conv<group=2>(dx, w)", ONE, {"x": X, "y": Quantized(0.3)}, {"CONV_2D": 1},
    weight("w", 8, 3, 3, 3, axis=0),
)  # fmt: skip
case(
    "depthwise", "r = Conv<group=6>(dx, w)", ONE, {"x": X, "y": Quantized(0.2)}, {"DEPTHWISE_CONV_2D": 1},
    weight("w", 12, 1, 3, 3, axis=0),
)  # fmt: skip
case(
    "conv-1d", "r = Conv(dx, w)", {"x": (2, 6, 20)}, {"x": X, "y": Quantized(0.3)},
    {"TRANSPOSE": 2, "RESHAPE": 2, "CONV_2D": 1}, weight("w", 4, 6, 3, axis=0),
)  # fmt: skip
case(
    "transposed", "r = ConvTranspose<strides=[2,2]>(dx, w)", ONE, {"x": X, "y": Quantized(0.3)},
    {"TRANSPOSE_CONV": 1}, weight("w", 6, 4, 2, 2, axis=1),
)  # fmt: skip
case(
    "transposed-cropped", "r = ConvTranspose<strides=[2,2], pads=[1,1,0,0]>(dx, w)", ONE, {"x": X, "y": Quantized(0.3)},
    {"TRANSPOSE_CONV": 1, "STRIDED_SLICE": 1}, weight("w", 6, 4, 3, 3, axis=1),
)  # fmt: skip
case(
    "gemm", "r = Gemm<transB=1>(dx, w)", {"x": (3, 16)}, {"x": X, "y": Quantized(0.1)}, {"FULLY_CONNECTED": 1},
    weight("w", 5, 16, axis=0),
)  # fmt: skip
case(
    "matmul-bias-relu", "m = MatMul(dx, w) a = Add(m, b) r = Relu(a)", {"x": (3, 4, 16)},
    {"x": X, "y": Quantized(0.02, -128)}, {"FULLY_CONNECTED": 1}, weight("w", 16, 5, axis=1), b=noise(5),
)  # fmt: skip
case("add", "r = Add(dx, dz)", TWO, {"x": X, "z": Y, "y": Quantized(0.07, 5)}, {"ADD": 1, "QUANTIZE": 1})
case(
    "add-relu",
    "a = Add(dx, dz) r = Relu(a)",
    TWO,
    {"x": X, "z": Y, "y": Quantized(0.03, -128)},
    {"ADD": 1, "QUANTIZE": 1},
)
case("sum", "r = Sum(dx, dz)", TWO, {"x": X, "z": Y, "y": Quantized(0.07, 5)}, {"ADD": 1, "QUANTIZE": 1})
case("sub", "r = Sub(dx, dz)", TWO, {"x": X, "z": Y, "y": Quantized(0.07, 5)}, {"SUB": 1, "QUANTIZE": 1})
case("mul", "r = Mul(dx, dz)", TWO, {"x": X, "z": Y, "y": Quantized(0.07, 5)}, {"MUL": 1, "QUANTIZE": 1})
case("max", "r = Max(dx, dz)", TWO, {"x": X, "z": Y, "y": Y}, {"ADD": 1, "MAXIMUM": 1, "QUANTIZE": 1})
case(
    "concat", "r = Concat<axis=1>(dx, dz)", TWO, {"x": X, "z": Y, "y": Y}, {"ADD": 1, "CONCATENATION": 1, "QUANTIZE": 1}
)
case("concat-same", "r = Concat<axis=1>(dx, dz)", TWO, {"x": X, "z": X, "y": X}, {"CONCATENATION": 1, "QUANTIZE": 1})
case("relu", "r = Relu(dx)", ONE, {"x": X, "y": Quantized(0.02, -128)}, {"ADD": 1})
case("relu-same", "r = Relu(dx)", ONE, {"x": X, "y": X}, {"MAXIMUM": 1})
case(
    "clip",
    "r = Clip(dx, low, high)",
    ONE,
    {"x": Y, "y": Y},
    {"MAXIMUM": 1, "MINIMUM": 1},
    low=np.float32(0),
    high=np.float32(6),
)
case("leaky", "r = LeakyRelu<alpha=0.13>(dx)", ONE, {"x": X, "y": HALF}, {"MUL": 1, "ADD": 1, "MAXIMUM": 1})
case("leaky-same", "r = LeakyRelu<alpha=0.13>(dx)", ONE, {"x": X, "y": X}, {"MUL": 1, "MAXIMUM": 1})
SLOPES, SLOPES_GRID = "s = DequantizeLinear(s_q, s_s, s_z) ", {"s_s": np.float32(0.01), "s_z": np.int8(0)}
case(
    "prelu", "r = PRelu(dx, s)", ONE, {"x": X, "y": HALF}, {"MUL": 1, "ADD": 1, "MAXIMUM": 1},
    (SLOPES, {"s_q": np.array([-90, -3, 0, 12, 25, 100], np.int8).reshape(6, 1, 1), **SLOPES_GRID}),
)  # fmt: skip
case(
    "prelu-steep", "r = PRelu(dx, s)", ONE, {"x": X, "y": Y}, {"PRELU": 1},
    (SLOPES, {"s_q": np.array([-90, -3, 0, 12, 25, 127], np.int8).reshape(6, 1, 1), **SLOPES_GRID}),
)  # fmt: skip
case("hard-swish", "r = HardSwish(dx)", ONE, {"x": X, "y": Quantized(0.02, -100)}, {"DEPTHWISE_CONV_2D": 1, "MUL": 1})
case("sigmoid", "r = Sigmoid(dx)", ONE, {"x": X, "y": Quantized(1 / 256, -128)}, {"LOGISTIC": 1})
case("tanh", "r = Tanh(dx)", ONE, {"x": X, "y": Quantized(1 / 128)}, {"TANH": 1})
case("softmax", "r = Softmax<axis=1>(dx)", {"x": (3, 16)}, {"x": X, "y": Quantized(1 / 256, -128)}, {"SOFTMAX": 1})
case("requantize", "r = Identity(dx)", ONE, {"x": X, "y": Y}, {"ADD": 1})
case("max-pool", "r = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(dx)", ONE, {"x": X, "y": X}, {"MAX_POOL_2D": 1})
case(
    "max-pool-padded", "r = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(dx)", ONE, {"x": X, "y": X},
    {"PADV2": 1, "MAX_POOL_2D": 1},
)  # fmt: skip
case("average", "r = AveragePool<kernel_shape=[2,2]>(dx)", ONE, {"x": X, "y": X}, {"DEPTHWISE_CONV_2D": 1})
case(
    "average-rescaled",
    "r = AveragePool<kernel_shape=[3,3], strides=[2,2]>(dx)",
    ONE,
    {"x": X, "y": HALF},
    {"DEPTHWISE_CONV_2D": 1},
)
case(
    "average-edge", "r = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(dx)", ONE, {"x": X, "y": X},
    {"STRIDED_SLICE": 8, "DEPTHWISE_CONV_2D": 9, "CONCATENATION": 4},
)  # fmt: skip
case(
    "average-edge-rescaled", "p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(dx) r = Relu(p)", ONE,
    {"x": X, "y": Quantized(0.021, -128)}, {"STRIDED_SLICE": 8, "DEPTHWISE_CONV_2D": 9, "CONCATENATION": 4},
)  # fmt: skip
case(
    "average-strided", "r = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(dx)", ONE,
    {"x": X, "y": HALF}, {"STRIDED_SLICE": 6, "DEPTHWISE_CONV_2D": 6, "CONCATENATION": 4},
)  # fmt: skip
case(
    "average-counted", "r = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(dx)", ONE,
    {"x": X, "y": HALF}, {"DEPTHWISE_CONV_2D": 1},
)  # fmt: skip
case(
    "average-ceil", "r = AveragePool<kernel_shape=[2,3], strides=[2,2], ceil_mode=1>(dx)", ONE,
    {"x": X, "y": HALF}, {"STRIDED_SLICE": 4, "DEPTHWISE_CONV_2D": 4, "CONCATENATION": 3},
)  # fmt: skip
case(
    "average-1d", "r = AveragePool<kernel_shape=[3], pads=[1,1]>(dx)", {"x": (2, 6, 20)}, {"x": X, "y": HALF},
    {"TRANSPOSE": 2, "RESHAPE": 2, "STRIDED_SLICE": 2, "DEPTHWISE_CONV_2D": 3, "CONCATENATION": 1},
)  # fmt: skip
case("average-all", "r = AveragePool<kernel_shape=[9,8]>(dx)", ONE, {"x": X, "y": HALF}, {"MEAN": 1})
case("global-average", "r = GlobalAveragePool(dx)", ONE, {"x": X, "y": HALF}, {"MEAN": 1})
case("reduce-mean", "r = ReduceMean<axes=[2,3], keepdims=0>(dx)", ONE, {"x": X, "y": HALF}, {"MEAN": 1})
case("reduce-max", "r = ReduceMax<axes=[1]>(dx)", ONE, {"x": X, "y": X}, {"REDUCE_MAX": 1})
case("pad", "r = Pad(dx, p)", ONE, {"x": X, "y": X}, {"PAD": 1}, p=np.array([0, 0, 1, 2, 0, 0, 3, 0]))
case(
    "slice", "r = Slice(dx, a, b)", ONE, {"x": X, "y": X}, {"STRIDED_SLICE": 1}, a=np.array([0, 1]), b=np.array([2, 4])
)
case(
    "resize-nearest", 'r = Resize<coordinate_transformation_mode="asymmetric", nearest_mode="floor">(dx, , s)', ONE,
    {"x": X, "y": X}, {"RESIZE_NEAREST_NEIGHBOR": 1}, s=np.array([1, 1, 2, 3], np.float32),
)  # fmt: skip
case(
    "depth-to-space", "r = DepthToSpace<blocksize=2>(dx)", {"x": (2, 8, 3, 4)}, {"x": X, "y": X}, {"DEPTH_TO_SPACE": 1}
)
case(
    "space-to-depth", "r = SpaceToDepth<blocksize=2>(dx)", {"x": (2, 3, 4, 6)}, {"x": X, "y": X}, {"SPACE_TO_DEPTH": 1}
)
case("gather", "r = Gather<axis=1>(dx, i)", ONE, {"x": X, "y": X}, {"GATHER": 1}, i=np.array([3, -1, 0]))
case("transpose", "r = Transpose<perm=[0,3,1,2]>(dx)", ONE, {"x": X, "y": X}, {})
case("reshape", "r = Reshape(dx, s)", ONE, {"x": X, "y": X}, {"RESHAPE": 1}, s=np.array([2, 6, 72]))
case("squeeze", "r = Squeeze(dx, a)", {"x": (2, 6, 1, 8)}, {"x": X, "y": X}, {"RESHAPE": 1}, a=np.array([2]))
case("tile", "r = Tile(dx, n)", ONE, {"x": X, "y": X}, {"TILE": 1}, n=np.array([1, 2, 1, 3]))
case("min", "r = Min(dx, dz)", TWO, {"x": X, "z": Y, "y": Y}, {"ADD": 1, "MINIMUM": 1, "QUANTIZE": 1})
case(
    "log-softmax",
    "r = LogSoftmax<axis=1>(dx)",
    {"x": (3, 16)},
    {"x": X, "y": Quantized(1 / 16, 127)},
    {"LOG_SOFTMAX": 1},
)
case(
    "matmul-batched", "r = MatMul(dx, dz)", {"x": (2, 3, 5, 16), "z": (2, 3, 16, 4)},
    {"x": X, "z": Y, "y": Quantized(0.1, 3)}, {"BATCH_MATMUL": 1, "QUANTIZE": 1},
)  # fmt: skip
case(
    "transposed-grouped", "r = ConvTranspose<strides=[2,2], group=2>(dx, w)", ONE, {"x": X, "y": Quantized(0.3)},
    {"TRANSPOSE_CONV": 1}, weight("w", 6, 2, 2, 2, axis=1),
)  # fmt: skip
case(
    "resize", 'r = Resize<mode="linear">(dx, , s)', ONE, {"x": X, "y": X}, {"RESIZE_BILINEAR": 1},
    s=np.array([1, 1, 2, 2], np.float32),
)  # fmt: skip
case(
    "unsigned",
    "r = Add(dx, dx)",
    ONE,
    {"x": Quantized(0.03, 120, "uint8"), "y": Quantized(0.06, 9, "uint8")},
    {"ADD": 1},
)
case(
    "unsigned-conv", "c = Conv(dx, w) r = Relu(c)", ONE,
    {"x": Quantized(0.03, 120, "uint8"), "y": Quantized(0.02, 0, "uint8")}, {"CONV_2D": 1}, W,
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_integer_kernel(name):
    body, inputs, grids, constants, operators = CASES[name]
    made = between_pairs(body, inputs, grids, **constants)
    feeds = {n: 2 * noise(*shape, seed=k) for k, (n, shape) in enumerate(inputs.items())}
    found = outcome(made, feeds)
    counted = {k: CONVERSIONS.get(k, 0) + operators.get(k, 0) for k in {*CONVERSIONS, *operators}}
    assert dict(found.written.operators) == counted
    steps = np.rint(np.abs(found.lite["y"] - found.onnx["y"]) / grids["y"].scale)
    assert steps.max() <= 1
    assert (steps > 0).mean() <= OFF_BY_ONE.get(name, 0.01)


@pytest.mark.parametrize(
    ("body", "operators"),
    [
        ("r = Exp(dx)", {"EXP": 1}),
        ("r = Sigmoid(dx)", {"LOGISTIC": 1}),  # LiteRT prescribes 1/256 for the result
    ],
)
def test_without_an_integer_kernel_the_operator_is_a_float_island(body, operators):
    found = outcome(between_pairs(body, ONE, {"x": X, "y": X}))
    assert dict(found.written.operators) == {"QUANTIZE": 2, "DEQUANTIZE": 2, **operators}
    assert found.worst() <= X.scale * 1.001


def test_int32_bias_is_taken_as_it_is():
    text, constants = weight("w", 4, 6, 3, 3, axis=0)
    bias = np.array([100, -2000, 30000, 7], np.int32)
    constants |= {"b_q": bias, "b_s": np.float32(X.scale) * constants["w_s"], "b_z": np.zeros(4, np.int32)}
    made = between_pairs(
        text + "b = DequantizeLinear<axis=0>(b_q, b_s, b_z) r = Conv(dx, w, b)",
        ONE,
        {"x": X, "y": Quantized(0.5)},
        **constants,
    )
    assert made.graph.node[3].input[0] == "b_q"
    found = outcome(made)
    assert found.worst() <= 0.5001
    assert bias.tobytes() in found.written.content


def test_what_plan_makes_of_a_block_has_no_float_between_its_edges():
    body = """
        c = Conv<pads=[1,1,1,1]>(x, w1) n = Relu(c)
        d = Conv<pads=[1,1,1,1], group=8>(n, w2) s = Add(d, n) t = Relu(s)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(t) q = Concat<axis=1>(p, p)
        a = GlobalAveragePool(q) f = Flatten(a) y = Gemm(f, w3)
    """
    source = model(body, "float[1,3,8,8] x", "float[1,5] y", w1=(8, 3, 3, 3), w2=(8, 1, 3, 3), w3=(16, 5))
    made = quantize_model(source, "tflite").after
    found = outcome(made)
    assert found.worst() <= output_scale(made) * 1.001
    counted = dict(found.written.operators)
    assert counted["QUANTIZE"] == counted["DEQUANTIZE"] == 1
    assert "TRANSPOSE" not in counted


def test_the_same_weight_can_serve_two_convolutions():
    text, constants = weight("w", 6, 6, 1, 1, axis=0)
    body = text + "c = Conv(dx, w) e = Conv(dx, w) r = Add(c, e)"
    found = outcome(between_pairs(body, ONE, {"x": X, "y": Quantized(0.5)}, **constants))
    # Only the second stage is between two pairs, so these convolutions are float; the weight is stored once.
    assert found.worst() <= 0.5001


def test_a_quantized_tensor_can_be_an_output_too():
    text, constants = weight("w", 4, 6, 3, 3, axis=0)
    made = between_pairs(text + "r = Conv(dx, w)", ONE, {"x": X, "y": Quantized(0.5)}, **constants)
    made.graph.output.add().CopyFrom(
        parse("g (int8[1] a) => (int8[2,4,7,6] y_q) { y_q = Identity(a) }").graph.output[0]
    )
    found = outcome(made)
    assert found.lite["y_q"].dtype == np.int8
    assert found.worst("y_q") <= 1
    assert found.written.operators["DEQUANTIZE"] == 1


def test_integers_are_joined_with_floats_as_floats():
    made = parse(
        """g (float[2,6,9,8] x, float[2,6,9,8] z) => (float[2,12,9,8] y) <float s = {0.031}, int8 p = {-9}> {
            q = QuantizeLinear(x, s, p)
            d = DequantizeLinear(q, s, p)
            y = Concat<axis=1>(d, z)
        }"""
    )
    found = outcome(made)
    assert found.worst() <= 1e-5
    assert {op: found.written.operators[op] for op in ("CONCATENATION", "DEQUANTIZE")} == {
        "CONCATENATION": 1,
        "DEQUANTIZE": 1,
    }
