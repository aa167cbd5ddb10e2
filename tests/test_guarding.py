"""The accuracy guard: what it turns back to float, what it says, and what it refuses."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.api.guarding import fewest, without_needless
from graphopt.api.replanning import Compiled, Watch, compile_again
from graphopt.errors import AccuracyError, ConfigError
from graphopt.passes import find_pass
from graphopt.passes.round_adaptively import RoundAdaptively
from graphopt.pipeline.spec import passes_from_text
from graphopt.report.samples import open_samples
from tests.cli.conftest import Run as Command
from tests.cli.conftest import run  # noqa: F401  # a fixture
from tests.support.fragile import classified_noise, fragile_net
from tests.support.quantization import model

QUANTIZE = "plan-quantization,calibrate{method=minmax},quantize-weights,insert-qdq"


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    return fragile_net()


@pytest.fixture(scope="module")
def samples(net: onnx.ModelProto) -> dict[str, np.ndarray]:
    return classified_noise(net)


def optimize(net: onnx.ModelProto, samples: dict[str, np.ndarray], **options: object) -> graphopt.Result:
    options = {"target": "tensorrt", "passes": QUANTIZE, "validation_data": samples} | options
    return graphopt.optimize(net, calibration_data=samples["x"], **options)


def test_only_the_layer_that_8_bits_destroy_is_turned_back(net: onnx.ModelProto, samples) -> None:
    plain = optimize(net, samples)
    assert plain.report.guarded is None
    assert plain.report.measurement is not None
    assert plain.report.measurement.agreement.other_accuracy is not None
    assert plain.report.measurement.agreement.other_accuracy < 0.5
    result = optimize(net, samples, max_drop=15)
    found = result.report.guarded
    assert found is not None
    assert [(t.node, t.op) for t in found.turned_back] == [("narrow[1]", "Conv")]
    assert found.turned_back[0].isolated_db is not None
    assert found.turned_back[0].isolated_db < 10
    assert (found.reference, found.metric, found.on_calibration_data) == (100.0, "top1", False)
    assert found.before == pytest.approx(100 * plain.report.measurement.agreement.other_accuracy)
    assert found.after >= 85
    assert result.report.measurement is not None
    assert found.after == pytest.approx(100 * (result.report.measurement.agreement.other_accuracy or 0.0))
    # By hand: positions × filter size, of all layers.
    macs = {"first": 64 * 4 * 27, "wide": 64 * 16, "narrow[1]": 64 * 16, "last*": 36 * 16 * 36, "head": 160}
    assert found.macs_share == pytest.approx(macs["narrow[1]"] / sum(macs.values()))
    assert found.bytes_after - found.bytes_before == pytest.approx(3 * 16, abs=80)  # 16 weights, less their scales
    assert {layer.name for layer in result.report.layers if layer.integer} >= {"first", "wide", "last*", "head"}
    reason = next(layer.reason for layer in result.report.layers if layer.name == "narrow[1]")
    assert reason == "turned back by the accuracy guard"
    assert any(r.pass_name == "accuracy-guard" and r.node == "narrow[1]" for r in result.report.remarks)


def test_where_integer_kernels_write_integers_the_writer_goes_along(net: onnx.ModelProto, samples) -> None:
    """onnxruntime's integer Conv rounds its own result, too: what `wide` writes is lost before anybody reads it."""
    found = optimize(net, samples, target="onnxruntime", max_drop=15).report.guarded
    assert found is not None
    assert [t.node for t in found.turned_back] == ["narrow[1]", "wide"]
    assert found.trials <= 4


def test_the_pipeline_in_the_report_gives_the_same_result_again(net: onnx.ModelProto, samples) -> None:
    """A name that looks like a pattern is no pattern, and the ranges that were used again are those of a new run."""
    result = optimize(net, samples, max_drop=15)
    again = optimize(net, samples, passes=result.report.pipeline)
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt", "tflite"])
def test_sqnr_of_every_output_with_a_preset(net: onnx.ModelProto, samples, target: str) -> None:
    result = graphopt.optimize(net, target=target, calibration_data=samples["x"], min_sqnr=20)
    found = result.report.guarded
    assert found is not None
    assert found.reference == math.inf
    assert found.before < 20 <= found.after
    assert "narrow[1]" in {t.node for t in found.turned_back}
    assert len(found.turned_back) <= 2
    assert found.on_calibration_data
    assert result.report.measurement is not None
    assert result.report.measurement.agreement.outputs[0].sqnr_db == pytest.approx(found.after)


