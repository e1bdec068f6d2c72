"""The live page in a real browser: what it shows, that it stays quiet, and that it comes back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry import trace
from playwright.async_api import Browser, Page, async_playwright, expect

from qorzen_obs.current import current_task
from qorzen_obs.settings import ServerSettings
from tests.conftest import require
from tests.services.ops_plane import TOKEN, SaidManager, managing, serving

pytestmark = pytest.mark.slow  # programs of their own, which no version of Python makes another

PAYLOAD = '<img src=x onerror="alert(1)"><script>alert(2)</script>'


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = require("chromium", "apt-get install chromium")
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
    visit = Visit(await browser.new_page(viewport={"width": width, "height": 900}))
    await visit.page.goto(url)
    return visit


async def working(gate: asyncio.Event, done: asyncio.Event) -> None:
    current_task().progress(40, "4 of 10 files")
    done.set()
    await gate.wait()


async def failing(message: str) -> None:
    raise ValueError(message)


async def test_the_page_shows_what_runs_waits_and_has_failed(browser: Browser) -> None:
    gate, reported = asyncio.Event(), asyncio.Event()
    async with managing(max_concurrent_tasks=1) as (manager, spans), serving(manager, spans=spans) as plane:
        failed = await manager.submit_task(failing, "the disk is full", name="backup.write", priority="high")
        await manager.wait_for_task(failed)
        await manager.submit_task(working, gate, reported, name="invoices.import", category="io")
        await reported.wait()
        waiting = await manager.submit_task(failing, "", name="report.build", priority="critical")

        seen = await visit(browser, plane.url)
        page = seen.page
        await expect(page.locator("#state")).to_have_text("ready")
        await expect(page).to_have_title("Tasks: 1 running")
        running = page.locator("#running tbody tr")
        await expect(running).to_have_count(1)
        await expect(running).to_contain_text("invoices.import")
        await expect(running).to_contain_text("40 % · 4 of 10 files")
        await expect(running.locator("progress")).to_have_js_property("value", 40)
        critical = page.locator("#pending tbody tr", has_text="critical")
        await expect(critical.locator("td").nth(1)).to_have_text("1")
        await expect(critical.locator("td").nth(3).locator("a")).to_have_attribute(
            "href", f"#/tasks/{waiting}"
        )
        await expect(page.locator("#ended tbody tr")).to_contain_text("ValueError: the disk is full")
        await expect(page.locator(".tile.failed strong")).to_have_text("1")
        await expect(page.locator("#slots li").first).to_contain_text("1 / 1")

        await page.get_by_role("link", name="backup.write").click()
        await expect(page.locator("main")).to_contain_text("the disk is full")
        await expect(page.locator("main")).to_contain_text("Traceback")
        assert page.url.endswith(f"#/tasks/{failed}")
        await page.get_by_role("navigation").get_by_role("link", name="Now").click()

        gate.set()
        await manager.wait_for_task(waiting)
        await expect(page.locator("#ended tbody tr")).to_have_count(3)
        await expect(page.locator("#running tbody tr")).to_have_count(0)
        assert seen.complaints == []


@pytest.mark.parametrize("width", [375, 1200])
async def test_the_page_is_never_wider_than_its_window(browser: Browser, width: int) -> None:
    gate, reported = asyncio.Event(), asyncio.Event()
    name = "a.rather.long_name_of_a_task." * 6
    async with managing(max_concurrent_tasks=1) as (manager, spans), serving(manager, spans=spans) as plane:
        await manager.wait_for_task(await manager.submit_task(failing, "x" * 1000, name=name))
        await manager.submit_task(working, gate, reported, name=name)
        await manager.submit_task(working, gate, reported, name=name)
        page = (await visit(browser, plane.url, width=width)).page
        for view in ("now", "tasks", "traces", "health"):
            await page.goto(f"{plane.url}/#/{view}")
            await expect(page.locator("main h1")).to_have_count(1)
            await expect(page.locator("main table tbody tr").first).to_be_visible()
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, view
        gate.set()


async def test_t6_a_tasks_texts_are_never_markup(browser: Browser) -> None:
    gate, reported = asyncio.Event(), asyncio.Event()

    async def hostile() -> None:
        current_task().progress(1, PAYLOAD)
        reported.set()
        await gate.wait()

    async with managing(max_concurrent_tasks=1) as (manager, spans), serving(manager, spans=spans) as plane:
        failed = await manager.submit_task(failing, PAYLOAD, name=PAYLOAD, plugin_id=PAYLOAD)
        await manager.wait_for_task(failed)
        await manager.submit_task(hostile, name=PAYLOAD, plugin_id=PAYLOAD)
        await reported.wait()
        seen = await visit(browser, plane.url)
        page = seen.page
        for table in ("#running", "#ended"):
            await expect(page.locator(table)).to_contain_text(PAYLOAD)
        await page.goto(f"{plane.url}/#/tasks")
        await expect(page.locator("#tasks")).to_contain_text(PAYLOAD)
        await page.goto(f"{plane.url}/#/tasks/{failed}")
        await expect(page.locator("main h1")).to_contain_text(PAYLOAD)
        await expect(page.locator("main img, dialog img, main script, dialog script")).to_have_count(0)
        assert seen.complaints == []
        gate.set()


async def test_t6_no_field_of_any_view_is_markup(browser: Browser) -> None:
    """The payload in all that users choose or cause, and every view looked at."""
    gate, reported = asyncio.Event(), asyncio.Event()

    async def hostile() -> None:
        span = trace.get_current_span()
        span.update_name(PAYLOAD)
        span.set_attribute(PAYLOAD, PAYLOAD)
        span.add_event(PAYLOAD, {PAYLOAD: PAYLOAD})
        current_task().progress(1, PAYLOAD)
        reported.set()
        await gate.wait()
        raise type(PAYLOAD, (Exception,), {})(PAYLOAD)

    options: dict[str, Any] = {"name": PAYLOAD, "plugin_id": PAYLOAD, "metadata": {PAYLOAD: PAYLOAD}}
    async with managing(max_concurrent_tasks=1) as (manager, spans), serving(manager, spans=spans) as plane:

        async def ill() -> None:
            raise RuntimeError(PAYLOAD)

        manager.health.add(ill, critical=False)
        first = await manager.submit_task(hostile, **options)
        await reported.wait()
        cancelled = await manager.submit_task(hostile, **options)
        await manager.cancel_task(cancelled, reason=PAYLOAD)
        pending = await manager.submit_task(asyncio.sleep, 0, **options)
        manager.task_lines.add(first, PAYLOAD, PAYLOAD, {PAYLOAD: PAYLOAD}, "2026-01-01T00:00:00Z")
        seen = await visit(browser, plane.url)
        page = seen.page
        markup = page.locator("main img, dialog img, main script, dialog script, .banner img")
        for view in ("now", "tasks", f"tasks/{first}", f"tasks/{pending}", f"tasks/{cancelled}", "health"):
            await page.goto(f"{plane.url}/#/{view}")
            await expect(page.locator("main")).to_contain_text(PAYLOAD)
            await expect(markup).to_have_count(0)
        gate.set()
        info = await manager.wait_for_task(first)
        for view in (f"tasks/{first}", "traces", f"traces/{info.trace_id}"):
            await page.goto(f"{plane.url}/#/{view}")
            await expect(page.locator("main")).to_contain_text(PAYLOAD)
        await page.locator(".waterfall-names button").first.click()
        await expect(page.locator(".span-details")).to_contain_text(PAYLOAD)
        await expect(markup).to_have_count(0)
        assert seen.complaints == []


async def test_t6_the_page_can_make_no_markup_of_text(browser: Browser) -> None:
    """The policy holds even if the page's own script were careless."""
    async with serving(SaidManager()) as plane:
        page = (await visit(browser, plane.url)).page
        refused = (
            "(run) => { try { run(); return false } catch (error) { return error instanceof TypeError } }"
        )
        assert await page.evaluate(f"({refused})(() => {{ document.body.innerHTML = '<b>x</b>' }})")
        assert await page.evaluate(f"({refused})(() => trustedTypes.createPolicy('any', {{}}))")


