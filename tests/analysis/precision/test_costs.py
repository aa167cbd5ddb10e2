"""Bits and bytes of regions, against the models that the passes really write."""

from __future__ import annotations

from math import prod
from typing import Literal

import numpy as np
import onnx
import pytest

from graphopt.analysis.precision.costs import bit_costs, size_costs, total_macs
from graphopt.analysis.precision.problem import evaluate
from graphopt.analysis.precision.regions import assigned_nodes, find_regions, float_nodes
from graphopt.analysis.precision.types import Border, Costs, Problem, Region, Regions, Sensitivity
from graphopt.calibration import input_specs, load_dataset
from graphopt.ir import Graph, from_proto, infer, to_proto
from graphopt.ir.external import stored_bytes
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.insert_qdq import InsertQdq
from graphopt.passes.plan_quantization import PlanQuantization, plan_again
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context
from graphopt.targets import find_target
from tests.support.quantization import model
from tests.support.rewrite import random_feeds

NETWORK = model(
    """
    a = Conv<pads = [1, 1, 1, 1]>(x, w_a, bias_a)
    ra = Relu(a)
    d = Conv<pads = [1, 1, 1, 1], group = 16>(ra, w_d)
    t = ConvTranspose<strides = [2, 2]>(d, w_t, bias_t)
    p = GlobalAveragePool(t)
    f = Flatten(p)
    m = MatMul(f, w_m)
    n = Add(m, bias_m)
    y = Gemm<transB = 1>(n, w_g, bias_g)
    """,
    "float[1, 3, 8, 8] x",
    "float[1, 10] y",
    w_a=(16, 3, 3, 3),
    bias_a=(16,),
    w_d=(16, 1, 3, 3),
    w_t=(16, 24, 2, 2),
    bias_t=(24,),
    w_m=(24, 32),
    bias_m=(32,),
    w_g=(10, 32),
    bias_g=(10,),
)


def planned(target: str) -> tuple[Graph, Regions]:
    """The network with its plan, all regions in 8 bits that can be, and ranges."""
    chosen = find_target(target)
    graph = from_proto(NETWORK)
    infer(graph)
    ctx = Context(target=chosen, calibration=load_dataset([random_feeds(NETWORK)], input_specs(NETWORK)))
    PlanQuantization().run(graph, ctx)
    regions = find_regions(graph, chosen, kept_float=dict(graph.plan.kept_float))
    everything = {r.name: "int8" if "int8" in r.precisions else "float32" for r in regions.regions}
    plan_again(graph, chosen, {}, assigned_nodes(regions, everything))
    Calibrate().run(graph, ctx)
    return graph, regions


def stored(written: onnx.ModelProto, activations: set[str]) -> int:
    """Bytes of the initializers, but for scale and zero point of activations."""
    bytes_ = 0
    scalars = {
        name
        for node in written.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] in activations
        for name in node.input[1:]
    }
    for tensor in written.graph.initializer:
        if tensor.name not in scalars:
            bytes_ += onnx.numpy_helper.to_array(tensor).nbytes
    return bytes_


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt", "tflite"])
@pytest.mark.parametrize("seed", range(3))
def test_size_is_that_of_what_the_passes_write(target: str, seed: int) -> None:
    """To the byte, whatever is in 8 bits: all, or a random half."""
    graph, regions = planned(target)
    costs = size_costs(graph, regions)
    rng = np.random.default_rng(seed)
    chosen = {
        r.name: "int8" if "int8" in r.precisions and (seed == 0 or rng.random() < 0.5) else "float32"
        for r in regions.regions
    }
    expected = evaluate(_problem(regions, costs), chosen).cost
    plan_again(
        graph,
        find_target(target),
        dict.fromkeys(float_nodes(regions, chosen), "assigned"),
        assigned_nodes(regions, chosen),
    )
    ctx = Context(target=find_target(target))
    QuantizeWeights().run(graph, ctx)
    InsertQdq().run(graph, ctx)
    graph.sort()
    written = to_proto(graph)
    variables = {name for node in written.graph.node for name in node.output} | {"x"}
    assert stored(written, variables) == expected


def test_bits_are_those_of_weights_and_of_activations_without_one() -> None:
    """Multiply-accumulates by hand: 8×8 sites of 3·3·3, 3·3 depthwise, 2×2 spread; products of 24·32 and 32·10."""
    graph, regions = planned("onnxruntime")
    costs = bit_costs(graph, regions)
    macs = {"a": 64 * 16 * 27, "d": 64 * 16 * 9, "t": 64 * 16 * 24 * 4, "m": 24 * 32, "y": 320}
    of_result = {next(n for n in graph.nodes if n.name == r.name).outputs[0].name: r.name for r in regions.regions}
    for output, count in macs.items():
        assert costs.regions[of_result[output], "float32"] == 32 * count
        assert costs.regions.get((of_result[output], "int8")) == (None if output == "t" else 8 * count)
    assert total_macs(costs) == sum(macs.values())
    everything = {r.name: "int8" if "int8" in r.precisions else "float32" for r in regions.regions}
    # onnxruntime has no integer ConvTranspose.
    assert evaluate(_problem(regions, costs), everything).cost == 8 * sum(macs.values()) + 24 * macs["t"]


