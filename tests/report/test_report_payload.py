"""What an HTML report says of real runs, read back from the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import graphopt
from graphopt.api import mixing, reporting
from graphopt.backends import engines
from graphopt.errors import ConfigError, EmitError
from graphopt.passes import _precision_costs
from graphopt.pipeline import Context, Pass
from graphopt.pipeline.instruments import Numerics
from graphopt.report.html import section_remarks
from tests.support.fragile import classified_noise, fragile_net
from tests.support.reports import report_data, section, table

DATA = Path(__file__).parents[2] / "calibration_data"
DIGITS, CALIBRATION, VALIDATION = (DATA / n for n in ("digits_cnn.onnx", "calibration.npz", "validation.npz"))
FRAGILE = "plan-quantization,calibrate{method=minmax},quantize-weights,insert-qdq"


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """Nothing here depends on times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporting, "TIMING_SECONDS", 0.02)
        patch.setattr(mixing, "TIMING_SECONDS", 0.02)
        patch.setattr(_precision_costs, "latency_costs", partial(_precision_costs.latency_costs, budget=0.2))
        yield


def optimize(folder: Path, model: object = DIGITS, **options: Any) -> tuple[graphopt.Result, dict[str, Any]]:
    """A result, and what its report says."""
    options = {"target": "onnxruntime", "threads": 1} | options
    result = graphopt.optimize(model, report=folder / "report.html", **options)
    return result, report_data(folder / "report.html")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> tuple[graphopt.Result, dict[str, Any]]:
    """The digits model in 8 bits."""
    folder = tmp_path_factory.mktemp("report")
    samples = {"calibration_data": CALIBRATION, "validation_data": VALIDATION}
    return optimize(folder, output=folder / "out.onnx", instruments=[Numerics()], **samples)


def check_last_step(result: graphopt.Result, data: dict[str, Any]) -> None:
    """That the last step is the result, and the passes are those of its records."""
    count = len(data["graph"]["steps"])
    found = [node for node in data["graph"]["nodes"] if node["until"] == count]
    shown = {n["name"]: (n["op"], n["inputs"], n["outputs"]) for n in found}
    assert shown == {n.name: (n.op_type, list(n.input), list(n.output)) for n in result.model.graph.node}
    assert len(found) == len(shown)
    assert steps_of(data)[1:] == [record.name for record in result.report.passes]
    indices = [record.index for record in result.report.passes]
    assert [step["index"] for step in data["graph"]["steps"][1:]] == indices == list(range(1, count))


def steps_of(data: dict[str, Any]) -> list[str]:
    return [step["title"] for step in data["graph"]["steps"]]


def nodes_of(data: dict[str, Any]) -> set[str]:
    """The nodes of the last step."""
    count = len(data["graph"]["steps"])
    return {node["name"] for node in data["graph"]["nodes"] if node["until"] == count}


def test_the_result_is_the_same_with_and_without_a_report(quantized, tmp_path: Path) -> None:
    result, _ = quantized
    graphopt.optimize(
        DIGITS, target="onnxruntime", threads=1, output=tmp_path / "plain.onnx", calibration_data=CALIBRATION,
        validation_data=VALIDATION,
    )  # fmt: skip
    assert (tmp_path / "plain.onnx").read_bytes() == Path(result.report.output).read_bytes()
    assert result.report.page is not None
    assert result.report.errors is None  # measured for the page alone
    assert result.report.verification is None


@pytest.mark.parametrize("method", ["minmax", "ema", "percentile", "kl"])
def test_histograms_change_no_range(method: str, tmp_path: Path) -> None:
    options = {"target": "onnxruntime", "calibration_data": CALIBRATION, "method": method, "threads": 1}
    plain = graphopt.optimize(DIGITS, **options)
    result, _ = optimize(tmp_path, **options)
    assert result.model.SerializeToString() == plain.model.SerializeToString()


def test_a_quantized_model_has_its_sections(quantized) -> None:
    result, data = quantized
    assert data["title"] == "digits_cnn.onnx → out.onnx for onnxruntime (CPU)"
    assert data["version"] == graphopt.__version__
    names = [s["id"] for s in data["sections"]]
    assert names == ["summary", "passes", "layers", "errors", "calibration", "channels", "remarks"]
    check_last_step(result, data)
    summary = section(data, "summary")
    figures = {figure["label"]: figure for figure in summary["figures"]}
    assert figures["Top-1"]["value"] == f"{100 * result.report.measurement.agreement.other_accuracy:.2f} %"
    assert {"File", "Weights", "Multiply-accumulates", "Latency", "SQNR"} <= figures.keys()
    assert figures["Nodes in integers"]["value"] == "12 of 12"
    assert any("All 11 planned nodes" in text and "Besides, 1 node in integers" in text for text in summary["text"])
    assert summary["commands"][0][1] == result.report.pipeline
    assert summary["warnings"] == []


