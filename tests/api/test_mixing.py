"""Preset `mixed`: candidates side by side, what ships of them, and what is said about it. Times are made up here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.api import mixing
from graphopt.backends.latency import Latency
from graphopt.errors import AccuracyError, ConfigError, UnsupportedError
from graphopt.passes.round_adaptively import RoundAdaptively
from graphopt.report.document import to_text
from graphopt.report.pages import summary_page
from graphopt.report.precision import Candidate, Mixed, precision_page
from tests.cli.conftest import Run as Command
from tests.cli.conftest import run  # noqa: F401  # a fixture
from tests.support.fragile import classified_noise, fragile_net

Speeds = Callable[[onnx.ModelProto], float]
# They would recover what 8 bits lose in this network.
SCALING = ("equalize-channels", "smooth-activations")
RECOVERY = (*SCALING, "round-adaptively", "correct-bias")
QUANTIZE = "plan-quantization,calibrate{method=minmax},assign-precision{cost=bits},quantize-weights,insert-qdq"


def layers_in_8_bits(model: onnx.ModelProto) -> int:
    """Weights of layers that are stored in 8 bits."""
    return sum(len(i.dims) > 1 and i.data_type == onnx.TensorProto.INT8 for i in model.graph.initializer)


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    return fragile_net()


@pytest.fixture(scope="module")
def samples(net: onnx.ModelProto) -> dict[str, np.ndarray]:
    return classified_noise(net)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes candidates as many times as fast as a function of the model says; timed again, as another one says."""

    def install(speeds: Speeds, again: Speeds | None = None) -> None:
        class Clock:
            def __init__(self, *arguments: object, **options: object) -> None:
                pass

            def open(self) -> None:
                pass

            def time(self, model: onnx.ModelProto, *, anew: bool = False) -> Latency:
                speed = (again or speeds)(model) if anew else speeds(model)
                return Latency(
                    "a clock",
                    1,
                    100,
                    1,
                    0.01,
                    0.01 / speed,
                    speed,
                    speed - 0.01,
                    speed + 0.01,
                    speed - 0.01,
                    speed + 0.01,
                )

        monkeypatch.setattr(mixing, "Stopwatch", Clock)

    return install


def optimize(net: onnx.ModelProto, samples: dict[str, np.ndarray], **options: object) -> graphopt.Result:
    skip = RECOVERY if options.get("passes") is None else ()
    defaults: dict[str, object] = {"target": "tflite", "preset": "mixed", "validation_data": samples, "skip": skip}
    return graphopt.optimize(net, calibration_data=samples["x"], **defaults | options)  # type: ignore[arg-type]


def mixed_of(result: graphopt.Result) -> Mixed:
    assert result.report.mixed is not None
    return result.report.mixed


def named(found: Mixed, name: str) -> Candidate:
    return next(c for c in found.candidates if c.name.startswith(name))


def faster_in_8_bits(model: onnx.ModelProto) -> float:
    return 1 + 0.2 * layers_in_8_bits(model)


def test_a_point_of_the_front_ships_where_8_bits_lose_too_much(net, samples, clock) -> None:
    clock(faster_in_8_bits)
    result = optimize(net, samples, max_drop=10)
    found = mixed_of(result)
    assert [c.name for c in found.candidates[:3]] == ["original", "float", "int8"]
    assert [c.holds for c in found.candidates[:3]] == [True, True, False]
    assert found.shipped.name.startswith("mixed ")
    assert found.shipped.holds
    assert found.shipped.latency is not None
    assert (found.floor, found.floor_given) == ("a drop of at most 10 points of top-1", True)
    # It is the model that is given back: what it holds, its size, and its layers.
    assert result.report.measurement is not None
    agreement = result.report.measurement.agreement
    assert found.shipped.accuracy == agreement.other_accuracy
    assert found.shipped.sqnr_db == pytest.approx(agreement.outputs[0].sqnr_db)
    assert found.shipped.weight_bytes == result.report.after.weight_bytes
    assert found.shipped.latency.speedup == pytest.approx(faster_in_8_bits(result.model))
    integer = {layer.name for layer in result.report.layers if layer.integer}
    assert integer
    assert "narrow[1]" not in integer
    # By hand: positions × filter size, of the layers.
    macs = {"first": 64 * 4 * 27, "wide": 64 * 16, "narrow[1]": 64 * 16, "last*": 36 * 16 * 36, "head": 160}
    share = sum(count for name, count in macs.items() if name in integer) / sum(macs.values())
    assert found.shipped.shares["int8"] == pytest.approx(share)
    assert sum(found.shipped.shares.values()) == pytest.approx(1)
    assert any(r.pass_name == "mixed-precision" and "ships mixed" in str(r) for r in result.report.remarks)


