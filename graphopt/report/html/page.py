"""The HTML report: one file with everything in it, which loads nothing and opens from disk.

The page is a template (assets/page.html) into which style sheets, scripts, libraries and the payload are written.
Its content security policy names the scripts by their hashes and allows no connection at all, so that a name from a
user's model could neither run nor load anything even if it got into the page as HTML.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from graphopt.ir.files import replacing
from graphopt.report.html.payload import Payload
from graphopt.report.summary import plain

_SHEETS = ("vendor/tabulator_simple.min.css", "page.css", "graph.css")
_HEAD = "theme.js"
"""Runs before anything is painted."""

_SCRIPTS = (
    "vendor/tabulator.min.js",
    "vendor/chart.umd.min.js",
    "vendor/cytoscape.min.js",
    "dom.js",
    "table_filters.js",
    "tables.js",
    "charts.js",
    "chart_view.js",
    "node_rows.js",
    "graph_model.js",
    "graph_visible.js",
    "graph_groups.js",
    "graph_ranks.js",
    "graph_slots.js",
    "graph_layout.js",
    "graph_worker.js",
    "graph_style.js",
    "graph_legend.js",
    "graph_toolbar.js",
    "graph_panel.js",
    "graph_canvas.js",
    "graph_view.js",
    "page.js",
)
_LIBRARIES = "Tabulator, Chart.js and Cytoscape.js"
_LICENCES = "vendor/LICENSES.md"
"""Goes where the libraries go, as they demand."""

_DIGITS = 6
"""Significant digits of numbers in the page: more than it shows anywhere."""

_SOURCE_MAP = re.compile(r"/[/*]# sourceMappingURL=\S+(?: \*/)?\s*$")


def report_html(payload: Payload) -> str:
    """The page that shows `payload`. The same payload gives the same text."""
    from jinja2 import Environment  # only a report needs it
    from markupsafe import Markup

    head = _asset(_HEAD)
    scripts = [(name, _asset(name)) for name in _SCRIPTS]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset("page.html")).render(
        payload=payload,
        policy=_policy([head, *(source for _, source in scripts)]),
        sheets=[Markup(_asset(name)) for name in _SHEETS],
        theme=Markup(head),
        libraries=_LIBRARIES,
        licences=_asset(_LICENCES),
        data=Markup(_json(payload)),
        scripts=[(name, Markup(source)) for name, source in scripts],
    )


def save_report(path: str | Path, payload: Payload) -> None:
    """Write the page that shows `payload` to `path`, whole or not at all.

    Raises:
        EmitError: it can't be written.
    """
    page = report_html(payload).encode(errors="replace")  # file names may hold bytes that aren't text
    with replacing(Path(path)) as file:
        file.write(page)


def _asset(name: str) -> str:
    text = files("graphopt.report.html").joinpath("assets", *name.split("/")).read_text(encoding="utf-8")
    return _SOURCE_MAP.sub("", text)  # browsers' tools would look for the map beside the report


def _policy(scripts: list[str]) -> str:
    """What the page may do. Layouts run in workers made of blobs; libraries set styles on elements."""
    hashes = " ".join(f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; worker-src blob:; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _json(payload: Payload) -> str:
    """`payload` as JSON that can stand in a script element: nothing in it can end that."""
    text = json.dumps(_rounded(plain(payload)), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _rounded(value: Any) -> Any:
    """`value` with its floats at six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_rounded(item) for item in cast("list[Any]", value)]
    return value
