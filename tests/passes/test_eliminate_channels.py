"""Budgets are held, plans replay, what can't go is said, and the options that contradict each other are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.analysis.pruning.elimination_record import Elimination
from graphopt.errors import AccuracyError, ConfigError, EmitError
from graphopt.report import inspect_model
from tests.cli.conftest import Run as Command
from tests.cli.conftest import run  # noqa: F401  # a fixture
from tests.support.quantization import model
from tests.support.rewrite import run as outputs_of


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    """A residual network; the stream's channels can go, the input's three and the ten classes can't."""
    body = """
        a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w1, b1)
        ra = Relu(a)
        b = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(ra, w2, b2)
        rb = Relu(b)
        c = Conv<kernel_shape=[1,1]>(rb, w3, b3)
        s = Add(ra, c)
        rs = Relu(s)
        p = GlobalAveragePool(rs)
        f = Flatten(p)
        y = Gemm(f, w4, b4)
    """
    made = model(
        body, "float[N,3,8,8] x", "float[N,10] y", 0,
        w1=(32, 3, 3, 3), b1=(32,), w2=(64, 32, 3, 3), b2=(64,), w3=(32, 64, 1, 1), b3=(32,), w4=(32, 10), b4=(10,),
    )  # fmt: skip
    for number, node in enumerate(made.graph.node):
        node.name = f"{node.op_type.lower()}{number}"
    return made


@pytest.fixture(scope="module")
def samples() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(size=(24, 3, 8, 8)).astype(np.float32)}


def prune(
    net: onnx.ModelProto, options: str, samples: dict[str, np.ndarray] | None
) -> tuple[graphopt.Result, Elimination]:
    result = graphopt.optimize(net, preset="float", prune=options, calibration_data=samples)
    assert result.report.elimination is not None
    return result, result.report.elimination


def share(net: onnx.ModelProto, result: graphopt.Result) -> float:
    """MACs left, counted on the model that came out."""
    return macs(result.model) / macs(net)


def macs(found: onnx.ModelProto) -> int:
    return inspect_model(graphopt.load(found), "").macs


@pytest.mark.parametrize("importance", ["auto", "l1", "fpgm", "wanda", "hessian", "activation", "apoz", "random"])
def test_the_budget_is_held_by_what_comes_out(net, samples, importance: str) -> None:
    result, found = prune(net, f"macs=0.5, align=4, importance={importance}", samples)
    assert 0.35 < share(net, result) <= 0.5
    assert found.after.macs == macs(result.model)
    assert found.before.macs == macs(net)
    assert found.importance == ("reconstruction" if importance == "auto" else importance)
    assert all(group.after % 4 == 0 for group in found.groups)
    assert {group.reason for group in found.frozen} >= {"it is a graph input", "it is a graph output"}
    assert [list(o.type.tensor_type.shape.dim)[1].dim_value for o in result.model.graph.output] == [10]
    assert sum(found.groups[0].histogram or ()) == found.groups[0].units


@pytest.mark.parametrize(
    ("options", "cost", "part"),
    [
        ("params=0.6", "params", 0.6),
        ("bytes=0.6, scope=local", "bytes", 0.6),
        ("macs=0.7, params=0.5", "params", 0.5),
        ("macs=500000", "macs", 0.0),
    ],
)
def test_budgets_of_other_kinds(net, options: str, cost: str, part: float) -> None:
    """Without samples, by weights alone."""
    _, found = prune(net, options, None)
    limit = part * getattr(found.before, cost) if part else 500_000
    assert 0.5 * limit < getattr(found.after, cost) <= limit
    assert (found.importance, found.refitted) == ("l2", 0)


@pytest.mark.parametrize(("importance", "chosen"), [("reconstruction", "layers"), ("l1", "outputs")])
def test_sizes_go_by_errors_where_the_criterion_has_errors(net, samples, importance: str, chosen: str) -> None:
    """Scores of different groups can't be compared: there the outputs say what a group is worth."""
    auto, layers, outputs = (
        [
            group.removed
            for group in prune(net, f"macs=0.5, importance={importance}, align=2, {rest}", samples)[1].groups
        ]
        for rest in ("repair=false", "sensitivity=layers, repair=false", "sensitivity=outputs, repair=false")
    )
    assert auto == {"layers": layers, "outputs": outputs}[chosen]
    assert layers != outputs


