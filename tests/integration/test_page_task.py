"""The view of one task in a real browser: what it shows while the task runs, and what can be done there."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Browser, expect

from tests.integration.test_page import PAYLOAD, browser, failing, visit, working
from tests.ops_plane import managing, serving

__all__ = ["browser"]  # the fixture
pytestmark = pytest.mark.slow


async def test_a_running_task_is_seen_into_and_cancelled_once_confirmed(browser: Browser) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        done = asyncio.Event()
        task_id = await manager.submit_task(working, asyncio.Event(), done, name="report")
        await done.wait()
        seen = await visit(browser, f"{plane.url}/#/tasks/{task_id}")
        page = seen.page
        await expect(page.locator("#task .chip")).to_contain_text("running")
        await expect(page.locator("#task")).to_contain_text("4 of 10 files")
        await expect(page.locator("#stack pre").first).to_contain_text("in working")
        await expect(page.locator("#ledger")).to_contain_text("await")
        await page.get_by_role("button", name="Cancel", exact=True).click()
        await page.get_by_role("button", name="Keep it").click()
        await expect(page.locator("#task .chip")).to_contain_text("running")
        await page.get_by_role("button", name="Cancel", exact=True).click()
        await page.get_by_role("button", name="Cancel the task").click()
        await expect(page.locator("#task .chip")).to_contain_text("cancelled")
        await expect(page.locator("#logs")).to_contain_text("task.finished")
        assert seen.complaints == []
        await page.close()


async def test_markup_in_a_failed_task_is_shown_as_the_text_that_it_is(browser: Browser) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        task_id = await manager.submit_task(failing, PAYLOAD, name=PAYLOAD)
        await manager.wait_for_task(task_id)
        seen = await visit(browser, f"{plane.url}/#/tasks/{task_id}", width=375)
        await expect(seen.page.locator("h1")).to_have_text(PAYLOAD)
        await expect(seen.page.locator("#error")).to_contain_text(PAYLOAD)
        await seen.page.locator(".waterfall-names button").first.click()
        await expect(seen.page.locator(".span-details")).to_contain_text("qorzen.task.id")
        assert await seen.page.evaluate("document.documentElement.scrollWidth") <= 375
        assert seen.complaints == []
        await seen.page.close()
