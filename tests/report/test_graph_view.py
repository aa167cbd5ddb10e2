"""The report's graph view where the browser refuses what it is made with, and under the mouse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from graphopt.report.html.page import save_report
from tests.support.report_payload import sample_payload

if TYPE_CHECKING:
    from playwright.sync_api import Page

THROWS = "window.Worker = class { constructor() { throw new Error('refused'); } };"
FAILS = """window.Worker = class {
  constructor() { setTimeout(() => this.onerror({ preventDefault() {} })); }
  postMessage() {}
};"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    save_report(path, sample_payload())
    return path


@pytest.mark.parametrize("refusal", [THROWS, FAILS], ids=["at once", "later"])
def test_without_workers_the_layout_is_made_in_the_page(browser_page: Page, report: Path, refusal: str) -> None:
    browser_page.add_init_script(refusal)
    browser_page.goto(report.as_uri())
    browser_page.locator("html[data-graph=ready]").wait_for()
    browser_page.get_by_label("Next step (right arrow)").click()
    browser_page.get_by_label("Details").get_by_role("heading", name="1 fold-batch-norm").wait_for()


def test_the_wheel_scrolls_the_page_until_the_graph_is_clicked(browser_page: Page, report: Path) -> None:
    browser_page.goto(report.as_uri())
    browser_page.locator("html[data-graph=ready]").wait_for()
    browser_page.locator("#graph").evaluate("(section) => section.scrollIntoView()")
    canvas = browser_page.locator(".gv-canvas")
    box = canvas.bounding_box()
    assert box is not None
    top = browser_page.evaluate("scrollY")
    browser_page.mouse.move(box["x"] + 30, box["y"] + 30)
    browser_page.mouse.wheel(0, 50)
    browser_page.wait_for_function("(top) => scrollY > top", arg=top)
    assert canvas.evaluate("(element) => element !== document.activeElement")
    canvas.click(position={"x": 30, "y": 30})
    assert canvas.evaluate("(element) => element === document.activeElement")
    browser_page.evaluate(
        "addEventListener('wheel', (event) => { window.taken ||= event.defaultPrevented }, { passive: true })"
    )
    for _ in range(10):
        browser_page.wait_for_timeout(300)  # Cytoscape leaves the wheel to the page for 250 ms after it has scrolled
        browser_page.mouse.wheel(0, 50)
        if browser_page.evaluate("window.taken"):
            return
    pytest.fail("the wheel never reached the graph")
