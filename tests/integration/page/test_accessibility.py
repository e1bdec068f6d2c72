"""The live page before axe-core: every view, both colour schemes, wide and narrow."""

from __future__ import annotations

import asyncio
from importlib import resources
from typing import Any, Literal

import pytest
from opentelemetry import trace
from playwright.async_api import Browser, Page, expect

from qorzen_obs import TaskManager
from qorzen_obs.settings import ServerSettings
from tests.integration.page.tasks import failing, working
from tests.services.browser import new_page
from tests.services.ops_plane import TOKEN, managing, serving

pytestmark = pytest.mark.slow

AXE = (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
RUN = """async () => {
    const found = await axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]});
    const shown = (nodes) => nodes.slice(0, 3).map((one) => one.html.slice(0, 160));
    return found.violations.map(({id, impact, nodes}) => [impact, id, shown(nodes)]);
}"""


async def findings(page: Page, state: str) -> dict[str, Any]:
    """Return what axe-core has to say of the page as it is."""
    await page.evaluate(AXE)
    return {f"{state}: {rule}": (impact, nodes) for impact, rule, nodes in await page.evaluate(RUN)}


async def with_others(manager: TaskManager) -> None:
    trace.get_current_span().add_event("begun")
    await manager.run(asyncio.sleep, 0, name="inner")
    raise ConnectionError("the far side has gone")


@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1280, "light")])
async def test_axe_core_has_nothing_to_say(
    browser: Browser, scheme: Literal["light", "dark"], width: int
) -> None:
    gate, reported = asyncio.Event(), asyncio.Event()
    async with managing(max_concurrent_tasks=2) as (manager, spans), serving(manager, spans=spans) as plane:
        failed = await manager.submit_task(with_others, manager, name="outer", metadata={"for": "ada"})
        info = await manager.wait_for_task(failed)
        await manager.wait_for_task(await manager.submit_task(asyncio.sleep, 0, name="fine"))
        running = await manager.submit_task(working, gate, reported, name="import", plugin_id="csv")
        await reported.wait()
        await manager.submit_task(gate.wait, name="other")
        pending = await manager.submit_task(failing, "", name="report", priority="critical")
        await manager.cancel_task(await manager.submit_task(failing, ""))
        page = await new_page(browser, color_scheme=scheme, viewport={"width": width, "height": 900})
        found: dict[str, Any] = {}
        for view in (
            "now",
            "tasks",
            "definitions",
            "failures",
            "tasks?status=failed&name=outer",
            "traces",
            f"traces/{info.trace_id}",
            "health",
            f"tasks/{failed}",
            f"tasks/{running}",
            f"tasks/{pending}",
            "nowhere",
        ):
            await page.goto(f"{plane.url}/#/{view}")
            await expect(page.locator("main h1")).to_have_count(1)
            await expect(page.locator("#connection")).to_have_text("live")
            if view == f"tasks/{failed}":
                await page.locator(".waterfall-names button").first.click()
            if view != "nowhere":
                await expect(page.locator("main table tbody tr, main .card > *").first).to_be_visible()
            await page.evaluate(AXE)
            found.update(
                (f"{view}: {rule}", (impact, nodes)) for impact, rule, nodes in await page.evaluate(RUN)
            )
        await page.close()
        gate.set()
        assert found == {}


@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1280, "light")])
async def test_axe_core_has_nothing_to_say_while_something_is_wrong(
    browser: Browser, scheme: Literal["light", "dark"], width: int
) -> None:
    async def ill() -> None:
        raise RuntimeError("the disk is full")

    gate, reported = asyncio.Event(), asyncio.Event()
    page = await new_page(browser, color_scheme=scheme, viewport={"width": width, "height": 900})
    async with managing() as (manager, spans):
        manager.health.add(ill, critical=False)
        task_id = await manager.submit_task(working, gate, reported, name="import")
        await reported.wait()
        async with serving(manager, spans=spans) as plane:
            blocked = {"state": "blocked", "blocked_seconds": 1.5, "culprit": None, "recent": []}
            await page.route("**/api/loop", lambda route: route.fulfill(json=blocked))
            await page.goto(plane.url)
            await expect(page.locator("#culprit")).to_contain_text("1 more problem")
            found = await findings(page, "blocked")
            await page.unroute("**/api/loop")
            await expect(page.locator("#warnings")).to_contain_text("the disk is full")
            found |= await findings(page, "ill")
            await page.goto(f"{plane.url}/#/tasks/{task_id}")
            await page.get_by_role("button", name="Cancel", exact=True).click()
            await expect(page.get_by_role("dialog")).to_be_visible()
            found |= await findings(page, "asking")
            await page.get_by_role("button", name="Keep it").click()
        await expect(page.locator("#stale")).to_be_visible()
        found |= await findings(page, "stale")
        settings = ServerSettings(port=plane.port, token=TOKEN)
        async with serving(manager, spans=spans, settings=settings):
            await page.get_by_label("Token").fill("a wrong one")
            await page.get_by_role("button", name="Open").click()
            await expect(page.locator("#refused")).to_be_visible()
            found |= await findings(page, "signing in")
        await page.close()
        gate.set()
    assert found == {}


async def test_the_page_is_walked_by_keys_and_shows_where_one_is(browser: Browser) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        await manager.wait_for_task(await manager.submit_task(failing, "", name="report"))
        page = await new_page(browser)
        await page.goto(plane.url)
        await expect(page.locator("#ended tbody tr")).to_have_count(1)
        reached: list[str] = []
        for _ in range(40):
            await page.keyboard.press("Tab")
            shown = await page.evaluate(
                """() => {
                    const one = document.activeElement;
                    return one === document.body ? null : [one.innerText, getComputedStyle(one).outlineStyle];
                }"""
            )
            if shown is None:
                break
            assert shown[1] != "none", f"no outline shows that {shown[0]!r} has the focus"
            reached.append(shown[0].strip())
        assert reached[0] == "Skip to the content"
        assert [name for name in reached if name in {"Now", "Tasks", "Traces", "Health", "report"}][
            -1
        ] == "report"
        await page.close()
