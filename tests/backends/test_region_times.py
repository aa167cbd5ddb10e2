"""Kernels' times given to regions and conversions: by hand, in both engines, and as costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from graphopt.analysis.precision.problem import evaluate
from graphopt.analysis.precision.regions import find_regions
from graphopt.analysis.precision.types import Border, Problem, Region, Regions, Sensitivity
from graphopt.backends import region_latency
from graphopt.backends.conversion_model import Converted, conversion_model
from graphopt.backends.engines import LITERT, ONNXRUNTIME, OPENVINO, Engine
from graphopt.backends.kernel_times import Correction, KernelTime, undisturbed
from graphopt.backends.latency import undisturbed_seconds
from graphopt.backends.region_latency import latency_costs
from graphopt.backends.region_times import needed, region_times, uniform
from graphopt.errors import CalibrationError, UnsupportedError
from graphopt.ir import from_proto, infer, to_proto
from graphopt.targets import find_target
from tests.support.quantization import model, quantize_model
from tests.support.rewrite import random_feeds

BOTH = ("float32", "int8")


def chain(*, writes_form: bool = True) -> Regions:
    """x → a (and a pool that it carries) → b → softmax → y."""
    return Regions(
        (
            Region("a", "Conv", ("a", "relu"), ("pool",), BOTH, ("w_a",), "t", writes_form=writes_form),
            Region("b", "Conv", ("b",), (), BOTH, ("w_b",), "u", writes_form=writes_form),
            Region("softmax", "Softmax", ("softmax",), (), ("float32",), (), "y"),
        ),
        (
            Border("x", None, ("a",)),
            Border("t", "a", ("b",)),
            Border("u", "b", ("softmax",)),
            Border("y", "softmax", (), is_output=True),
        ),
    )


def kernels(*rows: tuple[str, Sequence[str], str, str]) -> list[KernelTime]:
    """(name, nodes, tensor read, tensor written), with 1, 2, 4, 8 … seconds: every sum says what is in it."""
    return [
        KernelTime(name, name, tuple(nodes), tuple(read.split()), (written,), float(2**k))
        for k, (name, nodes, read, written) in enumerate(rows)
    ]


def test_kernels_of_a_float_model_belong_to_regions_and_layouts_to_who_reads_them() -> None:
    found = region_times(
        kernels(
            ("reorder", (), "x", "x1"),
            ("conv_a", ("a", "relu"), "x1", "t1"),
            ("pool", ("pool",), "t1", "t2"),
            ("reorder_2", (), "t2", "t3"),
            ("conv_b", ("b",), "t3", "u"),
            ("softmax", ("softmax",), "u", "y1"),
            ("reorder_3", (), "y1", "y"),
            ("stray", (), "constant", "nothing"),
        ),
        chain(),
        {"a": "float32", "b": "float32", "softmax": "float32"},
    )
    assert found.regions == {"a": 1 + 2 + 4, "b": 8 + 16, "softmax": 32 + 64}
    assert found.conversions == {}
    assert found.fixed == 128
    assert found.total == 255


def test_what_lies_where_forms_change_is_the_conversion() -> None:
    """x to 8 bits with a change of layout, u back to float32; between a and b nothing is converted."""
    assignment = {"a": "int8", "b": "int8", "softmax": "float32"}
    found = region_times(
        kernels(
            ("quantize", ("x_QuantizeLinear",), "x", "x1"),
            ("transpose", (), "x1", "x2"),
            ("conv_a", ("a",), "x2", "t1"),
            ("layout", (), "t1", "t2"),
            ("conv_b", ("b",), "t2", "u1"),
            ("transpose_2", (), "u1", "u2"),
            ("dequantize", ("u_DequantizeLinear",), "u2", "u3"),
            ("softmax", ("softmax",), "u3", "y"),
        ),
        chain(),
        assignment,
    )
    assert found.conversions == {("x", "int8"): 1 + 2, ("u", "float32"): 32 + 64}
    assert found.regions == {"a": 4, "b": 8 + 16, "softmax": 128}


def test_an_engine_that_writes_either_form_converts_nothing_back() -> None:
    regions = chain(writes_form=False)
    assignment = {"a": "int8", "b": "int8", "softmax": "float32"}
    assert set(needed(regions, assignment)) == {("x", "int8")}
    rows = kernels(
        ("input", (), "", "x"),
        ("quantize", (), "x", "x1"),
        ("conv_a", ("a",), "x1", "t"),
        ("conv_b", ("b",), "t", "u"),
        ("reorder", (), "u", "u1"),
        ("softmax", ("softmax",), "u1", "y"),
    )
    found = region_times(rows, regions, assignment)
    # The model's input, which is a kernel in some engines, is where the conversion begins.
    assert found.conversions == {("x", "int8"): 2}
    assert found.regions == {"a": 1 + 4, "b": 8, "softmax": 16 + 32}


def test_time_shared_by_conversions_of_two_tensors_is_halved() -> None:
    """One kernel converts what a Concat in front of it joins."""
    regions = Regions(
        (
            Region("a", "Conv", ("a",), (), BOTH, ("w",), "t"),
            Region("b", "Conv", ("b",), (), BOTH, ("w",), "u"),
            Region("c", "Conv", ("c",), (), BOTH, ("w",), "v"),
        ),
        (Border("t", "a", ("c",)), Border("u", "b", ("c",)), Border("v", "c", (), is_output=True)),
    )
    rows = kernels(
        ("a", ("a",), "x", "t"),
        ("b", ("b",), "x", "u"),
        ("quantize", (), "t u", "joined"),
        ("c", ("c",), "joined", "v"),
    )
    found = region_times(rows, regions, {"a": "float32", "b": "float32", "c": "int8"})
    assert found.conversions == {("t", "int8"): 2, ("u", "int8"): 2}


def test_undisturbed_is_the_mean_of_the_fastest_tenth() -> None:
    assert undisturbed([]) == 0
    assert undisturbed([3.0, 2.0]) == 2
    assert undisturbed([9.0] * 18 + [1.0, 2.0]) == 1.5


def named(source: onnx.ModelProto) -> onnx.ModelProto:
    """With names for nodes, as every graph has that passes ran on."""
    return to_proto(from_proto(source))


@pytest.mark.parametrize(
    ("profiled", "seconds", "expected"),
    [
        # Each loses 1; one that took no time has none to lose.
        ((3.0, 5.0, 0.0), 6.0, (2.0, 4.0, 0.0)),
        # The quickest keeps a quarter, then all are scaled.
        ((1.0, 5.0), 2.25, (0.125, 2.125)),
        # What lies between kernels is scaled too.
        ((1e-6, 3e-6), 8e-6, (2e-6, 6e-6)),
        # A call that took far more was disturbed.
        ((1.0, 3.0), 8.0, (1.000001, 3.000003)),
        ((2.0, 2.0), 1.0, (0.5, 0.5)),
    ],
)
def test_profiling_costs_each_kernel_as_much(
    profiled: tuple[float, ...], seconds: float, expected: tuple[float, ...]
) -> None:
    rows = [KernelTime(str(k), "Conv", (), (), (str(k),), taken) for k, taken in enumerate(profiled)]
    correction = Correction.to(rows, seconds)
    assert tuple(row.seconds for row in correction.of(rows)) == pytest.approx(expected)
    assert Correction.to([], 1.0).of([]) == []


NETWORK = named(
    model(
        """
    a = Conv<pads = [1, 1, 1, 1]>(x, w_a, bias_a)
    l = LeakyRelu<alpha = 0.1>(a)
    p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(l)
    b = Conv<pads = [1, 1, 1, 1]>(p, w_b, bias_b)
    r = Relu(b)
    f = GlobalAveragePool(r)
    g = Flatten(f)
    h = Gemm(g, w_c, bias_c)
    y = Softmax<axis = 1>(h)
    """,
        "float[1, 16, 16, 16] x",
        "float[1, 8] y",
        w_a=(16, 16, 3, 3),
        bias_a=(16,),
        w_b=(32, 16, 3, 3),
        bias_b=(32,),
        w_c=(32, 8),
        bias_c=(8,),
    )
)


def regions_of(source: onnx.ModelProto, target: str) -> Regions:
    graph = from_proto(source)
    infer(graph)
    return find_regions(graph, find_target(target))


@pytest.mark.parametrize("engine", [ONNXRUNTIME, OPENVINO], ids=lambda engine: engine.title)
def test_every_kernel_that_takes_time_is_found_again(engine: Engine) -> None:
    """In float and in 8 bits: each layer has a time, converting the input has, and no time is left over."""
    if engine is OPENVINO:
        pytest.importorskip("openvino")
    name = "onnxruntime" if engine is ONNXRUNTIME else "openvino"
    quantized = quantize_model(NETWORK, name)
    regions = regions_of(quantized.before, name)
    feeds = [random_feeds(NETWORK)]
    assert engine.profile is not None
    for written, precision in ((quantized.before, "float32"), (quantized.after, "int8")):
        assignment = uniform(regions, precision, written)
        rows = engine.profile(written, feeds, 1, 0.05)
        found = region_times(rows, regions, assignment)
        layers = [r.name for r in regions.regions if r.weights]
        assert len(layers) == 3
        assert all(found.regions[layer] > 0 for layer in layers), (precision, found)
        assert found.fixed == 0
        assert found.total == pytest.approx(sum(row.seconds for row in rows))
        assert set(found.conversions) == set(needed(regions, assignment))
        if precision == "int8":
            assert all(assignment[layer] == "int8" for layer in layers)
            assert found.conversions["x", "int8"] > 0


def test_onnxruntime_s_fused_convolution_counts_for_the_convolution_and_not_for_its_activation() -> None:
    """It has the name of what the LeakyRelu makes."""
    assert ONNXRUNTIME.profile is not None
    regions = regions_of(NETWORK, "onnxruntime")
    of_op = {region.op: region.name for region in regions.regions}
    rows = ONNXRUNTIME.profile(NETWORK, [random_feeds(NETWORK)], 1, 0.05)
    found = region_times(rows, regions, uniform(regions, "float32"))
    assert of_op["LeakyRelu"] != of_op["Conv"]
    # The pool alone, which it carries.
    assert found.regions[of_op["LeakyRelu"]] == sum(row.seconds for row in rows if row.op == "MaxPool")
    assert all(found.regions[region.name] > 0 for region in regions.regions if region.op == "Conv")


def test_a_nested_graph_s_time_is_its_owner_s() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[4, 8] x, bool c) => (float[4, 8] y) {
        e = Exp(x)
        y = If(c) <then_branch = t () => (float[4, 8] p) { s = Sin(e) p = Cos(s) },
                   else_branch = f () => (float[4, 8] q) { q = Neg(e) }>
    }"""
    source = onnx.parser.parse_model(text)
    for number, node in enumerate(source.graph.node):
        node.name = f"node_{number}"
    assert ONNXRUNTIME.profile is not None
    feeds = [{"x": np.ones((4, 8), np.float32), "c": np.array(True)}]
    rows = ONNXRUNTIME.profile(source, feeds, 1, 0.02)
    assert [row.nodes for row in rows] == [("node_0",), ("node_1",)]
    assert "e" in rows[1].inputs