async def test_the_page_says_when_the_service_is_gone_and_comes_back_with_it(browser: Browser) -> None:
    async with managing() as (manager, spans):
        async with serving(manager, spans=spans) as plane:
            seen = await visit(browser, plane.url)
            await expect(seen.page.locator("#state")).to_have_text("ready")
            assert seen.complaints == []
        await expect(seen.page.locator("#stale")).to_contain_text("The service does not answer.")
        settings = ServerSettings(port=plane.port)
        async with serving(manager, spans=spans, settings=settings):
            await expect(seen.page.locator("#stale")).to_be_hidden(timeout=15_000)
            await manager.wait_for_task(await manager.submit_task(failing, "", name="after.the.return"))
            await expect(seen.page.locator("#ended")).to_contain_text("after.the.return")


async def test_the_page_shows_the_next_service_after_a_restart(browser: Browser) -> None:
    async with managing() as (first, spans), serving(first, spans=spans) as plane:
        for _ in range(3):
            await first.wait_for_task(await first.submit_task(failing, "", name="of.the.first"))
        page = (await visit(browser, plane.url)).page
        await expect(page.locator(".tile.failed strong")).to_have_text("3")
        settings = ServerSettings(port=plane.port)
    await expect(page.locator("#stale")).to_be_visible()
    async with managing() as (second, spans), serving(second, spans=spans, settings=settings):
        await second.wait_for_task(await second.submit_task(failing, "", name="of.the.second"))
        await expect(page.locator("#stale")).to_be_hidden(timeout=15_000)
        await expect(page.locator(".tile.failed strong")).to_have_text("1")
        await expect(page.locator("#ended")).to_contain_text("of.the.second")
        await expect(page.locator("#ended")).not_to_contain_text("of.the.first")


