"""Whatever the user gets wrong: one line that says what, exit 1 or 2, the input as it was, and no output."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from graphopt import api
from graphopt.errors import InternalError
from tests.cli.conftest import Run

GOOD = {"--output": "out.onnx", "--target": "onnxruntime", "--calibration-data": "few.npz"}


def optimize(run: Run, model: str = "digits_cnn.onnx", **changed: str | None):
    options = {**GOOD, **{f"--{name.replace('_', '-')}": value for name, value in changed.items()}}
    return run("optimize", model, *(word for pair in options.items() if pair[1] is not None for word in pair))


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


CASES: dict[str, tuple[dict[str, str | None], str]] = {
    "unknown target": ({"target": "onnxrt"}, "did you mean 'onnxruntime'"),
    "no target": ({"target": None}, "needs a target"),
    "no samples": ({"calibration_data": None}, "--calibration-data"),
    "missing input": ({"calibration_data": "missing.npz"}, "'image' is missing (found 'picture')"),
    "wrong shape": ({"calibration_data": "shape.npz"}, "expected float32 [batch, 1, 8, 8]"),
    "NaN": ({"calibration_data": "nan.npz"}, "sample 5: input 'image' holds nan"),
    "NaN in validation": ({"validation_data": "nan.npz"}, "sample 5: input 'image' holds nan"),
    "no such samples": ({"calibration_data": "nowhere.npz"}, "'nowhere.npz' doesn't exist"),
    "samples are no archive": ({"calibration_data": "digits_cnn.onnx"}, "not a readable .npz file"),
    "unknown preset": ({"preset": "int9"}, "did you mean 'int8'"),
    "unknown pass": ({"passes": "fold-batchnorm"}, "did you mean 'fold-batch-norm'"),
    "two pipelines": ({"passes": "remove-dead", "preset": "int8"}, "give one of preset, config, passes"),
    "skips what isn't there": ({"skip": "fold-batch-nor"}, "did you mean 'fold-batch-norm'"),
    "prints after what isn't there": ({"print_ir_after": "remove-ded"}, "did you mean 'remove-dead'"),
    "prints before what isn't there": ({"print_ir_before": "remove-ded"}, "did you mean 'remove-dead'"),
    "unknown kind of remark": ({"remarks_kind": "applid"}, "did you mean 'applied'"),
    "unknown method": ({"calibration_method": "guess"}, "expected minmax"),
    "no such pipeline file": ({"config": "nowhere.toml"}, "can't read the pipeline file 'nowhere.toml'"),
    "labels without samples": ({"labels": "few.npz"}, "labels"),
    "no such labels": ({"labels": "nowhere.npy", "validation_data": "few.npz"}, "can't read the labels"),
    "not a ranges file": ({"ranges": "few.npz"}, "is not a ranges file"),
    "output is the input": ({"output": "digits_cnn.onnx"}, "would overwrite the input"),
    "output is the samples": ({"output": "few.npz"}, "name that ends in .onnx"),
    "output in no folder": ({"output": "nowhere/out.onnx"}, "the folder 'nowhere' doesn't exist"),
    "output in a file": ({"output": "few.npz/out.onnx"}, "few.npz"),
    "output is a folder": ({"output": "."}, "is a directory"),
    "output is for another target": ({"output": "out.tflite"}, "written for the target tflite, and this result is for"),
    "output is another format": ({"output": "out.engine"}, "name that ends in .onnx"),
    "unknown option": ({"frobnicate": "1"}, "No such option: --frobnicate"),
    "no output": ({"output": None}, "Missing option"),
    "no threads": ({"threads": "0"}, "--threads"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_nothing_left(name: str, run: Run, folder: Path) -> None:
    changed, expected = CASES[name]
    before = hashes(folder)
    outcome = optimize(run, **changed)
    assert outcome.code in (1, 2)
    assert outcome.out == ""
    assert outcome.err.startswith("graphopt: error: ")
    assert outcome.err.count("\n") == 1
    assert expected in outcome.err
    assert hashes(folder) == before


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (lambda model: model[: len(model) // 2], "truncated"),
        (lambda model: model[:7], "truncated"),
        (lambda _: b"dear reader,\nthis is a letter\n", "is a text file"),
        (lambda _: b"", "is empty"),
        (lambda _: b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG image"),
    ],
)
def test_files_that_are_no_model(content, expected: str, run: Run, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(content((folder / "digits_cnn.onnx").read_bytes()))
    before = hashes(folder)
    outcome = optimize(run, "model.onnx")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1)
    assert outcome.err.startswith("graphopt: error: model.onnx: ")
    assert expected in outcome.err
    assert hashes(folder) == before


def test_a_folder_that_cannot_be_written_to(run: Run, folder: Path) -> None:
    if os.geteuid() == 0:
        # root may write everywhere but here
        outcome, where = optimize(run, output="/proc/graphopt.onnx"), "/proc"
    else:
        (folder / "locked").mkdir(mode=0o555)
        outcome, where = optimize(run, output="locked/out.onnx"), "locked"
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1)
    assert where in outcome.err
    assert "can't be written" in outcome.err


def test_a_data_file_is_an_input_too(run: Run, folder: Path) -> None:
    import onnx

    model = onnx.load("digits_cnn.onnx")
    onnx.save_model(model, "split.onnx", save_as_external_data=True, location="weights.onnx")
    before = hashes(folder)
    outcome = optimize(run, "split.onnx", output="weights.onnx")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "would overwrite the input" in outcome.err
    assert hashes(folder) == before


def test_a_usage_error_is_exit_2(run: Run, folder: Path) -> None:
    assert optimize(run, frobnicate="1").code == 2
    assert run("frobnicate").code == 2
    assert run("inspect").code == 2


def test_interrupting_is_exit_130_and_leaves_nothing(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "interrupting.py").write_text("def samples():\n    raise KeyboardInterrupt\n    yield\n")
    before = hashes(folder)
    outcome = optimize(run, calibration_data="interrupting:samples")
    assert outcome.code == 130
    assert "Traceback" not in outcome.err
    assert {name: h for name, h in hashes(folder).items() if name != "interrupting.py"} == {
        name: h for name, h in before.items() if name != "interrupting.py"
    }


def test_a_bug_is_exit_70_with_a_traceback_and_a_place(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise InternalError("pass 'fold-batch-norm': tensor 'x' has two producers", reproducer="/somewhere/safe")

    monkeypatch.setattr(api, "optimize", broken)
    outcome = optimize(run)
    assert outcome.code == 70
    assert "Traceback" in outcome.err
    last = outcome.err.splitlines()[-1]
    assert last.startswith("graphopt: internal error: pass 'fold-batch-norm'")
    assert "/somewhere/safe" in last


def test_compare_calibrate_and_inspect_fail_in_one_line(run: Run, folder: Path) -> None:
    (folder / "text.onnx").write_text("no model\n")
    for args in (
        ("inspect", "text.onnx"),
        ("compare", "digits_cnn.onnx", "text.onnx", "--data", "few.npz"),
        ("compare", "digits_cnn.onnx", "digits_cnn.onnx", "--data", "missing.npz"),
        ("calibrate", "text.onnx", "-o", "r.json", "--target", "tflite", "--calibration-data", "few.npz"),
        (
            "calibrate",
            "digits_cnn.onnx",
            "-o",
            "digits_cnn.onnx",
            "--target",
            "tflite",
            "--calibration-data",
            "few.npz",
        ),
        ("calibrate", "digits_cnn.onnx", "-o", "r.json", "--target", "tflite", "--calibration-data", "nan.npz"),
        ("calibrate", "digits_cnn.onnx", "-o", "r.json", "--calibration-data", "few.npz", "--preset", "float"),
        ("targets", "tensort"),
    ):
        outcome = run(*args)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1), args
    assert not (folder / "r.json").exists()