@pytest.mark.parametrize("engine", [ONNXRUNTIME, OPENVINO], ids=lambda engine: engine.title)
def test_samples_are_needed_and_errors_are_told(engine: Engine) -> None:
    if engine is OPENVINO:
        pytest.importorskip("openvino")
    assert engine.profile is not None
    with pytest.raises(CalibrationError, match="at least one sample"):
        engine.profile(NETWORK, [], None, 0.01)
    with pytest.raises(CalibrationError):
        engine.profile(NETWORK, [{"x": np.ones((1, 3, 2, 2), np.float32)}], None, 0.01)


POOL = (("kernel_shape", (3, 3)), ("strides", (2, 2)))


@pytest.mark.parametrize("writes_form", [True, False])
def test_the_small_model_converts_each_shape_both_ways(writes_form: bool) -> None:
    """It is right, and onnxruntime has kernels for each conversion; with a pool, the pool is one of them."""
    wanted = [
        Converted((1, 16, 12, 12), True),
        Converted((1, 16, 12, 12), True, POOL),
        Converted((1, 10, 24), False),
        Converted((), False),
    ]
    small = conversion_model(wanted, writes_form=writes_form)
    onnx.checker.check_model(small.model, full_check=True)  # pyright: ignore[reportUnknownMemberType]  # its PathLike has no parameter
    assert set(small.places) == {(converted, form) for converted in wanted for form in BOTH}
    assert ONNXRUNTIME.profile is not None
    rows = ONNXRUNTIME.profile(small.model, [small.feed], 1, 0.05)
    found = region_times(rows, small.regions, small.assignment)
    for (converted, form), place in small.places.items():
        if form == "int8" or writes_form:
            assert found.conversions[place, form] > 0, (converted, form)
    pools = [row for row in rows if "MaxPool" in row.op]
    assert len(pools) == 2
    owned = {node for region in small.regions.regions for node in region.nodes}
    assert not any(node in owned for row in pools for node in row.nodes)


