"""T5 and T6 in a real browser: what a page of another site tries, and that no text of a task becomes markup."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry import trace
from playwright.async_api import Browser, expect

from qorzen_obs.core.current_task import current_task
from tests.integration.page.tasks import PAYLOAD, failing
from tests.services.browser import new_page, visit
from tests.services.ops_plane import SaidManager, managing, serving
from tests.support import until

pytestmark = pytest.mark.slow  # programs of their own, which no version of Python makes another

#: Everything that a page can send elsewhere; gives what it could read of the answers.
ATTEMPTS = """
async (url) => {
  const read = [];
  const attempt = async (path, options) => {
    try {
      const answer = await fetch(url + path, options);
      read.push(await answer.text());
    } catch (refused) { /* by the browser */ }
  };
  const json = {"Content-Type": "application/json"};
  await attempt("/api/categories/io/pause", {method: "POST", mode: "no-cors", body: "{}"});
  await attempt("/api/categories/io/pause", {method: "POST", mode: "no-cors", body: "{}", headers: json});
  await attempt("/api/categories/io/pause", {method: "POST", body: "{}", headers: json});
  await attempt("/api/categories/io/pause", {method: "POST", mode: "no-cors"});
  await attempt("/api/categories/io/pause", {method: "POST", mode: "no-cors", referrerPolicy: "no-referrer"});
  await attempt("/api/categories/io/pause", {method: "PUT", body: "{}"});
  await attempt("/api/categories/io/pause", {method: "DELETE"});
  await attempt("/status", {mode: "no-cors"});
  await attempt("/status", {});
  navigator.sendBeacon(url + "/api/categories/io/pause");
  navigator.sendBeacon(url + "/api/categories/io/pause", "{}");
  navigator.sendBeacon(url + "/api/categories/io/pause", new Blob(["{}"], {type: "application/json"}));
  const frame = document.body.appendChild(document.createElement("iframe"));
  frame.name = "answer";
  const form = document.body.appendChild(document.createElement("form"));
  Object.assign(form, {method: "post", enctype: "text/plain", target: "answer"});
  form.action = url + "/api/categories/io/pause";
  form.submit();  // it has no field, and so its body is empty
  return read.filter((text) => text !== "");
}
"""
OWN = """
async () => (await fetch("/api/categories/io/pause", {
  method: "POST", body: "{}", headers: {"Content-Type": "application/json"},
})).status
"""


async def blank(request: web.Request) -> web.Response:
    return web.Response(text="<!doctype html><title>another site</title>", content_type="text/html")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["another site", "another port"])
async def test_t5_a_page_from_elsewhere_changes_nothing_and_reads_nothing(
    browser: Browser, host: str
) -> None:
    answered: list[tuple[str, int]] = []

    def on_request(method: str, route: str, code: int, seconds: float) -> None:
        if not route.startswith("/static"):
            answered.append((method, code))

    other = web.Application()
    other.router.add_get("/", blank)
    async with (
        managing() as (manager, _),
        serving(manager, on_request=on_request) as plane,
        TestServer(other) as elsewhere,
    ):
        page = await new_page(browser)
        await page.goto(str(elsewhere.make_url("/").with_host(host)))
        read: list[Any] = await page.evaluate(ATTEMPTS, plane.url)
        assert read == []
        # Two by fetch, a beacon and the form; the browser itself holds back what would need a preflight's consent.
        await until(lambda: sum(method == "POST" for method, _ in answered) >= 4)
        assert manager.paused == frozenset()
        assert {code for method, code in answered if method == "POST"} <= {403, 415}
        assert {code for method, code in answered if method in ("OPTIONS", "PUT", "DELETE")} <= {405}

        await page.goto(plane.url)
        assert await page.evaluate(OWN) == 200
        assert manager.paused
        await page.close()


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
        manager.looks.task_lines.add(first, PAYLOAD, PAYLOAD, {PAYLOAD: PAYLOAD}, "2026-01-01T00:00:00Z")
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
