"""A real browser for tests: Debian's Chromium without a window, driven by playwright."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Page, async_playwright

CHROMIUM = shutil.which("chromium")
NO_CHROMIUM = "no chromium is installed (apt-get install chromium)"


@dataclass(frozen=True, slots=True)
class Tab:
    """One page, and what the browser complained about: errors, warnings and failed requests."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)


@asynccontextmanager
async def open_tab(**options: Any) -> AsyncIterator[Tab]:
    """A tab of a fresh browser, which has no cookies, no cache and no extensions.

    `options` are those of playwright's `Browser.new_page`, such as `java_script_enabled`.
    """
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            # As root, Chromium starts only without its sandbox. It opens pages of the test alone.
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        try:
            tab = Tab(await browser.new_page(**options))
            tab.page.on("console", lambda message: _note(tab, message.type, message.text))
            tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
            tab.page.on("requestfailed", lambda request: tab.complaints.append(request.url))
            tab.page.on("request", lambda request: tab.requested.append(request.url))
            yield tab
        finally:
            await browser.close()


def _note(tab: Tab, kind: str, text: str) -> None:
    if kind in {"error", "warning"}:
        tab.complaints.append(f"{kind}: {text}")