def costs_with(monkeypatch: pytest.MonkeyPatch, seconds: Mapping[str, float], factor: float = 1.0) -> Any:
    """latency_costs of NETWORK in onnxruntime whose calls take what is said, and whose profile says `factor` of it."""
    monkeypatch.setattr(region_latency, "undisturbed_seconds", lambda runs, budget: [1e-4, *seconds.values()])  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]  # stands for a stopwatch

    def profile(
        source: onnx.ModelProto, feeds: Sequence[Mapping[str, NDArray[Any]]], threads: int | None, spent: float
    ) -> list[KernelTime]:
        assert ONNXRUNTIME.profile is not None
        rows = ONNXRUNTIME.profile(source, feeds, threads, 0.02)
        return [replace(row, seconds=row.seconds * factor) for row in rows]

    quantized = quantize_model(NETWORK, "onnxruntime")
    regions = regions_of(quantized.before, "onnxruntime")
    engine = replace(ONNXRUNTIME, profile=profile)
    models = {"int8": quantized.after}
    costs = latency_costs(quantized.before, models, regions, engine, [random_feeds(NETWORK)], threads=1, budget=0.1)
    choices = {region.name: region.precisions for region in regions.regions}
    return Problem(regions, choices, Sensitivity("weights", {}, {}), costs), uniform(regions, "int8", quantized.after)


