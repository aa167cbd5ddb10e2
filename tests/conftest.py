"""What all tests share."""

from __future__ import annotations

import os

import pytest

from tests.support.browser import browser, browser_page

# Before numpy is imported. OpenBLAS's threads wait by spinning: with as many workers as cores an eigendecomposition of
# 0.05 s takes seconds.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__all__ = ["browser", "browser_page"]


@pytest.hookimpl(tryfirst=True)  # before the hook in which xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of pages run in one worker, so that one browser is started."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("browser"))
