"""Chromium, driven by playwright, and a page that is open in it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from playwright.async_api import Browser, Page, async_playwright, expect

from tests.support import PATIENCE_SECONDS

_PATIENCE_MS: Final = PATIENCE_SECONDS * 1000


@asynccontextmanager
async def chromium(path: str) -> AsyncIterator[Browser]:
    """Start the browser that stands at `path`."""
    expect.set_options(timeout=_PATIENCE_MS)
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium has none for root
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=sandbox, timeout=_PATIENCE_MS)
        yield browser
        await browser.close()


class Visit:
    """One open page and everything that it complained of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))


async def new_page(browser: Browser, **options: Any) -> Page:
    """Open an empty page of its own; `options` are those of playwright's `new_page`."""
    page = await browser.new_page(**options)
    page.set_default_timeout(_PATIENCE_MS)
    return page


async def visit(browser: Browser, url: str, *, width: int = 1200) -> Visit:
    """Open a page of its own."""
    seen = Visit(await new_page(browser, viewport={"width": width, "height": 900}))
    await seen.page.goto(url)
    return seen
