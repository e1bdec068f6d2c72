"""The view of this moment: what comes first, that its numbers agree, what it says of the service and of trouble."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from playwright.async_api import Browser, FloatRect, Locator, Page, expect

from qorzen_obs import TaskManager, with_options
from qorzen_obs.settings import ServerSettings
from tests.integration.page.tasks import failing, working
from tests.services.browser import new_page, visit
from tests.services.ops_plane import SaidManager, managing, serving
from tests.support import Gate

pytestmark = pytest.mark.slow

NAME = "invoices.import_from_sftp"


async def box(locator: Locator) -> FloatRect:
    """Return where something is drawn."""
    found = await locator.bounding_box()
    assert found is not None
    return found


async def bottom(locator: Locator) -> float:
    found = await box(locator)
    return found["y"] + found["height"]


async def opened(browser: Browser, url: str, width: int, height: int) -> Page:
    page = await new_page(browser, viewport={"width": width, "height": height})
    await page.goto(url)
    return page


async def parent(manager: TaskManager, gate: Gate) -> None:
    await manager.run(gate, name="the.child")


async def make_busy(manager: TaskManager, gate: Gate) -> None:
    """Let ten tasks fail, then 40 run and wait."""
    for _ in range(10):
        await manager.wait_for_task(await manager.submit_task(failing, "the disk is full", name=NAME))
    for _ in range(40):
        await manager.submit_task(gate, name=NAME, priority="high")
    await gate.holds(30)


async def test_what_runs_what_failed_last_and_the_charts_are_seen_without_scrolling(browser: Browser) -> None:
    gate = Gate()
    async with managing(max_concurrent_tasks=30) as (manager, spans), serving(manager, spans=spans) as plane:
        await make_busy(manager, gate)
        page = await opened(browser, plane.url, 1440, 900)
        charts = page.locator("#charts figure")
        await expect(charts).to_have_count(4)
        await expect(page.locator("#failed tbody tr")).to_have_count(6)
        await expect(page.locator("#running tbody tr")).to_have_count(6)
        for table in ("#running", "#failed"):
            assert await bottom(page.locator(table)) <= 900
        boxes = [await box(charts.nth(n)) for n in range(4)]
        assert len({one["y"] for one in boxes}) == 1, "one row"
        assert max(one["y"] + one["height"] for one in boxes) <= 900
        gaps = {round(after["x"] - before["x"] - before["width"]) for before, after in pairwise(boxes)}
        assert len(gaps) == 1, "no hole"
        gate.open()


async def test_on_a_phone_what_runs_and_what_failed_last_come_first(browser: Browser) -> None:
    gate = Gate()
    async with managing(max_concurrent_tasks=30) as (manager, spans), serving(manager, spans=spans) as plane:
        await make_busy(manager, gate)
        page = await opened(browser, plane.url, 390, 844)
        await expect(page.locator("#charts figure")).to_have_count(4)
        await expect(page.locator("#running tbody tr")).to_have_count(4)
        assert await bottom(page.locator("#running")) <= 844
        assert await bottom(page.locator("#failed tbody tr").first) <= 844
        assert await bottom(page.locator("#failed")) < (await box(page.locator("#charts")))["y"]
        gate.open()


@pytest.mark.parametrize("width", [390, 768, 1024])
async def test_large_counts_and_their_rates_stay_within_their_tiles(browser: Browser, width: int) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        page = await opened(browser, plane.url, width, 900)
        completed = page.locator(".tile.completed strong")
        await expect(completed).to_have_text("0")
        await page.evaluate("""async () => {
            const { store } = await import("./static/js/store.js");
            store.state.counts.by_status.completed = 12_345_678;
        }""")
        await manager.run(asyncio.sleep, 0)
        await expect(completed).to_have_text(re.compile(r"12,345,6\d\d"))
        outside = await page.evaluate("""() => [...document.querySelectorAll(".tile")].filter((tile) => {
            tile.querySelector(".rate").textContent = "+12,345/s";
            return [...tile.children].some((part) => part.getBoundingClientRect().right
                > tile.getBoundingClientRect().right);
        }).length""")
        assert outside == 0


async def test_no_slot_is_lent_once_nothing_runs(browser: Browser) -> None:
    gate = Gate()
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        await manager.submit_task(parent, manager, gate)
        await gate.holds(1)
        page = (await visit(browser, plane.url)).page
        await expect(page.locator("#slots li").first).to_contain_text("1 lent")
        await page.route("**/status", lambda route: route.abort())  # the last answer stays
        gate.open()
        await expect(page.locator(".tile.running strong")).to_have_text("0")
        await expect(page.locator("#slots li").first).not_to_contain_text("lent")


async def test_more_of_what_runs_is_one_press_away(browser: Browser) -> None:
    gate = Gate()
    async with managing(max_concurrent_tasks=30) as (manager, spans), serving(manager, spans=spans) as plane:
        await make_busy(manager, gate)
        page = await opened(browser, plane.url, 1440, 900)
        await page.get_by_role("button", name="Show 24 more").click()
        await expect(page.locator("#running tbody tr")).to_have_count(30)
        await page.get_by_role("button", name="Show fewer").click()
        await expect(page.locator("#running tbody tr")).to_have_count(6)
        gate.open()


@pytest.mark.parametrize("width", [390, 737, 768, 900, 1024, 1200])
async def test_running_tasks_keep_their_names_at_each_width(browser: Browser, width: int) -> None:
    gate, reported = asyncio.Event(), asyncio.Event()
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        await manager.wait_for_task(await manager.submit_task(failing, "x" * 200, name=NAME))
        await manager.submit_task(working, gate, reported, name=NAME)
        await reported.wait()
        page = await opened(browser, plane.url, width, 900)
        for table in ("#running", "#failed", "#ended"):
            cell = page.locator(f"{table} tbody td", has_text=NAME).first
            await cell.scroll_into_view_if_needed()
            assert (await box(cell))["width"] >= 130, table
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        gate.set()


async def test_the_header_says_which_service_this_is(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "orders")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=2.4.1")
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        page = (await visit(browser, plane.url)).page
        await expect(page).to_have_title(f"orders on {socket.gethostname()}: 0 running")
        await expect(page.locator(".brand")).to_have_text(re.compile(r"orders\s*2\.4\.1"))
        identity = page.locator("#identity")
        await expect(identity).to_contain_text(f"host {socket.gethostname()}")
        await expect(identity).to_contain_text(f"instance {manager.looks.event_ring.instance}")
        await expect(identity).to_contain_text(re.compile(r"up since \d\d:\d\d:\d\d"))
        settings = ServerSettings(port=plane.port)
    await expect(page.locator("#stale")).to_be_visible()
    async with managing() as (manager, spans), serving(manager, spans=spans, settings=settings):
        await expect(identity).to_contain_text(f"instance {manager.looks.event_ring.instance}")


async def test_a_long_wait_fits_into_the_list_of_tasks_on_a_phone(browser: Browser) -> None:
    gate = Gate()
    async with managing(max_concurrent_tasks=1) as (manager, spans), serving(manager, spans=spans) as plane:
        for _ in range(2):
            await manager.submit_task(gate)
        page = await opened(browser, f"{plane.url}/#/tasks", 390, 844)
        wait = page.locator("#tasks .pending-wait")
        await expect(wait).to_be_visible()
        over = await wait.evaluate(
            """node => {
                node.textContent = "waits 23 h 59 min";
                const cell = node.closest("td");
                return cell.scrollWidth - cell.clientWidth;
            }"""
        )
        assert over <= 0
        gate.open()


async def test_elapsed_times_stand_still_while_the_service_does_not_answer(browser: Browser) -> None:
    gate = Gate()
    async with managing() as (manager, spans):
        task_id = await manager.submit_task(gate, name="import")
        await gate.holds(1)
        async with serving(manager, spans=spans) as plane:
            seen = await visit(browser, plane.url)
            elapsed = seen.page.locator("#running tbody td.number").first
            await expect(elapsed).to_contain_text("s")
        stale = seen.page.locator("#stale")
        await expect(stale).to_contain_text("ago")
        at_first, since = await elapsed.text_content(), await stale.text_content()
        assert at_first is not None
        assert since is not None
        await expect(stale).not_to_have_text(since)
        await expect(elapsed).to_have_text(at_first)
        assert manager.find(task_id) is not None
        gate.open()


async def test_a_running_task_says_by_its_name_what_it_waits_for_and_where_it_runs(browser: Browser) -> None:
    gate = Gate()
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        await manager.submit_task(parent, manager, gate, name="the.parent", category="user")
        await gate.holds(1)
        page = (await visit(browser, plane.url)).page
        row = page.locator("#running tbody tr", has_text="the.parent")
        await expect(row).to_contain_text("waits for the.child")
        await expect(row).to_contain_text("user · normal · on the loop")
        await row.get_by_role("link", name="the.child").click()
        await expect(page.locator("main h1")).to_have_text("the.child")
        gate.open()


@asynccontextmanager
async def one_runs_and_one_waits() -> AsyncIterator[str]:
    """A service with two tasks, `runs` and `waits`; the address of its list of tasks."""
    gate = Gate()
    async with managing(max_concurrent_tasks=1) as (manager, spans), serving(manager, spans=spans) as plane:
        await manager.submit_task(gate, name="runs")
        await gate.holds(1)
        await manager.submit_task(gate, name="waits")
        yield f"{plane.url}/#/tasks"
        gate.open()


async def test_pending_rows_show_their_wait_and_running_rows_their_elapsed_time(browser: Browser) -> None:
    async with one_runs_and_one_waits() as url:
        page = (await visit(browser, url)).page
        figure = re.compile(r"^[\d.]+ (µs|ms|s)$")
        waits = page.locator("#tasks tr", has_text="waits").locator("td.number")
        await expect(waits.nth(0)).to_have_text(figure)
        await expect(waits.nth(1)).not_to_have_text(figure)
        runs = page.locator("#tasks tr", has_text="runs").locator("td.number")
        await expect(runs.nth(1)).to_have_text(figure)
        before = await runs.nth(1).inner_text()
        await expect(runs.nth(1)).not_to_have_text(before)  # it goes on


async def test_on_a_phone_a_pending_row_shows_its_wait(browser: Browser) -> None:
    async with one_runs_and_one_waits() as url:
        page = await opened(browser, url, 390, 844)
        await expect(page.locator("#tasks tr").first.locator("td:visible").last).to_have_text(
            re.compile(r"waits [\d.]+ (ms|s)")
        )


NUMBERS = """() => {
    const number = (text) => Number(text.replaceAll(",", ""));
    const sum = (cells) => [...document.querySelectorAll(cells)].reduce((all, cell) => all + number(cell.innerText), 0);
    const used = (place) =>
        number(document.querySelector(`#slots li:${place} > :last-child`).innerText.split(" / ")[0]);
    const oldest = [...document.querySelectorAll("#pending td:last-child, #queues td:nth-child(4)")];
    return {
        pending: [sum(".tile.pending strong"), sum("#pending-title .badge"), sum("#pending td:nth-child(2)"),
            sum("#queues td:nth-child(2)"), used("last-child")],
        running: [sum(".tile.running strong"), sum("#running-title .badge"), sum("#queues td:nth-child(3)"),
            used("first-child")],
        waits: oldest.filter((cell) => /[0-9]/.test(cell.innerText)).length,
    };
}"""


async def test_the_numbers_of_pending_and_running_tasks_on_one_screen_are_of_one_moment(
    browser: Browser,
) -> None:
    gate = Gate()
    async with managing(max_concurrent_tasks=1) as (manager, spans), serving(manager, spans=spans) as plane:
        await manager.submit_task(gate)
        await gate.holds(1)
        page = (await visit(browser, plane.url)).page
        await expect(page.locator("#slots li")).not_to_have_count(0)
        await expect(page.locator("#pending tbody tr")).to_have_count(4)
        await expect(page.locator("#queues tbody tr")).to_have_count(6)
        # What is asked for now and then stands still; only the stream goes on.
        for path in ("status", "api/pending"):
            await page.route(f"**/{path}", lambda route: route.abort())
        for number in range(1, 41):
            await manager.submit_task(gate, priority=("low", "high", "critical")[number % 3])
        await expect(page.locator(".tile.pending strong")).to_have_text("40")
        assert await page.evaluate(NUMBERS) == {"pending": [40] * 5, "running": [1] * 4, "waits": 4}
        gate.open()
        await expect(page.locator(".tile.pending strong")).to_have_text("0")
        await expect(page.locator(".tile.running strong")).to_have_text("0")
        assert await page.evaluate(NUMBERS) == {"pending": [0] * 5, "running": [0] * 4, "waits": 0}
        await page.unroute_all(behavior="ignoreErrors")


async def test_the_oldest_wait_is_known_of_tasks_from_before_the_page_and_of_those_that_wait_for_their_time(
    browser: Browser,
) -> None:
    gate = Gate()
    async with managing(max_concurrent_tasks=1) as (manager, spans), serving(manager, spans=spans) as plane:
        await manager.submit_task(gate)
        await gate.holds(1)
        first = await manager.submit_task(gate, priority="low")
        for _ in range(250):  # more than the stream begins with
            await manager.submit_task(gate, priority="low")
        page = (await visit(browser, plane.url)).page
        oldest = page.locator("#pending tbody tr", has_text="low").locator("td").last.locator("a")
        await expect(oldest).to_have_attribute("href", f"#/tasks/{first}")
        await manager.submit_task(with_options(asyncio.sleep, delay=600), 0, priority="high")
        high = page.locator("#pending tbody tr", has_text="high").locator("td")
        await expect(high.nth(1)).to_have_text("1")
        await expect(high.nth(3)).not_to_have_text(re.compile("[0-9]"))
        gate.open()


async def test_what_has_ended_is_shown_however_much_waits(browser: Browser) -> None:
    gate = Gate()
    async with managing(max_concurrent_tasks=1) as (manager, spans), serving(manager, spans=spans) as plane:
        await manager.wait_for_task(await manager.submit_task(failing, "no paper", name="failed.early"))
        for number in range(30):
            await manager.run(asyncio.sleep, 0, name=f"ended.{number}")
        for _ in range(250):
            await manager.submit_task(gate)
        page = (await visit(browser, plane.url)).page
        await expect(page.locator("#ended tbody tr")).to_have_count(25)
        await expect(page.locator("#ended tbody tr").first).to_contain_text("ended.29")
        await expect(page.locator("#failed tbody tr")).to_have_count(1)
        await expect(page.locator("#failed")).to_contain_text("ValueError: no paper")
        gate.open()


async def test_a_queue_that_is_almost_full_is_red(browser: Browser) -> None:
    tone = """() => {
        const of = (element, name) => getComputedStyle(element).getPropertyValue(name);
        return [of(document.querySelector("#slots li:last-child progress"), "--tone"), of(document.body, "--failed")];
    }"""
    gate = Gate()
    async with (
        managing(max_concurrent_tasks=1, max_pending=100) as (manager, spans),
        serving(manager, spans=spans) as plane,
    ):
        await manager.submit_task(gate)
        await gate.holds(1)
        for _ in range(50):
            await manager.submit_task(gate)
        page = (await visit(browser, plane.url)).page
        queue = page.locator("#slots li").last
        await expect(queue).to_contain_text("50 / 100")
        found, red = await page.evaluate(tone)
        assert found != red
        for _ in range(49):
            await manager.submit_task(gate)
        await expect(queue).to_contain_text("99 / 100")
        found, red = await page.evaluate(tone)
        assert found == red
        gate.open()


BLOCKED: dict[str, Any] = {"state": "blocked", "blocked_seconds": 1.5, "culprit": None, "recent": []}


async def test_there_is_one_banner_at_a_time_and_it_stands_within_the_frame(browser: Browser) -> None:
    said = SaidManager(blocked=1.5, depth=99, abandoned=2)
    async with serving(said) as plane:
        page = await opened(browser, "about:blank", 1800, 900)
        await page.route("**/api/loop", lambda route: route.fulfill(json=BLOCKED))
        await page.route("**/status", lambda route: route.abort())
        await page.goto(plane.url)
        banner = page.locator(".banner")
        await expect(banner).to_contain_text("The work loop is blocked")
        await expect(banner).to_contain_text("2 more problems")  # the loop itself is not told a second time
        await expect(banner).to_have_count(1)
        frame, inside = await box(page.locator(".tiles")), await box(banner)
        assert (inside["x"], inside["width"]) == (frame["x"], frame["width"])
        said.blocked = 0.0
        await page.unroute("**/api/loop")
        await expect(banner).to_contain_text("The queue is almost full.")
        await expect(banner).to_contain_text("1 more problem")
        await expect(banner).to_have_count(1)
    await expect(banner).to_contain_text("The service does not answer.")
    await expect(banner).to_have_count(1)
    await page.close()


async def test_an_idle_service_has_no_banner_whatever_short_stalls_it_had(browser: Browser) -> None:
    block = {"seconds": 0.2, "at": "2026-01-01T00:00:00Z", "culprit": None}
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        page = await opened(browser, "about:blank", 1440, 900)

        async def answer(route: Any) -> None:
            now = await page.evaluate("new Date().toISOString()")
            await route.fulfill(json={"state": "running", "recent": [{**block, "at": now}]})

        await page.route("**/api/loop", answer)
        await page.goto(plane.url)
        await expect(page.locator("#charts figure")).to_have_count(4)
        await expect(page.locator("#health")).to_have_text("healthy")
        await expect(page.locator(".banner, #blocks")).to_have_count(0)
        block["seconds"] = 2.5
        await expect(page.locator("#blocks")).to_contain_text("blocked once in the last 15 minutes")
        await expect(page.locator(".banner")).to_have_count(0)
        await page.unroute_all(behavior="ignoreErrors")
