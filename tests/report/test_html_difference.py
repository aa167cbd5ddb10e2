"""Two models' differences as a page: what it holds, and that its tables lead to the graph of the right model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

import graphopt
from graphopt.cli import main
from graphopt.errors import EmitError
from tests.support.reports import report_data, section, table

if TYPE_CHECKING:
    from playwright.sync_api import Page

FIRST = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1,2,4,4] x) => (float[1,2,4,4] y)
<float[2,2,1,1] w = {1,2,3,4}, float[2] g = {1,2}, float[2] b = {0,1}, float[2] m = {0,0}, float[2] v = {1,1},
 float s = {0.5}, uint8 z = {128}>
{
    [conv] c = Conv(x, w)
    [bn] n = BatchNormalization(c, g, b, m, v)
    [q] i = QuantizeLinear(n, s, z)
    [d] r = DequantizeLinear(i, s, z)
    [act] y = LeakyRelu<alpha = 0.1>(r)
}
"""


@pytest.fixture(scope="module")
def models() -> tuple[ModelProto, ModelProto]:
    """The second has no BatchNormalization, another slope, other weights and another scale, and a node more."""
    text = FIRST.replace("    [bn] n = BatchNormalization(c, g, b, m, v)\n", "").replace("alpha = 0.1", "alpha = 0.2")
    text = text.replace("QuantizeLinear(n,", "QuantizeLinear(c,").replace(" y = Leaky", " t = Leaky")
    second = parser.parse_model(text.replace("\n}", "\n    [clip] y = Relu(t)\n}"))
    for tensor in second.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(numpy_helper.from_array(np.array([1, 2, 3, 4.5], np.float32).reshape(2, 2, 1, 1), "w"))
        if tensor.name == "s":
            tensor.CopyFrom(numpy_helper.from_array(np.array(0.25, np.float32), "s"))
    return parser.parse_model(FIRST), second


@pytest.fixture(scope="module")
def page_file(models: tuple[ModelProto, ModelProto], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("difference") / "difference.html"
    graphopt.diff(*models, titles=("one", "two")).save_report(path)
    return path


def test_the_page_holds_all_differences(page_file: Path) -> None:
    data = report_data(page_file)
    assert data["title"] == "one → two"
    summary = section(data, "summary")
    assert [(f["label"], f["value"]) for f in summary["figures"]][:5] == [
        ("Nodes", "5"), ("Removed", "1"), ("Added", "1"), ("Changed", "4"), ("Other values", "3"),
    ]  # fmt: skip
    operators = {row["operator"]: row["difference"] for row in table(summary, "Operators")}
    assert operators["BatchNormalization"] == -1
    assert operators["Relu"] == 1
    changed = {row["node"]: row["what"] for row in table(section(data, "changed"), "Changed nodes")}
    assert set(changed) == {"conv", "q", "d", "act"}
    assert "alpha: 0.1 → 0.2" in changed["act"]
    (weight,) = table(section(data, "values"), "Weights and other constants")
    assert (weight["read by"], weight["changed"], weight["largest change"]) == ("conv", 25, 0.5)
    assert weight["SNR"] == pytest.approx(10 * np.log10(30 / 0.25), abs=0.01)
    grids = table(section(data, "values"), "Scales and zero points")
    assert [(g["read by"], g["what"], g["before"], g["after"]) for g in grids] == [
        ("q", "scale", 0.5, 0.25),
        ("d", "scale", 0.5, 0.25),
    ]
    assert [row["node"] for row in table(section(data, "removed"), "Removed nodes")] == ["bn"]
    assert [row["node"] for row in table(section(data, "added"), "Added nodes")] == ["clip"]
    steps = data["graph"]["steps"]
    assert [step["title"] for step in steps] == ["one", "two"]
    assert [data["graph"]["nodes"][k]["name"] for k in steps[1]["removed"]] == ["bn"]


def test_equal_models_make_a_page_that_says_so(models: tuple[ModelProto, ModelProto], tmp_path: Path) -> None:
    graphopt.diff(models[0], models[0]).save_report(tmp_path / "same.html")
    data = report_data(tmp_path / "same.html")
    assert [s["id"] for s in data["sections"]] == ["summary"]
    assert data["sections"][0]["text"] == ["The same nodes, with the same attributes and values."]
    with pytest.raises(EmitError):
        graphopt.diff(*models).save_report(tmp_path / "nowhere" / "page.html")


def test_what_a_node_was_called_is_said_once(models: tuple[ModelProto, ModelProto], tmp_path: Path) -> None:
    other = parser.parse_model(FIRST.replace("[act]", "[slope]").replace("alpha = 0.1", "alpha = 0.3"))
    graphopt.diff(models[0], other).save_report(tmp_path / "named.html")
    (row,) = table(section(report_data(tmp_path / "named.html"), "changed"), "Changed nodes")
    assert (row["node"], row["was called"], row["what"]) == ("slope", "act", "alpha: 0.1 → 0.3")


def test_the_command_writes_it_or_says_why_not(
    models: tuple[ModelProto, ModelProto], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (tmp_path / name for name in ("a.onnx", "b.onnx"))
    for path, model in zip((first, second), models, strict=True):
        path.write_bytes(model.SerializeToString())
    assert main(["diff", str(first), str(second), "--html", str(tmp_path / "d.html"), "-q"]) == 0
    assert report_data(tmp_path / "d.html")["title"] == f"{first} → {second}"
    assert main(["diff", str(first), str(second), "--html", str(tmp_path / "d.txt")]) == 1
    assert "give a name that ends in .html" in capsys.readouterr().err


def test_tables_lead_to_the_graph_of_the_model_that_has_the_node(browser_page: Page, page_file: Path) -> None:
    browser_page.goto(page_file.as_uri())
    browser_page.locator("html[data-graph=ready]").wait_for()
    steps = {"one": "0", "two": "1"}
    for name, node, model in (("removed", "bn", "one"), ("added", "clip", "two"), ("values", "q", "one")):
        found = browser_page.locator(f"#{name}")
        found.scroll_into_view_if_needed()
        found.locator(".tabulator-row").get_by_role("link", name=node, exact=True).click()
        browser_page.get_by_label("Details").locator("dd").first.and_(browser_page.get_by_text(node)).wait_for()
        assert browser_page.get_by_label("Step", exact=True).input_value() == steps[model]
