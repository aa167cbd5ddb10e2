from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest

from graphopt.calibration import Dataset, Feed, input_specs, load_dataset, load_ranges, model_hash
from graphopt.errors import ConfigError, InternalError, PassError
from graphopt.ir import Graph, from_proto, to_proto
from graphopt.passes import find_pass
from graphopt.pipeline import Context, Pass, PassManager
from graphopt.pipeline.instruments import Dump, Limit, Numerics, Reproducer, Verify
from graphopt.pipeline.instruments.comparison import QUANTIZED, difference
from graphopt.pipeline.instruments.feeds import random_feeds
from graphopt.pipeline.instruments.snapshot import Snapshot
from graphopt.pipeline.naming import spelled
from graphopt.pipeline.toml import pipeline_from_toml
from graphopt.quant import Range, TensorPlan
from graphopt.targets import find_target
from tests.pipeline.toys import (
    MODEL,
    Crash,
    DropIdentity,
    Nothing,
    Refuse,
    Scale,
    WrongShape,
    toy_graph,
)
from tests.support.rewrite import parse, run


def dataset(count: int = 3) -> Dataset:
    def feeds() -> Iterator[Feed]:
        for i in range(count):
            yield {"x": np.full((2, 4), i + 1, np.float32)}

    return Dataset(feeds, name="samples", count=count)


# ---- Verify --------------------------------------------------------------------------------------------------


def test_a_broken_graph_is_an_internal_error_that_names_pass_rule_and_tensor() -> None:
    with pytest.raises(InternalError, match=r"wrong-shape.*\[types\].*'y'"):
        PassManager([DropIdentity(), WrongShape()], [Verify()]).run(toy_graph(), Context())


def test_a_right_pass_satisfies_the_verifier() -> None:
    ctx = Context()
    PassManager([Nothing(), DropIdentity()], [Verify()]).run(toy_graph(), ctx)
    assert not [r for r in ctx.remarks.items if "fault" in r.message]


# ---- Dump ----------------------------------------------------------------------------------------------------