def test_every_pass_has_its_row(quantized) -> None:
    result, data = quantized
    rows = table(section(data, "passes"), "Passes")
    assert [row["pass"] for row in rows] == list(range(1, len(result.report.passes) + 1))
    assert steps_of(data)[1:] == [record.name for record in result.report.passes]
    assert sum(row["share"] for row in rows) == pytest.approx(100, rel=1e-3)
    for row, record in zip(rows, result.report.passes, strict=True):
        assert (row["nodes"], row["weights"]) == (record.nodes_after, record.bytes_after)
        assert (row["added"] or 0) - (row["removed"] or 0) == record.nodes_after - record.nodes_before
        assert row["applied"] == record.remarks.get("applied")
        checked = record.changed and record.name in ("fold-constants", "fold-batch-norm")
        assert (row["outputs"] == "the same as before") == checked


def test_layers_are_what_was_planned_and_what_runs(quantized) -> None:
    result, data = quantized
    verified = graphopt.verify(result.model, "onnxruntime", latency=False)
    rows = {row["node"]: row for row in table(section(data, "layers"), "Layers")}
    for node in verified.precision.nodes:
        row = rows[node.planned.name]
        assert (row["planned"], row["computes in"]) == ("int8", node.precision)
        assert node.layer == f"{row['kernel']} '{node.planned.name}'"
    convolutions = [row for row in rows.values() if row["operator"] == "Conv"]
    assert sum(row["of all"] for row in rows.values() if row["of all"]) == pytest.approx(100, rel=1e-4)
    # Of the first: 16 filters of 3×3, and 16 biases in 4 bytes; each channel of both has a scale and a zero point.
    first = onnx.load(DIGITS).graph.node[0].name
    weights = next(row["weights"] for row in convolutions if row["node"] == first)
    assert weights == 16 * (9 + 4 + 1) + 16 * (4 + 4 + 4)
    shown = {node["name"]: node for node in data["graph"]["nodes"]}
    assert all(shown[name]["precision"] == "int8" for name in rows)


def test_errors_are_those_of_the_layers(quantized) -> None:
    result, data = quantized
    found = section(data, "errors")
    rows = table(found, "Layers")
    assert {row["layer"] for row in rows} <= nodes_of(data)
    assert [row["alone"] for row in rows] == sorted(row["alone"] for row in rows)
    (bars,) = found["charts"]
    assert bars["items"] == [n.name for n in result.graph.nodes if n.name in {row["layer"] for row in rows}]
    values = dict(zip(bars["items"], bars["values"], strict=True))
    assert all(values[row["layer"]] == [row["alone"], row["in the model"]] for row in rows)


def test_histograms_hold_every_value_and_the_range(quantized) -> None:
    result, data = quantized
    found = section(data, "calibration")
    rows = {row["tensor"]: row for row in table(found, "Activations")}
    samples = np.load(CALIBRATION)["image"].astype(np.float64)
    image = rows["image"]
    assert image["values seen"] == samples.size
    assert (image["smallest value"], image["largest value"]) == (samples.min(), samples.max())
    assert image["exact zeros"] == pytest.approx(100 * np.mean(samples == 0), rel=1e-5)
    outside = (samples > image["range to"] + image["step"] / 2) | (samples < image["range from"] - image["step"] / 2)
    assert image["values outside"] == pytest.approx(100 * np.mean(outside), rel=0.02)
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in result.model.graph.initializer}
    quantizers = {n.input[0]: n for n in result.model.graph.node if n.op_type == "QuantizeLinear"}
    for chart in found["gallery"]:
        row = rows[chart["tensor"]]
        zeros = round(row["exact zeros"] * row["values seen"] / 100)
        assert sum(chart["counts"]) == pytest.approx(row["values seen"] - zeros, rel=1e-4)
        assert len(chart["edges"]) == len(chart["counts"]) + 1 <= 201
        scale, zero = (constants[name] for name in quantizers[chart["tensor"]].input[1:])
        marks = dict(map(tuple, chart["marks"]))
        assert marks["range from"] == pytest.approx(float(scale) * (0 - int(zero)), rel=1e-5)
        assert marks["range to"] == pytest.approx(float(scale) * (255 - int(zero)), rel=1e-5)
        assert marks[f"zero point {int(zero)}"] == 0


def test_a_float_model_has_nothing_on_8_bits(tmp_path: Path) -> None:
    _, data = optimize(tmp_path, preset="float")
    assert [s["id"] for s in data["sections"]] == ["summary", "passes", "layers", "channels", "remarks"]
    summary = section(data, "summary")
    assert "Note: latency: not available: there are no samples" in summary["text"]
    assert {row["planned"] for row in table(section(data, "layers"), "Layers")} == {"float32"}