def test_a_product_of_activations_has_the_bits_of_these() -> None:
    body = "y = MatMul(x, z)"
    graph = from_proto(model(body, "float[1, 4, 8] x, float[1, 8, 2] z", "float[1, 4, 2] y"))
    infer(graph)
    name = graph.nodes[0].name
    region = Region(name, "MatMul", (name,), (), ("float32", "int16x8", "int4-weights"), (), "y")
    costs = bit_costs(graph, Regions((region,), ()))
    assert [costs.regions[name, p] for p in region.precisions] == [64 * 32, 64 * 16, 64 * 32]


def test_unknown_sizes_are_said_and_shapes_mend_them() -> None:
    source = model("y = MatMul(x, w)", "float[1, L, 8] x", "float[1, L, 2] y", w=(8, 2))
    graph = from_proto(source)
    infer(graph)
    name = graph.nodes[0].name
    regions = Regions((Region(name, "MatMul", (name,), (), ("float32",), ("w",), "y"),), ())
    unknown = bit_costs(graph, regions)
    assert unknown.regions[name, "float32"] == 0
    assert "1 layers of unknown size" in unknown.source
    known = bit_costs(graph, regions, {"x": (1, 5, 8), "y": (1, 5, 2)})
    assert known.regions[name, "float32"] == 5 * 8 * 2 * 32
    assert "unknown" not in known.source


def test_other_forms_of_weights() -> None:
    """Half the bytes in 16 bits, bias included."""
    graph = from_proto(model("y = Gemm(x, w, b)", "float[1, 70] x", "float[1, 6] y", w=(70, 6), b=(6,)))
    infer(graph)
    name = graph.nodes[0].name
    precisions = ("float32", "float16", "bfloat16", "float16-weights")
    regions = Regions((Region(name, "Gemm", (name,), (), precisions, ("w",), "y"),), ())
    found = size_costs(graph, regions)
    values, bias = 70 * 6, 6
    assert [found.regions[name, p] for p in precisions] == [
        4 * (values + bias),
        2 * (values + bias),
        2 * (values + bias),
        2 * values + 4 * bias,
    ]
    assert found.fixed == 0


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
@pytest.mark.parametrize("block", [32, 128])
def test_blocks_of_4_bits_are_those_that_the_pass_writes(target: str, block: Literal[32, 128]) -> None:
    """Of 250 and 512 inputs: a last block that is shorter, or blocks that divide, as the target has it."""
    body = "a = MatMul(x, w_a) \n g = Relu(a) \n y = Gemm(g, w_b, bias_b)"
    source = model(body, "float[8, 250] x", "float[8, 24] y", w_a=(250, 512), w_b=(512, 24), bias_b=(24,))
    graph = from_proto(source)
    infer(graph)
    regions = find_regions(graph, find_target(target))
    graph.plan.target = find_target(target)
    costs = size_costs(graph, regions, block=block)
    able = {r.name: "int4-weights" if "int4-weights" in r.precisions else "float32" for r in regions.regions}
    assert list(able.values()).count("int4-weights") == 2
    graph.plan.clear()
    QuantizeWeights(bits=4, block=block).run(graph, Context(target=find_target(target)))
    written = to_proto(graph).graph.initializer
    bytes_ = sum(stored_bytes(t.data_type, prod(t.dims)) for t in written)
    assert evaluate(_problem(regions, costs), able).cost == bytes_


def test_a_shared_constant_is_counted_once_and_others_are_fixed() -> None:
    """Sum of float32 = bytes of all initializers, with the one that no region has."""
    body = "a = MatMul(x, w) \n b = MatMul(a, w) \n y = Mul(b, k)"
    source = model(body, "float[1, 4] x", "float[1, 4] y", w=(4, 4), k=(4,))
    graph = from_proto(source)
    infer(graph)
    first, second = graph.nodes[0].name, graph.nodes[1].name
    regions = Regions(
        (
            Region(first, "MatMul", (first,), (), ("float32", "int8"), ("w",), "a"),
            Region(second, "MatMul", (second,), (), ("float32", "int8"), ("w",), "b"),
        ),
        (Border("a", first, (second,)),),
    )
    costs = size_costs(graph, regions)
    assert costs.regions == {
        (first, "float32"): 64,
        (first, "int8"): 16 + 4 * 5,
        (second, "float32"): 0,
        (second, "int8"): 0,
    }
    assert costs.fixed == 16


def _problem(regions: Regions, costs: Costs) -> Problem:
    choices = {region.name: region.precisions for region in regions.regions}
    return Problem(regions, choices, Sensitivity("weights", {}, {}), costs)