def test_dump_writes_what_changed_and_every_remark(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "dumps"
    PassManager([Nothing(), DropIdentity()], [Dump(folder)]).run(toy_graph(), Context())
    assert sorted(f.name for f in folder.iterdir()) == [
        "000_input.txt",
        "002_drop-identity.diff",
        "002_drop-identity.txt",
        "index.html",
        "passes.jsonl",
        "remarks.jsonl",
    ]
    diff = (folder / "002_drop-identity.diff").read_text().splitlines()
    assert [line for line in diff if line.startswith("-") and "Identity" in line]
    figures = [json.loads(line) for line in (folder / "passes.jsonl").read_text().splitlines()]
    assert [(f["index"], f["pass"], f["changed"]) for f in figures] == [
        (1, "nothing", False),
        (2, "drop-identity", True),
    ]
    assert [f["numerics"] for f in figures] == [None, None]
    page = (folder / "index.html").read_text()
    assert 'href="002_drop-identity.diff"' in page
    # It opens from disk: everything that it links to is in it or beside it, and it loads nothing.
    links = re.findall(r'href="([^"]*)"', page)
    assert all(f'id="{link[1:]}"' in page if link[0] == "#" else (folder / link).is_file() for link in links)
    assert not re.search(r"<(script|link|img|iframe)|https?:|@import|url\(", page)
    assert "Identity" in (folder / "000_input.txt").read_text()
    assert "Identity" not in (folder / "002_drop-identity.txt").read_text()
    remarks = [json.loads(line) for line in (folder / "remarks.jsonl").read_text().splitlines()]
    assert [(r["index"], r["pass_name"], r["kind"]) for r in remarks] == [
        (1, "nothing", "note"),
        (2, "drop-identity", "applied"),
    ]


def test_a_dump_tells_which_outputs_were_compared(tmp_path: Path) -> None:
    numerics = Numerics()
    PassManager([Nothing(), DropIdentity()], [numerics, Dump(tmp_path, numerics=numerics)]).run(toy_graph(), Context())
    figures = [json.loads(line) for line in (tmp_path / "passes.jsonl").read_text().splitlines()]
    assert [f["numerics"] for f in figures] == [None, "same outputs"]
    assert "the same</tr>" in (tmp_path / "index.html").read_text()


def test_dump_and_verify_see_a_change_of_the_plan_alone(tmp_path: Path) -> None:
    ctx = Context(target=find_target("openvino"))
    PassManager([MakePlan("a")], [Verify(), Dump(tmp_path, models=True)]).run(toy_graph(), ctx)
    names = sorted(f.name for f in tmp_path.iterdir())
    assert [n for n in names if n[0] == "0"] == [
        "000_input.onnx",
        "000_input.txt",
        "001_make-plan.diff",
        "001_make-plan.txt",
    ]
    with pytest.raises(InternalError, match=r"make-plan.*\[plan\].*gone"):
        PassManager([MakePlan("gone")], [Verify()]).run(toy_graph(), ctx)


def test_a_plan_that_is_forgotten_is_a_change_to_dump(tmp_path: Path) -> None:
    ctx = Context(target=find_target("openvino"))
    PassManager([MakePlan("a"), ForgetPlan(), Nothing()], [Dump(tmp_path)]).run(toy_graph(), ctx)
    texts = sorted(f.name for f in tmp_path.glob("*.txt"))
    assert texts == ["000_input.txt", "001_make-plan.txt", "002_forget-plan.txt"]
    assert (tmp_path / texts[0]).read_text() == (tmp_path / texts[2]).read_text()


def test_dump_writes_models_when_asked(tmp_path: Path) -> None:
    PassManager([DropIdentity()], [Dump(tmp_path, models=True)]).run(toy_graph(), Context())
    model = onnx.load(tmp_path / "001_drop-identity.onnx")
    assert [n.op_type for n in model.graph.node] == ["Relu", "MatMul"]


def test_dump_leaves_other_files_alone_and_starts_remarks_anew(tmp_path: Path) -> None:
    (tmp_path / "001_notes.txt").write_text("mine")
    for _ in range(2):
        PassManager([Nothing()], [Dump(tmp_path)]).run(toy_graph(), Context())
    assert (tmp_path / "001_notes.txt").read_text() == "mine"
    assert len((tmp_path / "remarks.jsonl").read_text().splitlines()) == 1


def test_dump_shows_the_graph_that_the_verifier_complains_about(tmp_path: Path) -> None:
    with pytest.raises(InternalError):
        PassManager([WrongShape()], [Verify(), Dump(tmp_path)]).run(toy_graph(), Context())
    assert "misfit" in (tmp_path / "001_wrong-shape.txt").read_text()


def test_a_failing_pass_leaves_its_remarks_and_the_graph(tmp_path: Path) -> None:
    with pytest.raises(PassError):
        PassManager([Nothing(), Refuse()], [Dump(tmp_path)]).run(toy_graph(), Context())
    assert "MatMul" in (tmp_path / "002_refuse.txt").read_text()
    assert [json.loads(line)["kind"] for line in (tmp_path / "remarks.jsonl").read_text().splitlines()] == [
        "note",
        "declined",
    ]


def test_a_dump_folder_that_can_not_be_made_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="dump folder"):
        PassManager([Nothing()], [Dump(tmp_path / "file")]).run(toy_graph(), Context())


# ---- Numerics ------------------------------------------------------------------------------------------------


def test_numerics_catches_a_weight_off_by_one_percent() -> None:
    with pytest.raises(InternalError, match=r"scale.*lossless, but output 'y' moved by"):
        PassManager([Nothing(), Scale(by=1.01)], [Numerics()]).run(toy_graph(), Context())


def test_numerics_lets_rounding_pass() -> None:
    ctx = Context()
    PassManager([DropIdentity(), Scale(by=1 + 1e-6)], [Numerics()]).run(toy_graph(), ctx)
    assert not [r for r in ctx.remarks.items if "numerics" in r.message]