def test_given_ranges_leave_nothing_to_draw(quantized, tmp_path: Path) -> None:
    found = graphopt.calibrate(DIGITS, target="onnxruntime", calibration_data=CALIBRATION)
    _, data = optimize(tmp_path, ranges=found)
    calibration = section(data, "calibration")
    assert "come from a file" in calibration["text"][0]
    assert calibration["gallery"] == []
    assert "errors" not in [s["id"] for s in data["sections"]]
    assert any("errors of layers: not available" in text for text in section(data, "summary")["text"])


def test_an_engine_that_is_missing_is_a_note_with_the_mend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    result, data = optimize(tmp_path, target="openvino", calibration_data=CALIBRATION, output=tmp_path / "out.onnx")
    said = [text for text in section(data, "summary")["text"] if "graphopt[openvino]" in text]
    assert len(said) == 2  # what it makes of the result, and latency
    assert Path(result.report.output).exists()
    assert "computes in" not in table(section(data, "layers"), "Layers")[0]


def test_a_target_without_an_engine_has_notes(tmp_path: Path) -> None:
    board = dataclasses.replace(graphopt.find_target("openvino"), name="board", title="a board", engine="")
    result, data = optimize(tmp_path, target=board, calibration_data=CALIBRATION)
    said = [text for text in section(data, "summary")["text"] if "names no engine" in text]
    assert len(said) == 2
    check_last_step(result, data)


def test_an_engine_that_fails_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of\nkernels")

    monkeypatch.setattr(reporting, "engine_precision", broken)
    _, data = optimize(tmp_path, calibration_data=CALIBRATION)
    said = "Note: what the engine makes of the result: not available: out of kernels"
    assert said in section(data, "summary")["text"]


def test_a_layer_that_does_not_run_as_planned_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = reporting.engine_precision

    def missing(*given: Any) -> Any:
        found = real(*given)
        first, *others = found.precision.nodes
        floating = dataclasses.replace(first, precision="float32", reason="its zero point isn't 0")
        return dataclasses.replace(found, precision=dataclasses.replace(found.precision, nodes=[floating, *others]))

    monkeypatch.setattr(reporting, "engine_precision", missing)
    result, data = optimize(tmp_path, calibration_data=CALIBRATION)
    name = next(node.name for node in result.graph.nodes if node.op == "Conv")
    assert section(data, "summary")["warnings"] == [
        f"1 of 11 planned nodes doesn't run in 8 bits in onnxruntime {onnxruntime.__version__} (CPU): see the layers"
    ]
    layers = section(data, "layers")
    assert layers["warnings"] == [f"{name} (Conv): float32: its zero point isn't 0"]
    row = next(row for row in table(layers, "Layers") if row["node"] == name)
    assert (row["planned"], row["computes in"], row["why"]) == ("int8", "float32", "its zero point isn't 0")
    shown = next(node for node in data["graph"]["nodes"] if node["name"] == name)
    assert shown["precision"] == "float32"
    assert "runs in float32" in shown["badges"]


def test_the_guard_shows_the_run_that_ships(tmp_path: Path) -> None:
    net = fragile_net()
    samples = classified_noise(net)
    data_given = {"calibration_data": samples["x"], "validation_data": samples}
    result, data = optimize(tmp_path, net, passes=FRAGILE, max_drop=15, **data_given)
    turned = [t.node for t in result.report.guarded.turned_back]
    assert turned
    rows = table(section(data, "guard"), "Turned back to float")
    assert [row["back in float"] for row in rows] == turned
    assert steps_of(data) == ["the model", "plan-quantization", "calibrate", "quantize-weights", "insert-qdq"]
    assert "keep-float" in data["graph"]["steps"][1]["options"]
    check_last_step(result, data)
    layers = {row["node"]: row for row in table(section(data, "layers"), "Layers")}
    assert all(layers[name]["why"] == "turned back by the accuracy guard" for name in turned)
    remarks = table(section(data, "remarks"), "Remarks")
    assert len(remarks) == len(result.report.remarks)
    assert [r["step"] for r in remarks if r["said by"] == "accuracy-guard"] == [None] * (len(turned) + 1)
    shown = {node["name"]: node for node in data["graph"]["nodes"]}
    assert "kept in float" in shown[turned[0]]["badges"]