@pytest.mark.parametrize("factor", [1e3, 1e4])
def test_the_table_gives_back_what_each_model_takes(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Whatever the profile itself costs; and every conversion that an assignment may need has a time."""
    problem, integers = costs_with(monkeypatch, {"float32": 2e-3, "int8": 1.5e-3}, factor)
    floats = dict.fromkeys(integers, "float32")
    assert evaluate(problem, floats).cost == pytest.approx(2e-3)
    assert evaluate(problem, integers).cost == pytest.approx(1.5e-3, rel=0.3)
    costs = problem.costs
    assert set(costs.regions) == {(r.name, p) for r in problem.regions.regions for p in r.precisions}
    assert costs.kind == "latency"
    assert not costs.estimated
    assert "profile of onnxruntime" in costs.source
    assert "int4-weights taken to be as fast as float32" in costs.source
    able = [r.name for r in problem.regions.regions if "int8" in r.precisions]
    for mixed in itertools.islice(itertools.product(BOTH, repeat=len(able)), 64):
        assignment = {**floats, **dict(zip(able, mixed, strict=True))}
        for key in needed(problem.regions, assignment):
            assert costs.conversions[key] > 0, key


def test_an_engine_without_a_profile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    with pytest.raises(UnsupportedError, match="LiteRT tells no times of its kernels here"):
        latency_costs(NETWORK, {}, regions_of(NETWORK, "tflite"), LITERT, [random_feeds(NETWORK)])


def test_turns_leave_the_first_call_of_each_out() -> None:
    """Counted by what is called: warming up, then as many calls of each in each round, forwards and backwards."""
    called: list[str] = []

    def calls(name: str) -> Iterator[None]:
        while True:
            called.append(name)
            yield

    runs: Iterable[Iterator[None]] = [calls("a"), calls("b")]
    seconds = undisturbed_seconds(list(runs), 0.0)
    assert len(seconds) == 2
    assert all(0 <= taken < 0.1 for taken in seconds)
    turns = [name for name, _ in itertools.groupby(called)]
    assert turns == ["a", "b", "a", "b", "a", "b", "a", "b"][: len(turns)] or turns[:3] == ["a", "b", "a"]
    assert called.count("a") == called.count("b") > 5
