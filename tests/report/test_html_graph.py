"""The graph in the report's page: steps, search, and the links that lead there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.report_payload import LAYERS, ROWS, SCRIPT_NAME, UNICODE_NAME, layer

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


@pytest.fixture
def page(browser_page: Page, report: Path) -> Page:
    browser_page.goto(report.as_uri())
    browser_page.locator("html[data-graph=ready]").wait_for()
    return browser_page


def panel(page: Page) -> Locator:
    return page.get_by_label("Details")


def selected(page: Page, name: str) -> Locator:
    """The panel, when it shows the node `name`."""
    return panel(page).locator("dd").first.and_(page.get_by_text(name, exact=True))


def filtered(page: Page, section: str, text: str, left: int) -> Locator:
    """The first row of a section's first table, filtered to the `left` rows that hold `text`."""
    table = page.locator(f"#{section} .table").first
    table.scroll_into_view_if_needed()
    table.locator(".tabulator-row").first.wait_for()
    table.get_by_placeholder("Filter").fill(text)
    table.get_by_text(f"{left} of ").wait_for()
    return table.locator(".tabulator-row").first


def cell(row: Locator, column: int) -> Locator:
    return row.locator(f"[tabulator-field=c{column}]")


def test_steps_go_forth_and_back(page: Page) -> None:
    step, back = page.get_by_label("Step", exact=True), page.get_by_label("Previous step (left arrow)")
    assert back.is_disabled()
    page.get_by_label("Next step (right arrow)").click()
    panel(page).get_by_role("heading", name="1 fold-batch-norm").wait_for()
    assert "1 fold-batch-norm" in step.locator("option:checked").inner_text()
    text = panel(page).inner_text()
    assert "same outputs" in text
    assert "norm folded into layer0" in text
    back.click()
    panel(page).get_by_role("heading", name="the model").wait_for()
    page.get_by_label("only steps with changes").uncheck()
    step.select_option(label="2 fold-pad")
    panel(page).get_by_text("This pass left the graph as it was.").wait_for()


def test_a_node_in_a_table_leads_to_the_graph(page: Page) -> None:
    cell(filtered(page, "layers", layer(41), 1), 0).get_by_role("link").click()
    selected(page, layer(41)).wait_for()
    box = page.locator("#graph").bounding_box()
    assert box is not None
    assert -100 < box["y"] < 300


def test_a_tensor_leads_to_the_node_that_makes_it(page: Page) -> None:
    cell(filtered(page, "layers", "t17", 1), 4).get_by_role("link").click()
    selected(page, layer(17)).wait_for()


def test_a_node_in_a_row_about_a_step_is_shown_at_that_step(page: Page) -> None:
    cell(filtered(page, "remarks", "remark 1:", 1), 2).get_by_role("link").click()
    selected(page, layer(1)).wait_for()
    assert page.get_by_label("Step", exact=True).input_value() == "1"


def test_a_step_in_a_table_leads_to_that_step(page: Page) -> None:
    cell(filtered(page, "layers", "1 fold-batch-norm", LAYERS // 2), 5).get_by_role("link").click()
    panel(page).get_by_role("heading", name="1 fold-batch-norm").wait_for()


@pytest.mark.parametrize("name", [SCRIPT_NAME, UNICODE_NAME])
def test_hostile_names_lead_to_the_graph_and_stay_text(page: Page, name: str) -> None:
    cell(filtered(page, "layers", name.split()[0], 1), 0).get_by_role("link").click()
    panel(page).get_by_role("heading", name="Conv").wait_for()
    assert panel(page).locator("dd").first.text_content() == name
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


def test_what_no_step_has_is_not_a_link(page: Page) -> None:
    node = cell(filtered(page, "layers", "no such node", 1), 0)
    assert node.inner_text() == "no such node"
    assert node.get_by_role("link").count() == 0


def test_search_finds_a_node_of_any_step(page: Page) -> None:
    field = page.get_by_label("Search nodes, operators and tensors")
    page.get_by_label("only steps with changes").uncheck()
    page.get_by_label("Step", exact=True).select_option("2")
    panel(page).get_by_role("heading", name="2 fold-pad").wait_for()
    field.fill("norm")
    page.get_by_label("Nodes found").get_by_role("button").first.click()
    selected(page, "norm").wait_for()
    assert page.get_by_label("Step", exact=True).input_value() == "0"


def test_a_bar_leads_to_its_node(page: Page) -> None:
    chart = page.locator("#layers .chart").nth(1)
    chart.scroll_into_view_if_needed()
    canvas = chart.locator("canvas")
    page.wait_for_function("(c) => Chart.getChart(c) !== undefined", arg=canvas.element_handle())
    bar = "(c) => { const { x, y } = Chart.getChart(c).getDatasetMeta(0).data[11]; return [x / 2, y]; }"
    x, y = canvas.evaluate(bar)
    canvas.click(position={"x": x, "y": y})
    selected(page, layer(11)).wait_for()


def test_the_graph_takes_the_theme(page: Page) -> None:
    background = "getComputedStyle(document.querySelector('#graph-view .gv')).backgroundColor"
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    page.get_by_label("Theme").select_option("dark")
    assert page.evaluate(background) == "rgb(20, 23, 26)"


def test_the_graph_fills_the_screen_and_comes_back(page: Page) -> None:
    page.get_by_role("button", name="Full screen").click()
    page.wait_for_function("document.fullscreenElement !== null")
    box = page.locator("#graph-view").bounding_box()
    assert box is not None
    assert box["height"] > 900
    page.evaluate("document.exitFullscreen()")
    page.wait_for_function("document.fullscreenElement === null")


def test_a_node_leads_to_what_the_report_has_about_it(page: Page) -> None:
    cell(filtered(page, "layers", layer(41), 1), 0).get_by_role("link").click()
    about = page.locator("#node-rows")
    about.get_by_text(layer(41)).wait_for()
    assert about.get_by_role("button").all_inner_texts() == ["Layers", "Calibration: chart", "Remarks (50)"]
    about.get_by_role("button", name="Calibration").click()
    assert page.locator("#calibration h3").inner_text() == "t41"
    about.get_by_role("button", name="Remarks").click()
    remarks = page.locator("#remarks .table")
    remarks.get_by_text(f"50 of {ROWS} rows").wait_for()
    remarks.locator(".tabulator-row").first.wait_for()
    assert set(remarks.locator("[tabulator-field=c2] a").all_inner_texts()) == {layer(41)}
    remarks.get_by_role("button", name=f"only {layer(41)}").click()
    remarks.get_by_text(f"{ROWS} rows", exact=True).wait_for()
