"""The estimate for GPUs, against the same sums by hand."""

from __future__ import annotations

import pytest

from graphopt.analysis.precision.roofline import GPUS, LAUNCH_SECONDS, roofline_costs
from graphopt.analysis.precision.types import Border, Region, Regions
from graphopt.backends import tensorrt
from graphopt.errors import ConfigError
from graphopt.ir import Graph, from_proto, infer
from tests.support.quantization import model

PRECISIONS = ("float32", "float16", "int8")


def network(side: int) -> tuple[Graph, Regions]:
    """A convolution 64 → 64 of 3×3 on side × side, and an Add behind it."""
    body = "c = Conv<pads = [1, 1, 1, 1]>(x, w) \n y = Add(c, x)"
    shape = f"float[1, 64, {side}, {side}]"
    graph = from_proto(model(body, f"{shape} x", f"{shape} y", w=(64, 64, 3, 3)))
    infer(graph)
    conv, add = (node.name for node in graph.nodes)
    regions = Regions(
        (
            Region(conv, "Conv", (conv,), (), PRECISIONS, ("w",), "c"),
            Region(add, "Add", (add,), (), ("float32", "float16"), (), "y"),
        ),
        (Border("x", None, (conv, add)), Border("c", conv, (add,)), Border("y", add, (), is_output=True)),
    )
    return graph, regions


def test_a_large_convolution_is_held_up_by_arithmetic_and_an_add_by_memory() -> None:
    graph, regions = network(224)
    costs = roofline_costs(graph, regions, device="SM86")
    gpu, values = GPUS["SM86"], 64 * 224 * 224
    conv, add = (region.name for region in regions.regions)
    operations = 2 * values * 64 * 9
    assert costs.regions[conv, "float32"] == pytest.approx(operations / gpu.float32 + LAUNCH_SECONDS)
    assert costs.regions[conv, "float16"] == pytest.approx(operations / gpu.float16 + LAUNCH_SECONDS)
    assert costs.regions[conv, "int8"] == pytest.approx(operations / gpu.int8 + LAUNCH_SECONDS)
    assert costs.regions[add, "float32"] == pytest.approx(3 * values * 4 / gpu.bandwidth + LAUNCH_SECONDS)
    assert costs.regions[add, "float16"] == pytest.approx(3 * values * 2 / gpu.bandwidth + LAUNCH_SECONDS)


def test_a_small_convolution_is_held_up_by_its_weights() -> None:
    graph, regions = network(2)
    costs = roofline_costs(graph, regions, device="SM120")
    conv = regions.regions[0].name
    for precision, size in (("float32", 4), ("float16", 2)):
        moved = (64 * 64 * 9 + 2 * 64 * 4) * size
        assert costs.regions[conv, precision] == pytest.approx(moved / GPUS["SM120"].bandwidth + LAUNCH_SECONDS)


def test_conversions_move_both_forms() -> None:
    graph, regions = network(32)
    costs = roofline_costs(graph, regions, device="SM80")
    values, bandwidth = 64 * 32 * 32, GPUS["SM80"].bandwidth
    assert costs.conversions == {
        ("x", "float16"): pytest.approx(values * (2 + 4) / bandwidth + LAUNCH_SECONDS),
        ("x", "int8"): pytest.approx(values * (1 + 4) / bandwidth + LAUNCH_SECONDS),
        ("c", "float16"): pytest.approx(values * (2 + 4) / bandwidth + LAUNCH_SECONDS),
        ("c", "float32"): pytest.approx(values * (4 + 2) / bandwidth + LAUNCH_SECONDS),
        ("y", "float32"): pytest.approx(values * (4 + 2) / bandwidth + LAUNCH_SECONDS),
    }


def test_it_says_that_it_is_an_estimate_and_what_it_does_not_know() -> None:
    graph, regions = network(8)
    costs = roofline_costs(graph, regions, device="SM89")
    assert costs.estimated
    assert "estimate" in costs.source
    assert "GeForce RTX 4090" in costs.source
    assert "unknown" not in costs.source
    open_graph = from_proto(model("y = MatMul(x, w)", "float[1, L, 8] x", "float[1, L, 2] y", w=(8, 2)))
    infer(open_graph)
    name = open_graph.nodes[0].name
    region = Region(name, "MatMul", (name,), (), ("float32",), ("w",), "y")
    unknown = roofline_costs(open_graph, Regions((region,), (Border("x", None, (name,)),)), device="SM89")
    assert "2 layers and tensors of unknown size" in unknown.source


def test_a_device_without_figures_is_refused_and_every_one_of_the_engine_has_some() -> None:
    graph, regions = network(8)
    with pytest.raises(ConfigError, match="no figures to estimate the latency on 'SM75'"):
        roofline_costs(graph, regions, device="SM75")
    assert set(tensorrt.CAPABILITIES) <= set(GPUS)