def test_all_in_8_bits_ships_where_the_floor_is_low(net, samples, clock) -> None:
    clock(faster_in_8_bits)
    found = mixed_of(optimize(net, samples, max_drop=100))
    assert found.shipped.shares == {"int8": 1.0}
    assert max(c.latency.speedup for c in found.candidates if c.latency is not None) == pytest.approx(2)


def test_a_gain_that_is_not_there_the_second_time_does_not_count(net, samples, clock) -> None:
    clock(faster_in_8_bits, lambda model: 0.9 if layers_in_8_bits(model) else 1.0)
    found = mixed_of(optimize(net, samples, max_drop=100))
    assert found.shipped.name == "float"
    assert "int8 is slower than the original (0.90)" in found.why


def test_nothing_slower_than_the_original_ships(net, samples, clock) -> None:
    clock(lambda model: 0.9 if layers_in_8_bits(model) else 1.3)
    result = optimize(net, samples, max_drop=10)
    found = mixed_of(result)
    assert found.shipped.name == "float"
    assert "no candidate in fewer bits is better" in found.why
    assert "slower than the original (0.90)" in found.why
    assert all(not node.op_type.endswith("Linear") for node in result.model.graph.node)
    assert result.report.layers == ()
    assert result.report.warnings == ()
    assert result.precision is not None
    assert set(result.precision.chosen.precisions.values()) == {"float32"}
    clock(lambda _: 0.9)
    result = optimize(net, samples, max_drop=10)
    assert mixed_of(result).shipped.name == "original"
    assert [n.op_type for n in result.model.graph.node] == [n.op_type for n in net.graph.node]


def test_the_floor_where_none_is_given(net, samples, clock) -> None:
    clock(faster_in_8_bits)
    labelled = mixed_of(optimize(net, samples))
    assert (labelled.floor, labelled.floor_given) == ("a drop of at most 0.5 points of top-1", False)
    unlabelled = mixed_of(optimize(net, samples, validation_data=None))
    assert unlabelled.floor == "SQNR of at least 20 dB"
    assert unlabelled.on_calibration_data
    assert unlabelled.shipped.sqnr_db >= 20
    assert named(unlabelled, "int8").sqnr_db < 20
    assert all(c.accuracy is None for c in unlabelled.candidates)


def test_a_metric_of_ones_own(net, samples, clock) -> None:
    clock(faster_in_8_bits)

    def largest(runs, labels) -> float:
        return float(np.mean([outputs["y"].max() for _, outputs in runs]))

    found = mixed_of(optimize(net, samples, metric=largest, max_drop=0.05))
    assert found.metric == "largest"
    assert found.candidates[0].value - found.shipped.value <= 0.05
    assert "largest" in to_text(precision_page(found)).splitlines()[1]


def test_a_budget_is_where_the_search_begins(net, samples, clock) -> None:
    clock(faster_in_8_bits)
    found = mixed_of(optimize(net, samples, max_drop=100, budget="bits=24"))
    assert found.demand == "bits=24"
    assert [c.within_budget for c in found.candidates[:3]] == [False, False, True]
    assert named(found, "mixed").within_budget is True
    # It spends what it may for less error, though 8 bits are faster still.
    assert named(found, "mixed").sqnr_db > named(found, "int8").sqnr_db
    assert found.shipped is named(found, "mixed")
    strict = mixed_of(optimize(net, samples, max_drop=0.5, budget="bits=8.001"))
    assert strict.shipped.holds
    assert not strict.shipped.within_budget
    assert any("the budget bits=8.001 isn't met" in note for note in strict.notes)


def test_a_latency_budget_is_measured_too(net, samples, clock) -> None:
    """Where the point that was chosen for it turns out too slow, the next cheaper ones are tried."""
    clock(lambda model: 1.1 if layers_in_8_bits(model) < 5 else 1.5)
    found = mixed_of(optimize(net, samples, max_drop=100, budget="latency=0.7x"))
    assert found.shipped.within_budget
    assert found.shipped.latency is not None
    assert found.shipped.latency.speedup == 1.5


def test_an_engine_that_cannot_run_a_candidate_rules_it_out(net, samples, clock) -> None:
    def speeds(model: onnx.ModelProto) -> float:
        if layers_in_8_bits(model):
            raise UnsupportedError("no such kernel")
        return 1.0

    clock(speeds)
    found = mixed_of(optimize(net, samples, max_drop=100))
    assert found.shipped.name == "float"
    assert "int8 can't ship: no such kernel" in found.notes


