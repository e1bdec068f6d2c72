"""Chromium, driven by playwright, and a page that is open in it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, Page, async_playwright


@asynccontextmanager
async def chromium(path: str) -> AsyncIterator[Browser]:
    """Start the browser that stands at `path`."""
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium has none for root
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=sandbox)
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


async def visit(browser: Browser, url: str, *, width: int = 1200) -> Visit:
    """Open a page of its own."""
    seen = Visit(await browser.new_page(viewport={"width": width, "height": 900}))
    await seen.page.goto(url)
    return seen
