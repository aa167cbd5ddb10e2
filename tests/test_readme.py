"""What the README says is so."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import graphopt
from graphopt.targets.table import precision_table, support_table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def section(name: str) -> str:
    return README.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip()


def section_after(name: str) -> str:
    return README.split(f"<!-- {name} -->\n```text\n")[1].split("```")[0]


def test_the_support_table_is_the_one_the_targets_make() -> None:
    assert section("targets") == support_table()


def test_the_table_of_precisions_is_the_one_the_targets_make() -> None:
    assert section("precisions") == precision_table()


@pytest.mark.parametrize("code", CODE, ids=lambda code: code.splitlines()[0])
def test_python_examples_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "calibration_data").symlink_to(ROOT / "calibration_data")
    monkeypatch.chdir(tmp_path)
    module = ModuleType("readme_example")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "README.md", "exec"), module.__dict__)


def test_links_to_files_lead_somewhere() -> None:
    named = re.findall(r"`((?:graphopt|passes|calibration_data|benchmarks|tests)/[\w./]+)`", README)
    for text in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        named += re.findall(r"`((?:graphopt|passes|calibration_data|benchmarks|tests)/[\w./]+)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_ci_runs_the_commands_of_the_readme() -> None:
    assert "<!-- compile -->\n```sh\n" in README
    assert "<!-- test -->\n```sh\n" in README
    script = (ROOT / ".ci" / "run").read_text()
    assert "readme_command compile" in script
    assert "readme_command test" in script


def test_the_shown_output_has_the_accuracy_that_the_command_prints() -> None:
    shown = section_after("output")
    data = ROOT / "calibration_data"
    report = graphopt.optimize(
        data / "digits_cnn.onnx",
        target="onnxruntime",
        calibration_data=data / "calibration.npz",
        validation_data=data / "validation.npz",
    ).report
    assert report.measurement is not None
    agreement = report.measurement.agreement
    assert re.search(rf"fp32 +{100 * (agreement.reference_accuracy or 0):.2f} %", shown)
    assert re.search(rf"int8 +{100 * (agreement.other_accuracy or 0):.2f} %", shown)
    assert f"{agreement.outputs[0].sqnr_db:.1f} dB" in shown
