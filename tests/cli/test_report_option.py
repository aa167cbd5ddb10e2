"""`graphopt optimize --report`: the page, what is said of it, and places that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphopt.api import reporting
from tests.cli.conftest import Run
from tests.support.reports import report_data

OPTIMIZE = ("optimize", "digits_cnn.onnx", "-o", "out.onnx", "--target", "onnxruntime", "--preset", "float")


@pytest.mark.usefixtures("folder")
def test_the_page_is_written_and_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "TIMING_SECONDS", 0.02)
    outcome = run(*OPTIMIZE, "--validation-data", "validation.npz", "--report", "report.html")
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1].strip() == "report report.html"
    data = report_data(Path("report.html"))
    assert data["title"] == "digits_cnn.onnx → out.onnx for onnxruntime (CPU)"
    assert "Latency" in [figure["label"] for figure in data["sections"][0]["figures"]]
    said = json.loads(run(*OPTIMIZE, "--report", "second.html", "--json").out)
    assert said["page"] == "second.html"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("place", ["report.json", "nowhere/report.html"])
def test_a_place_is_refused_before_the_work(place: str, run: Run) -> None:
    outcome = run(*OPTIMIZE, "--report", place)
    assert outcome.code == 1
    assert place in outcome.err
    assert not Path("out.onnx").exists()
