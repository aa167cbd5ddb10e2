"""The tables of precisions against the engines: one network whose layers have one each, as assigned."""

from __future__ import annotations

import onnx
import pytest

from graphopt.analysis.precision.regions import find_regions
from graphopt.backends.engines import find_engine
from graphopt.backends.onnxruntime import kernel_precision
from graphopt.backends.planned import planned_nodes
from graphopt.calibration import input_specs, load_dataset
from graphopt.ir import Graph, fill_types, from_proto, to_proto, upgrade_graph
from graphopt.ir.ops import LINEAR
from graphopt.passes._precision_plan import carry_out
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.insert_casts import InsertCasts
from graphopt.passes.insert_qdq import InsertQdq
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.passes.store_float16_weights import StoreFloat16Weights
from graphopt.pipeline import Context
from graphopt.targets import TARGETS, find_target
from tests.support.quantization import model
from tests.support.rewrite import random_feeds

# Each kind of layer twice in a row.
NETWORK = model(
    "a = Conv<pads=[1,1,1,1]>(x, c) b = Relu(a) d = Conv<pads=[1,1,1,1]>(b, e) f = Relu(d)\n"
    "g = Conv<pads=[1,1,1,1]>(f, h) i = Relu(g) j = GlobalAveragePool(i) k = Flatten(j)\n"
    "l = Gemm(k, m) n = Relu(l) o = Gemm(n, p) q = Relu(o) y = Gemm(q, r)",
    "float[N,32,8,8] x", "float[N,32] y",
    c=(32, 32, 3, 3), e=(32, 32, 3, 3), h=(32, 32, 3, 3), m=(32, 32), p=(32, 32), r=(32, 32),
)  # fmt: skip


def assigned(target: str, precisions: dict[str, str], opset: int = 13) -> Graph:
    """The network with these precisions by the layer's result; 8 bits, or else float32, for the others."""
    source = onnx.ModelProto.FromString(NETWORK.SerializeToString())
    for node in source.graph.node:
        node.name = node.output[0]
    graph, found = from_proto(source), find_target(target)
    if opset > graph.opset:
        upgrade_graph(graph, opset)
    fill_types(graph)
    feeds = [random_feeds(source, seed) for seed in range(2)]
    ctx = Context(target=found, calibration=load_dataset(feeds, input_specs(source)))
    for pass_ in (PlanQuantization(), Calibrate(method="minmax")):
        pass_.run(graph, ctx)
    regions = find_regions(graph, found)
    assignment = {
        r.name: precisions.get(r.name, "int8" if r.op not in LINEAR and "int8" in r.precisions else "float32")
        for r in regions.regions
    }
    assert [r.name for r in regions.regions if assignment[r.name] not in r.precisions] == []
    assert carry_out(graph, ctx, found, regions, assignment, {}) == assignment
    for pass_ in (StoreFloat16Weights(), QuantizeWeights(), InsertQdq(), InsertCasts()):
        pass_.run(graph, ctx)
        graph.sort()
    fill_types(graph)
    onnx.checker.check_model(to_proto(graph), full_check=True)
    return graph


def in_the_engine(graph: Graph, target: str, device: str | None = None) -> dict[str, str]:
    """Linear node → what the engine runs it in, where the model says what that should be; "?" where it isn't that."""
    table = find_target(target)
    engine = find_engine(table)
    planned = planned_nodes(graph, table)
    found = engine.precision(to_proto(graph), planned, engine.device(device), {}).nodes
    return {n.planned.name: n.planned.precision if n.as_planned else f"? {n}" for n in found if n.planned.linear}


def test_onnxruntime_computes_in_float_what_is_float() -> None:
    graph = assigned("onnxruntime", {"a": "int8", "g": "int8"})
    kernels = kernel_precision(to_proto(graph))
    assert [kernel.integer for kernel in kernels] == [True, False, True, False, False, False]


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_8_bits_and_4_and_float_side_by_side(target: str) -> None:
    wanted = {"a": "int8", "d": "float32", "g": "int8", "l": "int4-weights", "o": "int8", "y": "int4-weights"}
    found = in_the_engine(assigned(target, wanted), target)
    assert found == {name: precision for name, precision in wanted.items() if precision != "float32"}


@pytest.mark.parametrize("device", ["SM80", "SM120"])
def test_tensorrt_has_16_bit_floats_beside_them(device: str) -> None:
    wanted = {"a": "int8", "d": "float16", "g": "float32", "l": "int4-weights", "o": "int8", "y": "float16"}
    assert in_the_engine(assigned("tensorrt", wanted), "tensorrt", device) == wanted
    wanted = {"a": "bfloat16", "d": "int8", "g": "float32", "l": "bfloat16", "o": "bfloat16", "y": "int8"}
    assert in_the_engine(assigned("tensorrt", wanted, opset=22), "tensorrt", device) == wanted


def test_litert_has_16_bit_activations_and_weights() -> None:
    wanted = {"a": "int8", "d": "int16x8", "g": "float16-weights", "l": "int16x8", "o": "float32", "y": "int8"}
    graph = assigned("tflite", wanted)
    found = in_the_engine(graph, "tflite")
    assert found == {name: precision for name, precision in wanted.items() if precision.startswith("int")}
    cast = next(node for node in graph.nodes if node.name == "g").inputs[1].inputs[0]
    assert (cast.op, str(cast.inputs[0].dtype)) == ("Cast", "float16")


def test_every_precision_of_the_tables_is_among_these() -> None:
    tested = {
        "onnxruntime": {"int4-weights", "int8", "float32"},
        "openvino": {"int4-weights", "int8", "float32"},
        "tensorrt": {"int4-weights", "int8", "float16", "bfloat16", "float32"},
        "tflite": {"int8", "int16x8", "float16-weights", "float32"},
    }
    assert {name: set(target.precisions) for name, target in TARGETS.items()} == tested