def test_a_ratio_of_every_group_and_of_all(net) -> None:
    _, found = prune(net, "ratio=0.5, scope=local", None)
    assert [(g.before, g.after) for g in found.groups] == [(32, 16), (64, 32)]
    _, found = prune(net, "ratio=0.5, scope=global", None)
    assert sum(g.after for g in found.groups) <= sum(g.before for g in found.groups) / 2


def test_repair_takes_back_most_of_the_loss(net, samples) -> None:
    """Of the output's error on samples that nothing was fitted on."""
    fresh = {"x": np.random.default_rng(2).normal(size=(16, 3, 8, 8)).astype(np.float32)}
    wanted = outputs_of(net, fresh)[0]

    def error(options: str) -> float:
        found = outputs_of(prune(net, f"macs=0.6, {options}", samples)[0].model, fresh)[0]
        return float(np.square(found - wanted).sum() / np.square(wanted).sum())

    repaired, bare = error("importance=l2"), error("importance=l2, repair=false")
    assert repaired < 0.25 * bare
    assert error("importance=reconstruction") <= 1.1 * repaired


def test_what_is_excluded_or_small_stays_whole(net) -> None:
    _, found = prune(net, "ratio=0.5, scope=local, exclude=[conv2]", None)
    assert [(g.before, g.after) for g in found.groups] == [(32, 32), (64, 64)]
    _, found = prune(net, "ratio=0.75, scope=local, min-channels=32", None)
    assert [(g.before, g.after) for g in found.groups] == [(32, 32), (64, 32)]
    assert found.groups[0].reason == "it has no smaller size that may be chosen"


def test_latency_is_measured_in_the_targets_engine(net, samples) -> None:
    result = graphopt.optimize(
        net, target="onnxruntime", preset="float", prune="latency=0.9, importance=l1", calibration_data=samples
    )
    found = result.report.elimination
    assert found is not None
    assert found.before.latency is not None
    assert found.after.latency is not None
    assert found.after.latency <= 0.9 * found.before.latency
    assert any("timed by themselves in onnxruntime" in note for note in found.notes)
    with pytest.raises(ConfigError, match="give a target"):
        prune(net, "latency=0.9", samples)


def test_a_plan_replays_and_can_be_edited(net, tmp_path: Path) -> None:
    result, found = prune(net, "macs=0.5", None)
    plan = tmp_path / "plan.json"
    found.save_plan(plan)
    again, replayed = prune(net, f'plan="{plan}"', None)
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)
    assert replayed.importance == "plan"
    content = json.loads(plan.read_text())
    content["groups"][1]["remove"] = [0, 5]
    plan.write_text(json.dumps(content))
    _, edited = prune(net, f'plan="{plan}"', None)
    assert (edited.groups[1].removed, edited.groups[1].after) == ((0, 5), 62)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c.update(version=9), "not an elimination plan of version 1"),
        (lambda c: c["groups"][0].update(name="elsewhere:1"), "'elsewhere:1' isn't one that can lose channels here"),
        (lambda c: c["groups"][0].update(units=31), "has 32 units here"),
        (lambda c: c["groups"][0].update(remove=list(range(32))), "one must stay"),
        (lambda c: c["groups"][0].update(remove=[32]), r"units to remove are 0 … 31"),
        (lambda c: c["groups"][0].pop("units"), "damaged"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(net, tmp_path: Path, change, complaint: str) -> None:
    plan = tmp_path / "plan.json"
    prune(net, "macs=0.4", None)[1].save_plan(plan)
    content = json.loads(plan.read_text())
    assert content["groups"][0]["remove"]
    change(content)
    plan.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=complaint):
        prune(net, f'plan="{plan}"', None)


