"""Plan and quantize small models the way the int8 preset does, on noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from graphopt.calibration import input_specs, load_dataset
from graphopt.ir import Graph, from_proto, to_proto
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.insert_qdq import InsertQdq
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context, Pass, Remarks
from graphopt.quant import QuantPlan
from graphopt.targets import find_target
from tests.support.rewrite import random_feeds

HEADER = '<ir_version: 8, opset_import: ["" : 13]>\n'


@dataclass(frozen=True)
class Quantized:
    """A float model, what became of it, and what was said."""

    before: onnx.ModelProto
    after: onnx.ModelProto
    remarks: Remarks
    plan: QuantPlan

    def ops(self) -> list[str]:
        return [n.op_type for n in self.after.graph.node]

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        return next((n for n in self.after.graph.node if tensor in n.output), None)

    def initializer(self, name: str) -> np.ndarray:
        return onnx.numpy_helper.to_array(next(i for i in self.after.graph.initializer if i.name == name))

    def reads_quantized(self, node: onnx.NodeProto, index: int) -> bool:
        made_by = self.producer(node.input[index])
        return made_by is not None and made_by.op_type == "DequantizeLinear"

    def find(self, op: str, position: int = 0) -> onnx.NodeProto:
        return [n for n in self.after.graph.node if n.op_type == op][position]


def weights(**shapes: Sequence[int]) -> str:
    """Declarations of constants by shape; ONNX text with all their values wouldn't be readable."""
    return ", ".join(f"float[{','.join(map(str, s))}] {n}" for n, s in shapes.items())


def model(body: str, inputs: str, outputs: str, seed: int = 0, **shapes: Sequence[int]) -> onnx.ModelProto:
    """A model of `body` whose named initializers are filled with noise; Constants become initializers."""
    extra = f", {weights(**shapes)}" if shapes else ""
    parsed = onnx.parser.parse_model(f"{HEADER}g ({inputs}{extra}) => ({outputs}) {{ {body} }}")
    rng = np.random.default_rng(seed)
    for value in [v for v in parsed.graph.input if v.name in shapes]:
        array = rng.normal(size=tuple(shapes[value.name])).astype(np.float32)
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        parsed.graph.input.remove(value)
    for node in [n for n in parsed.graph.node if n.op_type == "Constant"]:
        array = np.asarray(onnx.helper.get_node_attr_value(node, "value_float"), np.float32)
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(array, node.output[0]))
        parsed.graph.node.remove(node)
    onnx.checker.check_model(parsed)
    return onnx.shape_inference.infer_shapes(parsed, data_prop=True)


def plan_of(source: onnx.ModelProto, target: str, pass_: PlanQuantization | None = None) -> tuple[Graph, Remarks]:
    """The graph with its plan filled in."""
    graph = from_proto(source)
    ctx = Context(target=find_target(target))
    (pass_ or PlanQuantization()).run(graph, ctx)
    return graph, ctx.remarks


def quantize_model(
    source: onnx.ModelProto, target: str, samples: int = 4, plan: Pass | None = None, behind: Sequence[Pass] = ()
) -> Quantized:
    """Plan, calibrate on noise, quantize weights, insert Q/DQ, and `behind`; the result passes onnx.checker."""
    graph = from_proto(source)
    feeds = [random_feeds(source, seed) for seed in range(samples)]
    ctx = Context(target=find_target(target), calibration=load_dataset(feeds, input_specs(source)))
    for pass_ in (plan or PlanQuantization(), Calibrate(), QuantizeWeights(), InsertQdq(), *behind):
        ctx.remarks.current = pass_.name
        pass_.run(graph, ctx)
        graph.sort()
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    return Quantized(source, after, ctx.remarks, graph.plan)