def test_with_fewer_channels_the_original_cannot_ship(net, samples, clock) -> None:
    clock(lambda _: 0.9)
    found = mixed_of(optimize(net, samples, max_drop=100, prune="ratio=0.3"))
    assert found.shipped.name != "original"
    with pytest.raises(AccuracyError, match=r"channels were removed for .*: remove fewer; nothing was written"):
        optimize(net, samples, min_sqnr=200, prune="ratio=0.3")


def test_what_fits_weights_is_run_for_the_result_alone(net, samples, clock, monkeypatch) -> None:
    clock(faster_in_8_bits)
    fitted: list[int] = []
    original = RoundAdaptively.run

    def counting(self, graph, ctx) -> None:
        fitted.append(len(graph.plan.quantized_nodes))
        original(self, graph, ctx)

    monkeypatch.setattr(RoundAdaptively, "run", counting)
    found = mixed_of(optimize(net, samples, max_drop=10, skip=SCALING))
    # The first run, all in 8 bits, and the point that ships, unless it is one of them.
    assert len(fitted) in (2, 3)
    assert found.shipped.name.startswith("mixed")


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_a_pipeline_ships_its_own_choice(net, samples, target: str) -> None:
    plain = optimize(net, samples, preset=None, passes=QUANTIZE, target=target)
    assert plain.report.mixed is None
    assert plain.precision is not None
    assert "narrow[1]" in {layer.name for layer in plain.report.layers if layer.integer}
    held = optimize(net, samples, preset=None, passes=QUANTIZE, target=target, max_drop=10)
    found = mixed_of(held)
    assert not found.candidates[0].holds
    assert found.shipped.holds
    assert {c.name.split()[0] for c in found.candidates} == {"mixed"}
    assert found.why == "the next point of the front above the floor"
    assert held.report.guarded is None
    assert held.precision is not None
    assert held.precision.chosen.precisions["narrow[1]"] == "float32"
    easy = optimize(net, samples, preset=None, passes=QUANTIZE, target=target, max_drop=100)
    assert easy.model == plain.model
    assert mixed_of(easy).why == "the choice of the pass is above the floor"


def test_what_no_point_holds_ends_the_run(net, samples, tmp_path: Path) -> None:
    def worse(runs, labels) -> float:
        calls.append(1)
        return -float(len(calls))

    calls: list[int] = []
    with pytest.raises(
        AccuracyError, match=r"can't hold a drop of at most 0 of worse, in none of \d assignments tried"
    ):
        optimize(net, samples, preset=None, passes=QUANTIZE, metric=worse, max_drop=0, output=tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


def test_rules_of_the_user(net, samples, clock) -> None:
    clock(faster_in_8_bits)
    result = optimize(net, samples, max_drop=100, precision=["Gemm=float"])
    assert "head" not in {layer.name for layer in result.report.layers if layer.integer}
    assert result.precision is not None
    assert result.precision.chosen.precisions["head"] == "float32"
    slip = optimize(net, samples, preset=None, passes=QUANTIZE, precision=["hed/*=float"])
    assert any(note.startswith("precision pattern 'hed/*' matches no node") for note in slip.report.notes)


def test_estimates_are_for_the_device(net, samples) -> None:
    sources = [
        mixed_of(optimize(net, samples, target="tensorrt", device=device)).costs for device in (None, "SM86", "SM120")
    ]
    assert sources[0] == sources[1] != sources[2]
    assert "SM120" in sources[2]


def test_a_saved_assignment_needs_no_samples(net, samples, clock, tmp_path: Path) -> None:
    clock(faster_in_8_bits)
    result = optimize(net, samples, max_drop=10)
    assert mixed_of(result).shipped.name.startswith("mixed")
    assert result.precision is not None
    plan = tmp_path / "plan.json"
    result.precision.save_plan(plan)
    options = {"target": "tflite", "preset": "mixed", "skip": RECOVERY}
    again = graphopt.optimize(net, precision_plan=plan, **options)  # type: ignore[arg-type]  # as named above
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)
    assert again.report.mixed is None
    assert again.precision is not None
    again.precision.save_plan(twice := tmp_path / "twice.json")
    third = graphopt.optimize(net, precision_plan=twice, **options)  # type: ignore[arg-type]  # likewise
    assert third.model == again.model
    with_samples = optimize(net, samples, precision_plan=plan)
    assert with_samples.model == again.model
    edited = tmp_path / "edited.json"
    edited.write_text(plan.read_text().replace('"precision": "int8"', '"precision": "float32"'))
    assert not any(
        n.op_type == "QuantizeLinear"
        for n in graphopt.optimize(net, precision_plan=edited, **options).model.graph.node  # type: ignore[arg-type]
    )


