"""`graphopt bisect` on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Run

BUG = "tests.support.planted:RewriteReluScaled{node=/stem/stem.0/Conv}"


def test_the_page_names_pass_node_and_folder(run: Run, folder: Path) -> None:
    found = run("bisect", "digits_cnn.onnx", "--passes", f"fold-constants,{BUG},remove-dead")
    assert found.code == 0, found.err
    assert "it is lost in pass 2, tests.support.planted:RewriteReluScaled" in found.out
    assert "changed  Conv '/stem/stem.0/Conv': input 1: other values" in found.out
    assert "Alone: graphopt-bisect-1" in found.out
    assert (folder / "graphopt-bisect-1" / "reproduce.py").is_file()
    assert "Alone: graphopt-bisect-2" in run("bisect", "digits_cnn.onnx", "--passes", BUG).out


def test_json_and_a_folder_of_ones_own(run: Run, folder: Path) -> None:
    found = run("bisect", "digits_cnn.onnx", "--passes", BUG, "-o", "here", "--json")
    told = json.loads(found.out)
    assert told["found"] is True
    assert told["reproducer"]["folder"] == "here"
    assert {path.name for path in (folder / "here").iterdir()} == {
        "before.onnx", "inputs.npz", "pipeline.toml", "reproduce.py",
    }  # fmt: skip


def test_a_pass_in_a_file_of_the_user_s_is_copied(run: Run, folder: Path) -> None:
    (folder / "my_bisected_passes.py").write_text(
        """
from dataclasses import dataclass
from typing import ClassVar
import graphopt

@dataclass(frozen=True)
class Scale(graphopt.Pass):
    name: ClassVar[str] = "scale"
    summary: ClassVar[str] = "scale the first weight"
    lossless: ClassVar[bool] = True

    def run(self, graph, ctx):
        weight = next(n for n in graph.nodes if n.is_op("Conv")).inputs[1]
        graph.set_values(weight, weight.values * 1.01)
"""
    )
    found = run("bisect", "digits_cnn.onnx", "--passes", "fold-constants,my_bisected_passes:Scale", "-o", "here")
    assert found.code == 0, found.err
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    shown = subprocess.run(
        [sys.executable, folder / "here" / "reproduce.py"],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 1, shown.stderr
    assert "are expected" in shown.stdout


def test_samples_are_taken_into_the_reproducer_where_passes_need_them(run: Run, folder: Path) -> None:
    found = run(
        "bisect", "digits_cnn.onnx", "-t", "onnxruntime", "--calibration-data", "few.npz", "--min-sqnr", "41", "-o", "a"
    )
    assert found.code == 0, found.err
    assert "it is lost in pass" in found.out
    assert 'calibration-data = "calibration.npz"' in (folder / "a" / "pipeline.toml").read_text()


def test_ranges_are_taken_into_it_too(run: Run, folder: Path) -> None:
    model = ("digits_cnn.onnx", "-t", "onnxruntime")
    assert run("calibrate", *model, "--calibration-data", "few.npz", "-o", "r.json").code == 0
    found = run("bisect", *model, "--ranges", "r.json", "--data", "few.npz", "--min-sqnr", "41", "-o", "a")
    assert found.code == 0, found.err
    assert (folder / "a" / "ranges.json").is_file()
    again = run("optimize", "a/before.onnx", "--config", "a/pipeline.toml", "-o", "after.onnx")
    assert again.code == 0, again.err


def test_nothing_to_find_is_no_failure(run: Run, folder: Path) -> None:
    found = run("bisect", "digits_cnn.onnx", "--preset", "float")
    assert found.code == 0
    assert "nothing is lost" in found.out
    assert not list(folder.glob("graphopt-bisect-*"))


def test_errors_are_one_line(run: Run, folder: Path) -> None:
    for options, message in (
        (("--preset", "float", "--metric", "f1", "--max-drop", "1"), "there is no metric 'f1'"),
        (("--preset", "float", "--data", "missing.npz"), "the model's input 'image' is missing"),
        (("--preset", "nothing"), "there is no preset 'nothing'"),
        (("--preset", "float", "-o", "digits_cnn.onnx"), "is a file"),
    ):
        found = run("bisect", "digits_cnn.onnx", *options)
        assert found.code == 1
        assert message in found.err
        assert found.err.count("\n") == 1
