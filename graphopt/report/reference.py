"""The generated pages of docs/: `python -m graphopt.report.reference docs` writes them.

tests/test_reference.py holds each page and what it is made from together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from graphopt.report.pass_reference import pass_reference
from graphopt.report.target_reference import target_reference

PAGES: dict[str, Callable[[], str]] = {"passes.md": pass_reference, "targets.md": target_reference}

if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")
        print(f"wrote {folder / name}")
