"""A headless Chromium for the tests of pages, and a page that lets no error and no request pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from benchmarks._browser import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LOCAL = ("file:", "blob:", "data:", "about:")


@pytest.fixture(scope="module")  # while Playwright is open, nothing else in its thread can run an event loop
def browser() -> Iterator[Browser]:
    pytest.importorskip("playwright.sync_api", reason="Playwright isn't installed: pip install -e '.[test]'")
    try:
        with chromium() as opened:
            yield opened
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def browser_page(browser: Browser) -> Iterator[Page]:
    """A page of 1400 × 1000 in the light theme. Errors in the console, uncaught ones and requests fail the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, color_scheme="light", offline=True)
    page = context.new_page()
    page.set_default_timeout(20_000)
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(LOCAL) else found.append(request.url))
    yield page
    context.close()
    assert found == []
