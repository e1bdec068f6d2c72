"""The live page in a real browser: what it shows, that it stays quiet, and that it comes back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from qorzen_obs.current import current_task
from qorzen_obs.settings import ServerSettings
from tests.conftest import require
from tests.ops_plane import TOKEN, SaidManager, managing, serving

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


async def test_a_line_of_a_task_s_name_has_room_for_its_underscores(browser: Browser) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        task_id = await manager.submit_task(failing, "", name="report_of_a_year")
        await manager.wait_for_task(task_id)
        seen = await visit(browser, plane.url, width=1280)
        name = seen.page.locator("#ended .name > button")
        await expect(name).to_have_text("report_of_a_year")
        line, font = await name.evaluate(
            "node => ['lineHeight', 'fontSize'].map(of => parseFloat(getComputedStyle(node)[of]))"
        )
        assert line / font == pytest.approx(1.4, abs=0.01)
        await seen.page.close()


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
        running = page.locator("#running tr")
        await expect(running).to_have_count(1)
        await expect(running).to_contain_text("invoices.import")
        await expect(running).to_contain_text("40 % · 4 of 10 files")
        await expect(running.locator("progress")).to_have_js_property("value", 40)
        await expect(page.locator("#pending tr")).to_contain_text("report.build")
        await expect(page.locator("#ended tr")).to_contain_text("ValueError: the disk is full")
        await expect(page.locator(".tile.failed")).to_contain_text("1")
        await expect(page.locator("#oldest")).to_contain_text("The oldest waits")
        await expect(page.locator("#slots li").first).to_contain_text("1 / 1")
        link = page.locator("#ended tr a")
        await expect(link).to_have_attribute("href", f"api/tasks/{failed}/trace")

        await page.get_by_role("button", name="backup.write").click()
        await expect(page.get_by_role("dialog")).to_contain_text("the disk is full")
        await expect(page.get_by_role("dialog")).to_contain_text("Traceback")
        await page.get_by_role("button", name="Close").click()

        gate.set()
        await manager.wait_for_task(waiting)
        await expect(page.locator("#ended tr")).to_have_count(3)
        await expect(page.locator("#running")).to_be_empty()
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
        await expect(page.locator("#ended tr")).to_have_count(1)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
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
        await page.locator("#ended .name button").click()
        await expect(page.locator("#details-name")).to_have_text(PAYLOAD)
        await expect(page.locator("main img, dialog img, main script, dialog script")).to_have_count(0)
        assert seen.complaints == []
        gate.set()


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
            await expect(seen.page.locator("#stale")).to_be_hidden()


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
        await expect(page.locator("main")).to_be_hidden()

        await page.get_by_label("Token").fill(TOKEN)
        await page.get_by_role("button", name="Open").click()
        await expect(page.locator("#ended tr")).to_contain_text("mail.send")
        await page.locator("#ended tr a").click()  # a link cannot carry the token: the page asks and shows
        await expect(page.get_by_role("dialog")).to_contain_text('"name": "run mail.send"')
        kept = "[localStorage.length, sessionStorage.length, document.cookie, location.href].join()"
        assert await page.evaluate(kept) == f"0,0,,{plane.url}/"
