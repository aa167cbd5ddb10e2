"""A headless Chromium for the tests of pages, and a page that lets no error and no request pass."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# The sandbox needs rights that containers lack; QUIC and the rest would use the network on their own.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LOCAL = ("file:", "blob:", "data:", "about:")


def chromium_path(own: str) -> str | None:
    """The browser: what GRAPHOPT_CHROMIUM names, or one in PATH, or `own`, which Playwright may have downloaded."""
    named = os.environ.get("GRAPHOPT_CHROMIUM")
    if named:
        return named
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    return next((path for path in [*found, own] if path and Path(path).exists()), None)


@pytest.fixture(scope="module")  # while Playwright is open, nothing else in its thread can run an event loop
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright isn't installed: pip install -e '.[test]'")
    with sync_api.sync_playwright() as playwright:
        path = chromium_path(playwright.chromium.executable_path)
        if path is None:
            pytest.skip("no Chromium in PATH: install it, or name one in GRAPHOPT_CHROMIUM")
        opened = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield opened
        opened.close()


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
