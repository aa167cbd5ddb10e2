"""A headless Chromium for pages from disk, with Playwright (`pip install 'graphopt[test]'`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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
MISSING = "no Chromium in PATH: install it, or name one in GRAPHOPT_CHROMIUM"


def chromium_path(own: str) -> str | None:
    """The browser: what GRAPHOPT_CHROMIUM names, or one in PATH, or `own`, which Playwright may have downloaded."""
    named = os.environ.get("GRAPHOPT_CHROMIUM")
    if named:
        return named
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    return next((path for path in [*found, own] if path and Path(path).exists()), None)


@contextmanager
def chromium() -> Generator[Browser]:
    """A running browser.

    Raises:
        FileNotFoundError: there is none.
    """
    from playwright.sync_api import sync_playwright  # in the extra test

    with sync_playwright() as playwright:
        path = chromium_path(playwright.chromium.executable_path)
        if path is None:
            raise FileNotFoundError(MISSING)
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()