def test_a_result_that_holds_is_left_as_it_is(net: onnx.ModelProto, samples) -> None:
    result = optimize(net, samples, max_drop=100)
    assert result.report.guarded is not None
    assert (result.report.guarded.turned_back, result.report.guarded.trials) == ((), 1)
    assert result.model == optimize(net, samples).model


def test_a_function_of_ones_own(net: onnx.ModelProto, samples) -> None:
    def error(runs, labels) -> float:
        assert len(labels) == 40
        total = 0.0
        for inputs, outputs in runs:
            assert inputs["x"].shape == (1, 3, 8, 8)
            total += float(outputs["y"].max())
        return total / 40

    found = optimize(net, samples, metric=error, max_drop=0.01).report.guarded
    assert found is not None
    assert found.metric == "error"
    assert found.reference - found.after <= 0.01 + 1e-9


def test_module_and_function_on_the_command_line(run: Command, net, samples, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    monkeypatch.chdir(tmp_path)
    onnx.save(net, "net.onnx")
    np.savez("samples.npz", **samples)
    Path("guard_metric.py").write_text(
        "def right(runs, labels):\n"
        "    return 100 * sum(o['y'].argmax() == k for (_, o), k in zip(runs, labels)) / len(labels)\n"
    )
    command = ["optimize", "net.onnx", "-t", "tensorrt", "--passes", QUANTIZE, "--calibration-data", "samples.npz"]
    command += ["--validation-data", "samples.npz", "-o", "out.onnx", "--layers"]
    done = run(*command, "--max-drop", "15", "--metric", "guard_metric:right", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert [t["node"] for t in report["guarded"]["turned_back"]] == ["narrow[1]"]
    assert "narrow[1]" not in {e["node"] for e in report["errors"]["layers"]}
    page = run(*command, "--max-drop", "15")
    assert "held with 1 node turned back to float" in page.out
    assert "Error of each layer's result" in page.out


def test_what_cannot_be_held_ends_with_1_and_no_file(run: Command, net, samples, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    monkeypatch.chdir(tmp_path)
    onnx.save(net, "net.onnx")
    np.savez("samples.npz", **samples)
    Path("guard_worse.py").write_text(
        "calls = []\ndef worse(runs, labels):\n    calls.append(1)\n    return -len(calls)\n"
    )
    done = run(
        *("optimize", "net.onnx", "-t", "onnxruntime", "--calibration-data", "samples.npz", "-o", "out.onnx"),
        *("--max-drop", "0", "--metric", "guard_worse:worse"),
    )
    assert done.code == 1
    assert "can't hold a drop of at most 0 of guard_worse:worse, not even with all 7 nodes back in float" in done.err
    assert "the float model has guard_worse:worse -1; nothing was written" in done.err
    assert "Traceback" not in done.err
    left = {p.name for p in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"guard_worse.py", "net.onnx", "samples.npz"}


def test_an_interrupt_leaves_no_file(net: onnx.ModelProto, samples, tmp_path: Path) -> None:
    calls = itertools.count()

    def impatient(runs, labels) -> float:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return -float(next(calls))

    with pytest.raises(KeyboardInterrupt):
        optimize(net, samples, metric=impatient, max_drop=0, output=tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


def bad(runs: object, labels: object) -> float:
    raise ValueError("no boxes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": 1, "metric": "sqnr"}, "give its least value, --min-sqnr"),
        ({"max_drop": 1, "min_sqnr": 20}, "both --max-drop and --min-sqnr"),
        ({"metric": "top1"}, "without a limit"),
        ({"max_drop": -1}, "expected 0 or more"),
        ({"max_drop": math.nan}, "expected a number"),
        ({"max_drop": 1, "metric": "top5"}, "no metric 'top5'"),
        ({"max_drop": 1, "metric": "no_such_module_:f"}, "can't be imported"),
        ({"min_sqnr": 20, "metric": "top1"}, "not for 'top1'"),
        ({"max_drop": 1, "passes": "remove-dead"}, "no pass of this pipeline quantizes"),
        ({"layers": True, "passes": "remove-dead"}, "no pass of this pipeline quantizes"),
        ({"max_drop": 1, "metric": bad}, "metric bad raised ValueError: no boxes"),
        ({"max_drop": 1, "metric": lambda runs, labels: math.nan}, "returned nan"),
    ],
)
def test_demands_that_make_no_sense_are_refused_before_the_work(net, samples, options, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        optimize(net, samples, **options)


def test_saved_ranges_are_enough_where_validation_samples_are_given(net: onnx.ModelProto, samples) -> None:
    ranges = graphopt.calibrate(net, samples["x"], target="tensorrt")
    result = graphopt.optimize(net, target="tensorrt", ranges=ranges, validation_data=samples, max_drop=15, layers=True)
    assert result.report.guarded is not None
    assert [t.node for t in result.report.guarded.turned_back] == ["narrow[1]"]
    assert result.report.errors is not None
    assert "narrow[1]" not in {e.node for e in result.report.errors.layers}
    for asked in ({"min_sqnr": 20}, {"layers": True}):
        with pytest.raises(ConfigError, match="there are no samples"):
            graphopt.optimize(net, target="tensorrt", ranges=ranges, **asked)


def test_top1_needs_labels(net: onnx.ModelProto, samples) -> None:
    with pytest.raises(ConfigError, match="has no labels: give --labels"):
        optimize(net, samples, max_drop=1, validation_data=samples["x"])


def test_a_model_without_anything_in_8_bits_can_only_be_refused(samples) -> None:
    float_only = model("y = Relu(x)", "float[1,3,8,8] x", "float[1,3,8,8] y")
    fails = itertools.count()
    with pytest.raises(AccuracyError, match="and nothing is in 8 bits"):
        optimize(float_only, {"x": samples["x"]}, max_drop=0, metric=lambda runs, labels: -float(next(fails)))


@pytest.mark.parametrize("count", range(1, 9))
def test_the_fewest_are_found_in_few_trials(count: int) -> None:
    order = [f"n{k}" for k in range(count)]
    for needed in range(1, count + 1):
        tried: list[int] = []

        def holds(part: Sequence[str], needed: int = needed, tried: list[int] = tried) -> bool:
            assert list(part) == order[: len(part)]
            tried.append(len(part))
            return len(part) >= needed

        assert fewest(order, holds) == order[:needed]
        assert len(tried) == len(set(tried)) <= 2 * math.ceil(math.log2(count + 1)) + 2
    assert fewest(order, lambda part: False) is None
    assert fewest([], lambda part: True) is None


def test_what_is_not_needed_gets_its_8_bits_again() -> None:
    needed = {"b", "d"}
    kept = without_needless(["a", "b", "c", "d"], {"a": 1, "c": 5}, lambda part: needed <= set(part))
    assert kept == ["b", "d"]


@pytest.fixture(scope="module")
def fits() -> str:
    """A pipeline without channel scales or float rules, which would mend the planted layer before the guard sees it."""
    return (
        "plan-quantization,calibrate{method=minmax},optimize-weight-scales,round-adaptively,correct-bias,"
        "quantize-weights,insert-qdq"
    )


def test_plans_are_compared_with_weights_that_were_fitted_once(net, samples, fits: str, monkeypatch) -> None:
    """Fitting takes minutes on large models: it is done for the first plan and for the one that is taken."""
    fitted: list[int] = []
    fit = RoundAdaptively.run

    def counting(self: RoundAdaptively, graph: graphopt.Graph, ctx: graphopt.Context) -> None:
        fitted.append(len(graph.plan.quantized_nodes))
        fit(self, graph, ctx)

    monkeypatch.setattr(RoundAdaptively, "run", counting)
    result = optimize(net, samples, passes=fits, min_sqnr=30)
    found = result.report.guarded
    assert found is not None
    assert found.trials > 3
    assert len(fitted) == 2
    assert fitted[1] < fitted[0]
    assert found.after >= 30
    again = optimize(net, samples, passes=result.report.pipeline)
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)


def test_fitted_weights_are_those_that_fitting_gives(net, samples, fits: str) -> None:
    """On the same plan: weights, scales and biases, to the last bit but for the sums that biases are made of."""
    graph = graphopt.load(net)
    pipeline = passes_from_text(fits, find_pass)
    data = open_samples(samples["x"], graph, "calibration data", None)
    ctx = graphopt.Context(target=graphopt.find_target("tensorrt"), calibration=data)
    watch = Watch()
    records = graphopt.PassManager(pipeline, (watch,)).run(graph, ctx)
    first = Compiled(graph, tuple(pipeline), tuple(records), ctx.remarks)
    assert set(watch.fitted) == {"first", "wide", "narrow[1]", "last*", "head"}
    again = compile_again(first, watch, ctx, (), fit=False)
    values = {c.name: c.values for c in first.graph.constants}
    assert {c.name for c in again.graph.constants} == set(values)
    for constant in again.graph.constants:
        exact = constant.values.dtype.kind in "iu"
        np.testing.assert_allclose(constant.values, values[constant.name], rtol=0 if exact else 1e-6)