async def test_a_view_that_fails_leaves_the_others(browser: Browser) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        page = (await visit(browser, "about:blank")).page
        await page.route("**/api/loop", lambda route: route.fulfill(json={"state": "blocked"}))
        await page.goto(plane.url)
        await expect(page.locator("main [role=alert]")).to_contain_text("This view has failed")
        await page.get_by_role("navigation").get_by_role("link", name="Tasks").click()
        await expect(page.locator("main h1")).to_contain_text("Tasks")


async def test_the_page_warns_of_what_health_warns_of(browser: Browser) -> None:
    gate, reported = asyncio.Event(), asyncio.Event()
    async with managing(max_concurrent_tasks=1, max_pending=1) as (manager, _), serving(manager) as plane:
        await manager.submit_task(working, gate, reported)
        await reported.wait()
        waiting = await manager.submit_task(working, gate, reported)
        page = (await visit(browser, plane.url)).page
        await expect(page.locator("#warnings")).to_contain_text("queue saturation: 1 of 1 places are taken")
        gate.set()
        await manager.wait_for_task(waiting)
        await expect(page.locator("#warnings")).to_be_hidden()


async def test_the_page_asks_for_the_token_and_keeps_it(browser: Browser) -> None:
    settings = ServerSettings(port=0, token=TOKEN)
    async with managing() as (manager, spans), serving(manager, spans=spans, settings=settings) as plane:
        task_id = await manager.submit_task(failing, "no such host", name="mail.send")
        await manager.wait_for_task(task_id)
        page = (await visit(browser, plane.url)).page
        await page.get_by_label("Token").fill("a wrong one")
        await page.get_by_role("button", name="Open").click()
        await expect(page.locator("#refused")).to_be_visible()
        await expect(page.locator("#ended")).to_have_count(0)

        await page.get_by_label("Token").fill(TOKEN)
        await page.get_by_role("button", name="Open").click()
        await page.goto(f"{plane.url}/#/tasks?status=failed")
        await expect(page.locator("#tasks")).to_contain_text("mail.send")
        kept = "[localStorage.length, sessionStorage.length, document.cookie].join()"
        assert await page.evaluate(kept) == "0,0,"
        assert TOKEN not in page.url


