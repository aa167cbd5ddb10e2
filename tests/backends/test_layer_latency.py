"""Tables of layers' times, with an engine whose clock is a formula: nothing here is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto

from graphopt.analysis.coupling.find import couple
from graphopt.analysis.pruning.kept_counts import KeptCounts, kept_counts
from graphopt.analysis.pruning.layer_costs import LayerCosts
from graphopt.backends import layer_latency, layer_stopwatch
from graphopt.backends.engines import ONNXRUNTIME, Engine
from graphopt.backends.layer_latency import LatencyTable, measure_layers, without_slower
from graphopt.backends.single_layer import single_layer
from graphopt.errors import UnsupportedError
from graphopt.ir import Graph, from_proto, infer
from tests.support.rewrite import parse

Formula = Callable[[NodeProto, tuple[int, ...], tuple[int, ...]], float]


@dataclass
class Clock:
    """An engine's time and what it ran."""

    formula: Formula
    now: float = 0.0
    ran: list[str] = field(default_factory=list[str])

    def run(
        self, model: ModelProto, feeds: Iterable[Mapping[str, np.ndarray]], threads: int | None
    ) -> Iterator[list[np.ndarray]]:
        weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        layers = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
        self.ran.append(f"{layers[0].op_type} {weights.get(layers[0].input[1])}")
        for feed in feeds:
            data = next(iter(feed.values())).shape
            self.now += sum(self.formula(node, data, weights.get(node.input[1], ())) for node in layers)
            yield []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(lambda node, data, weight: 1e-6 * prod(weight))
    for module in (layer_latency, layer_stopwatch):
        monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)
    return clock


def stored(**weights: tuple[int, ...]) -> str:
    return ", ".join(f"float[{','.join(map(str, s))}] {n} = {{{','.join('1' * prod(s))}}}" for n, s in weights.items())


def graph_of(body: str, **weights: tuple[int, ...]) -> Graph:
    text = f"""<ir_version: 8, opset_import: ["" : 13]> g (float[N, 3, 8, 8] x) => (float[A, B, C, D] y)
        <{stored(**weights)}> {{ {body} }}"""
    graph = from_proto(parse(text))
    infer(graph)
    return graph


def chain() -> Graph:
    return graph_of(
        "a = Conv(x, w0) b = Conv(a, w1) y = Conv(b, w2)", w0=(32, 3, 1, 1), w1=(64, 32, 1, 1), w2=(5, 64, 1, 1)
    )


def measure(
    graph: Graph, clock: Clock, seconds: float = 1e9, **options: Any
) -> tuple[LatencyTable, KeptCounts, LayerCosts]:
    costs = LayerCosts(graph, couple(graph))
    counts = kept_counts(couple(graph))
    engine = replace(ONNXRUNTIME, run=clock.run)
    return measure_layers(graph, costs, counts, engine, seconds=seconds, **options), counts, costs


def test_the_table_is_what_was_measured(clock: Clock) -> None:
    """A layer that dislikes sizes that aren't a multiple of 16, on either side."""

    def seconds(_node: NodeProto, _data: object, weight: tuple[int, ...]) -> float:
        slow = [1.0 if size % 16 == 0 or size <= 5 else 3.0 for size in weight[:2]]
        return 1e-5 * prod(weight) * prod(slow)

    clock.formula = seconds
    table, counts, _ = measure(chain(), clock)
    assert counts == {"a:1": (8, 16, 24, 32), "b:1": (8, 16, 24, 32, 40, 48, 56, 64)}
    for i, a in enumerate(counts["a:1"]):
        for j, b in enumerate(counts["b:1"]):
            expected = sum(seconds(NodeProto(), (), w) for w in ((a, 3), (b, a), (5, b)))
            assert table.cost.of({"a:1": i, "b:1": j}) == pytest.approx(expected)
    whole = [layer.seconds for layer in table.layers]
    assert whole == pytest.approx([1e-5 * 96, 1e-5 * 2048, 1e-5 * 320])
    assert [layer.sizes for layer in table.layers] == [4, (4 + 8 - 1) + 2 * 4, 8]  # both lines, and a grid of 3 × 5
    assert without_slower(counts, table.cost) == {"a:1": (16, 32), "b:1": (16, 32, 48, 64)}