def test_numerics_runs_the_calibration_samples() -> None:
    """Relu6-like clipping at 100 is wrong only for large inputs, which noise never reaches."""

    @dataclass(frozen=True)
    class Clip(Pass):
        name: ClassVar[str] = "clip"
        summary: ClassVar[str] = "clip the input at 100"
        lossless: ClassVar[bool] = True

        def run(self, graph: Graph, ctx: Context) -> None:
            relu = graph.nodes[0]
            clipped = graph.variable("clipped")
            limit = graph.constant(np.array(100, np.float32), "limit")
            graph.add_node("Clip", [relu.inputs[0], graph.omitted(), limit], [clipped])
            graph.set_input(relu, 0, clipped)

    PassManager([Clip()], [Numerics()]).run(toy_graph(), Context())
    large = load_dataset({"x": np.full((2, 2, 4), 1000, np.float32)}, input_specs(parse(MODEL)))
    with pytest.raises(InternalError, match="clip"):
        PassManager([Clip()], [Numerics()]).run(toy_graph(), Context(calibration=large))


def test_a_lossy_pass_is_not_held_to_anything_but_the_next_lossless_one_is() -> None:
    @dataclass(frozen=True)
    class Lossy(Scale):
        name: ClassVar[str] = "lossy"
        lossless: ClassVar[bool] = False

    PassManager([Lossy(), DropIdentity()], [Numerics()]).run(toy_graph(), Context())
    with pytest.raises(InternalError, match="'scale'"):
        PassManager([Lossy(), Scale()], [Numerics()]).run(toy_graph(), Context())


def test_a_model_that_no_longer_runs_is_caught() -> None:
    @dataclass(frozen=True)
    class Misfit(Pass):
        name: ClassVar[str] = "misfit"
        summary: ClassVar[str] = "give the MatMul a weight that can't be multiplied"
        lossless: ClassVar[bool] = True

        def run(self, graph: Graph, ctx: Context) -> None:
            graph.set_values(graph.constants[0], np.zeros((5, 3), np.float32))

    with pytest.raises(InternalError, match="the model doesn't run any more"):
        PassManager([Misfit()], [Numerics()]).run(toy_graph(), Context())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = my.ops.Strange(x)", "onnxruntime can't load the model"),
        ("r = RandomNormalLike(x)\n y = Add(x, r)", "its outputs differ from run to run"),
    ],
)
def test_a_model_that_can_not_be_checked_is_said(body: str, reason: str) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 17, "my.ops" : 1]>\ng (float[2] x) => (float[2] y) {{ {body} }}'
    ctx = Context()
    PassManager([Scale()], [Numerics()]).run(from_proto(onnx.parser.parse_model(text)), ctx)
    (remark,) = [r for r in ctx.remarks.items if "numerics" in r.message]
    assert reason in remark.message


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N, C, H, W] x) => (float[N, C, H, W] y) { y = MaxPool<kernel_shape = [7, 7], pads=[3,3,3,3]>(x) }",
        "g (float[2, 3] x, int64[N] i) => (float y) { y = Gather(x, i) }",
        "g (float16[N, 8] x, bool[N, 1] c) => (float16[N, 8] y) { n = Neg(x)\n y = Where(c, x, n) }",
        "g (float[N, 512] x, float[512] b) => (float[N, 512] y) { y = Add(x, b) }",
    ],
)
def test_noise_is_found_for_dynamic_shapes_and_other_types(text: str) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    first = next(random_feeds(input_specs(model), seed=0))
    again = next(random_feeds(input_specs(model), seed=0))
    for feed, same in zip(first, again, strict=True):
        run(model, feed)
        assert all(np.array_equal(feed[name], same[name]) for name in feed)


def test_sizes_that_the_model_refuses_are_followed_by_others() -> None:
    """Only a batch of 1 goes through this Reshape."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x) => (float[1, 4] y) <int64[2] s = {1, 4}, float[1] w = {1}> { r = Reshape(x, s) y = Mul(r, w) }"""
    with pytest.raises(InternalError, match="scale"):
        PassManager([Scale()], [Numerics()]).run(from_proto(parse(text)), Context())


