"""The text that dumps and golden tests compare."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from graphopt.ir import Graph, from_proto, infer, load, save
from graphopt.ir.printer import ValueTexts, print_graph
from graphopt.quant import Edge, Range, Scheme, TensorPlan
from graphopt.targets import find_target

MODEL = """<ir_version: 8, opset_import: ["" : 17, "my.ops" : 2]>
g (float[N,3] x, bool c) => (float[N,3] y) <float[3,3] w = {1,2,3,4,5,6,7,8,9.5}, float k = {0.25}> {
  [dense] t = MatMul(x, w)
  [branch] u = If(c) <then_branch = a () => (float[N,3] p) { [inner] p = LeakyRelu<alpha=0.1>(t) },
                      else_branch = b () => (float[N,3] q) { [clip] q = Clip(t, , k) }>
  [odd] y = my.ops.Odd<mode="fast", axes=[0,-1]>(u)
}"""

EXPECTED = """\
model 'g', opset ai.onnx 17, my.ops 2, IR 8
input  %x: float32[N,3]
input  %c: bool[]
output %y: float32[N,3]
2 constants, 40 bytes

%t: float32[N,3] = MatMul(%x, %w: float32[3,3] in [1, 9.5])  "dense"
%u: float32[N,3] = If(%c)  "branch"
    then_branch 'a' () {
        %p: float32[N,3] = LeakyRelu(%t) {alpha=0.1}  "inner"
    } → %p
    else_branch 'b' () {
        %q: float32[N,3] = Clip(%t, _, %k: float32[] = 0.25)  "clip"
    } → %q
%y: float32[N,3] = my.ops::Odd(%u) {axes=[0,-1], mode='fast'}  "odd"
"""


def graph_of(text: str = MODEL) -> Graph:
    graph = from_proto(onnx.parser.parse_model(text))
    infer(graph)
    return graph


def test_golden() -> None:
    assert print_graph(graph_of()) == EXPECTED


def test_printing_changes_and_loads_nothing() -> None:
    graph = graph_of()
    revision = graph.revision
    assert print_graph(graph) == print_graph(graph)
    assert graph.revision == revision
    assert all(c.lazy is not None for c in graph.constants)


def test_remembered_values_are_those_of_now() -> None:
    graph, values = graph_of(), ValueTexts()
    weight = graph.constants[0]
    print_graph(graph, values)
    for k in range(20):  # arrays come and go, and with them what id() says
        graph.set_values(weight, np.full((3, 3), k, np.float32))
        assert print_graph(graph, values) == print_graph(graph)
    gone = weakref.ref(weight.values)
    graph.set_values(weight, np.zeros((3, 3), np.float32))
    assert gone() is None, "remembering its text must not keep a weight alive"


def test_the_plan_is_beside_what_it_is_about() -> None:
    graph = graph_of()
    plan = graph.plan
    plan.target = find_target("openvino")
    plan.add(TensorPlan("x", Scheme("uint8"), (Edge("dense", 0),), range=Range.of(-1, 1.55), reason="graph input"))
    channels = Range(np.array([-1.0, -2.0, 0.0]), np.array([1.0, 0.5, 4.0]))
    plan.add(TensorPlan("w", Scheme("int8", symmetric=True, channel_axis=1), (Edge("dense", 1),), range=channels))
    plan.add(TensorPlan("t", Scheme("int8"), (Edge("clip", 0),), group="shared", is_output=True))
    plan.quantized_nodes["dense"] = "MatMul runs in 8 bits"
    plan.float_nodes["odd"] = "no 8-bit kernel"
    lines = print_graph(graph).splitlines()
    assert "plan for openvino: 3 tensors" in lines
    at = lines.index('%t: float32[N,3] = MatMul(%x, %w: float32[3,3] in [1, 9.5])  "dense"')
    assert lines[at - 1] == (
        "    # %x uint8 asym, range [-1, 1.55], scale 0.01, zero point 100, read by dense:0, graph input"
    )
    assert lines[at + 1 : at + 4] == [
        "    # integer: MatMul runs in 8 bits",
        "    # %w int8 sym axis=1, range [-2, 4], 3 scales 0.00787402 … 0.0314961, read by dense:1",
        "    # %t int8 asym, group shared, read by clip:0, graph output",
    ]
    assert lines[-1] == "    # float: no 8-bit kernel"


def test_values_in_another_file_are_not_read(tmp_path: Path) -> None:
    values = onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "big")
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[64] x) => (float[64] y) { y = Neg(x) }'
    )
    model.graph.node[0].op_type = "MatMul"
    model.graph.node[0].input.append("big")
    model.graph.initializer.append(values)
    save(load(model), tmp_path / "m.onnx", external_data=True)
    graph = load(tmp_path / "m.onnx")
    text = print_graph(graph)
    assert "%big: float32[64,64] in another file" in text
    assert graph.constants[0].lazy is not None


def test_odd_values() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y)
        <bool[2] flags = {1,0}, int64[0] none = {}> {
          names = Constant<value_strings=["a", "b"]>()
          nothing = Identity(none)
          y = Where(flags, x, x)
        }"""
    )
    text = print_graph(from_proto(model))
    assert "%flags: bool[2] = [True, False]" in text
    assert "%none: int64[0] = []" in text
    assert "{value_strings=['a','b']}" in text
