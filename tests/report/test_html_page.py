"""The page of the HTML report, as a reader meets it: in Chromium, from disk, without a network."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from markupsafe import escape

from graphopt.errors import EmitError
from graphopt.report.html.page import report_html, save_report
from graphopt.report.html.payload import (
    Bars,
    Column,
    GraphSteps,
    HistogramData,
    Payload,
    Point,
    Scatter,
    Section,
    Step,
    TableData,
)
from tests.support.report_payload import (
    HOSTILE_NAMES,
    LAYERS,
    LONG_NAME,
    PIPELINE,
    QUOTED_NAME,
    ROWS,
    SCRIPT_NAME,
    UNICODE_NAME,
    layer,
    sample_payload,
)

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


@pytest.fixture
def page(browser_page: Page, report: Path) -> Page:
    browser_page.goto(report.as_uri())
    return browser_page


def table(page: Page, section: str) -> Locator:
    """The first table of a section, scrolled to, so that it is drawn."""
    found = page.locator(f"#{section} .table").first
    found.scroll_into_view_if_needed()
    found.locator(".tabulator-row").first.wait_for()
    return found


def column(found: Locator, index: int) -> list[str]:
    """What a column of a table shows in the rows that are drawn."""
    return found.locator(f".tabulator-row [tabulator-field=c{index}]").all_inner_texts()


def sort(found: Locator, title: str) -> None:
    found.locator(".tabulator-col", has=found.page.get_by_text(title, exact=True)).click()


def drawn(chart: Locator) -> Locator:
    """The canvas of a chart, scrolled to and drawn."""
    chart.scroll_into_view_if_needed()
    canvas = chart.locator("canvas")
    canvas.scroll_into_view_if_needed()
    canvas.page.wait_for_function("(c) => Chart.getChart(c) !== undefined", arg=canvas.element_handle())
    return canvas


def scroll_to_end(found: Locator) -> None:
    """Rows are measured when they are drawn, so that the end moves until it is reached."""
    found.locator(".tabulator-tableholder").evaluate(
        "async (e) => { for (let k = 0; k < 5; k++) {"
        " e.scrollTop = e.scrollHeight; await new Promise((r) => setTimeout(r, 40)); } }"
    )


def test_the_page_has_all_sections_with_their_figures_texts_and_warnings(page: Page) -> None:
    payload = sample_payload()
    assert page.title() == payload.title
    assert page.locator("h1").inner_text() == payload.title
    headings = page.locator("main > section > h2").all_inner_texts()
    assert [h for h in headings if not h.startswith("Graph")] == [section.title for section in payload.sections]
    assert page.locator(".contents a").all_inner_texts() == headings
    summary = page.locator("#summary")
    figures = payload.sections[0].figures
    assert summary.locator(".figure dt").all_text_contents() == [figure.label for figure in figures]
    assert summary.locator(".figure .value").all_text_contents() == [figure.value for figure in figures]
    assert summary.locator(".figure .note").all_text_contents() == [figure.note for figure in figures]
    assert summary.locator(".warnings li").all_text_contents() == list(payload.sections[0].warnings)
    assert summary.locator("pre").all_text_contents() == [text for _, text in payload.sections[0].commands]
    assert summary.locator("> p").all_text_contents() == list(payload.sections[0].text)


def test_a_command_can_be_copied(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == PIPELINE


def test_names_from_the_model_are_shown_and_never_read_as_html(page: Page) -> None:
    found = table(page, "layers")
    scroll_to_end(found)
    shown = found.locator(".tabulator-row [tabulator-field=c0]").all_text_contents()
    assert set(HOSTILE_NAMES) <= set(shown)
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hacked") is None
    cut = found.locator(f'a[title="{LONG_NAME}"]')
    box = cut.bounding_box()
    assert box is not None
    assert box["width"] < 700


def test_numbers_are_sorted_by_value_and_what_is_missing_comes_last_both_ways(page: Page) -> None:
    found = table(page, "layers")
    values = [row[1] for row in sample_payload().sections[1].tables[0].rows]
    ascending = sorted(float(v) for v in values if v is not None)
    assert column(found, 1)[0] == f"{values[0]:.1f} dB"
    sort(found, "SQNR")
    assert column(found, 1)[:8] == [f"{v:.1f} dB" for v in ascending[:8]]
    scroll_to_end(found)
    assert column(found, 1)[-2:] == [f"{ascending[-1]:.1f} dB", ""]
    sort(found, "SQNR")
    found.get_by_text(f"{ascending[-1]:.1f} dB").wait_for()
    assert column(found, 1)[:8] == [f"{v:.1f} dB" for v in ascending[::-1][:8]]
    scroll_to_end(found)
    assert column(found, 1)[-2:] == [f"{ascending[0]:.1f} dB", ""]


def test_tables_are_sorted_from_the_keyboard(page: Page) -> None:
    found = table(page, "layers")
    found.get_by_role("button", name="weights").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    found.locator("[role=columnheader][aria-sort=descending]").wait_for()
    assert column(found, 2)[:2] == ["3.5 MB", "3.4 MB"]


def test_text_is_sorted_as_people_count(page: Page) -> None:
    found = table(page, "layers")
    sort(found, "tensor")
    assert column(found, 4)[5:12] == ["t0", "t1", "t2", "t3", "t4", "t5", "t6"]


def test_units_are_people_s(page: Page) -> None:
    found = table(page, "layers")
    assert column(found, 2)[:5] == ["0 B", "1.0 kB", "4.0 kB", "9.0 kB", "16.0 kB"]
    assert column(found, 3)[1] == "16.7 µs"
    assert column(found, 3)[12] == "0.20 ms"


def test_a_long_table_draws_only_what_is_in_sight_and_is_filtered_by_text_and_by_kind(page: Page) -> None:
    found = table(page, "remarks")
    assert 5 < found.locator(".tabulator-row").count() < 200
    count = found.locator(".count")
    assert count.inner_text() == f"{ROWS} rows"
    found.get_by_label("kind").select_option("declined")
    assert count.inner_text() == f"{ROWS // 3} of {ROWS} rows"
    assert set(column(found, 1)) == {"declined"}
    found.get_by_placeholder("Filter").fill("remark 1000:")
    found.get_by_text(f"1 of {ROWS} rows").wait_for()
    assert column(found, 4) == ["remark 1000: its input 'x1000' is also read by 'n1001'"]
    found.get_by_label("kind").select_option("applied")
    assert count.inner_text() == f"0 of {ROWS} rows"
    found.get_by_text("nothing matches").wait_for()
    found.get_by_placeholder("Filter").fill("")
    found.get_by_text(f"{ROWS // 3} of {ROWS} rows").wait_for()


def test_many_bars_can_be_ordered_cut_and_read_as_a_table(page: Page) -> None:
    chart = page.locator("#layers .chart").first
    canvas = drawn(chart)
    label = canvas.get_attribute("aria-label")
    assert label is not None
    assert label.startswith(f"Error of each layer: {LAYERS} bars, dB; least 0")
    names = "(c) => Chart.getChart(c).data.labels"
    assert canvas.evaluate(names) == [layer(k) for k in range(LAYERS)]
    chart.get_by_label("Order").select_option("smallest")
    chart.get_by_label("Show").select_option("first")
    data = sample_payload().sections[1].charts[0]
    assert data.kind == "bars"
    least = [min(v for v in values if v is not None) for values in data.values]
    expected = sorted(range(LAYERS), key=lambda i: (least[i], i))[:30]
    assert canvas.evaluate(names) == [layer(i) for i in expected]
    chart.locator("summary").click()
    chart.locator(".tabulator-row").first.wait_for()
    assert chart.locator(".count").inner_text() == f"{LAYERS} rows"


def test_the_gallery_shows_one_chart_at_a_time(page: Page) -> None:
    gallery = page.locator("#calibration .gallery")
    gallery.scroll_into_view_if_needed()
    heading = gallery.locator("h3")
    assert heading.inner_text() == "t0"
    assert gallery.get_by_role("button", name="Previous").is_disabled()
    gallery.get_by_role("button", name="Next").click()
    assert heading.inner_text() == "t1"
    gallery.get_by_label("Chart", exact=True).select_option(label="t41")
    assert heading.inner_text() == "t41"
    gallery.get_by_label("Counts").select_option("logarithmic")
    gallery.get_by_label("Search charts").fill("T5")
    assert gallery.locator(".count").inner_text() == "1 of 11"
    assert heading.inner_text() == "t5"
    gallery.get_by_role("button", name="Next").click()
    assert heading.inner_text() == "t50"
    assert gallery.get_by_label("Counts").input_value() == "logarithmic"
    assert gallery.locator("canvas").count() == 1
    gallery.get_by_label("Search charts").fill("none such")
    assert gallery.locator(".count").inner_text() == "nothing matches"


def test_the_theme_is_the_system_s_until_another_is_chosen(page: Page) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    page.locator("html[data-theme=dark]").wait_for()
    dark = page.evaluate(background)
    assert dark == "rgb(20, 23, 26)"
    canvas = drawn(page.locator("#precision"))
    ticks = "(c) => Chart.getChart(c).options.scales.x.ticks.color"
    in_dark = canvas.evaluate(ticks)
    page.get_by_label("Theme").select_option("light")
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    assert canvas.evaluate(ticks) != in_dark
    page.reload()
    assert page.get_by_label("Theme").input_value() == "light"
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    page.get_by_label("Theme").select_option("auto")
    assert page.evaluate(background) == dark


@pytest.mark.parametrize("width", [600, 1000])
def test_nothing_is_wider_than_a_narrow_window(browser_page: Page, report: Path, width: int) -> None:
    browser_page.set_viewport_size({"width": width, "height": 800})
    browser_page.goto(report.as_uri())
    table(browser_page, "layers")
    table(browser_page, "remarks")
    assert browser_page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_is_printed_has_every_row_that_is_shown_and_no_graph(page: Page) -> None:
    found = table(page, "layers")
    sort(found, "SQNR")
    found.get_by_placeholder("Filter").fill("layer1")
    found.get_by_text(f"11 of {LAYERS + 5} rows").wait_for()
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    rows = sample_payload().sections[1].tables[0].rows
    expected = sorted(float(row[1] or 0) for row in rows if str(row[0]).startswith("layer1"))
    shown = page.locator("#layers .printed").first.locator("tbody tr td:nth-child(2)").all_inner_texts()
    assert shown == [f"{value:.1f} dB" for value in expected]
    assert page.locator("#remarks .printed tbody tr").count() == ROWS
    assert page.locator("#remarks .printed").is_visible()
    assert not page.locator("#graph").is_visible()
    assert not page.locator(".contents").is_visible()
    page.emulate_media(media="screen")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator(".printed").count() == 0


def test_what_has_nothing_in_it_is_shown_as_that(browser_page: Page, tmp_path: Path) -> None:
    nothing = Bars("Bars", "s", ("a",), ("x", "y"), ("", ""), ((None,), (None,)), logarithmic=True)
    point = HistogramData("Histogram", "t", (0.0, 0.0), (0.0,), ())
    none = Scatter("Scatter", "x", "y", (("s", (), True), ("one", (Point(1.0, 0.0),), False)), x_logarithmic=True)
    table = TableData("Table", (Column("a", "node"), Column("b", "number", "bytes")), ())
    unknown = TableData(
        "Unknown", (Column("s", "step"), Column("t", "tensor"), Column("n", "number")), ((9, None, "exact"),)
    )
    sections = (
        Section("summary", "Summary"),
        Section("a", "A", tables=(table, unknown), charts=(nothing, none), gallery=(point,)),
    )
    graph = GraphSteps((), (), (Step(0, "the model", "", None, None, False, (0, 0), (0, 0)),), (), ())
    for name, given in (("without", None), ("empty", graph)):
        path = tmp_path / f"{name}.html"
        save_report(path, Payload("title", "1", sections, given))
        browser_page.goto(path.as_uri())
        drawn(browser_page.locator("#a .gallery"))
        browser_page.locator("#a .tabulator-row").wait_for()
        # A column in which no row has anything is left out.
        assert browser_page.locator("#a .tabulator-cell").all_inner_texts() == ["9", "exact"]
        assert browser_page.locator("#graph").count() == (given is not None)
    browser_page.locator("html[data-graph=ready]").wait_for()


def test_the_same_payload_gives_the_same_page() -> None:
    assert report_html(sample_payload()) == report_html(sample_payload())


def test_each_library_in_the_page_has_its_licence_there() -> None:
    page = report_html(sample_payload())
    vendor = files("graphopt.report.html").joinpath("assets", "vendor")
    licences = vendor.joinpath("LICENSES.md").read_text(encoding="utf-8")
    assert escape(licences) in page
    libraries = [file for file in vendor.iterdir() if file.name != "LICENSES.md"]
    assert len(libraries) >= 3
    for library in libraries:
        assert library.name in licences
        assert library.read_text(encoding="utf-8")[:2000] in page


def test_the_payload_survives_in_the_page() -> None:
    page = report_html(sample_payload())
    inside = re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.DOTALL)
    assert inside is not None
    assert not set("<>&\u2028\u2029") & set(inside[1])
    read = json.loads(inside[1])
    assert read["title"] == sample_payload().title
    names = [row[0] for row in read["sections"][1]["tables"][0]["rows"]]
    assert names[LAYERS : LAYERS + 4] == [SCRIPT_NAME, QUOTED_NAME, UNICODE_NAME, LONG_NAME]


def test_numbers_have_six_digits_and_are_finite() -> None:
    summary = Section("summary", "Summary")
    bad = replace(sample_payload().sections[1].charts[0], values=((float("nan"), 1 / 3),), items=("a",), nodes=("",))
    page = report_html(Payload("title", "1", (summary, replace(summary, id="b", charts=(bad,)))))
    assert '"values":[[null,0.333333]]' in page
    assert "NaN" not in page[page.index('id="payload"') : page.index("</script>", page.index('id="payload"'))]


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(EmitError, match="can't be written"):
        save_report(tmp_path / "missing" / "report.html", sample_payload())
    assert list(tmp_path.iterdir()) == []
