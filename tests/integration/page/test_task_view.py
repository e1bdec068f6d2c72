"""The view of one task in a real browser: what it shows while the task runs, and what can be done there."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

import pytest
from opentelemetry import trace
from playwright.async_api import Browser, Locator, expect

from qorzen_obs import Retry, TaskManager, task
from qorzen_obs.settings import ServerSettings
from qorzen_obs.telemetry.span_store import SpanStore
from tests.integration.page.tasks import PAYLOAD, failing, working
from tests.services.browser import visit
from tests.services.ops_plane import managing, serving

pytestmark = pytest.mark.slow

READER = "may-read-and-no-more"


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


@task(retry=Retry(max_attempts=3, backoff=lambda attempt, source: 0.01))
async def never_there() -> None:
    raise ConnectionError("no such host")


async def test_each_attempt_is_shown_with_its_error_and_its_own_row_in_the_waterfall(
    browser: Browser,
) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        task_id = await manager.submit_task(never_there, name="mail.send")
        await manager.wait_for_task(task_id)
        seen = await visit(browser, f"{plane.url}/#/tasks/{task_id}")
        page = seen.page
        attempts = page.locator("#attempts tbody tr")
        await expect(attempts).to_have_count(3)
        await expect(attempts.first).to_contain_text("ConnectionError: no such host")
        rows = page.locator(".waterfall-names button")
        await expect(rows).to_have_count(3)
        await expect(rows.nth(2)).to_contain_text("run mail.send (attempt 3)")
        await attempts.nth(1).get_by_role("link", name="open").click()
        await expect(page.locator(".waterfall-names button")).to_contain_text("run mail.send (attempt 2)")
        assert seen.complaints == []
        await page.close()


async def buy(manager: TaskManager) -> None:
    """A task with others below it, one of them in a thread, and an event."""
    trace.get_current_span().add_event("paid", {"euros": 3})
    await manager.run(time.sleep, 0.03, name="price")
    await manager.run(asyncio.sleep, 0.01, name="reserve")


async def test_a_task_shows_its_log_and_then_itself_and_what_lies_below_it(browser: Browser) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        root = await manager.submit_task(manager.run, partial(buy, manager), name="checkout")
        await manager.wait_for_task(root)
        (order,) = [one for one in await manager.get_tasks() if one.name.endswith("buy")]
        seen = await visit(browser, f"{plane.url}/#/tasks/{order.task_id}")
        page = seen.page
        await expect(page.locator(".waterfall-names button")).to_have_count(3)
        sections = await page.locator("main section[id]").evaluate_all("all => all.map((one) => one.id)")
        assert sections.index("logs") < sections.index("trace")
        await page.get_by_role("link", name="The whole trace").click()
        await expect(page.locator(".waterfall-names button")).to_have_count(4)
        assert seen.complaints == []
        await page.close()


async def test_what_is_missing_of_a_task_is_said_to_be_too_early_or_too_late(browser: Browser) -> None:
    async with (
        managing(keep_completed_tasks=0, max_concurrent_tasks=1) as (manager, _),
        serving(manager, spans=SpanStore()) as plane,
    ):
        gate = asyncio.Event()
        task_id = await manager.submit_task(gate.wait)
        seen = await visit(browser, f"{plane.url}/#/tasks/{task_id}")
        await expect(seen.page.locator("#trace")).to_contain_text("Too early")
        await expect(seen.page.locator("#logs")).to_contain_text("Too early")
        gate.set()
        await manager.wait_for_task(task_id)
        await expect(seen.page.locator("#trace")).to_contain_text("Too late")
        await expect(seen.page.locator("#logs")).to_contain_text("Too late")
        await expect(seen.page.locator("#evicted")).to_contain_text("only its outline is kept")
        assert seen.complaints == []
        await seen.page.close()


async def zoomed(shown: Locator) -> str:
    """What part of the trace is seen, in words."""
    return await shown.inner_text()


async def test_a_waterfall_explains_its_colours_and_is_zoomed_by_keys_wheel_and_drag(
    browser: Browser,
) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        task_id = await manager.submit_task(
            buy, manager, name="order", metadata={"sum": 3, "password": "x1y2"}
        )
        await manager.wait_for_task(task_id)
        seen = await visit(browser, f"{plane.url}/#/tasks/{task_id}")
        page = seen.page
        names = page.locator(".waterfall-names button")
        await expect(names).to_have_count(3)  # what was submitted is on the row of what ran
        for words in ("on the loop", "in a thread", "event", "critical path"):
            await expect(page.locator(".waterfall-legend")).to_contain_text(words)
        await expect(page.locator("#metadata")).to_contain_text("sum")
        await expect(page.locator("#metadata")).not_to_contain_text("x1y2")

        shown, drawing = page.locator(".waterfall-bar > span"), page.locator(".waterfall svg")
        whole = await zoomed(shown)
        await names.first.press("+")
        await expect(shown).not_to_have_text(whole)
        nearer = await zoomed(shown)
        await names.first.press("ArrowRight")
        await expect(shown).not_to_have_text(nearer)
        await names.first.press("0")
        await expect(shown).to_have_text(whole)
        box = await drawing.bounding_box()
        assert box is not None
        await page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 10)
        await page.keyboard.down("Control")
        await page.mouse.wheel(0, -100)
        await page.keyboard.up("Control")
        await expect(shown).not_to_have_text(whole)
        nearer = await zoomed(shown)
        await page.mouse.down()
        await page.mouse.move(box["x"] + 20, box["y"] + 10, steps=4)
        await page.mouse.up()
        await expect(shown).not_to_have_text(nearer)
        await page.get_by_role("button", name="Reset").click()
        await expect(shown).to_have_text(whole)
        assert seen.complaints == []
        await page.close()


async def test_a_pending_task_says_what_holds_it_and_a_failed_one_is_run_again(browser: Browser) -> None:
    gate, reported = asyncio.Event(), asyncio.Event()
    async with (
        managing(category_limits={"io": 1}) as (manager, spans),
        serving(manager, spans=spans) as plane,
    ):
        failed = await manager.submit_task(failing, "no paper", name="print")
        await manager.wait_for_task(failed)
        await manager.submit_task(working, gate, reported, category="io")
        await reported.wait()
        waiting = await manager.submit_task(asyncio.sleep, 0, category="io")
        seen = await visit(browser, f"{plane.url}/#/tasks/{waiting}")
        page = seen.page
        await expect(page.locator("#why")).to_contain_text("Held by tasks.category_limits.io.")
        gate.set()
        await expect(page.locator("#task .chip")).to_contain_text("completed")
        await expect(page.locator("#why")).to_have_count(0)

        await page.goto(f"{plane.url}/#/tasks/{failed}")
        await page.get_by_role("button", name="Run again").click()
        await expect(page.locator("#task")).to_contain_text("rerun of")
        await expect(page.locator("#task .chip")).to_contain_text("failed")
        assert failed not in page.url
        assert seen.complaints == []
        await page.close()


async def test_who_may_only_read_is_offered_no_cancelling(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.touch(mode=0o600)
    file.write_text(f"{READER} read\n", encoding="utf-8")
    settings = ServerSettings(port=0, token_file=str(file))
    gate, reported = asyncio.Event(), asyncio.Event()
    async with managing() as (manager, spans), serving(manager, spans=spans, settings=settings) as plane:
        task_id = await manager.submit_task(working, gate, reported, name="report")
        await reported.wait()
        page = (await visit(browser, f"{plane.url}/#/tasks/{task_id}")).page
        await page.get_by_label("Token").fill(READER)
        await page.get_by_role("button", name="Open").click()
        await expect(page.locator("#stack pre").first).to_contain_text("in working")
        await expect(page.get_by_role("button", name="Copy id")).to_be_visible()
        await expect(page.get_by_role("button", name="Cancel", exact=True)).to_have_count(0)
        gate.set()
        await page.close()