F32, F16 = np.float32, np.float16


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (np.array([1, 100], F32), np.array([1.005, 100], F32), True),
        (np.array([1, 100], F32), np.array([1.02, 100], F32), False),
        (np.array([1, 2], F16), np.array([1.005, 2], F16), True),
        (np.array([1, 2], F16), np.array([1.05, 2], F16), False),
        (np.array([0, 0], F32), np.array([5e-8, 0], F32), True),
        (np.array([0, 0], F32), np.array([1e-5, 0], F32), False),
        (np.array([np.nan, np.inf, 1], F32), np.array([np.nan, np.inf, 1], F32), True),
        (np.array([np.nan, 1], F32), np.array([1, 1], F32), False),
        (np.array([np.inf, 1], F32), np.array([-np.inf, 1], F32), False),
        (np.array([1, 2]), np.array([1, 2]), True),
        (np.array([1, 2]), np.array([1, 3]), False),
        (np.array(["a"], object), np.array(["b"], object), False),
        (np.ones(3, F32), np.ones((3, 1), F32), False),
        (np.ones(3, F32), np.ones(3, F16), False),
        (np.ones((0, 2), F32), np.ones((0, 2), F32), True),
        ([np.ones(2, F32)], [np.ones(2, F32)], True),
        ([np.ones(2, F32)], [np.zeros(2, F32)], False),
        ([np.ones(2, F32)], [], False),
        (None, None, True),
        (None, np.ones(1, F32), False),
    ],
)
def test_what_counts_as_a_difference(old: object, new: object, same: bool) -> None:
    assert (difference(old, new) is None) == same


def test_a_quantized_model_may_move_by_a_few_steps() -> None:
    steps = np.array([1, 255], F32)
    assert difference(steps, steps + 3) is not None
    assert difference(steps, steps + 3, QUANTIZED) is None


# ---- Snapshot and Reproducer ---------------------------------------------------------------------------------


def test_a_snapshot_keeps_what_passes_change_later() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 400] x, bool c) => (float[1, 400] y) <float[2] s = {3, 4}> {
        k = Constant<value = float[2] {1, 2}>()
        y = If(c) <then_branch = t () => (float[1, 400] p) { p = Add(x, v) },
                   else_branch = e () => (float[1, 400] r) { r = Mul(x, w) }>
    }"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for owner, name in ((model.graph, "w"), (model.graph.node[1].attribute[0].g, "v")):
        owner.initializer.append(onnx.numpy_helper.from_array(rng.random(400, np.float32), name))
    graph = from_proto(model)
    before = to_proto(graph).SerializeToString(deterministic=True)
    snapshot = Snapshot(graph)
    for scope in graph.walk():
        for constant in scope.constants:
            graph.set_values(constant, constant.values * 2)
    PassManager([Scale()]).run(graph, Context())
    assert to_proto(graph).SerializeToString(deterministic=True) != before
    for _ in range(2):
        assert to_proto(snapshot.restore()).SerializeToString(deterministic=True) == before


def reproduce(folder: Path) -> None:
    """Run what the reproducer holds."""
    model = onnx.load(folder / "before.onnx")
    pipeline = pipeline_from_toml((folder / "pipeline.toml").read_text(), find_pass)
    samples = pipeline.settings.calibration_data
    target = pipeline.settings.target
    ctx = Context(
        target=None if target is None else find_target(target),
        calibration=None if samples is None else load_dataset(folder / samples, input_specs(model)),
    )
    PassManager(pipeline.passes, [Verify()]).run(from_proto(model), ctx)


@pytest.mark.parametrize("failing", [WrongShape(), Crash()], ids=["verifier", "exception"])
def test_a_reproducer_reproduces(tmp_path: Path, failing: Pass) -> None:
    passes = [Nothing(), DropIdentity(), failing, Nothing()]
    with pytest.raises(InternalError) as caught:
        PassManager(passes, [Reproducer(tmp_path / "made"), Verify()]).run(toy_graph(), Context())
    assert caught.value.reproducer is not None
    folder = Path(caught.value.reproducer)
    assert folder.parent == tmp_path / "made"
    assert folder.name.startswith("graphopt-reproducer-")
    assert [n.op_type for n in onnx.load(folder / "before.onnx").graph.node] == ["Relu", "MatMul"]
    assert (folder / "pipeline.toml").read_text() == f'[[pass]]\nname = "{spelled(type(failing))}"\n'
    assert str(caught.value) in (folder / "error.txt").read_text()
    with pytest.raises(InternalError) as again:
        reproduce(folder)
    assert str(again.value) == str(caught.value)


def test_by_default_the_reproducer_is_in_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InternalError) as caught:
        PassManager([Crash()], [Reproducer()]).run(toy_graph(), Context())
    assert caught.value.reproducer is not None
    assert Path(caught.value.reproducer).parent == tmp_path


