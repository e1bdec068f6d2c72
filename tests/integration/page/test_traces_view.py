"""The view of traces in a real browser: found by name, and opened."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, expect

from tests.integration.page.test_live_page import browser, failing, visit
from tests.services.ops_plane import managing, serving

__all__ = ["browser"]  # the fixture
pytestmark = pytest.mark.slow


async def test_a_failed_trace_is_found_by_its_name_and_opened(browser: Browser) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        for name in ("report", "letter"):
            await manager.wait_for_task(await manager.submit_task(failing, "no paper", name=name))
        seen = await visit(browser, f"{plane.url}/#/traces")
        page = seen.page
        await expect(page.locator("#traces tbody tr")).to_have_count(2)
        await page.get_by_label("Name or id").fill("letter")
        await expect(page.locator("#traces tbody tr")).to_have_count(1)
        assert page.url.endswith("#/traces?sort=newest&q=letter")
        await page.get_by_role("link", name="run letter").click()
        span = page.locator(".waterfall-names button")
        await expect(span).to_contain_text("run letter")
        await span.click()
        await expect(page.locator(".span-details .error-text")).to_contain_text("no paper")
        assert seen.complaints == []
        await page.close()
