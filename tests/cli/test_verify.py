"""`graphopt verify` and `optimize --verify`: what the engine made of a model, and the exit code that says so."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

import graphopt
from graphopt.api import stopwatch
from graphopt.backends import engines
from graphopt.backends.latency import measure_latency
from graphopt.report.verification import verification_page
from graphopt.targets.openvino import OPENVINO
from tests.cli.conftest import Run
from tests.support.quantization import model as float_model
from tests.support.quantization import quantize_model

NODES = 11  # of the digits model: 7 Conv, 2 Add, a GlobalAveragePool, a Gemm


@pytest.fixture
def compiled(run: Run, folder: Path) -> Path:
    into = ("-o", "int8.onnx", "-t", "openvino", "--calibration-data", "few.npz", "-q")
    done = run("optimize", "digits_cnn.onnx", *into)
    assert done.code == 0, done.err
    return folder / "int8.onnx"


@pytest.fixture
def short_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopwatch, "measure_latency", lambda *a, **k: measure_latency(*a, **k | {"budget": 0.1}))


def shown(outcome: Any) -> dict[str, Any]:
    return json.loads(outcome.out)


def test_the_page_names_every_planned_node_with_its_layer(run: Run, compiled: Path) -> None:
    done = run("verify", compiled, "-t", "openvino")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert f"all {NODES} planned nodes run in 8 bits in OpenVINO" in done.out
    assert sum(line.endswith("uint8") for line in lines) == NODES
    (fused,) = [line.split() for line in lines if "/block1/Add" in line]
    assert fused[1:] == ["Add", "Convolution", "'/block1/second/second.0/Conv'", "uint8"]


def test_a_planned_node_in_float_is_named_with_the_rule_and_ends_with_1(run: Run, compiled: Path) -> None:
    """The openvino target leaves results in float that onnxruntime's kernels must write as integers."""
    found = shown(done := run("verify", compiled, "-t", "onnxruntime", "--json"))
    assert done.code == 1
    assert found["ok"] is False
    missed = [n for n in found["precision"]["nodes"] if n["precision"] != "uint8"]
    # The convolutions that the two Adds read in float, and the last layer.
    assert [n["planned"]["op_type"] for n in missed] == ["Conv", "Conv", "Gemm"]
    assert missed[-1]["layer"] == "Gemm '/classifier/Gemm'"
    assert all("without Q on its result it runs in float" in n["reason"] for n in missed)
    page = run("verify", compiled, "-t", "onnxruntime")
    assert page.code == 1
    assert f"{len(missed)} of {len(found['precision']['nodes'])} planned nodes don't run in 8 bits" in page.out
    assert "  /classifier/Gemm (Gemm): float32: " in page.out


def test_agreement_and_latency(run: Run, compiled: Path, short_latency: None) -> None:
    samples = np.load("validation.npz")
    np.savez("labelled.npz", image=samples["image"][:60], labels=samples["labels"][:60])
    against = ("--reference", "digits_cnn.onnx", "--data", "labelled.npz")
    done = run("verify", compiled, "-t", "openvino", *against)
    assert done.code == 0
    assert "Agreement with the float model in onnxruntime on 60 samples of labelled.npz" in done.out
    assert "Latency of a call on this machine, in OpenVINO" in done.out
    found = shown(run("verify", compiled, "-t", "openvino", *against, "--no-latency", "--json"))
    assert found["latency"] is None
    first, second = found["agreement"]
    assert [first["engine"], second["engine"]] == ["OpenVINO", "as written"]
    (there,), (here,) = first["agreement"]["outputs"], second["agreement"]["outputs"]
    assert 25 < there["sqnr_db"] < 60
    assert abs(there["sqnr_db"] - here["sqnr_db"]) < 1
    float_model = onnxruntime.InferenceSession("digits_cnn.onnx")
    right = [np.argmax(float_model.run(None, {"image": x[None]})[0]) for x in samples["image"][:60]]
    accuracy = float(np.mean(right == samples["labels"][:60]))
    assert first["agreement"]["reference_accuracy"] == pytest.approx(accuracy)


