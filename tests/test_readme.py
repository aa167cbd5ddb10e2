"""What the README says is so; that its code runs and its links lead somewhere is in test_docs.py."""

from __future__ import annotations

import re
from pathlib import Path

import graphopt
from graphopt.targets.table import support_table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def section(name: str) -> str:
    return README.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip()


def section_after(name: str) -> str:
    return README.split(f"<!-- {name} -->\n```text\n")[1].split("```")[0]


def test_the_support_table_is_the_one_the_targets_make() -> None:
    assert section("targets") == support_table()


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
