"""HTML reports read back: the data that a page holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def report_data(path: Path) -> dict[str, Any]:
    """The JSON in a report, read strictly: no NaN, no infinity."""
    found = re.search(r'<script type="application/json" id="payload">(.*?)</script>', path.read_text(encoding="utf-8"))
    assert found is not None
    return json.loads(found[1], parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))


def section(data: dict[str, Any], name: str) -> dict[str, Any]:
    """The section of this id; there must be one."""
    (found,) = [s for s in data["sections"] if s["id"] == name]
    return found


def table(section_data: dict[str, Any], title: str) -> list[dict[str, Any]]:
    """The rows of a table, each as column → cell."""
    (found,) = [t for t in section_data["tables"] if t["title"] == title]
    names = [column["title"] for column in found["columns"]]
    return [dict(zip(names, row, strict=True)) for row in found["rows"]]
