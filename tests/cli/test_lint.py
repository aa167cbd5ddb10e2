"""`graphopt lint`: the page, JSON, SARIF, exit codes, and --fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import onnx
import pytest

import graphopt
from graphopt.analysis.legality import RULES
from graphopt.targets import TARGETS
from tests.analysis.planting import Planted
from tests.analysis.test_legality import clean
from tests.cli.conftest import Run


@pytest.fixture
def broken(folder: Path) -> Path:
    """A model for TensorRT with one zero point, in a file whose name needs quoting in a URI."""
    planted = Planted(clean("tensorrt", "net"))
    planted.set_value("x_zero_point", 3)
    path = folder / "my model.onnx"
    onnx.save(planted.model, path)
    return path


def test_findings_by_node_with_reason_and_mend(run: Run, broken: Path) -> None:
    done = run("lint", broken, "--target", "tensorrt")
    assert done.code == 1
    assert "1 error" in done.out
    assert "activation-zero-point" in done.out
    assert "DequantizeLinear 'x_DequantizeLinear'" in done.out
    assert "the parser refuses any other" in done.out
    assert "quantize symmetrically" in done.out


def test_nothing_found_is_success_and_said(run: Run, folder: Path) -> None:
    onnx.save(clean("tensorrt", "net"), folder / "good.onnx")
    done = run("lint", "good.onnx", "-t", "tensorrt")
    assert (done.code, done.out.strip()) == (0, "good.onnx for TensorRT: nothing found")


def test_warnings_alone_are_success(run: Run, folder: Path) -> None:
    planted = Planted(clean("tensorrt", "net"))
    planted.pair("c2", ["a"], dtype="int8")
    onnx.save(planted.model, folder / "slow.onnx")
    done = run("lint", "slow.onnx", "-t", "tensorrt")
    assert done.code == 0
    assert "residual-fusion" in done.out


def test_json(run: Run, broken: Path) -> None:
    done = run("lint", broken, "-t", "tensorrt", "--json")
    found = json.loads(done.out)
    assert done.code == 1
    assert (found["errors"], found["warnings"], found["target"]) == (1, 0, "tensorrt")
    assert found["findings"][0]["rule"] == "activation-zero-point"
    assert found["findings"][0]["fixable"] is True


def test_rules_are_listed_with_each_targets_reason(run: Run) -> None:
    page = run("lint", "--rules")
    assert page.code == 0
    assert all(rule in page.out for rule in RULES)
    listed = json.loads(run("lint", "--rules", "--json").out)
    assert {r["id"]: set(r["targets"]) for r in listed} == {
        rule: {t.name for t in TARGETS.values() if rule in t.breaches} for rule in RULES
    }


# SARIF 2.1.0: what the standard requires of each object (section numbers), and the types.
REQUIRED: dict[str, tuple[str, ...]] = {
    "sarifLog": ("version", "runs"),  # 3.13
    "run": ("tool",),  # 3.14
    "tool": ("driver",),  # 3.18
    "driver": ("name",),  # 3.19
    "rule": ("id",),  # 3.49
    "result": ("message",),  # 3.27
}
LEVELS = {"none", "note", "warning", "error"}  # 3.27.10


def check_sarif(log: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold a log to the standard's required properties; its results."""
    assert set(REQUIRED["sarifLog"]) <= set(log)
    assert log["version"] == "2.1.0"
    (run_object,) = log["runs"]
    driver = run_object["tool"]["driver"]
    assert isinstance(driver["name"], str)
    assert driver["name"]
    rules = driver["rules"]
    assert len({r["id"] for r in rules}) == len(rules)
    for rule in rules:
        assert rule["defaultConfiguration"]["level"] in LEVELS
        for text in ("shortDescription", "fullDescription", "help"):
            assert rule[text]["text"]  # 3.11: a message has a text
    for result in run_object["results"]:
        assert result["message"]["text"]
        assert result["level"] in LEVELS
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]  # 3.27.6
        for location in result["locations"]:
            place = location["physicalLocation"]["artifactLocation"]
            assert " " not in place["uri"]  # 3.10.1: a valid URI reference
            assert run_object["artifacts"][place["index"]]["location"]["uri"] == place["uri"]
            assert all(logical["name"] for logical in location["logicalLocations"])
    return run_object["results"]


def test_sarif(run: Run, broken: Path, folder: Path) -> None:
    done = run("lint", broken, "-t", "tensorrt", "--sarif", "out.sarif", "--quiet")
    assert (done.code, done.out) == (1, "")
    (result,) = check_sarif(json.loads((folder / "out.sarif").read_text()))
    assert (result["ruleId"], result["level"]) == ("activation-zero-point", "error")
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert unquote(place) == broken.as_posix()


def test_sarif_of_a_clean_model_has_no_results(run: Run, folder: Path) -> None:
    onnx.save(clean("tflite", "net"), folder / "good.onnx")
    assert run("lint", "good.onnx", "-t", "tflite", "--sarif", "out.sarif").code == 0
    assert check_sarif(json.loads((folder / "out.sarif").read_text())) == []


def test_fix_writes_the_repaired_model_and_checks_it_again(run: Run, broken: Path, folder: Path) -> None:
    done = run("lint", broken, "-t", "tensorrt", "--fix", "-o", "fixed.onnx", "--sarif", "after.sarif")
    assert done.code == 0
    assert "saved fixed.onnx" in done.out
    assert graphopt.lint(folder / "fixed.onnx", "tensorrt") == []
    assert check_sarif(json.loads((folder / "after.sarif").read_text())) == []


def test_fix_says_what_it_could_not_do_and_fails(run: Run, folder: Path) -> None:
    planted = Planted(clean("openvino", "net"))
    planted.unpair("x", "c1")
    for name in ("x_dequantized", "x_quantized"):
        planted.model.graph.node.remove(planted.producer(name))
    onnx.save(planted.model, folder / "half.onnx")
    done = run("lint", "half.onnx", "-t", "openvino", "--fix", "-o", "out.onnx", "--json")
    found = json.loads(done.out)
    assert done.code == 1
    assert [f["rule"] for f in found["findings"]] == ["half-quantized"]
    assert any("no range of 'x' is known" in r["message"] for r in found["remarks"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lint",), "needs a model"),
        (("lint", "digits_cnn.onnx"), "needs a target"),
        (("lint", "digits_cnn.onnx", "-t", "tensorrtx"), "did you mean 'tensorrt'"),
        (("lint", "nowhere.onnx", "-t", "tensorrt"), "nowhere.onnx"),
        (("lint", "digits_cnn.onnx", "-t", "tensorrt", "--fix"), "--fix and --output go together"),
        (("lint", "digits_cnn.onnx", "-t", "tensorrt", "-o", "x.onnx"), "--fix and --output go together"),
        (("lint", "digits_cnn.onnx", "-t", "tensorrt", "--fix", "-o", "digits_cnn.onnx"), "would overwrite"),
        (("lint", "digits_cnn.onnx", "-t", "tensorrt", "--sarif", "digits_cnn.onnx"), "would overwrite"),
    ],
)
def test_one_line_says_what_is_wrong(run: Run, folder: Path, arguments: tuple[str, ...], message: str) -> None:
    before = sorted(p.name for p in folder.iterdir())
    done = run(*arguments)
    assert done.code == 1
    assert done.out == ""
    assert message in done.err
    assert done.err.count("\n") == 1
    assert sorted(p.name for p in folder.iterdir()) == before
