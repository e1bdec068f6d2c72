"""What the live page does to a browser and to its service: 10,000 live tasks, 1,000 events a second.

The service has a process of its own, and its processor time while one page watches is set beside that of the same load
unwatched. Each view is opened anew, with nothing in the browser's cache, and watched; then the load ends, and what the
page counts is compared with /status. `--small` is a quick look.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from playwright.async_api import Browser, CDPSession, Page, ViewportSize

from tests.benchmarks import page_load
from tests.services.browser import chromium
from tests.services.program import ROOT

VIEWPORT: Final[ViewportSize] = {"width": 1200, "height": 900}
SECOND_LOOK_SECONDS: Final = 15.0  #: after which the heap is looked at a second time
SCROLL_SECONDS: Final = 5.0
SCROLL_PIXELS: Final = 240  #: a turn of the wheel
LONG_FRAME_MS: Final = 50.0
REST_SECONDS: Final = 1.0  #: for what the page polls, and for the last batch
GOAL_MS: Final = 1_000
GOAL_BYTES: Final = 300_000
#: The rows of tasks that show that a view is there.
ROWS: Final = {"now": "#running tbody tr", "tasks": "#tasks tr[aria-rowindex]"}

#: Measures from inside. It stops while it is `halted`, for what the benchmark itself does to the page.
_PROBE: Final = """
(() => {
  const bench = { frames: [], tasks: [], rowsAt: null, halted: false, halts: [], events: 0, resets: 0, stream: 0 };
  window.bench = bench;
  let before = null, seen = false;
  const frame = (now) => {
    if (bench.halted) before = null;
    else {
      if (before !== null) bench.frames.push(now - before);
      before = now;
    }
    if (seen) bench.rowsAt ??= now; // the frame before has drawn them
    seen ||= document.querySelector(ROWS) !== null;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  new PerformanceObserver((list) => {
    for (const { startTime, duration } of list.getEntries()) bench.tasks.push([startTime, duration]);
  }).observe({ type: "longtask", buffered: true });
  // Only the stream is read piece by piece, as text.
  const { read } = ReadableStreamDefaultReader.prototype;
  let rest = "";
  ReadableStreamDefaultReader.prototype.read = async function () {
    const result = await read.call(this);
    if (typeof result.value === "string") {
      const lines = (rest + result.value).split("\\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("event: task/")) bench.events += 1;
        else if (line === "event: reset") bench.resets += 1;
      }
      if (bench.rowsAt === null) bench.stream += result.value.length;
    }
    return result;
  };
})()
"""
_OPENED: Final = """() => {
  const paints = Object.fromEntries(performance.getEntriesByType("paint").map((one) => [one.name, one.startTime]));
  const [page] = performance.getEntriesByType("navigation");
  const files = performance.getEntriesByType("resource").filter((one) => one.responseEnd <= bench.rowsAt);
  return {
    first_paint: paints["first-paint"], first_contentful_paint: paints["first-contentful-paint"],
    rows: bench.rowsAt, requests: files.length + 2,  // the page itself, and the stream, which has not ended
    bytes: [page, ...files].reduce((sum, one) => sum + one.transferSize, 0), stream: bench.stream,
  };
}"""
_COUNTS: Final = """async () => {
  const { store } = await import("./static/js/store.js");
  return store.state.counts;
}"""


@dataclass(slots=True)
class Watched:
    """What one view has shown."""

    opened: dict[str, Any]
    frames: list[float] = field(default_factory=list)  #: milliseconds from each to the next
    scrolled: list[float] = field(default_factory=list)  #: the same while the wheel turned
    long_tasks: list[float] = field(default_factory=list)  #: milliseconds
    heaps: list[float] = field(default_factory=list)  #: MB after a collection: at first, soon, at the end
    nodes: list[int] = field(default_factory=list)  #: of the document, and any that are held outside of it
    #: The share of the page's main thread, by what it did.
    busy: dict[str, float] = field(default_factory=dict)
    events: float = 0.0  #: a second, that the page got
    made: float = 0.0  #: a second, by the service
    resets: int = 0
    processor: float = 0.0  #: of the service, seconds a second
    differs: list[str] = field(default_factory=list)  #: what the page counts otherwise than /status


class Service:
    """The process of `page_load`, which is told what to do."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self._process = process
        self.url = url

    async def say(self, command: str) -> dict[str, Any]:
        """Send a command; return what it answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n".encode())
        answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return answer


@contextlib.asynccontextmanager
async def service() -> AsyncIterator[Service]:
    """Start the service; give it once its tasks are there."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.benchmarks.page_load",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield Service(process, (await process.stdout.readline()).decode().strip())
    finally:
        process.kill()
        await process.communicate()


async def unwatched(running: Service, seconds: float) -> float:
    """Return the processor time that the load takes, in seconds a second, while nobody looks."""
    await running.say("begin")
    began, before = time.monotonic(), await running.say("figures")
    await asyncio.sleep(seconds)
    after = await running.say("end")
    return float(after["processor"] - before["processor"]) / (time.monotonic() - began)


async def watched(running: Service, browser: Browser, view: str, seconds: float) -> Watched:
    """Open a view while the load goes on, and watch it for so long."""
    await running.say("begin")
    context = await browser.new_context(viewport=VIEWPORT)
    page = await context.new_page()
    await page.add_init_script(_PROBE.replace("ROWS", json.dumps(ROWS[view])))
    await page.goto(f"{running.url}/#/{view}")
    # Looked at from here: the page's policy forbids playwright to wait in it.
    while await page.evaluate("bench.rowsAt === null"):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    cdp = await context.new_cdp_session(page)
    await cdp.send("Performance.enable")
    await asyncio.sleep(REST_SECONDS)
    found = Watched(await page.evaluate(_OPENED))
    await _look(page, cdp, found)
    await _watch(running, page, cdp, found, seconds)
    if view == "tasks":
        await _scroll(page, found)
    found.resets = await page.evaluate("bench.resets")
    await running.say("end")
    found.differs = await _differences(page)
    await context.close()
    return found


async def _watch(running: Service, page: Page, cdp: CDPSession, found: Watched, seconds: float) -> None:
    """Take the figures of `seconds`, with a look at the heap in between and at the end."""
    soon = min(SECOND_LOOK_SECONDS, seconds / 2)
    await page.evaluate("bench.frames = []; bench.tasks = []; bench.halts = []; bench.events = 0")
    began, before, busy = time.monotonic(), await running.say("figures"), await _busy_seconds(cdp)
    await asyncio.sleep(soon)
    await _look(page, cdp, found)
    await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
    after, events = await running.say("figures"), await page.evaluate("bench.events")
    took = time.monotonic() - began
    found.busy = {name: (value - busy[name]) / took for name, value in (await _busy_seconds(cdp)).items()}
    found.frames = await page.evaluate("bench.frames")
    found.long_tasks = await page.evaluate(
        "bench.tasks.filter(([at]) => !bench.halts.some(([from, to]) => from <= at && at <= to)).map(([, ms]) => ms)"
    )
    await _look(page, cdp, found)
    found.events, found.made = events / took, (after["events"] - before["events"]) / took
    found.processor = (after["processor"] - before["processor"]) / took


async def _look(page: Page, cdp: CDPSession, found: Watched) -> None:
    """Collect the page's garbage and note what is left; the frames and tasks of that are not the page's."""
    await page.evaluate("bench.halted = true; bench.halts.push([performance.now() - 10, Infinity])")
    await cdp.send("HeapProfiler.collectGarbage")
    found.heaps.append((await cdp.send("Runtime.getHeapUsage"))["usedSize"] / 1e6)
    found.nodes.append((await cdp.send("Memory.getDOMCounters"))["nodes"])
    await page.evaluate("bench.halts.at(-1)[1] = performance.now(); bench.halted = false")


async def _busy_seconds(cdp: CDPSession) -> dict[str, float]:
    metrics = (await cdp.send("Performance.getMetrics"))["metrics"]
    known = {metric["name"]: float(metric["value"]) for metric in metrics}
    return {
        "all": known["TaskDuration"],
        "script": known["ScriptDuration"],
        "style": known["RecalcStyleDuration"],
        "layout": known["LayoutDuration"],
    }


async def _scroll(page: Page, found: Watched) -> None:
    """Turn the wheel over the list for SCROLL_SECONDS."""
    await page.locator("#tasks").hover(position={"x": 200, "y": 100})
    await page.evaluate("bench.frames = []")
    until = time.monotonic() + SCROLL_SECONDS
    while time.monotonic() < until:
        await page.mouse.wheel(0, SCROLL_PIXELS)
    found.scrolled = await page.evaluate("bench.frames")


async def _differences(page: Page) -> list[str]:
    """Say what the page counts otherwise than /status, after a moment in which nothing happens."""
    await asyncio.sleep(REST_SECONDS)
    counts = await page.evaluate(_COUNTS)
    tasks = (await page.evaluate("async () => (await fetch('status')).json()"))["tasks"]
    return [
        f"{name}: {counts[name]} and not {tasks[name]}"
        for name in ("total", "by_status", "by_category", "by_priority")
        if counts[name] != tasks[name]
    ]


def frames_of(frames: Sequence[float]) -> str:
    """Return a table's columns of frame times."""
    quantiles = statistics.quantiles(frames, n=100, method="inclusive")
    long = sum(one > LONG_FRAME_MS for one in frames) / len(frames)
    values = (*(quantiles[n] for n in (49, 94, 98)), max(frames))
    return "".join(f"{value:>9.1f}" for value in values) + f"{long:>9.2%}{len(frames):>8}"


def lines_of(found: dict[str, Watched], alone: float) -> list[str]:
    """Return the tables."""
    opening = f"(goals: {GOAL_MS:,} ms, {GOAL_BYTES / 1e3:g} kB)"
    lines = [
        f"{f'Opening {opening}':42}{'paint ms':>9}{'content':>9}{'rows':>9}{'kB':>9}{'stream':>9}{'asked':>8}"
    ]
    for view, one in found.items():
        opened = one.opened
        times = (opened[name] for name in ("first_paint", "first_contentful_paint", "rows"))
        sizes = (opened[name] / 1e3 for name in ("bytes", "stream"))
        columns = "".join(f"{value:>9.0f}" for value in (*times, *sizes))
        lines.append(f"  {view:40}{columns}{opened['requests']:>8}")
    lines.append(f"{'Frames':42}{'p50 ms':>9}{'p95':>9}{'p99':>9}{'longest':>9}{'> 50 ms':>9}{'n':>8}")
    for view, one in found.items():
        lines.append(f"  {view:40}{frames_of(one.frames)}")
        if one.scrolled:
            lines.append(f"  {f'{view}, scrolled for {SCROLL_SECONDS:g} s':40}{frames_of(one.scrolled)}")
    lines.append(
        f"{'The main thread':42}{'busy':>9}{'script':>9}{'style':>9}{'layout':>9}{'long':>9}{'ms':>8}"
    )
    for view, one in found.items():
        shares = "".join(f"{one.busy[name]:>9.1%}" for name in ("all", "script", "style", "layout"))
        lines.append(f"  {view:40}{shares}{len(one.long_tasks):>9}{sum(one.long_tasks):>8.0f}")
    lines.append(f"{'Memory':42}{'heap MB':>9}{'soon':>9}{'at end':>9}{'nodes':>9}{'soon':>9}{'at end':>8}")
    for view, one in found.items():
        heaps = "".join(f"{value:>9.1f}" for value in one.heaps)
        lines.append(f"  {view:40}{heaps}{one.nodes[0]:>9}{one.nodes[1]:>9}{one.nodes[2]:>8}")
    lines.append(f"{'The service':42}{'events/s':>9}{'got':>9}{'resets':>9}{'CPU s/s':>9}{'ratio':>9}")
    lines.append(f"  {'unwatched':40}{'':27}{alone:>9.3f}{1:>8.2f}x")
    for view, one in found.items():
        said = f"{one.made:>9.0f}{one.events:>9.0f}{one.resets:>9}{one.processor:>9.3f}"
        lines.append(f"  {view:40}{said}{one.processor / alone:>8.2f}x")
    for view, one in found.items():
        verdict = "the same" if not one.differs else "; ".join(one.differs)
        lines.append(f"What {view} and /status count, once the load has ended: {verdict}")
    return lines


async def run(path: str, seconds: float) -> list[str]:
    """Measure; return what to print."""
    async with service() as running, chromium(path) as browser:
        alone = await unwatched(running, seconds / 2)
        found = {view: await watched(running, browser, view, seconds) for view in ROWS}
        about = f"Chromium {browser.version}, Python {platform.python_version()}, {os.cpu_count()} cores"
    return [about, *lines_of(found, alone)]


def main(*, seconds: float = 60.0) -> None:
    """Print the tables."""
    path = shutil.which("chromium")
    if path is None:
        print("chromium is missing: apt-get install chromium")
        return
    load = ", ".join(f"{one:.2f}" for one in os.getloadavg())
    print(
        f"The page, each view for {seconds:g} s: {page_load.LIVE:,} live tasks, {page_load.EVENTS_PER_SECOND:,} events "
        f"a second; load before {load}",
        flush=True,
    )
    for line in asyncio.run(run(path, seconds)):
        print(line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="six seconds for each view")
    main(seconds=6.0 if parser.parse_args().small else 60.0)
