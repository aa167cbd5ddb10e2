"""Reports of real models in Chromium: small enough, without errors, and drawn at every step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import graphopt
from tests.zoo.conftest import entry, names

if TYPE_CHECKING:
    from playwright.sync_api import Page

MODELS = [name for name in ("mobilenetv1_025_imagenet_bn", "yolox_nano") if name in names()]
LARGEST = 5_000_000


@pytest.mark.parametrize("name", MODELS)
def test_a_report_is_small_and_shows_every_step(name: str, browser_page: Page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    model = entry(name)
    graphopt.optimize(str(model.path), target="onnxruntime", calibration_data=model.calibration(1), report=path)
    assert path.stat().st_size < LARGEST
    browser_page.goto(path.as_uri())
    browser_page.locator("html[data-graph=ready]").wait_for()
    steps = browser_page.get_by_label("Step", exact=True).locator("option").all_inner_texts()
    assert "insert-qdq" in steps[-1]
    for title in steps[1:]:
        browser_page.get_by_label("Next step (right arrow)").click()
        shown = title.split(" (")[0]
        browser_page.get_by_label("Details").get_by_role("heading", name=shown, exact=True).wait_for()
    layers = browser_page.locator("#layers .table").first
    layers.scroll_into_view_if_needed()
    link = layers.locator(".tabulator-row a").first
    name_of_node = link.inner_text()
    link.click()
    browser_page.get_by_label("Details").get_by_text(name_of_node, exact=True).first.wait_for()
