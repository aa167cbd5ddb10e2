"""What all tests share."""

from __future__ import annotations

import pytest

from tests.support.browser import browser, browser_page

__all__ = ["browser", "browser_page"]


@pytest.hookimpl(tryfirst=True)  # before the hook in which xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of pages run in one worker, so that one browser is started."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("browser"))
