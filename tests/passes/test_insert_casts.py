"""Assigned types become nodes of these types, and TensorRT-RTX computes region by region in what was assigned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import graphopt
from graphopt.backends.planned import planned_nodes
from graphopt.errors import ConfigError, InternalError, PassError
from graphopt.ir import Graph, from_proto, load, to_proto
from graphopt.passes.insert_casts import InsertCasts
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.pipeline import Context, Pass
from graphopt.targets import find_target
from tests.support.quantization import Quantized, model, quantize_model
from tests.support.rewrite import random_feeds, run

F32, F16, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
PAD = "kernel_shape=[3,3], pads=[1,1,1,1]"


@dataclass(frozen=True)
class Assigned(Pass):
    """Plan 8 bits for all nodes but these, which get these precisions."""

    name: ClassVar[str] = "assigned"
    summary: ClassVar[str] = "a plan for a test"

    precisions: tuple[tuple[str, str], ...] = ()

    def run(self, graph: Graph, ctx: Context) -> None:
        PlanQuantization(tuple(name for name, _ in self.precisions)).run(graph, ctx)
        graph.plan.precisions.update((name, kind) for name, kind in self.precisions if kind != "float32")


def assign(net: onnx.ModelProto, target: str = "tensorrt", **precisions: str) -> Quantized:
    """The model with these precisions by the names of the nodes' outputs, and 8 bits where nothing is said."""
    for node in net.graph.node:
        node.name = node.output[0]
    return quantize_model(net, target, plan=Assigned(tuple(precisions.items())), behind=[InsertCasts()])


def types(net: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(net, check_type=True, strict_mode=True).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*inferred.output, *inferred.value_info)}


def computes_in(net: onnx.ModelProto) -> dict[str, int]:
    """Type of each named node's first result."""
    known = types(net)
    return {n.name: known[n.output[0]] for n in net.graph.node}


def built(net: onnx.ModelProto, capability: str = "SM86") -> dict[str, str]:
    """What TensorRT-RTX computes each planned node in; every one must be planned."""
    pytest.importorskip("tensorrt_rtx")
    from graphopt.backends.tensorrt import precision

    found = precision(net, planned_nodes(load(net, min_opset=1), find_target("tensorrt")), capability=capability)
    return {n.planned.name: n.precision for n in found.nodes}


@pytest.fixture(scope="module")
def regions() -> Quantized:
    """8 bits, float16, float32, float16, 8 bits, with a pool that nobody decides about."""
    net = model(
        f"""
        a = Conv<{PAD}>(x, w1) ra = Relu(a)
        b = Conv<{PAD}>(ra, w2) rb = Relu(b)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(rb)
        c = Conv<{PAD}>(p, w3)
        d = Conv<{PAD}>(c, w4) rd = Relu(d)
        e = Conv<{PAD}>(rd, w5)
        g = GlobalAveragePool(e)
        f = Flatten(g)
        y = Gemm(f, w6)
        """,
        "float[1,16,16,16] x", "float[1,8] y", 0,
        w1=(16, 16, 3, 3), w2=(16, 16, 3, 3), w3=(16, 16, 3, 3), w4=(16, 16, 3, 3), w5=(16, 16, 3, 3), w6=(16, 8),
    )  # fmt: skip
    half = dict.fromkeys(("b", "rb", "d", "rd", "y"), "float16")
    return assign(net, **half, c="float32", g="float32")


def test_each_node_has_what_it_was_assigned(regions: Quantized) -> None:
    found = computes_in(regions.after)
    assert {n: found[n] for n in ("b", "rb", "d", "rd", "y")} == dict.fromkeys(("b", "rb", "d", "rd", "y"), F16)
    assert {n: found[n] for n in ("a", "ra", "c", "e", "g", "f")} == dict.fromkeys(("a", "ra", "c", "e", "g", "f"), F32)
    # What moves values keeps the type that they have.
    assert found["p"] == F16
    assert all(regions.reads_quantized(regions.find("Conv", i), 0) for i in (0, 4))
    scales = {i.data_type for i in regions.after.graph.initializer if i.name.endswith("_scale")}
    assert scales == {F32}