def test_the_users_own_error_leaves_no_reproducer(tmp_path: Path) -> None:
    with pytest.raises(PassError):
        PassManager([Refuse()], [Reproducer(tmp_path)]).run(toy_graph(), Context())
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class MakePlan(Pass):
    name: ClassVar[str] = "make-plan"
    summary: ClassVar[str] = "plan one tensor"

    tensor: str = "a"

    def run(self, graph: Graph, ctx: Context) -> None:
        assert ctx.target is not None
        graph.plan.add(TensorPlan(self.tensor, ctx.target.activation, ()))


@dataclass(frozen=True)
class ForgetPlan(Pass):
    name: ClassVar[str] = "forget-plan"
    summary: ClassVar[str] = "clear the plan"

    def run(self, graph: Graph, ctx: Context) -> None:
        graph.plan.clear()


@dataclass(frozen=True)
class NeedPlan(Pass):
    """Fails only where there are a plan, a target and samples."""

    name: ClassVar[str] = "need-plan"
    summary: ClassVar[str] = "fail on a plan"

    def run(self, graph: Graph, ctx: Context) -> None:
        if graph.plan and ctx.calibration is not None:
            raise RuntimeError(f"sum {sum(float(feed['x'].sum()) for feed in ctx.calibration)}")


def test_a_failure_that_needs_the_plan_is_reproduced_from_before_the_plan(tmp_path: Path) -> None:
    ctx = Context(target=find_target("openvino"), calibration=dataset())
    passes = [DropIdentity(), MakePlan(), Scale(by=2.0), NeedPlan()]
    with pytest.raises(InternalError, match=r"sum 48\.0") as caught:
        PassManager(passes, [Reproducer(tmp_path), Verify()]).run(toy_graph(), ctx)
    assert caught.value.reproducer is not None
    folder = Path(caught.value.reproducer)
    assert [n.op_type for n in onnx.load(folder / "before.onnx").graph.node] == ["Relu", "MatMul"]
    named = pipeline_from_toml((folder / "pipeline.toml").read_text(), find_pass).passes
    assert named == (MakePlan(), Scale(by=2.0), NeedPlan())
    with pytest.raises(InternalError, match=r"sum 48\.0"):
        reproduce(folder)


def test_a_target_of_ones_own_goes_into_the_reproducer(tmp_path: Path) -> None:
    board = replace(find_target("tflite"), name="board")
    for target, written in ((board, "target.toml"), (find_target("tflite"), "tflite")):
        with pytest.raises(InternalError) as caught:
            PassManager([Crash()], [Reproducer(tmp_path)]).run(toy_graph(), Context(target=target))
        assert caught.value.reproducer is not None
        folder = Path(caught.value.reproducer)
        named = pipeline_from_toml((folder / "pipeline.toml").read_text(), find_pass).settings.target
        assert named == written
        assert find_target(folder / named if named.endswith(".toml") else named) == target


def test_saved_ranges_go_into_the_reproducer(tmp_path: Path) -> None:
    ranges = {"a": Range(np.array(0.0), np.array(2.5))}
    with pytest.raises(InternalError) as caught:
        PassManager([DropIdentity(), Crash()], [Reproducer(tmp_path)]).run(toy_graph(), Context(ranges=ranges))
    assert caught.value.reproducer is not None
    folder = Path(caught.value.reproducer)
    assert pipeline_from_toml((folder / "pipeline.toml").read_text(), find_pass).settings.ranges == "ranges.json"
    found = load_ranges(folder / "ranges.json", model_hash=model_hash(onnx.load(folder / "before.onnx")))
    assert {name: (float(r.low), float(r.high)) for name, r in found.items()} == {"a": (0.0, 2.5)}


def test_instruments_do_not_change_the_result(tmp_path: Path) -> None:
    passes = [Nothing(), DropIdentity(), Scale(by=1.0)]
    results: list[bytes] = []
    for instruments in ([], [Limit(9), Reproducer(tmp_path), Verify(), Numerics(), Dump(tmp_path)]):
        graph = toy_graph()
        PassManager(passes, instruments).run(graph, Context())
        results.append(to_proto(graph).SerializeToString(deterministic=True))
    assert results[0] == results[1]
