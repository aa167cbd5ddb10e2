"""Fusion regions: what each holds, the borders between them, and that an assignment is what planning makes of it."""

from __future__ import annotations

import random

import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from graphopt.analysis.precision.problem import forms_held
from graphopt.analysis.precision.regions import find_regions, realised
from graphopt.analysis.precision.types import Border, Regions
from graphopt.ir import from_proto
from graphopt.targets import TARGETS, find_target
from tests.support.quantization import model
from tests.support.random_networks import networks
from tests.support.regions import plan_assigned, planned_graph, random_assignment
from tests.support.rewrite import parse

X, Y = "float[N,8,12,12] x", "float[A,B,C,D] y"
W = {"w": (8, 8, 3, 3), "v": (8, 8, 3, 3), "k": (4, 8, 1, 1)}
PAD = "pads=[1,1,1,1]"
RESIDUAL = model(
    f"a = Conv<{PAD}>(x, w) s = Relu(a) q = Conv<{PAD}>(s, v) t = Add(q, s) r = Relu(t)\n"
    "m = MaxPool<kernel_shape=[2,2]>(r) z = Conv(m, k) y = Softmax(z)",
    X, Y, **W,
)  # fmt: skip


def of(source: onnx.ModelProto, target: str, **kept: str) -> Regions:
    """Its regions; nodes are named after their outputs."""
    source = onnx.ModelProto.FromString(source.SerializeToString())
    for node in source.graph.node:
        node.name = node.output[0]
    return find_regions(from_proto(source), find_target(target), kept_float=kept)


def nodes(regions: Regions) -> dict[str, str]:
    return {r.name: " ".join(r.nodes) for r in regions.regions}


def borders(regions: Regions) -> dict[str, tuple[str | None, str]]:
    return {b.tensor: (b.writer, " ".join(b.readers)) for b in regions.borders}


@pytest.mark.parametrize("target", ["onnxruntime", "tflite"])
def test_an_add_with_a_kernel_of_its_own_is_a_region(target: str) -> None:
    found = of(RESIDUAL, target)
    assert nodes(found) == {"a": "a s", "q": "q", "t": "t r", "z": "z", "y": "y"}
    assert found["t"].carried == ("m",)
    assert [r.name for r in found.regions if "int8" in r.precisions] == ["a", "q", "t", "z"]
    assert all(r.writes_form for r in found.regions if "int8" in r.precisions)
    assert borders(found) == {
        "x": (None, "a"), "s": ("a", "q t"), "q": ("q", "t"), "r": ("t", "z"), "z": ("z", "y"), "y": ("y", "")
    }  # fmt: skip


@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
def test_an_add_that_a_convolution_takes_in_is_of_its_region(target: str) -> None:
    found = of(RESIDUAL, target)
    assert nodes(found) == {"a": "a s", "q": "q t r", "z": "z", "y": "y"}
    assert found["q"].result == "r"
    assert found["q"].carried == ("m",)
    assert found["q"].weights == ("v",)
    assert not any(r.writes_form or r.needs_reader for r in found.regions)
    assert borders(found) == {
        "x": (None, "a"), "s": ("a", "q"), "r": ("q", "z"), "z": ("z", "y"), "y": ("y", "")
    }  # fmt: skip
    assert found.borders[-1] == Border("y", "y", (), is_output=True)


def test_what_the_user_keeps_in_float_has_no_8_bits() -> None:
    found = of(RESIDUAL, "openvino", q="kept")
    # The Add has a kernel of its own beside a float convolution.
    assert nodes(found) == {"a": "a s", "q": "q", "t": "t r", "z": "z", "y": "y"}
    assert found["q"].precisions == ("float32",)
    assert "int8" in found["t"].precisions
    found = of(RESIDUAL, "openvino", t="kept")
    assert found["t"].precisions == ("float32",)
    assert "int8" in found["q"].precisions


def test_a_float_kernel_keeps_what_is_fused_into_it() -> None:
    source = model("a = ConvTranspose(x, w) r = Relu(a) y = Conv(r, k)", X, Y, w=(8, 8, 2, 2), k=(4, 8, 1, 1))
    found = of(source, "onnxruntime")
    assert nodes(found) == {"a": "a r", "y": "y"}
    assert found["a"].precisions == ("float32",)
    assert found["a"].weights == ("w",)


def test_a_bias_and_what_moves_values_make_no_regions() -> None:
    source = model(
        "t = Transpose<perm=[0,2,1]>(x) a = MatMul(t, g) e = Add(a, h) f = Flatten(e) u = Softmax(f) y = Mul(u, u)",
        "float[N,8,4] x", "float[N,20] y", g=(8, 5), h=(5,),
    )  # fmt: skip
    found = of(source, "onnxruntime")
    assert nodes(found) == {"a": "a e", "u": "u", "y": "y"}
    # Behind an input, it belongs to the first that reads.
    assert found["a"].carried == ("t", "f")
    assert borders(found) == {"x": (None, "a"), "e": ("a", "u"), "u": ("u", "y"), "y": ("y", "")}