def test_a_plan_that_is_not_there(net, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read the elimination plan"):
        prune(net, f'plan="{tmp_path / "none.json"}"', None)
    (tmp_path / "text").write_text("{")
    with pytest.raises(ConfigError, match="isn't JSON"):
        prune(net, f'plan="{tmp_path / "text"}"', None)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("align=8", "give a budget"),
        ("macs=0.5, plan=x.json", "not both"),
        ("ratio=0.5, macs=0.5", "can't be combined"),
        ("ratio=1.5", "less than 1"),
        ("macs=-1", "more than 0"),
        ("macs=0.5, align=0", "at least 1"),
        ("macs=0.5, importance=l3", "there is no importance 'l3'"),
        ("macs=0.5, importance=wanda", "needs samples"),
        ("macs=0.5, sensitivity=outputs", "needs samples"),
        ("macs=0.001", "can't be reached by removing channels"),
    ],
)
def test_options_that_make_no_sense(net, options: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        prune(net, options, None)


def test_equal_biases_do_not_tie_layers(net) -> None:
    """merge-duplicates makes one constant of them, and that would tie the stream's channels to the inner ones."""
    zeros = onnx.ModelProto()
    zeros.CopyFrom(net)
    for value in zeros.graph.initializer:
        if value.name in ("b1", "b3"):
            value.CopyFrom(onnx.numpy_helper.from_array(np.zeros(32, np.float32), value.name))
        if value.name == "w2":  # 32 inner channels, too
            value.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(value)[:32], value.name))
        if value.name == "w3":
            value.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(value)[:, :32], value.name))
        if value.name == "b2":
            value.CopyFrom(onnx.numpy_helper.from_array(np.zeros(32, np.float32), value.name))
    _, found = prune(zeros, "ratio=0.5, scope=local", None)
    assert [(g.before, g.after) for g in found.groups] == [(32, 16), (32, 16)]


def test_a_guard_that_cannot_hold_says_that_channels_were_removed(net, samples) -> None:
    with pytest.raises(AccuracyError, match=r"channels were removed for macs=0\.4: remove fewer; nothing was written"):
        graphopt.optimize(net, target="openvino", prune="macs=0.4", calibration_data=samples, min_sqnr=60)


def test_a_users_own_importance(net, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "mine.py").write_text("def last(evidence):\n    return list(range(evidence.group.units, 0, -1))\n")
    monkeypatch.chdir(tmp_path)
    _, found = prune(net, 'ratio=0.5, scope=local, importance="mine:last"', None)
    assert found.groups[0].removed == tuple(range(16, 32))


def test_a_model_without_channels_that_can_go() -> None:
    plain = model("y = Conv<kernel_shape=[1,1]>(x, w)", "float[1,3,4,4] x", "float[1,8,4,4] y", 0, w=(8, 3, 1, 1))
    result = graphopt.optimize(plain, preset="float", prune="macs=0.5")
    assert result.report.elimination is None
    assert any("no channels that can be removed" in r.message for r in result.report.remarks)


def test_saved_ranges_are_of_another_model(net, samples) -> None:
    with pytest.raises(ConfigError, match="removes channels"):
        graphopt.calibrate(
            net, samples, target="openvino", passes="eliminate-channels{macs=0.5},plan-quantization,calibrate"
        )
    ranges = graphopt.calibrate(net, samples, target="openvino")
    with pytest.raises(ConfigError, match="all channels"):
        graphopt.optimize(net, target="openvino", ranges=ranges, prune="macs=0.5")


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt", "tflite"])
def test_prune_then_int8_then_verify_in_one_command(
    run: Command,  # noqa: F811
    net,
    samples,
    tmp_path: Path,
    target: str,
) -> None:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(net)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    fixed.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(fixed, tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **samples)
    done = run(
        "optimize", tmp_path / "net.onnx", "-o", tmp_path / "out.onnx", "--target", target, "--verify", "--prune",
        "macs=0.5", "--calibration-data", tmp_path / "data.npz", "--save-prune-plan", tmp_path / "plan.json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "Channels removed for macs=0.5, by reconstruction" in done.out
    assert "64 → " in done.out
    assert "as planned" in done.out
    assert json.loads((tmp_path / "plan.json").read_text())["groups"]


def test_the_place_of_a_plan_is_looked_at_first(run: Command, net, tmp_path: Path) -> None:  # noqa: F811
    onnx.save(net, tmp_path / "net.onnx")
    begin = ("optimize", tmp_path / "net.onnx", "-o", tmp_path / "out.onnx", "--preset", "float")
    without = run(*begin, "--save-prune-plan", tmp_path / "plan.json")
    assert (without.code, "give --prune" in without.err) == (1, True)
    nowhere = run(*begin, "--prune", "macs=0.5", "--save-prune-plan", tmp_path / "no" / "plan.json")
    assert nowhere.code != 0
    assert "doesn't exist" in nowhere.err
    assert not (tmp_path / "out.onnx").exists()


def test_a_plan_is_written_whole_or_not_at_all(net, tmp_path: Path) -> None:
    _, found = prune(net, "macs=0.5", None)
    with pytest.raises(EmitError):
        found.save_plan(tmp_path / "no" / "plan.json")
