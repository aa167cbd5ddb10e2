"""The benchmarks run: one small model through each, with the figures that the lines must show."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from benchmarks import (
    _browser,
    _common,
    _pruning,
    bisect,
    block_weights,
    calibration,
    calibration_methods,
    dump,
    float_preset,
    litert,
    mixed,
    pruning,
    report,
    scaling,
    sensitivity,
    small_values,
    zoo_int8,
)
from graphopt.passes.eliminate_channels import EliminateChannels

needs_zoo = pytest.mark.skipif("GRAPHOPT_ZOO" not in os.environ, reason="needs the models that GRAPHOPT_ZOO points at")
SMALL = "mnist_winml_cntk"


def network(*, scale: bool) -> onnx.ModelProto:
    """Conv, or Conv → Mul by a constant per channel."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(4, 3, 1, 1)).astype(np.float32), "w")
    factor = numpy_helper.from_array(rng.uniform(1, 2, (4, 1, 1)).astype(np.float32), "s")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c" if scale else "y"])]
    nodes += [helper.make_node("Mul", ["c", "s"], ["y"])] if scale else []
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4, 4])],
        [weight, *([factor] if scale else [])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("engine", _common.ENGINES)
def test_a_float_model_scores_no_error_and_no_integer_layer(engine: str) -> None:
    model = network(scale=False)
    feeds = [{"x": np.random.default_rng(k).normal(size=(1, 3, 4, 4)).astype(np.float32)} for k in range(3)]
    reference = list(_common.first_outputs("onnxruntime", model, feeds))
    labels = [int(np.argmax(o)) for o in reference]
    labels[0] += 1
    found = _common.score(engine, model, feeds, reference, labels)
    assert (found.correct, found.differing, found.samples, found.integer, found.layers) == (2, 0, 3, 0, 1)
    assert found.sqnr_db > 100


def test_foldable_counts_what_could_still_be_folded() -> None:
    assert float_preset.foldable(graphopt.load(network(scale=False))) == 0
    assert float_preset.foldable(graphopt.load(network(scale=True))) == 1


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    _common.Table((("model", 6), ("dB", 4))).row(["a", "1"])
    _common.Table((("model", 6), ("dB", 4)), markdown=True).head()
    assert capsys.readouterr().out == "a          1\n| model | dB |\n|---|---|\n"


def test_scaling_makes_the_graph_it_says() -> None:
    model = scaling.synthetic(50)
    onnx.checker.check_model(model, full_check=True)
    assert len(model.graph.node) == 50


def test_bisect_finds_what_it_plants(tmp_path: Path) -> None:
    digits = Path(__file__).parents[1] / "calibration_data" / "digits_cnn.onnx"
    found, right = bisect.planted(digits, bisect.middle_layer(digits), tmp_path, one=False)
    assert right
    assert found.reproducer is not None


def test_dump_compiles_with_and_without(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(scaling.synthetic(50).SerializeToString())
    found = dump.cost(tmp_path / "model.onnx", tmp_path, turns=1)
    assert (found.nodes, len(found.ratios)) == (50, 1)
    assert {"000_input.txt", "index.html"} <= {f.name for f in (tmp_path / "dump").iterdir()}
    assert found.nbytes > (tmp_path / "dump" / "000_input.txt").stat().st_size > 0


@needs_zoo
def test_zoo_int8(capsys: pytest.CaptureFixture[str]) -> None:
    zoo_int8.main(["--models", SMALL, "--targets", "onnxruntime", "--samples", "40", "--peer"])
    head, line, *notes = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["model", "engine"]
    name, engine, fp32, int8, differ, db, integer, *_ = line.split()
    assert (name, engine, integer) == (SMALL, "onnxruntime", "3/3")
    assert abs(float(fp32) - float(int8)) <= 100 * int(differ) / 40
    assert float(db) > 30
    assert "Left in float by the plan:" in notes


@needs_zoo
def test_mixed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    mixed.main(["curve", "--models", SMALL, "--samples", "40", "--points", "2", "--out", str(tmp_path)])
    head, *lines, _, _, verdict = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["model", "cost", "budget"]
    for line in lines:
        name, cost, budget, greedy, ours, ahead, *_ = line.split()
        assert (name, cost) == (SMALL, "bits")
        assert 0.25 <= float(budget.rstrip("x")) <= 1
        assert float(ahead) == pytest.approx(float(ours) - float(greedy), abs=0.11)
    assert verdict.startswith(f"- {SMALL}, bits: on or above it")
    assert {path.name for path in (tmp_path / f"{SMALL}-bits").iterdir()} == {"front.csv", "front.png"}


@needs_zoo
def test_litert(capsys: pytest.CaptureFixture[str]) -> None:
    litert.main(["--models", SMALL, "--samples", "4", "--labelled", "40", "--seconds", "0.1"])
    head, line, _, *notes = capsys.readouterr().out.splitlines()
    assert head.startswith("model ")
    name, planned, near, same, most, *_ = line.split()
    assert (name, int(planned) > 0, near, int(most) <= 1) == (SMALL, True, "100.000", True)
    assert float(same) > 99
    assert notes == ["Less than 99 % within one step, more than 0.5 points apart, or failed:", "- none"]


@needs_zoo
def test_float_preset(capsys: pytest.CaptureFixture[str]) -> None:
    float_preset.main(["--models", SMALL, "--runs", "3", "--markdown"])
    line = capsys.readouterr().out.splitlines()[2]
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    nodes = re.fullmatch(r"(\d+) → (\d+)", cells[2])
    assert nodes is not None
    assert cells[0] == SMALL
    assert int(nodes[2]) <= int(nodes[1])
    assert cells[3:5] == ["0", "0"]
    assert float(cells[5]) <= 1e-4


@needs_zoo
def test_calibration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--light", "--models", SMALL, "--samples", "4", "--rounds", "1"]
    calibration.main([*options, "--measures", "minmax", "histogram", "calibrate", "Percentile"])
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["model", "plain", "ms", "minmax", "histogram", "calibrate", "Percentile"]
    name, plain, *cells = line.split()
    assert name == SMALL
    assert float(plain) > 0
    assert cells[2::3] == ["MiB"] * 4  # none fails
    assert all(float(ratio) > 0 for ratio in cells[::3])
    calibration.prepare(tmp_path, SMALL, False, 2)
    # Histograms take 128 KiB a tensor on top of what is fetched for either.
    tensors = len(json.loads((tmp_path / "tensors.json").read_text()))
    extremes, histograms = (calibration.promised(tmp_path, kind, 2) for kind in ("minmax", "histogram"))
    assert histograms - extremes == pytest.approx(tensors / 8)


@needs_zoo
def test_calibration_memory(capsys: pytest.CaptureFixture[str]) -> None:
    calibration.memory(SMALL, 2, 4)
    lines = capsys.readouterr().out.splitlines()
    assert [re.match(rf"{SMALL}, (\w+): -?[\d.]+ MiB above plain with 2 samples", line)[1] for line in lines] == [
        "minmax",
        "histogram",
    ]


@needs_zoo
def test_calibration_methods(capsys: pytest.CaptureFixture[str]) -> None:
    calibration_methods.main(
        ["--models", SMALL, "--targets", "onnxruntime", "--methods", "minmax", "mse", "--samples", "40"]
    )
    head, line, _, _, *judged = capsys.readouterr().out.splitlines()
    assert head.split() == ["model", "engine", "fp32", "%", "minmax", "mse", "peer"]
    cells = re.findall(r"([\d.]+) / ([\d.]+)", line)
    assert line.split()[:2] == [SMALL, "onnxruntime"]
    assert all(90 <= float(top1) <= 100 and float(db) > 20 for top1, db in cells[:2])
    for k, row in enumerate(judged):
        method, db, *_ = row.split()
        assert (method, db) == (("minmax", "mse")[k], cells[k][1])


@needs_zoo
def test_small_values(capsys: pytest.CaptureFixture[str]) -> None:
    small_values.main(["--models", SMALL, "--targets", "onnxruntime", "--samples", "20"])
    _, line, *notes = capsys.readouterr().out.splitlines()
    name, _, before, after, *layers, _ = line.split()
    assert (name, before, layers[0]) == (SMALL, after, layers[1])
    assert notes[-2:] == ["Turned back to float:", "- nothing"]


@needs_zoo
def test_pruning_curve(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    options = ["--models", SMALL, "--macs", "0.8", "0.7", "--importance", "bn-scale", "reconstruction"]
    pruning.main(["curve", *options, "--samples", "8", "--validation", "40", "--out", str(picture)])
    _, what, head, baseline, *lines = capsys.readouterr().out.splitlines()
    assert what.startswith(f"{SMALL}: ")
    assert head.split() == ["importance", "sizes", "by", "repair", "80%", "70%", "s", "point", "s"]
    assert baseline.split()[:3] == ["l1", "ratio", "no"]
    assert [line.split()[:3] for line in lines[2:4]] == [
        ["reconstruction", "layers", repair] for repair in ("yes", "no")
    ]
    assert all(-100 <= float(cell) <= 100 for line in (baseline, *lines[2:4]) for cell in line.split()[3:5])
    assert lines[0].split()[3:5] == ["–", "–"]  # the model has no BatchNormalization
    assert "bn-scale: importance 'bn-scale' needs BatchNormalization" in "\n".join(lines)
    assert "points at 70%; a third of the baseline's is" in lines[-1]
    assert picture.read_bytes().startswith(b"\x89PNG")


@needs_zoo
def test_pruning_for_several_budgets_is_what_the_pass_does_for_each() -> None:
    judged = _pruning.Judged.of(SMALL, samples=8, validation=4)
    pruner = _pruning.Pruner(judged, EliminateChannels(macs=0.9, importance="reconstruction"), 1 << 30)
    for macs in (0.8, 0.7):
        alone = graphopt.optimize(
            judged.model,
            passes=[EliminateChannels(macs=macs, importance="reconstruction")],
            calibration_data=judged.calibration,
        )
        assert alone.report.elimination is not None
        assert pruner.share(macs) == alone.report.elimination.after.macs / alone.report.elimination.before.macs
        models = [pruner.pruned(macs, repair=True), alone.model]
        ours, theirs = (next(_common.first_outputs("onnxruntime", model, judged.feeds)) for model in models)
        np.testing.assert_array_equal(ours, theirs)


@needs_zoo
def test_pruning_speed(capsys: pytest.CaptureFixture[str]) -> None:
    pruning.main(["speed", "--models", f"{SMALL}:float", "--samples", "4", "--seconds", "0.05", "--threads", "1"])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[:3] for line in lines] == [[SMALL, "float", engine] for engine in _common.ENGINES]
    for line in lines:
        left, whole, pruned, faster = line.split()[3:7]
        assert float(left.rstrip("%")) <= 50
        assert min(float(whole), float(pruned), float(faster)) > 0


@needs_zoo
def test_pruning_targets(capsys: pytest.CaptureFixture[str]) -> None:
    pruning.main(["targets", "--models", SMALL, "--targets", "onnxruntime", "tflite", "--samples", "4"])
    _, *lines, _, _, failures = capsys.readouterr().out.splitlines()
    for line, target in zip(lines, ("onnxruntime", "tflite"), strict=True):
        name, left, _, *cells = line.split()
        assert (name, *cells) == (SMALL, target, "runs", "runs", "3/3")
        assert float(left.rstrip("%")) <= 50
    assert failures == "- none"


@needs_zoo
def test_a_target_that_cannot_be_reached_says_what_the_least_is(capsys: pytest.CaptureFixture[str]) -> None:
    pruning.main(["targets", "--models", SMALL, "--targets", "onnxruntime", "--samples", "4", "--macs", "0.01"])
    assert "can't be reached by removing channels: the least is" in capsys.readouterr().out


@needs_zoo
def test_sensitivity(capsys: pytest.CaptureFixture[str]) -> None:
    sensitivity.main(["--models", SMALL, "--light", "--samples", "4", "--rounds", "1", "--rerun", "2"])
    _, line = capsys.readouterr().out.splitlines()
    name, target, regions, sources, _, over_plain, of_full_runs, weights, local, output, real = line.split()
    assert (name, target, regions) == (SMALL, "onnxruntime", "3")
    assert int(sources) > 3
    assert float(over_plain) > 0
    assert float(of_full_runs) > 0
    assert abs(float(local) - float(real)) < 3
    assert abs(float(output) - float(real)) < 3
    assert float(weights) > 20


def test_block_weights_of_a_small_transformer(capsys: pytest.CaptureFixture[str]) -> None:
    block_weights.main(["--models", "encoder", "--methods", "rtn", "peer", "--samples", "8"])
    _, ours, peer = (re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines())
    assert ours[:2] == ["encoder", "rtn"]
    assert 15 < float(ours[2]) < 40
    assert float(ours[4]) < 0.5
    assert ours[5] == "9/13"
    assert peer[:2] == ["encoder", "peer"]


@needs_zoo
@pytest.mark.skipif(_browser.chromium_path("") is None, reason=_browser.MISSING)
@pytest.mark.xdist_group("browser")
def test_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report.main(["--models", SMALL, "--samples", "1", "--turns", "1", "--keep", str(tmp_path)])
    _, line = capsys.readouterr().out.splitlines()
    name, nodes, megabytes, opens, *times = line.split()
    assert (name, int(nodes)) == (SMALL, len(graphopt.load(_common.script("zoo").model(SMALL).path).nodes))
    assert float(megabytes) == pytest.approx((tmp_path / f"{SMALL}.html").stat().st_size / 1e6, abs=0.01)
    assert min(float(opens), float(times[2]), float(times[4])) > 0
