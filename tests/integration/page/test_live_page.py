"""The live page in a real browser: what it shows, that it stays quiet, and that it comes back."""

from __future__ import annotations

import asyncio
import socket

import pytest
from playwright.async_api import Browser, expect

from qorzen_obs.settings import ServerSettings
from qorzen_obs.tasks import CategoryName
from tests.integration.page.tasks import failing, working
from tests.services.browser import visit
from tests.services.ops_plane import TOKEN, SaidManager, managing, serving

pytestmark = pytest.mark.slow  # programs of their own, which no version of Python makes another


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
        await expect(page).to_have_title(f"qorzen-obs on {socket.gethostname()}: 1 running")
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

        await page.locator("#failed").get_by_role("link", name="backup.write").click()
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


async def test_the_page_says_when_the_service_is_gone_and_comes_back_with_it(browser: Browser) -> None:
    async with managing() as (manager, spans):
        async with serving(manager, spans=spans) as plane:
            seen = await visit(browser, plane.url)
            await expect(seen.page.locator("#state")).to_have_text("ready")
            assert seen.complaints == []
        await expect(seen.page.locator("#stale")).to_contain_text("The service does not answer.")
        settings = ServerSettings(port=plane.port)
        async with serving(manager, spans=spans, settings=settings):
            await expect(seen.page.locator("#stale")).to_be_hidden()
            await manager.wait_for_task(await manager.submit_task(failing, "", name="after.the.return"))
            await expect(seen.page.locator("#ended")).to_contain_text("after.the.return")


#: The colours of what the header shows, and that of what is well.
COLOURS = """
() => {
  const colour = (element) => getComputedStyle(element, "::before").backgroundColor;
  const sample = document.body.appendChild(document.createElement("i"));
  sample.style.backgroundColor = "var(--completed)";
  const good = getComputedStyle(sample).backgroundColor;
  sample.remove();
  return [good, ["#state", "#health", "#connection"].map((id) => colour(document.querySelector(id)))];
}
"""


async def test_the_header_is_green_while_all_is_well_and_neither_while_blocked_nor_offline(
    browser: Browser,
) -> None:
    said = SaidManager()
    async with serving(said) as plane:
        page = (await visit(browser, plane.url)).page
        await expect(page.locator("#health")).to_have_text("healthy")
        good, shown = await page.evaluate(COLOURS)
        assert shown == [good, good, good]
        said.blocked = 31.0
        await expect(page.locator("#health")).to_have_text("failing")
        good, shown = await page.evaluate(COLOURS)
        assert good not in shown
        said.blocked = 0.0
        await expect(page.locator("#health")).to_have_text("healthy")
    await expect(page.locator("#stale")).to_be_visible()
    await expect(page.locator("#state")).to_have_attribute("data-state", "unknown")
    good, shown = await page.evaluate(COLOURS)
    assert good not in shown


async def test_a_short_stall_of_the_loop_has_no_banner_and_a_long_one_has(browser: Browser) -> None:
    said = SaidManager(blocked=0.2)
    async with serving(said) as plane:
        page = (await visit(browser, plane.url)).page
        await expect(page.locator("#health")).to_have_text("degraded")
        await expect(page.locator(".banner")).to_have_count(0)
        said.blocked = 0.6
        await expect(page.locator(".banner")).to_contain_text("The work loop is blocked for 600 ms")


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
        await expect(page.locator("#stale")).to_be_hidden()
        await expect(page.locator(".tile.failed strong")).to_have_text("1")
        await expect(page.locator("#ended")).to_contain_text("of.the.second")
        await expect(page.locator("#ended")).not_to_contain_text("of.the.first")


async def test_a_view_that_fails_leaves_the_others(browser: Browser) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        page = (await visit(browser, "about:blank")).page
        await page.route("**/api/pending", lambda route: route.fulfill(json={}))
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
        await expect(page.locator("#warnings")).to_contain_text("The queue is full.")
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
        kinds: list[tuple[str, CategoryName]] = [("import.a", "io"), ("import.b", "io"), ("report", "user")]
        for name, category in kinds:
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