def test_outputs_are_those_of_the_definition(regions: Quantized) -> None:
    feeds = random_feeds(regions.before, 7)
    wanted = run(regions.before, feeds)[0]
    found = run(regions.after, feeds)[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=0.05 * np.abs(wanted).max())


@pytest.mark.parametrize("capability", ["SM80", "SM86", "SM120"])
def test_tensorrt_computes_what_was_assigned(regions: Quantized, capability: str) -> None:
    found = built(regions.after, capability)
    assert {n: found[n] for n in ("a", "b", "c", "d", "e", "y")} == {
        "a": "int8", "b": "float16", "c": "float32", "d": "float16", "e": "int8", "y": "float16",
    }  # fmt: skip


def without_clip(net: onnx.ModelProto) -> onnx.ModelProto:
    bare = onnx.ModelProto.FromString(net.SerializeToString())
    (gone,) = [n for n in bare.graph.node if n.op_type == "Clip"]
    for node in bare.graph.node:
        node.input[:] = [gone.input[0] if name == gone.output[0] else name for name in node.input]
    bare.graph.node.remove(gone)
    return bare


def test_a_lone_layer_is_kept_in_float32(regions: Quantized) -> None:
    (clip,) = [n for n in regions.after.graph.node if n.op_type == "Clip"]
    assert (clip.input[0], len(clip.input)) == ("c", 1)
    assert graphopt.lint(regions.after, target="tensorrt") == []
    bare = without_clip(regions.after)
    assert [(f.rule, f.node) for f in graphopt.lint(bare, target="tensorrt")] == [("lone-float32", "c")]
    assert built(bare)["c"] == "float16"


