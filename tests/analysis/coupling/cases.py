"""Small networks with their removable groups, worked out by hand: name → number of units.

Channels of the input and the output are frozen everywhere, and so never in a group here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

IMAGE = "float[N,6,8,8] x"
TOKENS = "float[N,5,6] x"


@dataclass(frozen=True)
class Case:
    """A network as ONNX text.

    Attributes:
        body, inputs, outputs, opset: see `tests.support.coupling.graph_of`.
        values: initializers; a tuple is the shape of a float one.
        groups: the removable groups.
    """

    name: str
    body: str
    inputs: str
    outputs: str
    groups: dict[str, int]
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    opset: int = 17


def ints(*values: int) -> Any:
    """A vector of sizes or indices."""
    return np.array(values, np.int64)


def image(name: str, body: str, groups: dict[str, int], opset: int = 17, **values: Any) -> Case:
    """A case from `IMAGE` to an output of 3 channels."""
    return Case(name, body, IMAGE, "float[N,3,H,W] y", groups, values, opset)


def rows(name: str, body: str, groups: dict[str, int], opset: int = 17, **values: Any) -> Case:
    """A case from rows of 6 numbers to rows of 3."""
    return Case(name, body, "float[N,6] x", "float[N,3] y", groups, values, opset)


def tokens(name: str, body: str, groups: dict[str, int], opset: int = 17, **values: Any) -> Case:
    """A case from 5 tokens of 6 numbers to 5 of 6."""
    return Case(name, body, TOKENS, "float[N,5,6] y", groups, values, opset)


LINEAR = (
    image(
        "a squeeze-and-excite block scales the channels of its group",
        """a = Conv(x, w0) g = GlobalAveragePool(a) h = Conv(g, w1) r = Relu(h) k = Conv(r, w2) s = Sigmoid(k)
        m = Mul(a, s) y = Conv(m, w3)""",
        {"a:1": 8, "h:1": 2},
        w0=(8, 6, 1, 1), w1=(2, 8, 1, 1), w2=(8, 2, 1, 1), w3=(3, 8, 1, 1),
    ),
    image(
        "groups of 4 channels: one channel of each group goes",
        "a = Conv(x, w0) b = Conv<group=2>(a, w1, b1) y = Conv(b, w2)",
        {"a:1": 4, "b:1": 2},
        w0=(8, 6, 1, 1), w1=(4, 4, 1, 1), b1=(4,), w2=(3, 4, 1, 1),
    ),
    image(
        "many small groups: whole ones go",
        "a = Conv(x, w0) b = Conv<group=4>(a, w1, b1) y = Conv(b, w2)",
        {"a:1": 4},
        w0=(8, 6, 1, 1), w1=(8, 2, 1, 1), b1=(8,), w2=(3, 8, 1, 1),
    ),
    image(
        "a depthwise layer with two outputs a channel",
        "a = Conv(x, w0) b = Conv<group=4>(a, w1, b1) y = Conv(b, w2)",
        {"a:1": 4},
        w0=(4, 6, 1, 1), w1=(8, 1, 3, 3), b1=(8,), w2=(3, 8, 1, 1),
    ),
    image(
        "a layer of 2 groups and one of 3 between the same tensors: 6 channels at once keep both even",
        "a = Conv(x, w0) b = Conv<group=2>(a, w1) c = Conv<group=3>(a, w3) d = Add(b, c) y = Conv(d, w2)",
        {"a:1": 2, "b:1": 2},
        w0=(12, 6, 1, 1), w1=(12, 6, 1, 1), w3=(12, 4, 1, 1), w2=(3, 12, 1, 1),
    ),
    image(
        "ConvTranspose has its axes the other way round",
        "a = Conv(x, w0) b = ConvTranspose<strides=[2,2]>(a, w1, b1) y = Conv(b, w2)",
        {"a:1": 8, "b:1": 3},
        w0=(8, 6, 1, 1), w1=(8, 3, 2, 2), b1=(3,), w2=(3, 3, 1, 1),
    ),
    image(
        "ConvTranspose in groups of 4 and 3",
        "a = Conv(x, w0) b = ConvTranspose<group=2>(a, w1, b1) y = Conv(b, w2)",
        {"a:1": 4, "b:1": 3},
        w0=(8, 6, 1, 1), w1=(8, 3, 1, 1), b1=(6,), w2=(3, 6, 1, 1),
    ),
    image(
        "ConvTranspose by channel",
        "a = Conv(x, w0) b = ConvTranspose<strides=[2,2], group=4>(a, w1, b1) y = Conv(b, w2)",
        {"a:1": 4},
        w0=(4, 6, 1, 1), w1=(4, 1, 2, 2), b1=(4,), w2=(3, 4, 1, 1),
    ),
    rows(
        "Gemm, transposed and not, with a bias of rank 2",
        "a = Gemm<transB=1>(x, w0, b0) r = Relu(a) m = Mul(r, s) y = Gemm(m, w1, c)",
        {"a:1": 5},
        w0=(5, 6), b0=(5,), w1=(5, 3), s=(5,), c=(1, 3),
    ),
    rows(
        "a weight that a node transposes",
        "wt = Transpose<perm=[1,0]>(w0) a = MatMul(x, wt) r = Relu(a) y = MatMul(r, w1)",
        {"wt:1": 8},
        w0=(8, 6), w1=(8, 3),
    ),
    rows(
        "a square weight between a layer's output and itself ties both",
        "a = MatMul(x, w0) r = Relu(a) b = MatMul(r, w2) c = Relu(b) d = MatMul(c, w2) y = MatMul(d, w1)",
        {"a:1": 5},
        w0=(6, 5), w2=(5, 5), w1=(5, 3),
    ),
    tokens(
        "Einsum, with and without ellipsis",
        'a = MatMul(x, w0) b = Einsum<equation="bij,jk->bik">(a, w1) y = Einsum<equation="...i,io">(b, w2)',
        {"a:2": 4, "b:2": 7},
        w0=(6, 4), w1=(4, 7), w2=(7, 6),
    ),
    Case(
        "LSTM, forwards and backwards: the channels that it reads go",
        """a = Conv(x, w0) t = Transpose<perm=[2,0,1]>(a)
        h = LSTM<hidden_size=4, direction="bidirectional">(t, w, r, b) p = Transpose<perm=[0,2,1,3]>(h)
        q = Reshape(p, s) y = MatMul(q, w1)""",
        "float[N,6,10] x", "float[10,N,3] y", {"a:1": 8},
        {"w0": (8, 6, 1), "w": (2, 16, 8), "r": (2, 16, 4), "b": (2, 32), "w1": (8, 3), "s": ints(0, 0, -1)},
    ),
    image(
        "weights in 8 bits with a scale per channel, and an activation between pairs",
        """wd = DequantizeLinear<axis=0>(w0, s, z) a = Conv(x, wd) q = QuantizeLinear(a, s1, z1)
        d = DequantizeLinear(q, s1, z1) y = Conv(d, w1)""",
        {"wd:0": 4},
        w0=np.ones((4, 6, 1, 1), np.int8), s=np.ones(4, np.float32), z=np.zeros(4, np.int8), s1=np.float32(1),
        z1=np.uint8(0), w1=(3, 4, 1, 1),
    ),
    Case(
        "a weight in a Constant node",
        "w0 = Constant<value=float[2,2] {1.,2.,3.,4.}>() a = MatMul(x, w0) r = Relu(a) y = MatMul(r, w1)",
        "float[N,2] x", "float[N,3] y", {"a:1": 2}, {"w1": (2, 3)},
    ),
)  # fmt: skip

POINTWISE = (
    image(
        "conditions, slopes and constants that are broadcast",
        "a = Conv(x, w0) m = Greater(a, t) b = Where(m, a, c) p = PRelu(b, l) y = Conv(p, w1)",
        {"a:1": 4},
        w0=(4, 6, 1, 1), w1=(3, 4, 1, 1), t=(4, 1, 1), c=(1, 4, 1, 1), l=(4, 1, 1),
    ),
    image(
        "a gate of the other half of the channels",
        "a = Conv(x, w0) l, r = Split<axis=1>(a) g = Sigmoid(r) m = Mul(l, g) y = Conv(m, w1)",
        {"a:1": 4},
        13, w0=(8, 6, 1, 1), w1=(3, 4, 1, 1),
    ),
    image(
        "a mean over places is no mean over channels",
        "a = Conv(x, w0) b = ReduceMean<axes=[2,3], keepdims=1>(a) c = Sub(a, b) y = Conv(c, w1)",
        {"a:1": 4},
        w0=(4, 6, 1, 1), w1=(3, 4, 1, 1),
    ),
    image(
        "a sum over channels may lose some",
        "a = Conv(x, w0) c = ReduceSum<keepdims=1>(a, i) y = Conv(c, w1)",
        {"a:1": 4},
        w0=(4, 6, 1, 1), w1=(3, 1, 1, 1), i=ints(1),
    ),
    image(
        "an L2 norm and a running sum over channels, too",
        "a = Conv(x, w0) b = LpNormalization<axis=1>(a) c = CumSum(b, i) y = Conv(c, w1)",
        {"a:1": 8},
        w0=(8, 6, 1, 1), w1=(3, 8, 1, 1), i=np.int64(1),
    ),
    rows(
        "an L2 norm in parts",
        "a = MatMul(x, w0) n = ReduceL2<axes=[-1], keepdims=1>(a) m = Max(n, e) c = Div(a, m) y = MatMul(c, w1)",
        {"a:1": 8},
        w0=(6, 8), w1=(8, 3), e=np.float32(1e-6),
    ),
    image(
        "GroupNormalization by whole groups",
        "a = Conv(x, w0) b = GroupNormalization<num_groups=4>(a, s, z) y = Conv(b, w1)",
        {"a:1": 4},
        21, w0=(8, 6, 1, 1), w1=(3, 8, 1, 1), s=(8,), z=(8,),
    ),
    image(
        "GroupNormalization as exporters write it",
        """a = Conv(x, w0) r = Reshape(a, s1) n = InstanceNormalization(r, s, b) q = Reshape(n, s2) m = Mul(q, g)
        y = Conv(m, w1)""",
        {"a:1": 4},
        w0=(8, 6, 1, 1), w1=(3, 8, 1, 1), s1=ints(0, 4, -1), s2=ints(0, 8, 8, 8), s=(4,), b=(4,), g=(8, 1, 1),
    ),
    image(
        "a block of ConvNeXt: the residual stream is normalized over, the inner layer isn't",
        """a = Conv(x, w0) t = Transpose<perm=[0,2,3,1]>(a) l = LayerNormalization(t, g, b) m = MatMul(l, w1)
        e = Gelu(m) n = MatMul(e, w2) k = Mul(n, c) u = Transpose<perm=[0,3,1,2]>(k) s = Add(u, a) y = Conv(s, w3)""",
        {"m:3": 16},
        20, w0=(4, 6, 1, 1), g=(4,), b=(4,), w1=(4, 16), w2=(16, 4), c=(4,), w3=(3, 4, 1, 1),
    ),
    Case(
        "TopK along another axis",
        "a = MatMul(x, w0) v, i = TopK<axis=1>(a, k) y = MatMul(v, w1)",
        TOKENS, "float[N,2,3] y", {"a:2": 8}, {"w0": (6, 8), "w1": (8, 3), "k": ints(2)},
    ),
    Case(
        "rows of an embedding stay, its columns may go",
        "e = Gather<axis=0>(t, i) p = Add(e, pos) h = MatMul(p, w0) y = MatMul(h, w1)",
        "int64[N,5] i", "float[N,5,3] y", {"e:2": 6, "h:2": 8},
        {"t": (10, 6), "pos": (1, 5, 6), "w0": (6, 8), "w1": (8, 3)},
    ),
)  # fmt: skip

MOVEMENT = (
    Case(
        "Flatten takes all places of a channel",
        "a = Conv(x, w0) f = Flatten(a) g = Gemm(f, w1) y = Gemm(g, w2)",
        "float[N,6,2,2] x", "float[N,3] y", {"a:1": 3, "g:1": 5},
        {"w0": (3, 6, 1, 1), "w1": (12, 5), "w2": (5, 3)},
    ),
    image(
        "a Split that cuts a part of a Concat: a single channel has to stay",
        """a = Conv(x, w0) b = Conv(x, w1) c = Concat<axis=1>(a, b) d, e = Split<axis=1>(c, s) f = Conv(d, w2)
        g = Conv(e, w3) y = Add(f, g)""",
        {"a:1": 3, "b:1": 4},
        w0=(4, 6, 1, 1), w1=(4, 6, 1, 1), s=ints(3, 5), w2=(3, 3, 1, 1), w3=(3, 5, 1, 1),
    ),
    image(
        "Split by an attribute",
        "a = Conv(x, w0) b, c = Split<axis=1, split=[2,4]>(a) d = Conv(b, w1) e = Conv(c, w2) y = Add(d, e)",
        {"a:1": 2, "a:1#2": 4},
        11, w0=(6, 6, 1, 1), w1=(3, 2, 1, 1), w2=(3, 4, 1, 1),
    ),
    image(
        "Split by a number of parts that doesn't divide",
        "a = Conv(x, w0) b, c = Split<axis=1, num_outputs=2>(a) d = Conv(b, w1) e = Conv(c, w2) y = Add(d, e)",
        {"a:1": 3, "a:1#2": 2},
        18, w0=(5, 6, 1, 1), w1=(3, 3, 1, 1), w2=(3, 2, 1, 1),
    ),
    image(
        "Concat along another axis",
        "a = Conv(x, w0) b = Conv(x, w1) c = Concat<axis=2>(a, b) y = Conv(c, w2)",
        {"a:1": 4},
        w0=(4, 6, 1, 1), w1=(4, 6, 1, 1), w2=(3, 4, 1, 1),
    ),
    image(
        "Slice by attributes; what it leaves is a group of its own",
        "a = Conv(x, w0) b = Slice<axes=[1], starts=[1], ends=[-1]>(a) y = Conv(b, w1)",
        {"a:1": 2, "a:1#2": 4},
        9, w0=(6, 6, 1, 1), w1=(3, 4, 1, 1),
    ),
    image(
        "Slice backwards",
        "a = Conv(x, w0) b = Slice(a, s, e, i, t) y = Conv(b, w1)",
        {"a:1": 6},
        w0=(6, 6, 1, 1), w1=(3, 6, 1, 1), s=ints(-1), e=ints(-(2**40)), i=ints(1), t=ints(-1),
    ),
    image(
        "every second channel, and the others: pairs go",
        "a = Conv(x, w0) b = Slice(a, s, e, i, t) c = Slice(a, s1, e, i, t) d = Add(b, c) y = Conv(d, w1)",
        {"a:1": 4},
        w0=(8, 6, 1, 1), w1=(3, 4, 1, 1), s=ints(0), s1=ints(1), e=ints(1000), i=ints(1), t=ints(2),
    ),
    image(
        "Gather of channels 7, 0, 0, 2 and 3: 0 alone is read twice, 1, 4, 5 and 6 aren't read",
        "a = Conv(x, w0) b = Gather<axis=1>(a, i) y = Conv(b, w1)",
        {"a:1#2": 4, "a:1#3": 3},
        w0=(8, 6, 1, 1), w1=(3, 5, 1, 1), i=ints(7, 0, 0, -6, 3),
    ),
    image(
        "Gather of one channel keeps it",
        "a = Conv(x, w0) b = Gather<axis=1>(a, i) u = Unsqueeze(b, j) c = Conv(u, w2) d = Conv(a, w1) y = Add(c, d)",
        {"a:1": 3},
        w0=(4, 6, 1, 1), w1=(3, 4, 1, 1), w2=(3, 1, 1, 1), i=np.int64(2), j=ints(1),
    ),
    image(
        "a shortcut that Pad makes wider: what is added goes by itself",
        "a = Conv(x, w0) b = Pad(a, p) c = Conv(x, w2) s = Add(b, c) y = Conv(s, w1)",
        {"a:1": 4, "b:1": 4},
        w0=(4, 6, 1, 1), w1=(3, 8, 1, 1), w2=(8, 6, 1, 1), p=ints(0, 2, 0, 0, 0, 2, 0, 0),
    ),
    image(
        "Pad that drops channels in front and adds some behind",
        "a = Conv(x, w0) b = Pad(a, p) y = Conv(b, w1)",
        {"a:1": 2, "a:1#2": 4, "b:1": 2},
        w0=(6, 6, 1, 1), w1=(3, 6, 1, 1), p=ints(0, -2, 0, 0, 0, 2, 0, 0),
    ),
    image(
        "DepthToSpace by rows of blocks",
        "a = Conv(x, w0) b = DepthToSpace<blocksize=2>(a) y = Conv(b, w1)",
        {"a:1": 2},
        w0=(8, 6, 1, 1), w1=(3, 2, 1, 1),
    ),
    image(
        "DepthToSpace by channels",
        'a = Conv(x, w0) b = DepthToSpace<blocksize=2, mode="CRD">(a) y = Conv(b, w1)',
        {"a:1": 2},
        w0=(8, 6, 1, 1), w1=(3, 2, 1, 1),
    ),
    image(
        "SpaceToDepth",
        "a = Conv(x, w0) b = SpaceToDepth<blocksize=2>(a) y = Conv(b, w1)",
        {"a:1": 2},
        w0=(2, 6, 1, 1), w1=(3, 8, 1, 1),
    ),
    image(
        "Resize by scales",
        'a = Conv(x, w0) b = Resize<mode="nearest">(a, , s) y = Conv(b, w1)',
        {"a:1": 4},
        w0=(4, 6, 1, 1), w1=(3, 4, 1, 1), s=np.array([1, 1, 2, 2], np.float32),
    ),
    image(
        "Upsample by an attribute",
        'a = Conv(x, w0) b = Upsample<mode="nearest", scales=[1.,1.,2.,2.]>(a) y = Conv(b, w1)',
        {"a:1": 4},
        7, w0=(4, 6, 1, 1), w1=(3, 4, 1, 1),
    ),
    Case(
        "Resize to the size of another tensor",
        """a = Conv(x, w0) h = Shape(z) s = Slice(h, two, four) g = Shape(a) q = Slice(g, zero, two)
        t = Concat<axis=0>(q, s) b = Resize<mode="nearest">(a, , , t) y = Conv(b, w1)""",
        f"{IMAGE}, float[N,1,H,W] z", "float[N,3,I,J] y", {"a:1": 4},
        {"w0": (4, 6, 1, 1), "w1": (3, 4, 1, 1), "zero": ints(0), "two": ints(2), "four": ints(4)},
    ),
    Case(
        "a target that is computed",
        """h = Shape(x) n = Gather<axis=0>(h, zero) k = Gather<axis=0>(h, two) t = Concat<axis=0>(n, mid, k)
        a = Conv(x, w0) r = Reshape(a, t) p = ReduceSum<keepdims=0>(r, one) y = Conv(p, w1)""",
        "float[N,3,L] x", "float[N,2,L] y", {"a:1": 3},
        {"w0": (6, 3, 1), "w1": (2, 3, 1), "zero": ints(0), "one": ints(1), "two": ints(2), "mid": ints(2, 3)},
    ),
    rows(
        "Tile copies channels",
        "a = MatMul(x, w0) b = Tile(a, s) y = MatMul(b, w1)",
        {"a:1": 4},
        w0=(6, 4), w1=(8, 3), s=ints(1, 2),
    ),
    Case(
        "Expand leaves them alone",
        "a = MatMul(x, w0) b = Expand(a, s) y = MatMul(b, w1)",
        "float[1,6] x", "float[5,3] y", {"a:1": 4}, {"w0": (6, 4), "w1": (4, 3), "s": ints(5, 4)},
    ),
    Case(
        "Squeeze and Unsqueeze with axes as attributes",
        """a = Conv(x, w0) g = GlobalAveragePool(a) f = Squeeze<axes=[-1,2]>(g) u = Unsqueeze<axes=[1]>(f)
        v = Squeeze<axes=[1]>(u) y = MatMul(v, w1)""",
        IMAGE, "float[N,3] y", {"a:1": 4}, {"w0": (4, 6, 1, 1), "w1": (4, 3)}, 11,
    ),
    Case(
        "Squeeze of whatever has one element",
        "a = Conv(x, w0) g = GlobalAveragePool(a) f = Squeeze(g) y = MatMul(f, w1)",
        "float[2,6,8,8] x", "float[2,3] y", {"a:1": 4}, {"w0": (4, 6, 1, 1), "w1": (4, 3)},
    ),
    Case(
        "windows are cut out of a picture and put together again",
        """a = MatMul(x, w0) r = Reshape(a, s) t = Transpose<perm=[0,1,3,2,4,5]>(r) f = Reshape(t, s2)
        m = MatMul(f, w1) g = Reshape(m, s3) u = Transpose<perm=[0,1,3,2,4,5]>(g) h = Reshape(u, s4)
        y = MatMul(h, w2)""",
        "float[N,8,8,6] x", "float[N,8,8,3] y", {"a:3": 4, "m:2": 5},
        {
            "w0": (6, 4), "w1": (4, 5), "w2": (5, 3), "s": ints(-1, 2, 4, 2, 4, 4), "s2": ints(-1, 16, 4),
            "s3": ints(-1, 2, 2, 4, 4, 5), "s4": ints(-1, 8, 8, 5),
        },
    ),
)  # fmt: skip

_SHUFFLE = "r = Reshape({0}, s1) t = Transpose<perm=[0,2,1,3,4]>(r) q = Reshape(t, s2)"
_HEADS = """q2 = Reshape(q0, sh) k2 = Reshape(k0, sh) v2 = Reshape(v0, sh)
    q = Transpose<perm=[0,2,1,3]>(q2) k = Transpose<perm=[0,2,3,1]>(k2) v = Transpose<perm=[0,2,1,3]>(v2)
    s0 = MatMul(q, k) s1 = Div(s0, c) {0} o0 = MatMul(p, v) o1 = Transpose<perm=[0,2,1,3]>(o0)
    o2 = Reshape(o1, so) y = MatMul(o2, wo)"""
_QKV = "q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv)"
_FUSED = "m = MatMul(x, w) a = Add(m, b) q0, k0, v0 = Split<axis=-1>(a)"
_SOFTMAX = "p = Softmax<axis=-1>(s1)"
_APART = {"wq": (6, 12), "wk": (6, 12), "wv": (6, 12), "wo": (12, 6), "c": np.float32(2)}
_TOGETHER = {"w": (6, 36), "b": (36,), "wo": (12, 6), "c": np.float32(2)}
_MERGED = f"""{_QKV} q2 = Reshape(q0, sh) k2 = Reshape(k0, sh) v2 = Reshape(v0, sh)
    q = Transpose<perm=[1,0,2]>(q2) k = Transpose<perm=[1,2,0]>(k2) v = Transpose<perm=[1,0,2]>(v2)
    s0 = MatMul(q, k) s1 = Div(s0, c) {_SOFTMAX} o0 = MatMul(p, v) o1 = Transpose<perm=[1,0,2]>(o0)
    o2 = Reshape(o1, so) y = MatMul(o2, wo)"""

CHOICES = (
    image(
        "a channel shuffle: one channel of each group goes",
        f"a = Conv(x, w0) {_SHUFFLE.format('a')} y = Conv(q, w1)",
        {"a:1": 4},
        w0=(8, 6, 1, 1), w1=(3, 8, 1, 1), s1=ints(0, 2, 4, 8, 8), s2=ints(0, 8, 8, 8),
    ),
    image(
        "a unit of ShuffleNet",
        f"""a = Conv(x, w0) b = Conv<group=2>(a, w1) {_SHUFFLE.format('b')} d = Conv<group=8>(q, wd)
        e = Conv<group=2>(d, w2) s = Add(a, e) y = Conv(s, w3)""",
        # Between the layers 2·2 channels at once: those that the shuffle brings next to each other, in both halves.
        {"a:1": 4, "b:1": 2},
        w0=(8, 6, 1, 1), w1=(8, 4, 1, 1), wd=(8, 1, 1, 1), w2=(8, 4, 1, 1), w3=(3, 8, 1, 1),
        s1=ints(0, 2, 4, 8, 8), s2=ints(0, 8, 8, 8),
    ),
    image(
        "a unit of ShuffleNet V2",
        f"""a = Conv(x, w0) l, r0 = Split<axis=1>(a) b = Conv(r0, w1) d = Conv<group=4>(b, wd) e = Conv(d, w2)
        f = Concat<axis=1>(l, e) {_SHUFFLE.format('f')} g, h = Split<axis=1>(q) i = Conv(h, w3)
        j = Concat<axis=1>(g, i) y = Conv(j, w4)""",
        {"a:1": 2, "a:1#2": 2, "a:1#3": 4, "b:1": 4, "i:1": 4},
        13, w0=(8, 6, 1, 1), w1=(4, 4, 1, 1), wd=(4, 1, 1, 1), w2=(4, 4, 1, 1), w3=(4, 4, 1, 1), w4=(3, 8, 1, 1),
        s1=ints(-1, 2, 4, 8, 8), s2=ints(-1, 8, 8, 8),
    ),
    image(
        "a non-local block: positions are merged, channels go",
        """a = Conv(x, w0) t0 = Conv(a, w1) p0 = Conv(a, w2) g0 = Conv(a, w3) t = Reshape(t0, s) p = Reshape(p0, s)
        g = Reshape(g0, s) u = Transpose<perm=[0,2,1]>(t) m = MatMul(u, p) n = Softmax<axis=-1>(m)
        h = Transpose<perm=[0,2,1]>(g) o = MatMul(n, h) v = Transpose<perm=[0,2,1]>(o) r = Reshape(v, s2)
        k = Conv(r, w4) z = Add(k, a) y = Conv(z, w5)""",
        {"a:1": 4, "t0:1": 2, "g0:1": 2},
        w0=(4, 6, 1, 1), w1=(2, 4, 1, 1), w2=(2, 4, 1, 1), w3=(2, 4, 1, 1), w4=(4, 2, 1, 1), w5=(3, 4, 1, 1),
        s=ints(0, 2, -1), s2=ints(0, 2, 8, 8),
    ),
    tokens(
        "attention: whole heads",
        f"{_QKV} {_HEADS.format(_SOFTMAX)}",
        {"q0:2": 3},
        sh=ints(0, 0, 3, 4), so=ints(0, 0, 12), **_APART,
    ),
    Case(
        "attention over any number of tokens",
        f"{_QKV} {_HEADS.format(_SOFTMAX)}",
        "float[N,S,6] x", "float[N,S,6] y", {"q0:2": 3}, {"sh": ints(0, -1, 3, 4), "so": ints(0, -1, 12), **_APART},
    ),
    tokens(
        "attention with one layer for queries, keys and values",
        f"{_FUSED} {_HEADS.format(_SOFTMAX)}",
        {"m:2": 3},
        13, sh=ints(0, -1, 3, 4), so=ints(0, -1, 12), **_TOGETHER,
    ),
    tokens(
        "attention with a bias for each head",
        f"{_FUSED} {_HEADS.format('z = Add(s1, l) p = Softmax<axis=-1>(z)')}",
        {"m:2": 3},
        13, sh=ints(0, -1, 3, 4), so=ints(0, -1, 12), l=(1, 3, 5, 5), **_TOGETHER,
    ),
    tokens(
        "attention whose Softmax merges heads with positions",
        f"{_QKV} {_HEADS.format('f = Flatten<axis=3>(s1) z = Softmax<axis=1>(f) p = Reshape(z, sp)')}",
        {"q0:2": 3},
        sh=ints(0, 0, 3, 4), so=ints(0, 0, 12), sp=ints(-1, 3, 5, 5), **_APART,
    ),
    tokens(
        "attention by Einsum, with the mask of a decoder",
        f"""{_QKV} q = Reshape(q0, sh) k = Reshape(k0, sh) v = Reshape(v0, sh)
        s = Einsum<equation="bihd,bjhd->bhij">(q, k) d = Mul(s, c) u = Trilu<upper=0>(d)
        o = Einsum<equation="bhij,bjhd->bihd">(u, v) o2 = Reshape(o, so) y = MatMul(o2, wo)""",
        {"q0:2": 3},
        sh=ints(0, 5, 3, 4), so=ints(0, 5, 12), **_APART,
    ),
    Case(
        "attention with heads and batch in one axis",
        _MERGED,
        "float[5,N,6] x", "float[5,N,6] y", {"q0:2": 3}, {"sh": ints(5, -1, 4), "so": ints(5, -1, 12), **_APART},
    ),
    Case(
        "attention with heads and a batch of 2 in one axis",
        _MERGED,
        "float[S,2,6] x", "float[S,2,6] y", {"q0:2": 3}, {"sh": ints(-1, 6, 4), "so": ints(-1, 2, 12), **_APART},
    ),
)  # fmt: skip

CASES = (*LINEAR, *POINTWISE, *MOVEMENT, *CHOICES)