def test_scales_of_channels_are_saved_with_the_assignment(net, samples, clock, tmp_path: Path) -> None:
    clock(faster_in_8_bits)
    skip = ("round-adaptively", "correct-bias")
    result = optimize(net, samples, max_drop=10, skip=skip)
    assert any(r.pass_name == "equalize-channels" and r.kind == "applied" for r in result.report.remarks)
    assert result.precision is not None
    result.precision.save_plan(plan := tmp_path / "plan.json")
    again = graphopt.optimize(net, target="tflite", preset="mixed", skip=skip, precision_plan=plan)
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "int8", "budget": "bits=6"}, "--budget is for the pass 'assign-precision', which is not in the"),
        ({"preset": "int8", "precision": ["Gemm=float"]}, "--precision is for the pass 'assign-precision'"),
        ({"preset": "float", "precision_plan": "plan.json"}, "--precision-plan is for the pass"),
        ({"budget": "latency=5"}, "latency is given in x, s, ms, us"),
        ({"budget": "speed=2x"}, "is no budget"),
        ({"precision": ["Gemm=int9"]}, "there is no precision 'int9': did you mean 'int8'"),
        ({"target": "tensorrt", "device": "SM8"}, "TensorRT-RTX has no device 'SM8'"),
        ({"precision": ["Gemm"]}, "doesn't say which precision which nodes get"),
        ({"budget": "bits=6", "precision_plan": "plan.json"}, "--budget and --precision-plan are given"),
        ({"precision_plan": "nowhere.json"}, "can't read the precision plan 'nowhere.json'"),
    ],
)
def test_what_cannot_be_is_said_before_the_work(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        graphopt.optimize(
            "not even there.onnx",
            **{"preset": "mixed", "target": "onnxruntime", **options},  # type: ignore[arg-type]
        )


def test_the_page_and_json(net, samples, clock) -> None:
    clock(faster_in_8_bits)
    report = optimize(net, samples, max_drop=10).report
    lines = to_text(summary_page(report)).splitlines()
    start = lines.index("Mixed precision for the least latency")
    heads = lines[start + 1]
    for head in ("candidate", "multiply-accumulates", "top-1", "SQNR", "latency", "times as fast", "weights", "floor"):
        assert head in heads
    assert lines[start + 2].split()[:5] == ["original", "float32", "100", "%", "100.00"]
    assert "10.00 ms" in lines[start + 2]
    assert sum("shipped" in line for line in lines) == 1
    assert any(line.startswith("  floor: a drop of at most 10 points of top-1 on") for line in lines)
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))["mixed"]
    assert [c["name"] for c in content["candidates"]][:3] == ["original", "float", "int8"]
    assert sum(c["shipped"] for c in content["candidates"]) == 1
    assert content["candidates"][2]["latency"]["speedup"] == pytest.approx(2.0)


def test_on_the_command_line(run: Command, net, samples, clock, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    clock(faster_in_8_bits)
    monkeypatch.chdir(tmp_path)
    onnx.save(net, "net.onnx")
    np.savez("samples.npz", **samples)
    command = ("optimize", "net.onnx", "-o", "out.onnx", "-t", "tflite")
    done = run(
        *(*command, "--preset", "mixed", "--calibration-data", "samples.npz", "--max-drop", "10"),
        *("--precision", "Gemm=float", "--save-precision-plan", "plan.json", "--front", "front.csv"),
    )
    assert (done.code, done.err) == (0, "")
    assert "ships mixed" in done.out
    plan = json.loads(Path("plan.json").read_text())
    assert {r["name"]: r["precision"] for r in plan["regions"]}["head"] == "float32"
    table = Path("front.csv").read_text().splitlines()
    assert len(table) > 3
    assert sum(line.startswith("yes") for line in table) == 1
    done = run(*command[:3], "again.onnx", *command[4:], "--preset", "mixed", "--precision-plan", "plan.json")
    assert (done.code, done.err) == (0, "")
    for wrong, said in (
        (("--front", "front.pdf", "--preset", "mixed"), "the front is written as .csv, .png, .svg or into a folder"),
        (("--front", "front.csv"), "--front says where to write what assign-precision found, which is not in the"),
        (("--save-precision-plan", "no/plan.json", "--preset", "mixed"), "the folder 'no' doesn't exist"),
        (("--budget", "size=0.3x"), "--budget is for the pass 'assign-precision'"),
    ):
        done = run(*command, "--calibration-data", "samples.npz", *wrong)
        assert done.code == 1
        assert said in done.err