def test_onnxruntime_needs_no_second_engine(run: Run, folder: Path, short_latency: None) -> None:
    made = ("-o", "ort.onnx", "-t", "onnxruntime", "--calibration-data", "few.npz", "--json", "--verify")
    done = run("optimize", "digits_cnn.onnx", *made)
    assert done.code == 0
    assert (folder / "ort.onnx").exists()
    found = shown(done)["verification"]
    assert len(found["precision"]["nodes"]) == NODES
    assert [a["engine"] for a in found["agreement"]] == ["onnxruntime"]
    assert found["latency"]["rounds"] >= 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("digits_cnn.onnx", "-t", "openvino"), ""),
        (("int8.onnx", "-t", "openvin"), "did you mean 'openvino'?"),
        (("int8.onnx", "-t", "openvino", "--reference", "digits_cnn.onnx"), "give data: the samples"),
        (("int8.onnx", "-t", "openvino", "--data", "few.npz"), "give reference: the float model"),
        (("int8.onnx", "-t", "openvino", "--device", "SM86"), "OpenVINO has no device 'SM86'"),
        (("absent.onnx", "-t", "openvino"), "no such file"),
        (("int8.onnx", "-t", "openvino", "--reference", "digits_cnn.onnx", "--data", "missing.npz"), "missing.npz"),
    ],
)
def test_what_is_wrong_is_said(run: Run, compiled: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run("verify", *arguments)
    assert done.code == 1
    assert said in done.err
    assert done.err.count("\n") == bool(said)


def test_a_float_model_is_no_silent_pass(run: Run, folder: Path) -> None:
    done = run("verify", "digits_cnn.onnx", "-t", "openvino")
    assert done.code == 1
    assert "nothing in this model is planned in 8 bits" in done.out
    assert "leaves in float: 7 Conv, 1 Gemm" in done.out


def test_a_missing_engine_names_the_mend(run: Run, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    done = run("verify", compiled, "-t", "openvino")
    assert (done.code, done.err.strip().endswith("pip install 'graphopt[openvino]'")) == (1, True)
    asked = ("optimize", "digits_cnn.onnx", "-o", "no.onnx", "-t", "openvino", "--calibration-data", "few.npz")
    assert run(*asked, "--verify").code == 1
    assert run(*asked).code == 0


@pytest.mark.parametrize("more", [("--preset", "float"), ("-t", "openvino", "--preset", "float")])
def test_there_must_be_something_to_verify(run: Run, folder: Path, more: tuple[str, ...]) -> None:
    done = run("optimize", "digits_cnn.onnx", "-o", "o.onnx", "--calibration-data", "few.npz", "--verify", *more)
    assert done.code == 1
    assert "verify proves that planned layers run in 8 bits, which needs" in done.err
    assert not (folder / "o.onnx").exists()


def test_nothing_is_written_when_the_result_does_not_run_as_planned(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that claims too much: OpenVINO has no integer ConvTranspose with groups."""
    rules = {**OPENVINO.rules, "ConvTranspose": replace(OPENVINO.rules["ConvTranspose"], conditions=())}
    monkeypatch.setitem(graphopt.TARGETS, "openvino", replace(OPENVINO, rules=rules))
    body = "r = Relu(x)\n y = ConvTranspose<group=2>(r, w)"
    source = float_model(body, "float[N,8,12,12] x", "float[A,B,C,D] y", w=(8, 4, 3, 3))
    onnx.save(source, folder / "float.onnx")
    np.savez(folder / "x.npz", x=np.random.default_rng(0).normal(size=(4, 8, 12, 12)).astype(np.float32))
    asked = ("optimize", "float.onnx", "-o", "out.onnx", "-t", "openvino", "--calibration-data", "x.npz")
    done = run(*asked, "--verify")
    assert done.code == 1
    assert "1 of 1 planned node doesn't run in 8 bits" in done.out
    assert "no model was written" in done.err
    assert not (folder / "out.onnx").exists()
    explained = run(*asked, "--verify", "--report", "out.html")
    assert explained.code == 1
    assert "The report has it: out.html" in explained.err
    assert not (folder / "out.onnx").exists()
    assert "1 of 1 planned node doesn't run in 8 bits" in (folder / "out.html").read_text()
    with pytest.raises(graphopt.VerificationError) as error:
        graphopt.optimize(source, target="openvino", calibration_data=folder / "x.npz", verify=True)
    (missed,) = error.value.verification.precision.missed
    assert (missed.planned.op_type, missed.precision) == ("ConvTranspose", "float32")
    assert run(*asked).code == 0
    assert shown(run("verify", "out.onnx", "-t", "openvino", "--json"))["ok"] is False


class _Samples(CalibrationDataReader):
    def __init__(self) -> None:
        self.feeds = iter([{"image": x[None]} for x in np.load("few.npz")["image"]])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)


def test_another_tools_model(run: Run, folder: Path) -> None:
    """onnxruntime's own default: int8 activations, which onnxruntime runs in float where several layers read them."""
    quantize_static("digits_cnn.onnx", "qdq.onnx", _Samples())
    found = graphopt.verify("qdq.onnx", "onnxruntime")
    assert len(found.precision.nodes) == NODES
    missed = {n.planned.name: n.reason for n in found.precision.missed}
    assert sorted(missed) == [f"/block{k}/{n}" for k in (1, 2) for n in ("Add", "first/first.0/Conv")]
    assert all("which has several readers" in reason for reason in missed.values())
    quantize_static("digits_cnn.onnx", "qop.onnx", _Samples(), quant_format=QuantFormat.QOperator)
    found = graphopt.verify("qop.onnx", "onnxruntime")
    assert (found.ok, len(found.precision.nodes)) == (True, NODES)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_nodes_without_names_are_found(compiled: Path, target: str) -> None:
    model = onnx.load(compiled)
    named = graphopt.verify(model, target)
    for node in model.graph.node:
        node.name = ""
    bare = graphopt.verify(model, target)
    assert [n.precision for n in bare.precision.nodes] == [n.precision for n in named.precision.nodes]
    # The openvino target quantizes one operand of an Add, which is no integer Add in onnxruntime.
    assert len(bare.precision.nodes) == (NODES if target == "openvino" else NODES - 2)


def test_external_data_text_and_pickles(compiled: Path, folder: Path) -> None:
    onnx.save_model(
        onnx.load(compiled), folder / "large.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    light = onnx.load(folder / "large.onnx", load_external_data=False)
    (folder / "m.onnxtxt").write_text(onnx.printer.to_text(onnx.load(compiled)))
    want = graphopt.verify(compiled, "openvino")
    found = [
        graphopt.verify(folder / "large.onnx", "openvino"),
        graphopt.verify(light, "openvino", base_dir=folder),
        graphopt.verify(folder / "m.onnxtxt", "openvino"),
    ]
    assert all(f.precision == want.precision for f in found)
    assert pickle.loads(pickle.dumps(want)) == want


def test_only_what_is_wrong_on_request(compiled: Path) -> None:
    found = graphopt.verify(compiled, "openvino")
    assert len(verification_page(found, all_nodes=False)) < len(verification_page(found))
    assert found.to_dict()["verdict"] == found.verdict


@pytest.fixture
def open_sizes(folder: Path) -> Path:
    """A Q/DQ model for tflite that takes images of any size."""
    body = "c = Conv<pads=[1,1,1,1]>(x, w)\n r = Relu(c)\n y = Conv(r, v)"
    source = float_model(body, "float[N,8,H,W] x", "float[A,B,C,D] y", w=(8, 8, 3, 3), v=(8, 8, 1, 1))
    onnx.save(quantize_model(source, "tflite").after, folder / "open.onnx")
    return folder / "open.onnx"


def test_an_engine_that_builds_for_one_size_asks_for_it(run: Run, open_sizes: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    done = run("verify", open_sizes, "-t", "tflite")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "needs every size but the batch's" in done.err
    assert run("verify", open_sizes, "-t", "tflite", "--shape", "x=1,8,16,16", "-q").code == 0
    for wrong in ("x", "x=", "x=1,0", "=1,8"):
        done = run("verify", open_sizes, "-t", "tflite", "--shape", wrong)
        assert (done.code, done.err.count("\n")) == (1, 1)
        assert "expected NAME=N,N,…" in done.err


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tflite", "tensorrt"])
def test_an_operator_that_the_engine_has_not_is_named(run: Run, compiled: Path, folder: Path, target: str) -> None:
    model = onnx.load(compiled)
    model.opset_import.append(onnx.helper.make_opsetid("my.ops", 1))
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(
        onnx.helper.make_node("Magic", ["before"], [model.graph.output[0].name], "magic", domain="my.ops")
    )
    onnx.save(model, folder / "magic.onnx")
    done = run("verify", "magic.onnx", "-t", target)
    assert done.code == 1
    assert "agic" in done.out + done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tflite", "tensorrt"])
def test_a_truncated_model_and_unreadable_samples_are_one_line(
    run: Run, compiled: Path, folder: Path, target: str
) -> None:
    (folder / "half.onnx").write_bytes(compiled.read_bytes()[:300])
    (folder / "junk.npz").write_bytes(b"no numbers")
    against = ("--reference", "digits_cnn.onnx", "--data", "junk.npz")
    for arguments, said in ((("half.onnx",), "truncated"), ((compiled, *against), "not a readable .npz")):
        done = run("verify", *arguments, "-t", target)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
        assert said in done.err


def test_a_reason_is_given_once(compiled: Path) -> None:
    for node in graphopt.verify(compiled, "onnxruntime").precision.missed:
        said = node.reason.split("; ")
        assert len(set(said)) == len(said)