async def test_a_list_is_filtered_by_its_address_and_walked_by_keys(browser: Browser) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        for name, category in (("import.a", "io"), ("import.b", "io"), ("report", "user")):
            await manager.wait_for_task(
                await manager.submit_task(failing, name, name=name, category=category)
            )
        seen = await visit(browser, plane.url)
        page = seen.page
        await page.goto(f"{plane.url}/#/tasks?category=io&sort=name&way=up")
        names = page.locator("#tasks .task-name")
        await expect(names).to_have_text(["import.a", "import.b"])
        await page.keyboard.press("/")
        await page.keyboard.type("import.b")
        await expect(names).to_have_text(["import.b"])
        assert "q=import.b" in page.url, "what is seen is a link"
        await manager.wait_for_task(
            await manager.submit_task(failing, "", name="import.b again", category="io")
        )
        await expect(names).to_have_text(["import.b", "import.b again"])
        await page.keyboard.press("Escape")
        await page.keyboard.press("j")
        await page.keyboard.press("Enter")
        await expect(page.locator("main h1")).to_contain_text("import.b again")
        assert seen.complaints == []


async def test_a_long_list_has_only_the_rows_that_are_seen(browser: Browser) -> None:
    async with managing(keep_completed_tasks=3_000) as (manager, _), serving(manager) as plane:
        ids = [await manager.submit_task(asyncio.sleep, 0) for _ in range(3_000)]
        await manager.wait_for_task(ids[-1])
        page = (await visit(browser, f"{plane.url}/#/tasks")).page
        await expect(page.locator("#shown")).to_have_text("3,000")
        assert await page.locator("#tasks tr").count() < 100
        await page.locator(".scroll").evaluate("(box) => { box.scrollTop = box.scrollHeight }")
        await expect(page.locator('#tasks tr[aria-rowindex="3001"]')).to_be_visible()


async def test_new_tasks_wait_while_the_reader_is_in_the_middle_of_the_list(browser: Browser) -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        ids = [await manager.submit_task(asyncio.sleep, 0, name=f"old.{number}") for number in range(100)]
        await manager.wait_for_task(ids[-1])
        page = (await visit(browser, f"{plane.url}/#/tasks")).page
        await expect(page.locator("#shown")).to_have_text("100")
        await page.locator(".scroll").evaluate("(box) => { box.scrollTop = 1000 }")
        await expect(page.locator('#tasks tr[aria-rowindex="30"]')).to_be_visible()
        before = await page.locator('#tasks tr[aria-rowindex="30"]').inner_text()
        for number in range(3):
            await manager.wait_for_task(await manager.submit_task(asyncio.sleep, 0, name=f"new.{number}"))
        await expect(page.locator("#fresh")).to_have_text("3 new")
        assert await page.locator('#tasks tr[aria-rowindex="30"]').inner_text() == before
        await page.locator("#fresh").click()
        await expect(page.locator("#shown")).to_have_text("103")
        await expect(page.locator("#tasks .task-name").first).to_have_text("new.2")
        await expect(page.locator("#fresh")).to_have_count(0)


async def test_of_very_many_running_tasks_those_that_run_for_longest_are_seen(browser: Browser) -> None:
    gate = asyncio.Event()
    async with managing(max_concurrent_tasks=500) as (manager, spans), serving(manager, spans=spans) as plane:
        await manager.submit_task(gate.wait, name="the.oldest")
        for _ in range(299):
            await manager.submit_task(gate.wait, name="younger")
        page = (await visit(browser, plane.url)).page
        await expect(page.locator("#running tbody tr").first).to_contain_text("the.oldest")
        gate.set()
        await expect(page.locator("#running tbody tr")).to_have_count(0)


async def test_the_view_of_health_shows_checks_spans_and_settings(browser: Browser) -> None:
    async with managing(max_concurrent_tasks=7) as (manager, spans), serving(manager, spans=spans) as plane:
        seen = await visit(browser, f"{plane.url}/#/health")
        page = seen.page
        await expect(page.locator("#checks tbody tr").first).to_contain_text("pass")
        changed = page.locator("#settings tr", has_text="tasks.max_concurrent_tasks")
        await expect(changed).to_contain_text("7")
        await expect(changed).to_contain_text("changed")
        assert seen.complaints == []