def test_weights_of_a_lone_layer_stay_finite() -> None:
    pytest.importorskip("tensorrt_rtx")
    from graphopt.backends.tensorrt.build import build

    net = chain(3)
    large = next(i for i in net.graph.initializer if i.name == "w1")
    large.CopyFrom(onnx.numpy_helper.from_array(np.where(np.eye(32) > 0, 1e6, -1e6).astype(np.float32), "w1"))
    after = assign(net, m0="float16", m1="float32", m2="float16").after

    def infinite(model: onnx.ModelProto) -> int:
        """Halves in the plan that are ±∞."""
        plan = build(model, "SM86").plan
        assert plan is not None
        halves = (np.frombuffer(plan[k : k + (len(plan) - k) // 2 * 2], np.uint16) for k in (0, 1))
        return max(int(np.isin(h, (0x7C00, 0xFC00)).sum()) for h in halves)

    assert infinite(after) < 32 * 32
    assert infinite(without_clip(after)) >= 32 * 32


def chain(count: int) -> onnx.ModelProto:
    """MatMul behind MatMul, on rows of 32 values."""
    names = ["x", *(f"m{i}" for i in range(count))]
    body = " ".join(f"{y} = MatMul({x}, w{i})" for i, (x, y) in enumerate(pairwise(names)))
    return model(body, "float[1,8,32] x", f"float[1,8,32] {names[-1]}", 0, **{f"w{i}": (32, 32) for i in range(count)})


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_where_a_layer_is_alone_and_where_it_isn_t(kind: str) -> None:
    def clips(**precisions: str) -> int:
        net = assign(chain(3), **precisions)
        found = built(net.after)
        assert found == precisions
        return net.ops().count("Clip")

    assert clips(m0=kind, m1="float32", m2=kind) == 1
    assert clips(m0=kind, m1="float32", m2="float32") == 0
    assert clips(m0="float32", m1="float32", m2=kind) == 0


def test_two_low_types_in_one_model() -> None:
    net = assign(chain(4), m0="float16", m1="bfloat16", m2="bfloat16", m3="float16")
    assert {n: t for n, t in computes_in(net.after).items() if n.startswith("m") and len(n) == 2} == {
        "m0": F16, "m1": BF16, "m2": BF16, "m3": F16,
    }  # fmt: skip
    assert built(net.after) == {"m0": "float16", "m1": "bfloat16", "m2": "bfloat16", "m3": "float16"}


def residual() -> onnx.ModelProto:
    return model(
        f"""
        a = Conv<{PAD}>(x, w1) ra = Relu(a)
        b = Conv<{PAD}>(ra, w2)
        s = Add(b, ra)
        rs = Relu(s)
        j = Concat<axis=1>(rs, ra)
        y = Conv<kernel_shape=[1,1]>(j, w3)
        """,
        "float[1,8,8,8] x", "float[1,4,8,8] y", 0, w1=(8, 8, 3, 3), w2=(8, 8, 3, 3), w3=(4, 16, 1, 1),
    )  # fmt: skip


@pytest.mark.parametrize(
    "half",
    [("a", "ra"), ("b", "s", "rs"), ("y",), ("a", "ra", "b", "s", "rs"), ("a", "ra", "y"), ("b", "s", "rs", "y")],
)
def test_residual_sums_and_joins_between_the_types(half: tuple[str, ...]) -> None:
    net = assign(residual(), **dict.fromkeys(half, "float16"))
    found = computes_in(net.after)
    assert {n for n in ("a", "ra", "b", "s", "rs", "y") if found[n] == F16} == set(half)
    feeds = random_feeds(net.before, 3)
    wanted = run(assign(residual(), **dict.fromkeys(half, "float32")).after, feeds)[0]
    # A value on the border between two of a grid's may fall on either side.
    assert np.linalg.norm(run(net.after, feeds)[0] - wanted) < 0.02 * np.linalg.norm(wanted)
    precisions = built(net.after)
    assert {n: precisions[n] for n in ("a", "b", "y")} == {n: "float16" if n in half else "int8" for n in "aby"}


def planned(precisions: Mapping[str, str], net: onnx.ModelProto | None = None) -> Graph:
    graph = from_proto(net or chain(2))
    for node in graph.nodes:
        node.name = node.outputs[0].name
    graph.plan.precisions.update(precisions)
    return graph


def test_what_can_t_be_is_never_passed_over() -> None:
    ctx = Context(target=find_target("tensorrt"))
    with pytest.raises(InternalError, match="node 'elsewhere' was assigned float16 and isn't in the main graph"):
        InsertCasts().run(planned({"elsewhere": "float16"}), ctx)
    graph = planned({"m0": "float16"})
    graph.plan.quantized_nodes["m0"] = "linear"
    with pytest.raises(InternalError, match="node 'm0' was assigned float16 and is planned in 8 bits, too"):
        InsertCasts().run(graph, ctx)
    conv = model("y = Conv<kernel_shape=[1,1]>(x, w)", "float[1,4,4,4] x", "float[1,2,4,4] y", 0, w=(2, 4, 1, 1))
    with pytest.raises(PassError, match=r"node 'y' \(Conv\) was assigned bfloat16 and can't have it: Conv of opset 11"):
        InsertCasts().run(planned({"y": "bfloat16"}, conv), ctx)
    PlanQuantization().run(graph := from_proto(conv), ctx)
    graph.plan.precisions["y"] = "float16"
    with pytest.raises(ConfigError, match="insert-casts comes behind insert-qdq"):
        InsertCasts().run(graph, ctx)


def test_nothing_is_done_where_nothing_is_assigned_and_nothing_twice() -> None:
    ctx = Context(target=find_target("tensorrt"))
    graph = planned({"m0": "int4-weights"})
    before = graph.revision
    InsertCasts().run(graph, ctx)
    assert graph.revision == before
    graph = planned({"m0": "float16"})
    InsertCasts().run(graph, ctx)
    once = to_proto(graph)
    InsertCasts().run(graph, ctx)
    assert to_proto(graph) == once
