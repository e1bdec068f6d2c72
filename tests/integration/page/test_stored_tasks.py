"""What the page says of earlier processes: what they have lost, and their tasks."""

from __future__ import annotations

import time

import pytest
from playwright.async_api import Browser, expect

from qorzen_obs.history.base import Loss
from qorzen_obs.tasks import FAILED, TaskCategory
from tests.histories import accepted, end, run
from tests.services.browser import visit
from tests.services.ops_plane import SaidManager, managing, serving
from tests.services.stored_tasks import BrokenStore, ListedStore, StoringManager

pytestmark = pytest.mark.slow

TASK = "0a" * 16


def loss(instance: str, *, running: int, noticed_at: float | None = None) -> Loss:
    at = time.time() if noticed_at is None else noticed_at
    return Loss(
        instance=instance,
        started_at=at - 60,
        last_seen_at=at - 5,
        noticed_at=at,
        running=running,
        pending=0,
        by_category={TaskCategory.CORE: running},
    )


async def test_the_first_screen_after_a_crash_says_what_was_lost(browser: Browser) -> None:
    lost = end(run(accepted(TASK, name="copy")), FAILED, error="it was running", error_type="lost").info()
    store = ListedStore([lost])
    losses = [loss("first", running=2)]
    async with managing() as (manager, _), serving(StoringManager(manager, store, losses)) as plane:
        page = (await visit(browser, plane.url)).page
        banner = page.locator("#lost")
        await expect(banner).to_contain_text("2 tasks were lost when the process ended at")
        await expect(page.locator(".banner")).to_have_count(1)
        await banner.get_by_role("link").click()
        await page.locator("#tasks a.task-name").click()
        await expect(page.locator("#stored")).to_be_visible()
        await expect(page.locator("#error")).to_contain_text("it was running")
        await expect(page.get_by_role("button", name="Run again")).to_have_count(0)


async def test_a_loss_is_no_banner_beside_a_problem_nor_without_tasks_nor_for_ever(browser: Browser) -> None:
    losses = (loss("first", running=0), loss("second", running=1, noticed_at=time.time() - 90_000))
    async with serving(SaidManager(losses=losses)) as plane:
        page = (await visit(browser, plane.url)).page
        await expect(page.locator("#state")).to_be_visible()
        await expect(page.locator(".banner")).to_have_count(0)
    async with serving(SaidManager(losses=(loss("first", running=1),), depth=99)) as plane:
        page = (await visit(browser, plane.url)).page
        await expect(page.locator(".banner")).to_contain_text("The queue is almost full.")
        await expect(page.locator("#lost")).to_have_count(0)


async def test_the_list_says_that_stored_tasks_are_missing(browser: Browser) -> None:
    async with managing() as (manager, _), serving(StoringManager(manager, BrokenStore())) as plane:
        page = (await visit(browser, f"{plane.url}/#/tasks")).page
        await expect(page.locator("#unavailable")).to_contain_text("cannot be read now")
