"""What tests of the report's page share."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.report.html.page import save_report
from tests.support.report_payload import sample_payload


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a report that has everything in it."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    save_report(path, sample_payload())
    return path
