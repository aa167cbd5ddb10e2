"""Costs as functions of what groups keep, against the same network written down with fewer channels."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import pytest

from graphopt.analysis.coupling.find import couple
from graphopt.analysis.coupling.groups import Coupling
from graphopt.analysis.macs import layer_macs
from graphopt.analysis.pruning.kept_counts import channels_each, kept_counts
from graphopt.analysis.pruning.layer_costs import LayerCosts
from graphopt.ir import Graph, from_proto, infer
from graphopt.report import inspect_model
from tests.support.rewrite import parse


def network(a: int = 16, b: int = 24, c: int = 32, d: int = 8) -> Graph:
    """Groups a, b, c, d: a convolution, its depthwise one; a Concat of a and b; ConvTranspose; Flatten and Gemm."""
    weights = {
        "w_a": (a, 3, 3, 3),
        "bias_a": (a,),
        "w_depth": (a, 1, 3, 3),
        "w_b": (b, a, 1, 1),
        "slope": (b, 1, 1),
        "w_c": (c, a + b, 3, 3),
        "w_up": (c, d, 2, 2),
        "w_fc": (d * 64, 10),
        "bias_fc": (10,),
    }
    stored = ", ".join(
        f"float[{','.join(map(str, shape))}] {name} = {{{','.join(['1'] * prod(shape))}}}"
        for name, shape in weights.items()
    )
    text = f"""<ir_version: 8, opset_import: ["" : 13]> g (float[N, 3, 8, 8] x) => (float[N, 10] y) <{stored}> {{
        ra = Conv<pads = [1, 1, 1, 1]>(x, w_a, bias_a)
        depth = Conv<pads = [1, 1, 1, 1], group = {a}>(ra, w_depth)
        rb = Conv(depth, w_b)
        prelu = PRelu(rb, slope)
        both = Concat<axis = 1>(ra, prelu)
        rc = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(both, w_c)
        up = ConvTranspose<strides = [2, 2]>(rc, w_up)
        flat = Flatten(up)
        y = Gemm(flat, w_fc, bias_fc)
    }}"""
    graph = from_proto(parse(text))
    infer(graph)
    return graph


NAMES = {"a": "ra:1", "b": "rb:1", "c": "rc:1", "d": "up:1"}


@pytest.mark.parametrize(
    "kept",
    [{}, {"a": 9}, {"b": 1}, {"c": 31}, {"d": 3}, {"a": 5, "b": 7, "c": 11, "d": 2}, {"a": 1, "b": 1, "c": 1, "d": 1}],
    ids=str,
)
def test_costs_are_those_of_the_network_with_so_many_channels(kept: Mapping[str, int]) -> None:
    graph = network()
    costs = LayerCosts(graph, couple(graph))
    keep = {NAMES[group]: count for group, count in kept.items()}
    smaller = network(**kept)
    found = inspect_model(smaller, "smaller")
    assert costs.macs(keep) == found.macs
    assert costs.params(keep) == found.parameters
    assert costs.bytes(keep) == found.weight_bytes == 4 * found.parameters
    counts = {**costs.units, **keep}
    each = {layer.node: layer.macs.at(counts) for layer in costs.layers if layer.macs is not None and layer.macs.terms}
    assert list(each.values()) == list(layer_macs(smaller).values())


def test_a_residual_layer_is_a_square() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[1, 3, 4, 4] x) => (float[1, 2, 4, 4] y)
        <float[4, 3, 1, 1] w0 = {1,1,1,1,1,1,1,1,1,1,1,1}, float[4, 4, 1, 1] w1 = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1},
         float[2, 4, 1, 1] w2 = {1,1,1,1,1,1,1,1}> {
        a = Conv(x, w0) b = Conv(a, w1) c = Add(a, b) y = Conv(c, w2)
    }"""
    graph = from_proto(parse(text))
    infer(graph)
    costs = LayerCosts(graph, couple(graph))
    assert costs.macs({"a:1": 3}) == 16 * (3 * 3 + 3 * 3 + 2 * 3)
    assert costs.params({"a:1": 3}) == 3 * 3 + 3 * 3 + 2 * 3


def test_without_groups_costs_are_what_inspect_counts() -> None:
    graph = network()
    costs, found = LayerCosts(graph, Coupling(())), inspect_model(graph, "all")
    assert (costs.macs({}), costs.params({}), costs.bytes({})) == (found.macs, found.parameters, found.weight_bytes)


def test_shared_and_nested_weights_count_once() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[1, 2] x, bool flag) => (float[1, 2] y)
        <float[2, 2] w = {1, 2, 3, 4}> {
        a = MatMul(x, w)
        b = MatMul(a, w)
        y = If (flag) <
            then_branch = t () => (float[1, 2] p) <float[2, 2] inner = {1, 2, 3, 4}> { p = MatMul(b, inner) },
            else_branch = e () => (float[1, 2] q) { q = MatMul(b, w) }
        >
    }"""
    graph = from_proto(parse(text))
    infer(graph)
    costs, found = LayerCosts(graph, couple(graph)), inspect_model(graph, "nested")
    assert (costs.macs({}), costs.params({})) == (found.macs, found.parameters) == (16, 8)


def test_a_layer_without_shapes_is_counted_as_unknown_unless_a_sample_tells() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[N, 3, H, W] x) => (float[N, 2, H, W] y)
        <float[2, 3, 1, 1] w = {1,1,1,1,1,1}> { y = Conv(x, w) }"""
    graph = from_proto(parse(text))
    infer(graph)
    costs = LayerCosts(graph, couple(graph))
    assert (costs.macs({}), costs.macs_unknown, costs.params({})) == (0, 1, 6)
    told = LayerCosts(graph, couple(graph), {"y": (1, 2, 5, 7), "x": (1, 3, 5, 7)})
    assert (told.macs({}), told.macs_unknown) == (5 * 7 * 6, 0)


def test_sizes_are_aligned_finer_where_there_are_few_and_coarser_where_there_are_many() -> None:
    coupling = couple(network(a=16, b=64, c=256, d=6))
    counts = kept_counts(coupling)
    assert counts == {
        "ra:1": (4, 8, 12, 16),
        "rb:1": (8, 16, 24, 32, 40, 48, 56, 64),
        "rc:1": (32, 64, 96, 128, 160, 192, 224, 256),
        "up:1": (1, 2, 3, 4, 5, 6),
    }
    assert kept_counts(coupling, align=32, exclude=["r[ac]:1", "up:*"]) == {"rb:1": (16, 32, 48, 64)}
    assert kept_counts(coupling, min_channels=40, exclude=["rc:1"]) == {"rb:1": (40, 48, 56, 64)}


def test_what_a_flatten_makes_of_a_channel_is_not_counted() -> None:
    coupling = couple(network())
    assert {group.name: channels_each(group) for group in coupling.removable} == dict.fromkeys(NAMES.values(), 1)


def test_a_node_that_reads_or_makes_a_group_can_be_named() -> None:
    graph = network()
    node = next(node for node in graph.nodes if node.op == "PRelu")
    assert set(kept_counts(couple(graph), exclude=[node.name])) == {"ra:1", "rc:1", "up:1"}