def test_what_two_sizes_do_together_is_measured_too(clock: Clock) -> None:
    clock.formula = lambda _node, _data, weight: 1e-4 + 1e-6 * prod(weight)
    table, counts, _ = measure(chain(), clock)
    for i, a in enumerate(counts["a:1"]):
        for j, b in enumerate(counts["b:1"]):
            assert table.cost.of({"a:1": i, "b:1": j}) == pytest.approx(3e-4 + 1e-6 * (3 * a + a * b + 5 * b), rel=0.03)


def test_equal_layers_are_timed_once(clock: Clock) -> None:
    body = "a = Conv(x, w0) b = Conv(a, w1) c = Conv(b, w2) d = Conv(c, w3) y = Conv(d, w4)"
    square = (32, 32, 1, 1)
    graph = graph_of(body, w0=(32, 3, 1, 1), w1=square, w2=square, w3=square, w4=(5, 32, 1, 1))
    table, _, _ = measure(graph, clock)
    assert len(clock.ran) == len(set(clock.ran)) == table.timings
    assert len({layer.seconds for layer in table.layers[1:4]}) == 1


@pytest.mark.parametrize("first", [(16, 3, 1, 1), (32, 3, 1, 1), (64, 32, 1, 1)])
def test_a_size_that_something_else_slowed_down_is_timed_again(clock: Clock, first: tuple[int, ...]) -> None:
    disturbed: dict[tuple[int, ...], int] = {first: 10}

    def seconds(_node: NodeProto, _data: object, weight: tuple[int, ...]) -> float:
        left = disturbed[weight] = disturbed.get(weight, 0) - 1
        return 1e-3 * prod(weight) * (100 if left >= 0 else 1)

    clock.formula = seconds
    table, counts, _ = measure(chain(), clock)
    assert disturbed[first] < 0
    a = [3e-3 * size for size in counts["a:1"]]
    whole = {"a:1": 3, "b:1": 7}
    steps = [table.cost.of(whole) - table.cost.of({**whole, "a:1": i}) for i in range(4)]
    assert steps == pytest.approx([a[-1] - x + 64e-3 * (32 - size) for x, size in zip(a, counts["a:1"], strict=True)])


def test_when_time_is_over_the_ends_have_been_measured(clock: Clock) -> None:
    table, counts, _ = measure(chain(), clock, seconds=0)
    assert [layer.sizes for layer in table.layers] == [2, 4, 2]
    for choice in ({"a:1": 0, "b:1": 0}, {"a:1": 3, "b:1": 0}, {"a:1": 0, "b:1": 7}, {"a:1": 3, "b:1": 7}):
        a, b = (counts[group][index] for group, index in choice.items())
        assert table.cost.of(choice) == pytest.approx(1e-6 * (3 * a + a * b + 5 * b))


def test_a_layer_of_three_groups_is_fitted(clock: Clock) -> None:
    def seconds(_node: NodeProto, data: tuple[int, ...], weight: tuple[int, ...]) -> float:
        return 1e-5 + 1e-8 * 64 * weight[0] * weight[1] + 1e-7 * prod(data)

    clock.formula = seconds
    body = "a = Conv(x, w0) b = Conv(x, w1) c = Concat<axis = 1>(a, b) d = Conv(c, w2) y = Conv(d, w3)"
    graph = graph_of(body, w0=(32, 3, 1, 1), w1=(16, 3, 1, 1), w2=(64, 48, 1, 1), w3=(5, 64, 1, 1))
    table, counts, _ = measure(graph, clock)
    choice = {"a:1": 1, "b:1": 2, "d:1": 5}
    a, b, d = (counts[group][index] for group, index in choice.items())
    shapes = (((1, 3, 8, 8), (a, 3)), ((1, 3, 8, 8), (b, 3)), ((1, a + b, 8, 8), (d, a + b)), ((1, d, 8, 8), (5, d)))
    assert table.cost.of(choice) == pytest.approx(sum(seconds(NodeProto(), *shape) for shape in shapes), rel=1e-3)


