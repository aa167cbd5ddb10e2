"""Every operator in float, against onnxruntime: exact up to the order in which floats are added."""

import numpy as np
import pytest

from tests.backends.litert_writer.support import noise, outcome, parse

I32, I64 = np.int32, np.int64
IMAGE = "g (float[2,6,9,8] x) => (float[N,C,H,W] y)"
MATRIX = "g (float[3,5,6] x) => (float[A,B,C] y)"


def ints(*values):
    return np.array(values, I64)


CASES = {
    "conv": (IMAGE + " { y = Conv<pads=[1,1,1,1]>(x, w, b) }", {"w": noise(4, 6, 3, 3), "b": noise(4)}),
    "conv-valid": (IMAGE + " { y = Conv(x, w) }", {"w": noise(4, 6, 3, 3)}),
    "conv-strided": (IMAGE + " { y = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w) }", {"w": noise(4, 6, 3, 3)}),
    "conv-uneven": (IMAGE + " { y = Conv<pads=[0,2,1,0], strides=[2,1]>(x, w) }", {"w": noise(4, 6, 3, 2)}),
    "conv-dilated": (IMAGE + " { y = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w) }", {"w": noise(4, 6, 3, 3)}),
    "conv-same-lower": (
        IMAGE + ' { y = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, w) }',
        {"w": noise(4, 6, 3, 3)},
    ),
    "conv-same-upper": (
        IMAGE + ' { y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w) }',
        {"w": noise(4, 6, 3, 3)},
    ),
    "conv-grouped": (
        IMAGE + " { y = Conv<pads=[1,1,1,1], group=2>(x, w, b) }",
        {"w": noise(8, 3, 3, 3), "b": noise(8)},
    ),
    "depthwise": (IMAGE + " { y = Conv<pads=[1,1,1,1], group=6>(x, w, b) }", {"w": noise(6, 1, 3, 3), "b": noise(6)}),
    "depthwise-multiplier": (IMAGE + " { y = Conv<group=6>(x, w) }", {"w": noise(12, 1, 3, 3)}),
    "conv-relu": (IMAGE + " { c = Conv(x, w) y = Relu(c) }", {"w": noise(4, 6, 3, 3)}),
    "conv-relu6": (
        IMAGE + " { c = Conv(x, w) y = Clip(c, low, high) }",
        {"w": noise(4, 6, 3, 3), "low": np.float32(0), "high": np.float32(6)},
    ),
    "conv-clip": (
        IMAGE + " { c = Conv(x, w) y = Clip(c, low, high) }",
        {"w": noise(4, 6, 3, 3), "low": np.float32(-0.5), "high": np.float32(2)},
    ),
    "conv-1d": (
        "g (float[2,6,20] x) => (float[N,C,W] y) { c = Conv<pads=[1,1]>(x, w) r = Relu(c) y = Conv(r, v) }",
        {"w": noise(8, 6, 3), "v": noise(4, 8, 5)},
    ),
    "transposed": (IMAGE + " { y = ConvTranspose<strides=[2,2]>(x, w, b) }", {"w": noise(6, 4, 3, 3), "b": noise(4)}),
    "transposed-pads": (
        IMAGE + " { y = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(x, w) }",
        {"w": noise(6, 4, 3, 3)},
    ),
    "transposed-exact": (IMAGE + " { y = ConvTranspose<strides=[2,2]>(x, w) }", {"w": noise(6, 4, 2, 2)}),
    "transposed-grouped": (
        IMAGE + " { y = ConvTranspose<strides=[2,2], group=2>(x, w) }",
        {"w": noise(6, 2, 2, 2)},
    ),
    "transposed-dilated": (IMAGE + " { y = ConvTranspose<dilations=[2,1]>(x, w) }", {"w": noise(6, 4, 3, 3)}),
    "max-pool": (IMAGE + " { y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x) }", {}),
    "max-pool-ceil": (IMAGE + " { y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x) }", {}),
    "average-pool": (IMAGE + " { y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x) }", {}),
    "average-pool-edge": (IMAGE + " { y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x) }", {}),
    "average-pool-uneven": (
        IMAGE + " { y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x) }",
        {},
    ),
    "average-pool-counted": (
        IMAGE + " { y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x) }",
        {},
    ),
    "global-average": (IMAGE + " { y = GlobalAveragePool(x) }", {}),
    "global-max": (IMAGE + " { y = GlobalMaxPool(x) }", {}),
    "batch-norm": (
        IMAGE + " { y = BatchNormalization(x, s, b, m, v) }",
        {"s": noise(6), "b": noise(6), "m": noise(6), "v": np.abs(noise(6)) + 1},
    ),
    "lrn": (IMAGE + " { y = LRN<size=3, alpha=0.3, beta=0.6, bias=1.5>(x) }", {}),
    "instance-norm": (IMAGE + " { y = InstanceNormalization(x, s, b) }", {"s": noise(6), "b": noise(6)}),
    "add-channels": (IMAGE + " { c = Conv(x, w) y = Add(c, b) }", {"w": noise(4, 6, 3, 3), "b": noise(4, 1, 1)}),
    "sub": (IMAGE + " { y = Sub(x, b) }", {"b": noise(1, 6, 1, 1)}),
    "div": (IMAGE + " { a = Abs(x) c = Add(a, one) y = Div(x, c) }", {"one": np.float32(1)}),
    "prelu": (IMAGE + " { y = PRelu(x, s) }", {"s": noise(6, 1, 1)}),
    "leaky": (IMAGE + " { y = LeakyRelu<alpha=0.2>(x) }", {}),
    "hard-swish": (IMAGE + " { y = HardSwish(x) }", {}),
    "hard-sigmoid": (IMAGE + " { y = HardSigmoid<alpha=0.3>(x) }", {}),
    "max-of-three": (IMAGE + " { a = Neg(x) y = Max(x, a, b) }", {"b": noise(6, 1, 1)}),
    "min": (IMAGE + " { y = Min(x, b) }", {"b": noise(8)}),
    "pow": (IMAGE + " { a = Abs(x) y = Pow(a, p) }", {"p": np.float32(1.5)}),
    "sqrt": (IMAGE + " { a = Abs(x) y = Sqrt(a) }", {}),
    "exp-log": (IMAGE + " { e = Exp(x) o = Add(e, one) y = Log(o) }", {"one": np.float32(1)}),
    "reciprocal": (IMAGE + " { e = Exp(x) y = Reciprocal(e) }", {}),
    "sum": (IMAGE + " { y = Sum(x, x, b) }", {"b": noise(8)}),
    "where": (IMAGE + " { g = Greater(x, zero) y = Where(g, x, b) }", {"zero": np.float32(0), "b": noise(8)}),
    "is-nan": (IMAGE + " { l = Log(x) g = IsNaN(l) y = Where(g, b, l) }", {"b": noise(8)}),
    "concat": (IMAGE + " { c = Conv<pads=[1,1,1,1]>(x, w) y = Concat<axis=1>(x, c) }", {"w": noise(4, 6, 3, 3)}),
    "split": (IMAGE + " { a, b = Split<axis=1>(x, s) y = Concat<axis=1>(b, a) }", {"s": ints(2, 4)}),
    "split-even": (IMAGE + " { a, b, c = Split<axis=1>(x, s) y = Sum(a, b, c) }", {"s": ints(2, 2, 2)}),
    "slice": (
        IMAGE + " { y = Slice(x, a, b, k, s) }",
        {"a": ints(1, 7), "b": ints(5, -99), "k": ints(1, 3), "s": ints(2, -1)},
    ),
    "slice-clamped": (IMAGE + " { y = Slice(x, a, b, k) }", {"a": ints(-4, 1), "b": ints(2**62, -1), "k": ints(2, 3)}),
    "pad": (IMAGE + " { y = Pad(x, p) }", {"p": ints(0, 0, 1, 2, 0, 0, 3, 0)}),
    "pad-value": (IMAGE + " { y = Pad(x, p, v) }", {"p": ints(0, 1, 1, 2, 0, 0, 3, 0), "v": np.float32(1.5)}),
    "pad-reflect": (IMAGE + ' { y = Pad<mode="reflect">(x, p) }', {"p": ints(0, 0, 1, 2, 0, 0, 3, 0)}),
    "pad-negative": (IMAGE + " { y = Pad(x, p) }", {"p": ints(0, 0, -1, 2, 0, 0, 3, -2)}),
    "gather": (IMAGE + " { y = Gather<axis=1>(x, i) }", {"i": ints(3, -1, 0)}),
    "tile": (IMAGE + " { y = Tile(x, r) }", {"r": ints(1, 2, 1, 3)}),
    "expand": ("g (float[1,6,1,8] x) => (float[N,C,H,W] y) { y = Expand(x, s) }", {"s": ints(2, 1, 4, 1)}),
    "depth-to-space": ("g (float[1,8,3,4] x) => (float[N,C,H,W] y) { y = DepthToSpace<blocksize=2>(x) }", {}),
    "depth-to-space-crd": (
        'g (float[1,8,3,4] x) => (float[N,C,H,W] y) { y = DepthToSpace<blocksize=2, mode="CRD">(x) }',
        {},
    ),
    "space-to-depth": ("g (float[1,3,4,6] x) => (float[N,C,H,W] y) { y = SpaceToDepth<blocksize=2>(x) }", {}),
    "resize-nearest": (
        IMAGE
        + ' { y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , s) }',
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "resize-nearest-half": (
        IMAGE + ' { y = Resize<mode="nearest">(x, , s) }',
        {"s": np.array([1, 1, 2, 3], np.float32)},
    ),
    "resize-linear": (IMAGE + ' { y = Resize<mode="linear">(x, , s) }', {"s": np.array([1, 1, 2, 2], np.float32)}),
    "resize-aligned": (
        IMAGE + ' { y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , , s) }',
        {"s": ints(2, 6, 17, 11)},
    ),
    "resize-asymmetric": (
        IMAGE + ' { y = Resize<mode="linear", coordinate_transformation_mode="asymmetric">(x, , s) }',
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "reduce-mean": (IMAGE + " { y = ReduceMean<axes=[2,3]>(x) }", {}),
    "reduce-sum": (
        "g (float[2,6,9,8] x) => (float[A,B] y) { y = ReduceSum<keepdims=0>(x, a) }",
        {"a": ints(1, 3)},
    ),
    "reduce-max": ("g (float[2,6,9,8] x) => (float[A,B,C] y) { y = ReduceMax<axes=[1], keepdims=0>(x) }", {}),
    "reduce-l2": (IMAGE + " { y = ReduceL2<axes=[1]>(x) }", {}),
    "softmax": (IMAGE + " { y = Softmax<axis=1>(x) }", {}),
    "softmax-middle": (MATRIX + " { y = Softmax<axis=1>(x) }", {}),
    "log-softmax": (MATRIX + " { y = LogSoftmax<axis=-1>(x) }", {}),
    "layer-norm": (MATRIX + " { y = LayerNormalization<axis=-1>(x, s, b) }", {"s": noise(6), "b": noise(6)}),
    "matmul": (MATRIX + " { y = MatMul(x, w) }", {"w": noise(6, 4)}),
    "matmul-bias": (MATRIX + " { m = MatMul(x, w) a = Add(m, b) y = Relu(a) }", {"w": noise(6, 4), "b": noise(4)}),
    "matmul-batched": (
        MATRIX + " { t = Transpose<perm=[0,2,1]>(x) y = MatMul(x, t) }",
        {},
    ),
    "gemm": (
        "g (float[3,6] x) => (float[A,B] y) { y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b) }",
        {"w": noise(4, 6), "b": noise(4)},
    ),
    "transpose": (MATRIX + " { y = Transpose<perm=[2,0,1]>(x) }", {}),
    "reshape-apart": (IMAGE + " { y = Reshape(x, s) }", {"s": ints(2, 8, 9, 6)}),
    "squeeze": ("g (float[2,6,1,8] x) => (float[A,B,C] y) { y = Squeeze(x, a) }", {"a": ints(2)}),
    "unsqueeze": (MATRIX + " { u = Unsqueeze(x, a) y = Squeeze(u, b) }", {"a": ints(1, 4), "b": ints(1, 4)}),
    "clip": (MATRIX + " { y = Clip(x, a, b) }", {"a": np.float32(-0.3), "b": np.float32(0.7)}),
    "elu": (MATRIX + " { y = Elu(x) }", {}),
    "softplus": (MATRIX + " { y = Softplus(x) }", {}),
    "rsqrt": (MATRIX + " { a = Abs(x) b = Add(a, one) c = Sqrt(b) y = Reciprocal(c) }", {"one": np.float32(1)}),
    "layer-norm-decomposed": (
        MATRIX
        + """ { m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) p = Pow(d, two) v = ReduceMean<axes=[-1]>(p)
            e = Add(v, eps) r = Sqrt(e) n = Div(d, r) t = Mul(n, s) y = Add(t, b) }""",
        {"two": np.float32(2), "eps": np.float32(1e-5), "s": noise(6), "b": noise(6)},
    ),
    "gather-rows": (MATRIX + " { i = ArgMax<axis=0, keepdims=0>(w) y = Gather<axis=2>(x, i) }", {"w": noise(6, 4)}),
    "erf": (MATRIX + " { y = Erf(x) }", {}),
    "tanh-sigmoid": (MATRIX + " { t = Tanh(x) y = Sigmoid(t) }", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_onnxruntime(case):
    text, constants = CASES[case]
    found = outcome(parse(text, **constants))
    assert found.worst() <= 2e-5 * max(1.0, float(np.abs(found.onnx["y"]).max()))


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_gelu(form):
    found = outcome(parse(f'{MATRIX} {{ y = Gelu<approximate="{form}">(x) }}', opset=20))
    assert dict(found.written.operators) == {"GELU": 1}
    assert found.worst() <= 2e-5


def test_argmax_is_written():
    found = outcome(parse("g (float[2,6,9,8] x) => (int64[N,C,H,W] y) { y = ArgMax<axis=1>(x) }"))
    assert found.worst() == 0