@pytest.mark.parametrize("fails", [frozenset[str](), frozenset({"int8"}), frozenset({"int8", "float"})])
def test_mixed_precision_shows_the_run_that_ships(
    fails: frozenset[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whichever candidate ships: what others lose is made up here."""
    real = mixing.FrontSearch.candidate

    def worse(self: mixing.FrontSearch, name: str, compiled: Any) -> Any:
        found = real(self, name, compiled)
        bad = name in fails or (name.startswith("mixed") and "int8" in fails)
        return mixing.replace(found, holds=not bad)

    monkeypatch.setattr(mixing.FrontSearch, "candidate", worse)
    net = fragile_net()
    samples = classified_noise(net)
    data_given = {"calibration_data": samples["x"], "validation_data": samples}
    result, data = optimize(tmp_path, net, preset="mixed", max_drop=100, **data_given)
    mixed = result.report.mixed
    check_last_step(result, data)
    found = section(data, "precision")
    rows = table(found, "Candidates")
    assert [row["candidate"] for row in rows] == [c.name for c in mixed.candidates]
    assert [row["candidate"] for row in rows if row["result"] == "shipped"] == [mixed.shipped.name]
    regions = {row["region"]: row["precision"] for row in table(found, "Assignment")}
    assert regions == dict(result.precision.chosen.precisions)
    if fails >= {"int8", "float"}:
        assert mixed.shipped.name == "original"
        assert steps_of(data) == ["the model"]


def test_an_assignment_that_is_not_the_pass_s_own(tmp_path: Path) -> None:
    net = fragile_net()
    samples = classified_noise(net)
    passes = 'plan-quantization,calibrate,assign-precision{budget="size=0.3x"},quantize-weights,insert-qdq'
    data_given = {"calibration_data": samples["x"], "validation_data": samples}
    result, data = optimize(tmp_path, net, passes=passes, min_sqnr=30, **data_given)
    assert len(result.report.mixed.candidates) > 1
    assert not result.report.mixed.candidates[0].shipped
    check_last_step(result, data)
    (front,) = section(data, "precision")["charts"]
    assert (front["x_axis"], front["y_axis"]) == ("weights, kB", "predicted SQNR, dB")
    ((_, drawn, joined),) = front["series"]
    assert joined
    points = result.precision.points
    assert [point["x"] for point in drawn] == pytest.approx([point.cost / 1e3 for point in points], rel=1e-5)
    lossy = [k for k, point in enumerate(points) if point.error > 0]
    assert [drawn[k]["y"] for k in lossy] == pytest.approx([-10 * np.log10(points[k].error) for k in lossy], rel=1e-5)
    assert [k for k, point in enumerate(drawn) if point["mark"]] == [points.index(result.precision.chosen)]


def test_removed_channels_have_their_section(tmp_path: Path) -> None:
    result, data = optimize(tmp_path, preset="float", prune="macs=0.7, importance=l1")
    found = section(data, "channels")
    assert found["title"] == "Removed channels"
    rows = table(found, "Groups of channels")
    expected = [(g.before, g.after) for g in result.report.elimination.groups]
    assert [(row["channels before"], row["left"]) for row in rows] == expected
    assert {row["first layer"] for row in rows} <= nodes_of(data)
    assert [sum(chart["counts"]) for chart in found["gallery"]] == [g.units for g in result.report.elimination.groups]


class Talk(Pass):
    """Says a lot."""

    name = "talk"
    summary = "say a lot"

    def run(self, graph: graphopt.Graph, ctx: Context) -> None:
        for node in graph.nodes:
            ctx.remarks.declined(node, "no reason")


def test_very_many_remarks_are_grouped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(section_remarks, "MOST", 20)
    result, data = optimize(tmp_path, passes=[Talk()])
    assert len(result.report.remarks) > 20
    (found,) = section(data, "remarks")["tables"]
    assert str(len(result.report.remarks)) in found["note"]
    rows = table(section(data, "remarks"), "Remarks")
    assert sum(row["remarks"] for row in rows) == len(result.report.remarks)
    assert len(rows) == len({remark.op for remark in result.report.remarks})
    assert {row["step"] for row in rows} == {1}


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("report.txt", ConfigError, "name that ends in .html"),
        ("model.html", ConfigError, "would overwrite the input"),
        ("nowhere/report.html", EmitError, "doesn't exist"),
    ],
)
def test_places_are_refused_before_the_work_begins(
    name: str, error: type[Exception], words: str, tmp_path: Path
) -> None:
    model = tmp_path / "model.html"
    model.write_bytes(DIGITS.read_bytes())
    began: list[str] = []
    with pytest.raises(error, match=words):
        graphopt.optimize(
            model, preset="float", report=tmp_path / name, output=tmp_path / "out.onnx",
            progress=lambda what, *_: began.append(what),
        )  # fmt: skip
    assert began == []
    assert not (tmp_path / "out.onnx").exists()
    assert model.read_bytes() == DIGITS.read_bytes()