def test_a_joined_tensor_is_seen_through_to_all_its_parts() -> None:
    source = model(
        f"a = Conv<{PAD}>(x, w) b = Conv<{PAD}>(x, v) j = Concat<axis=1>(a, b) m = MaxPool<kernel_shape=[2,2]>(j)\n"
        "y = Conv(m, k)",
        X, Y, w=(8, 8, 3, 3), v=(8, 8, 3, 3), k=(4, 16, 1, 1),
    )  # fmt: skip
    for target in TARGETS:
        found = of(source, target)
        assert nodes(found) == {"a": "a", "b": "b", "y": "y"}
        assert found["a"].carried == ("j", "m")
        assert borders(found) == {"x": (None, "a b"), "a": ("a", "y"), "b": ("b", "y"), "y": ("y", "")}


def test_only_a_pool_whose_result_is_float_needs_a_reader() -> None:
    source = model("a = Conv(x, w) r = Relu(a) p = AveragePool<kernel_shape=[2,2]>(r) y = Conv(p, k)", X, Y, **W)
    assert [r.name for r in of(source, "openvino").regions if r.needs_reader] == ["p"]
    assert [r.name for r in of(source, "onnxruntime").regions if r.needs_reader] == []


def test_elementwise_float_operators_in_a_row_are_one_region() -> None:
    source = model("e = Exp(x) n = Neg(e) s = Sqrt(e) l = Log(s) o = Mul(n, l) y = Softmax(o)", X, X.replace("x", "y"))
    # Exp is read twice; Neg and Log are read once each by Mul, which goes with the first.
    assert nodes(of(source, "onnxruntime")) == {"e": "e", "s": "s l", "n": "n o", "y": "y"}


def test_what_a_nested_graph_reads_is_a_border_of_the_node_that_holds_it() -> None:
    source = parse("""<ir_version: 8, opset_import: ["" : 17]> g (float[1,2] x, bool c) => (float[1,2] y)
        <float[2,2] w = {1, 2, 3, 4}> {
        a = MatMul(x, w)
        f = Flatten(a)
        y = If (c) <then_branch = t () => (float[1,2] u) { u = Relu(f) },
                    else_branch = e () => (float[1,2] v) { v = Neg(x) }>
    }""")
    for target in TARGETS:
        found = of(source, target)
        assert nodes(found) == {"a": "a", "y": "y"}
        assert found["y"].precisions == ("float32",)
        assert borders(found) == {"x": (None, "a y"), "a": ("a", "y"), "y": ("y", "")}


def test_16_bits_need_the_types_for_it() -> None:
    source = model("a = Conv(x, w) r = Relu(a) y = Cast<to=1>(r)", X, Y, w=(8, 8, 3, 3))
    found = of(source, "tensorrt")
    # bfloat16 is a type of convolutions from opset 22 on.
    assert found["a"].precisions == ("int8", "float16", "float32")
    assert found["y"].precisions == ("float32",)


def test_old_opsets_have_no_8_bits() -> None:
    source = onnx.version_converter.convert_version(model("y = Conv(x, w)", X, Y, w=(8, 8, 3, 3)), 12)
    assert of(source, "onnxruntime")["y"].precisions == ("float32",)


def test_a_model_that_only_moves_values_is_one_float_region() -> None:
    found = of(model("t = Flatten(x) y = Squeeze(t)", "float[1,8] x", "float[8] y"), "tflite")
    assert nodes(found) == {"t": "t", "y": "y"}
    assert {r.precisions for r in found.regions} == {("float32",)}


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.sampled_from(list(TARGETS)), st.integers(0, 2**16))
def test_random_networks(source: onnx.ModelProto, name: str, seed: int) -> None:
    target = find_target(name)
    assume(not any(node.op_type == "DequantizeLinear" for node in source.graph.node))
    graph, regions = planned_graph(source, target)
    full = graph.plan.copy()

    listed = [node for r in regions.regions for node in (*r.nodes, *r.carried)]
    assert sorted(listed) == sorted(node.name for node in graph.nodes if node.op != "Constant")
    assert all("float32" in r.precisions for r in regions.regions)
    could = {r.name for r in regions.regions if "int8" in r.precisions}
    assert {r.name for r in regions.regions if r.name in full.quantized_nodes} == could

    # Writers come before their readers.
    order = {r.name: k for k, r in enumerate(regions.regions)}
    assert all(b.writer is None or order[b.writer] < order[r] for b in regions.borders for r in b.readers)

    rng = random.Random(seed)
    for share in (1.0, 0.7, 0.3) if full else ():
        assignment = random_assignment(regions, rng, share)
        plan_assigned(graph, target, regions, assignment, full)
        assert realised(graph, regions) == assignment
        if share == 1.0 and assignment == {r.name: "int8" if r.name in could else "float32" for r in regions.regions}:
            assert graph.plan.quantized_nodes == full.quantized_nodes
        for region in regions.regions:
            planned = [n for n in region.nodes if n in full.quantized_nodes]
            assert all((n in graph.plan.quantized_nodes) == (assignment[region.name] == "int8") for n in planned)
        # Ranges of all that is planned now are known from the first plan.
        assert set(graph.plan.tensors) <= set(full.tensors)
        for border in regions.borders:
            held = "int8" in forms_held(regions.by_name, border, assignment)
            planned = border.tensor in graph.plan.tensors
            # Where whole integer regions are wanted, a Concat may be quantized behind, instead of each of its parts.
            assert planned <= held if target.quantize_everywhere else planned == held, border
