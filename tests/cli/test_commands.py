"""The commands as a user runs them, on the bundled model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from graphopt import __version__
from graphopt.passes import CATALOGUE
from graphopt.passes.presets import PRESETS
from graphopt.targets import TARGETS
from tests.cli.conftest import DIGITS, Run

ROOT = Path(__file__).parents[2]
OPTIMIZE = ("optimize", "digits_cnn.onnx", "-o", "out.onnx", "--target", "onnxruntime")
SAMPLES = ("--calibration-data", "few.npz")


def top1(model: str, image: np.ndarray, labels: np.ndarray) -> float:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"image": image})
    return float((np.argmax(scores, axis=1) == labels).mean())


def test_the_first_command_of_the_readme(tmp_path: Path) -> None:
    output = tmp_path / "digits_int8.onnx"
    command = (
        "optimize calibration_data/digits_cnn.onnx --target onnxruntime "
        "--calibration-data calibration_data/calibration.npz --validation-data calibration_data/validation.npz"
    )
    done = subprocess.run(
        [sys.executable, "-m", "graphopt", *command.split(), "-o", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""  # no warnings of onnx or onnxruntime either
    assert "\x1b" not in done.stdout
    validation = np.load(DIGITS / "validation.npz")
    lines = [line.split() for line in done.stdout.splitlines()]
    shown = {words[0]: float(words[1]) for words in lines if words and words[0] in ("fp32", "int8")}
    assert shown == {
        "fp32": round(100 * top1(str(DIGITS / "digits_cnn.onnx"), validation["image"], validation["labels"]), 2),
        "int8": round(100 * top1(str(output), validation["image"], validation["labels"]), 2),
    }
    onnx.checker.check_model(str(output), full_check=True)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_a_stream_that_has_no_arrows(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "graphopt", *OPTIMIZE, "--preset", "float"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "digits_cnn.onnx ? out.onnx" in done.stdout


def test_piped_output_tells_sizes_passes_precision_and_place(run: Run, folder: Path) -> None:
    outcome = run(*OPTIMIZE, *SAMPLES)
    assert (outcome.code, outcome.err) == (0, "")
    for words in ("nodes", "fold-batch-norm", "7 applied", "7 Conv", "16 calibration samples", "saved out.onnx"):
        assert words in outcome.out
    assert "top-1" not in outcome.out  # there were no labels


def test_json_is_one_document_with_everything(run: Run, folder: Path) -> None:
    outcome = run(*OPTIMIZE, *SAMPLES, "--validation-data", "validation.npz", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    content = json.loads(outcome.out)
    assert content["output"] == "out.onnx"
    assert content["after"]["file_bytes"] == (folder / "out.onnx").stat().st_size
    assert [p["name"] for p in content["passes"]] == list(PRESETS["int8"])
    assert content["passes"][-1]["nodes_after"] == content["after"]["nodes"] == len(onnx.load("out.onnx").graph.node)
    fold = next(p for p in content["passes"] if p["name"] == "fold-batch-norm")
    assert fold["remarks"] == {"applied": 7}
    assert content["measurement"]["agreement"]["other_accuracy"] > 0.97
    assert content["measurement"]["on_calibration_data"] is False


def test_quiet_says_nothing(run: Run, folder: Path) -> None:
    image = np.load("few.npz")["image"]
    np.savez("extra.npz", image=image, unknown=image)
    outcome = run(*OPTIMIZE, "--calibration-data", "extra.npz", "-q")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert (folder / "out.onnx").exists()
    loud = run(*OPTIMIZE, "--calibration-data", "extra.npz")
    assert loud.err == "graphopt: warning: extra.npz: array 'unknown' is not an input of the model: ignored\n"


def test_labels_from_a_file_of_their_own(run: Run, folder: Path) -> None:
    validation = np.load("validation.npz")
    np.savez("unlabelled.npz", image=validation["image"])
    np.save("labels.npy", validation["labels"])
    outcome = run(*OPTIMIZE, *SAMPLES, "--validation-data", "unlabelled.npz", "--labels", "labels.npy", "--json")
    agreement = json.loads(outcome.out)["measurement"]["agreement"]
    expected = top1("digits_cnn.onnx", validation["image"], validation["labels"])
    assert agreement["reference_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize("target", TARGETS)
def test_ranges_from_calibrate_make_the_same_model(target: str, run: Run, folder: Path) -> None:
    assert run(*OPTIMIZE[:-1], target, *SAMPLES).code == 0
    said = run("calibrate", "digits_cnn.onnx", "--target", target, *SAMPLES, "-o", "ranges.json")
    assert (said.code, said.err) == (0, "")
    outcome = run("optimize", "digits_cnn.onnx", "-o", "again.onnx", "--target", target, "--ranges", "ranges.json")
    assert outcome.code == 0
    assert "accuracy not measured: no samples were given" in outcome.out
    assert (folder / "again.onnx").read_bytes() == (folder / "out.onnx").read_bytes()


def test_ranges_are_refused_when_other_rewrites_come_before(run: Run, folder: Path) -> None:
    assert run("calibrate", "digits_cnn.onnx", "--target", "tflite", *SAMPLES, "-o", "ranges.json", "-q").code == 0
    options = ("-o", "out.onnx", "--target", "tflite", "--ranges", "ranges.json")
    outcome = run("optimize", "digits_cnn.onnx", *options, "--skip", "fold-batch-norm")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert not (folder / "out.onnx").exists()


def test_kept_in_float_and_skipped(run: Run, folder: Path) -> None:
    outcome = run(
        *OPTIMIZE, *SAMPLES, "--keep-float", "Gemm", "--keep-float", "hed/*", "--skip", "fold-pad,remove-dead"
    )
    assert outcome.code == 0
    assert "float   1 Gemm" in outcome.out
    assert "note: keep-float pattern 'hed/*' matches no node" in outcome.out
    assert "fold-pad" not in outcome.out
    graph = onnx.load("out.onnx").graph
    gemm = next(node for node in graph.node if node.op_type == "Gemm")
    assert gemm.input[1] in {tensor.name for tensor in graph.initializer}


def test_looking_inside(run: Run, folder: Path) -> None:
    outcome = run(
        *(*OPTIMIZE, *SAMPLES, "--dump-dir", "dump", "--dump-onnx", "--check-numerics", "--time-passes", "--remarks"),
        *("--print-ir-after", "fold-batch-norm", "--print-ir-before", "fold-pad"),
    )
    assert outcome.code == 0
    assert "[fold-batch-norm] applied BatchNormalization" in outcome.out
    assert "checks and dumps" in outcome.out
    assert (outcome.err.count("# before pass"), outcome.err.count("# after pass")) == (1, 1)
    before, after = outcome.err.split("# after pass")
    assert "BatchNormalization(" in before
    assert "Conv(" in after
    assert "BatchNormalization(" not in after
    dumped = sorted(path.name for path in (folder / "dump").iterdir())
    assert "000_input.txt" in dumped
    assert any(name.endswith("_insert-qdq.onnx") for name in dumped)


def test_remarks_and_times_by_filter(run: Run, folder: Path) -> None:
    folded = ("--passes", "fold-constants,fold-batch-norm", "--remarks-kind", "applied")
    outcome = run(*OPTIMIZE[:-2], *folded, "--remarks-pass", "fold-batch*,fold-pad", "--print-ir-after-change")
    assert outcome.code == 0
    listed = outcome.out.split("Remarks (7 of ")[1].splitlines()
    assert all(line.startswith("  [fold-batch-norm] applied Batch") for line in listed[1:8])
    assert listed[8] == "  no pass of this run is 'fold-pad'; did you mean 'fold-constants' or 'fold-batch-norm'?"
    assert outcome.err.count("# after pass") == 2
    outcome = run(*OPTIMIZE[:-2], *folded, "--remarks-node", "*block1*", "--time-passes", "--json")
    found = json.loads(outcome.out)
    assert {r["kind"] for r in found["remarks"]} == {"applied"}
    assert all("block1" in r["node"] for r in found["remarks"])
    assert [t["pass"] for t in found["timing"]] == ["fold-constants", "fold-batch-norm"]


def test_pass_limit(run: Run, folder: Path) -> None:
    outcome = run(*OPTIMIZE, *SAMPLES, "--pass-limit", 3, "--json")
    assert [p["index"] for p in json.loads(outcome.out)["passes"]] == [1, 2, 3]
    assert any(node.op_type == "BatchNormalization" for node in onnx.load("out.onnx").graph.node)


def test_a_pipeline_file_brings_target_and_samples(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "pipeline.toml").write_text(
        '[pipeline]\ntarget = "openvino"\ncalibration-data = "../few.npz"\n\n'
        + "\n".join(f'[[pass]]\nname = "{name}"' for name in PRESETS["int8"])
    )
    outcome = run("optimize", "digits_cnn.onnx", "-o", "out.onnx", "--config", "sub/pipeline.toml", "--json")
    assert json.loads(outcome.out)["target"] == "openvino"
    run(*OPTIMIZE[:-3], "direct.onnx", "--target", "openvino", *SAMPLES)
    assert (folder / "out.onnx").read_bytes() == (folder / "direct.onnx").read_bytes()


def test_float_preset_needs_no_samples(run: Run, folder: Path) -> None:
    outcome = run("optimize", "digits_cnn.onnx", "-o", "out.onnx", "--preset", "float")
    assert outcome.code == 0
    ops = [node.op_type for node in onnx.load("out.onnx").graph.node]
    assert "BatchNormalization" not in ops
    assert "QuantizeLinear" not in ops


def test_compare(run: Run, folder: Path) -> None:
    run(*OPTIMIZE, *SAMPLES)
    outcome = run("compare", "digits_cnn.onnx", "out.onnx", "--data", "validation.npz", "--json")
    (output,) = json.loads(outcome.out)["outputs"]
    image = np.load("validation.npz")["image"]
    a, b = (
        ort.InferenceSession(m, providers=["CPUExecutionProvider"]).run(None, {"image": image})[0].astype(np.float64)
        for m in ("digits_cnn.onnx", "out.onnx")
    )
    assert output["sqnr_db"] == pytest.approx(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()), abs=0.05)
    same = run("compare", "digits_cnn.onnx", "digits_cnn.onnx", "--data", "few.npz", "--tensors")
    assert "/block1/Add_output_0" in same.out
    assert "exact" in same.out


def test_inspect(run: Run, folder: Path) -> None:
    found = json.loads(run("inspect", "digits_cnn.onnx", "--json").out)
    assert found["ops"]["Conv"] == 7
    assert found["opsets"] == {"ai.onnx": 17}
    assert found["quantized_layers"] == 0
    run(*OPTIMIZE, *SAMPLES)
    outcome = run("inspect", "out.onnx")
    assert "8 of 8 linear layers (100.00 % of the multiply-accumulates)" in outcome.out


def test_passes_and_targets_list_all_there_is(run: Run) -> None:
    shown = run("passes").out
    assert all(name in shown for name in (*CATALOGUE, *PRESETS))
    assert {p["name"] for p in json.loads(run("passes", "--json").out)["passes"]} >= set(CATALOGUE)
    shown = run("targets").out
    assert all(t.title in shown for t in TARGETS.values())
    assert all(op in shown for t in TARGETS.values() for op in t.rules)
    assert set(json.loads(run("targets", "tflite", "--json").out)) == {"tflite"}
    assert "skip" in run("targets", "tensorrt").out


def test_version(run: Run) -> None:
    assert run("--version").out == f"graphopt {__version__}\n"


def test_help_names_every_target_and_preset(run: Run) -> None:
    shown = run("optimize", "--help").out
    assert all(name in shown for name in (*TARGETS, *PRESETS))


def test_a_terminal_gets_tables_and_progress(folder: Path) -> None:
    """Through a pseudo terminal, as a user sees it."""
    pty = pytest.importorskip("pty")
    terminal, other_end = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "120"}
    command = subprocess.Popen(
        [sys.executable, "-m", "graphopt", *OPTIMIZE, *SAMPLES], stdout=other_end, stderr=other_end, env=environment
    )
    os.close(other_end)
    shown = b""
    while chunk := _read(terminal):
        shown += chunk
    os.close(terminal)
    assert command.wait() == 0
    assert b"\x1b[" in shown
    assert b"calibrating" in shown
    assert b"saved out.onnx" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux reports the end of a terminal so
        return b""
