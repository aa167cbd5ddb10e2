"""split-sequences."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.passes.split_sequences import SplitSequences
from tests.support.rewrite import assert_same_outputs, parse, random_feeds, rewrite, run

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
AT = """<int64 zero = {0}, int64 one = {1}, int64 last = {-1}, int64[2] sizes = {2, 3}, int64 each = {2},
         int32 one32 = {1}>"""


def same_bits(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    feeds = random_feeds(before)
    for expected, found in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("SplitToSequence<axis=1>(x, sizes)", [2, 3]),
        ("SplitToSequence<axis=-1>(x, each)", [2, 2, 1]),
        ("SplitToSequence<axis=1>(x)", [1] * 5),
        ("SplitToSequence(x, one32)", [1] * 4),
    ],
)
def test_a_sequence_becomes_a_split(split: str, expected: list[int]) -> None:
    source = parse(
        HEADER
        + f"""g (float[4,5] x) => (float[a,b] y, float[c,d] z, float[e,f] w) {AT} {{
          s = {split}
          y = SequenceAt(s, zero)
          t = SequenceAt(s, last)
          z = Neg(t)
          u = SequenceAt(s, zero)
          w = Neg(u)
        }}"""
    )
    result = rewrite(SplitSequences(), source)
    assert sorted(result.ops) == ["Identity", "Identity", "Identity", "Neg", "Neg", "Split"]
    sizes = {i.name: onnx.numpy_helper.to_array(i).tolist() for i in result.model.graph.initializer}
    assert sizes[result.model.graph.node[0].input[1]] == expected
    assert [o.name for o in result.model.graph.output] == ["y", "z", "w"]
    same_bits(source, result.model)


def test_parts_without_the_axis() -> None:
    source = parse(
        HEADER + f"g (float[3,2,4] x) => (float[2,4] y) {AT} {{"
        "s = SplitToSequence<axis=0, keepdims=0>(x)  a = SequenceAt(s, one)  b = SequenceAt(s, last)  y = Sub(a, b) }"
    )
    result = rewrite(SplitSequences(), source)
    assert result.ops == ["Split", "Squeeze", "Squeeze", "Sub"]
    same_bits(source, result.model)


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ("s = SplitToSequence<axis=1>(x, sizes)  y = ConcatFromSequence<axis=1>(s)", "the sequence 's' itself is used"),
        ("s = SplitToSequence<axis=1>(x, sizes)  y = SequenceAt(s, i)", "isn't a constant"),
        ("s = SplitToSequence<axis=1>(x, n)  y = SequenceAt(s, zero)", "isn't a constant"),
        ("s = SplitToSequence<axis=0>(x, each)  y = SequenceAt(s, zero)", "isn't a constant"),
        (
            """s = SplitToSequence<axis=1>(x, sizes)
            y = If(t) < then_branch = p () => (float[N,2] q) { q = SequenceAt(s, zero) },
                        else_branch = r () => (float[N,2] o) { o = SequenceAt(s, zero) } >""",
            "itself is used",
        ),
    ],
)
def test_what_stays(nodes: str, why: str) -> None:
    source = parse(HEADER + f"g (float[N,5] x, int64 i, int64[k] n, bool t) => (float[a,b] y) {AT} {{ {nodes} }}")
    result = rewrite(SplitSequences(), source)
    assert result.revision == 0
    assert len(result.declined()) == 1
    assert why in result.declined()[0]


def test_weights_that_are_split_in_the_graph_are_quantized() -> None:
    # The projections of nn.MultiheadAttention, as torch exports them with optimize=False.
    weights = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    source = parse(
        HEADER
        + """g (float[2,8] x) => (float[2,8] y) <int64[2] sizes = {8, 8}, int64 zero = {0}, int64 one = {1}> {
          s = SplitToSequence<axis=1>(w, sizes)
          a = SequenceAt(s, zero)
          b = SequenceAt(s, one)
          h = MatMul(x, a)
          y = MatMul(h, b)
        }""".replace("<int64[2]", "<float[8,16] w = {" + ",".join(map(str, weights.ravel())) + "}, int64[2]")
    )
    feeds = [random_feeds(source, seed) for seed in range(4)]
    result = graphopt.optimize(source, target="onnxruntime", calibration_data=feeds)
    assert [layer.integer for layer in result.report.layers] == [True, True]
    assert_same_outputs(source, graphopt.optimize(source, preset="float").model)