def test_what_the_engine_cannot_run_is_charged_by_its_size(clock: Clock) -> None:
    def refuse(node: NodeProto, _data: object, weight: tuple[int, ...]) -> float:
        if node.op_type == "ConvTranspose":
            raise UnsupportedError("no kernel")
        return 1e-6 * prod(weight)

    clock.formula = refuse
    body = "a = Conv(x, w0) b = ConvTranspose(a, w1) y = Conv(b, w2)"
    graph = graph_of(body, w0=(32, 3, 1, 1), w1=(32, 16, 1, 1), w2=(5, 16, 1, 1))
    table, counts, _ = measure(graph, clock)
    assert [layer.sizes for layer in table.layers] == [4, 0, 4]
    for choice in ({"a:1": 3, "b:1": 3}, {"a:1": 2, "b:1": 1}):
        a, b = (counts[group][index] for group, index in choice.items())
        assert table.cost.of(choice) == pytest.approx(1e-6 * (3 * a + a * b + 5 * b))


def test_an_engine_that_runs_nothing_says_why(clock: Clock) -> None:
    def refuse(*_: object) -> float:
        raise UnsupportedError("no kernel")

    clock.formula = refuse
    with pytest.raises(UnsupportedError, match="could run none of the model's layers by itself: no kernel"):
        measure(chain(), clock)
    costs = LayerCosts(chain(), couple(chain()))
    silent: Engine = replace(ONNXRUNTIME, run=None)
    with pytest.raises(UnsupportedError, match="onnxruntime doesn't run on this machine"):
        measure_layers(chain(), costs, {}, silent)


@pytest.mark.parametrize(
    ("body", "weights", "keep", "shapes"),
    [
        ("a = Conv(x, w0) y = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(a, w1, c)",
         {"w0": (8, 3, 1, 1), "w1": (5, 8, 3, 3), "c": (5,)}, {"a:1": 5}, [(5, 5, 3, 3), (5,)]),
        ("a = Conv(x, w0) b = Conv<group = 8>(a, w1) y = Conv(b, w2)",
         {"w0": (8, 3, 1, 1), "w1": (8, 1, 3, 3), "w2": (5, 8, 1, 1)}, {"a:1": 3}, [(3, 1, 3, 3)]),
        ("a = Conv(x, w0) y = ConvTranspose<strides = [2, 2], output_padding = [1, 1]>(a, w1)",
         {"w0": (8, 3, 1, 1), "w1": (8, 5, 3, 3)}, {"a:1": 7}, [(7, 5, 3, 3)]),
        ("a = Conv(x, w0) b = Transpose<perm = [0, 2, 3, 1]>(a) y = MatMul(b, w1)",
         {"w0": (8, 3, 1, 1), "w1": (8, 5)}, {"a:1": 2}, [(2, 5)]),
    ],
    ids=["conv", "depthwise", "transposed", "matmul"],
)  # fmt: skip
def test_layers_run_by_themselves_at_any_size(
    body: str, weights: dict[str, tuple[int, ...]], keep: dict[str, int], shapes: list[tuple[int, ...]]
) -> None:
    graph = graph_of(body, **weights)
    costs = LayerCosts(graph, couple(graph))
    node = [n for n in graph.nodes if n.op in ("Conv", "ConvTranspose", "MatMul")][1]
    layer = single_layer(node, costs.sizes, graph.opset)
    assert layer is not None
    model, feed = layer.model({**costs.units, **keep}, copies=2)
    assert [tuple(tensor.dims) for tensor in model.graph.initializer] == shapes * 2
    assert ONNXRUNTIME.run is not None
    first = next(iter(ONNXRUNTIME.run(model, [feed], None)))
    assert all(np.isfinite(output).all() and output.any() for output in first)


def test_the_products_of_two_activations_are_layers_too() -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 13]> g (float[N, 4, 6] x) => (float[N, 4, 4] y)
        <{stored(w0=(6, 8), w1=(6, 8))}> {{
        q = MatMul(x, w0) k = MatMul(x, w1) t = Transpose<perm = [0, 2, 1]>(k) y = MatMul(q, t)
    }}"""
    graph = from_proto(parse(text))
    infer(graph)
    costs = LayerCosts(graph, couple(graph))
    layer = single_layer(graph.nodes[-1], costs.sizes, graph.opset)
    assert layer is not None
    (group,) = costs.units
    model, feed = layer.model({group: 5}, layer.copies(1.0))
    assert [value.shape for value in feed.values()] == [(1, 4, 5), (1, 5, 4)]
    assert len(model.graph.node) == 1
