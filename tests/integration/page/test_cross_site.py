"""T5 in a real browser: what a page of another site tries, and that the page of the service itself may."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, async_playwright

from tests.conftest import require
from tests.services.ops_plane import managing, serving
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
  await attempt("/api/categories/io/pause", {method: "PUT", body: "{}"});
  await attempt("/api/categories/io/pause", {method: "DELETE"});
  await attempt("/status", {mode: "no-cors"});
  await attempt("/status", {});
  navigator.sendBeacon(url + "/api/categories/io/pause", "{}");
  navigator.sendBeacon(url + "/api/categories/io/pause", new Blob(["{}"], {type: "application/json"}));
  const frame = document.body.appendChild(document.createElement("iframe"));
  frame.name = "answer";
  const form = document.body.appendChild(document.createElement("form"));
  Object.assign(form, {method: "post", enctype: "text/plain", target: "answer"});
  form.action = url + "/api/categories/io/pause";
  form.submit();
  return read.filter((text) => text !== "");
}
"""
OWN = """
async () => (await fetch("/api/categories/io/pause", {
  method: "POST", body: "{}", headers: {"Content-Type": "application/json"},
})).status
"""


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = require("chromium", "apt-get install chromium")
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium has none for root
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=sandbox)
        yield browser
        await browser.close()


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
        page = await browser.new_page()
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
