"""Parts of models: what they read, what they make, and that they compute what the whole does there."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import parser
from onnx.reference import ReferenceEvaluator

from graphopt.ir import load, to_proto
from graphopt.ir.extract import Border, border_of, extract, known_types
from graphopt.ir.reads import reads

MODEL = """
<ir_version: 8, opset_import: ["": 17]>
net (float[2, 3] x, bool c) => (float[2, 3] y, float[2, 3] h)
<float[3] w = {1, 2, 3}, float[3] v = {4, 5, 6}>
{
  [a] h = Mul(x, w)
  [b] t = Relu(h)
  [i] u = If(c) <
    then_branch = one () => (float[2, 3] p) { [m] p = Mul(t, v) },
    else_branch = two () => (float[2, 3] q) { [n] q = Add(h, w) }
  >
  [d] y = Add(u, t)
}
"""


def model() -> onnx.ModelProto:
    return to_proto(load(parser.parse_model(MODEL)))


def test_the_border_has_what_bodies_read_and_outputs_of_the_model() -> None:
    whole = model()
    assert border_of(whole, {"a", "b"}) == Border(("x",), ("h", "t"))
    assert border_of(whole, {"i"}) == Border(("c", "t", "h"), ("u",))
    assert border_of(whole, {node.name for node in whole.graph.node}) == Border(("x", "c"), ("h", "y"))
    assert list(reads(next(node for node in whole.graph.node if node.name == "i"))) == ["c", "t", "v", "h", "w"]


def test_a_part_computes_what_the_whole_does_there() -> None:
    whole = model()
    types = known_types(whole)
    border = border_of(whole, {"i", "d"})
    part = extract(whole, border, types)
    assert part is not None
    onnx.checker.check_model(part, full_check=True)
    assert [node.name for node in part.graph.node] == ["i", "d"]
    assert [tensor.name for tensor in part.graph.initializer] == ["w", "v"]
    feed = {"x": np.array([[1, -2, 3], [-4, 5, -6]], np.float32), "c": np.array(True)}
    exposed = onnx.ModelProto.FromString(whole.SerializeToString())
    exposed.graph.output.append(types["t"])
    y, h, t = ReferenceEvaluator(exposed).run(None, feed)
    (found,) = ReferenceEvaluator(part).run(None, {"c": feed["c"], "t": t, "h": h})
    np.testing.assert_array_equal(found, y)


def test_what_needs_more_than_the_border_gives_is_no_part() -> None:
    whole = model()
    assert extract(whole, Border(("t",), ("y",)), known_types(whole)) is None
    assert extract(whole, Border(("t", "u"), ("y",)), {}) is None


def test_inputs_that_nothing_needs_are_left_out() -> None:
    whole = model()
    part = extract(whole, Border(("x", "t"), ("h",)), known_types(whole))
    assert part is not None
    assert [info.name for info in part.graph.input] == ["x"]
