"""What the page says of earlier processes: what they have lost, and their tasks."""

from __future__ import annotations

import time
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from qorzen_obs.history.base import Loss
from qorzen_obs.tasks import FAILED, TaskAttempt, TaskCategory
from qorzen_obs.telemetry import names
from tests.histories import accepted, end, run
from tests.services.browser import visit
from tests.services.ops_plane import SaidManager, managing, serving
from tests.services.stored_tasks import BrokenStore, ListedStore, StoringManager

pytestmark = pytest.mark.slow

TASK = "0a" * 16
TRACE = "0b" * 16


def span(span_id: str, name: str, attributes: dict[str, str], parent_id: str = "") -> dict[str, Any]:
    """A span as it is stored."""
    return {
        "traceId": TRACE,
        "spanId": span_id,
        "parentSpanId": parent_id,
        "name": name,
        "kind": 1,
        "startTimeUnixNano": "1000000000",
        "endTimeUnixNano": "2000000000",
        "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()],
        "status": {},
    }


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


async def test_a_failure_of_an_earlier_process_has_its_attempts_its_log_and_its_waterfall(
    browser: Browser,
) -> None:
    tried = (
        TaskAttempt(number=1, engine="async", started_at=10.0, ended_at=11.0, error_type="OSError"),
        TaskAttempt(number=2, engine="async", started_at=12.0, ended_at=13.0, error_type="ValueError"),
    )
    failed = end(
        run(accepted(TASK, name="copy"), attempt=2), FAILED, error="no", error_type="ValueError"
    ).info()
    store = ListedStore([failed.replace(trace_id=TRACE, span_id="0c" * 8, attempts=tried)])
    store.lines[TASK] = [{"at": "2026-01-31T12:00:00Z", "level": "info", "event": "copies"}]
    store.traces[TRACE] = [
        span("0c" * 8, "run task", {names.TASK_ID: TASK}),
        span("0d" * 8, "fsync", {}, "0c" * 8),
    ]
    async with managing() as (manager, _), serving(StoringManager(manager, store)) as plane:
        seen = await visit(browser, f"{plane.url}/#/tasks/{TASK}")
        page = seen.page
        attempts = page.locator("#attempts tbody tr")
        await expect(attempts).to_have_count(2)
        await expect(attempts.first).to_contain_text("OSError")
        await expect(page.locator("#logs")).to_contain_text("copies")
        rows = page.locator(".waterfall-names button")
        await expect(rows).to_have_count(2)
        await expect(rows.nth(1)).to_contain_text("fsync")
        await page.get_by_role("link", name="The whole trace").click()
        await expect(page.locator(".waterfall-names button")).to_have_count(2)
        assert seen.complaints == []


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
