"""What a scrape gets; many at once, or one that reads slowly, cost the work loop next to nothing (F15)."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import threading
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from qorzen_obs.server import metrics as server_metrics
from tests.integration.server.collectors import HangingCollector
from tests.services.ops_plane import SaidManager, get_json, managing, serving
from tests.support import PATIENCE_SECONDS

SCRAPES = 50


class Counting:
    """A large collector that notes who renders, and how many at once."""

    def __init__(self) -> None:
        self.renders = 0
        self.threads: set[threading.Thread] = set()
        self.most_at_once = 0
        self._running = 0
        self._lock = threading.Lock()

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            self.renders += 1
            self.threads.add(threading.current_thread())
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        family = GaugeMetricFamily("large", "Large.", labels=("number",))
        for number in range(5_000):
            family.add_metric((str(number),), number)
        yield family
        with self._lock:
            self._running -= 1


@pytest.mark.slow
async def test_f15_fifty_scrapes_and_a_slow_reader_share_renders_off_the_work_loop() -> None:
    here = threading.current_thread()
    counting = Counting()
    async with managing() as (tasks, _), serving(tasks) as plane:
        tasks.registry.register(counting)

        async def scrape_from_elsewhere() -> list[int]:
            # A reader that stops reading; its response is larger than the socket takes.
            _, slow = await asyncio.open_connection("127.0.0.1", plane.port, limit=1)
            slow.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(plane.url, connector=connector) as session:

                async def one(_: int) -> int:
                    async with session.get("/metrics") as response:
                        await response.read()
                        return response.status

                statuses = await asyncio.gather(*map(one, range(SCRAPES)))
            slow.transport.abort()
            return statuses

        statuses = await asyncio.to_thread(asyncio.run, scrape_from_elsewhere())

    assert statuses == [200] * SCRAPES
    assert counting.most_at_once == 1
    assert here not in counting.threads
    # All that came while one was rendered share the next: far fewer renders than scrapes.
    assert counting.renders < SCRAPES / 2


async def test_f15_a_scrape_in_flight_is_shared_by_those_that_came_before_it_began() -> None:
    entered, let_go = threading.Event(), threading.Event()
    order = itertools.count(1)

    class Held:
        def describe(self) -> Iterator[Metric]:
            return iter(())

        def collect(self) -> Iterator[Metric]:
            yield GaugeMetricFamily("render", "Which render it is.", next(order))
            entered.set()
            assert let_go.wait(PATIENCE_SECONDS)

    async with managing() as (tasks, _), serving(tasks) as plane:
        tasks.registry.register(Held())
        async with aiohttp.ClientSession(plane.url) as session:

            async def one() -> str:
                async with session.get("/metrics") as response:
                    text = await response.text()
                return next(line for line in text.splitlines() if line.startswith("render "))

            first = asyncio.create_task(one())
            assert await asyncio.to_thread(entered.wait, 30)
            later = [asyncio.create_task(one()) for _ in range(10)]
            async with session.get("/livez"):  # the ops plane is not held up, and has seen the others by now
                pass
            let_go.set()
            assert await first == "render 1.0"
            assert set(await asyncio.gather(*later)) <= {"render 2.0", "render 3.0"}


@pytest.fixture
async def raw_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Ask for no compression, and unpack none."""
    headers = {"Accept-Encoding": "identity"}
    async with aiohttp.ClientSession(headers=headers, auto_decompress=False) as session:
        yield session


@pytest.mark.parametrize(
    ("headers", "content_type", "coding"),
    [
        ({}, "text/plain; version=0.0.4; charset=utf-8", None),
        ({"Accept": "version=abc"}, "text/plain; version=0.0.4; charset=utf-8", None),
        (
            {"Accept": "application/openmetrics-text"},
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            None,
        ),
        ({"Accept-Encoding": "gzip"}, "text/plain; version=0.0.4; charset=utf-8", "gzip"),
        (
            {"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "br, gzip;q=0.1"},
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "gzip",
        ),
        ({"Accept-Encoding": "gzip;q=0"}, "text/plain; version=0.0.4; charset=utf-8", None),
    ],
)
async def test_metrics_come_in_the_form_that_was_asked_for(
    raw_session: aiohttp.ClientSession, headers: dict[str, str], content_type: str, coding: str | None
) -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        await manager.run(asyncio.sleep, 0)
        async with raw_session.get(f"{plane.url}/metrics", headers=headers) as response:
            body = await response.read()
            assert response.status == 200
            assert response.headers["Content-Type"] == content_type
            assert response.headers.get("Content-Encoding") == coding
            assert response.headers["Vary"] == "Accept, Accept-Encoding"
    text = (gzip.decompress(body) if coding else body).decode()
    parse = parse_openmetrics if "openmetrics" in content_type else parse_text
    samples = {
        sample.labels["status"]: sample.value
        for family in parse(text)
        for sample in family.samples
        if sample.name == "qorzen_tasks" and sample.labels["category"] == "core" and sample.value
    }
    assert samples == {"completed": 1.0}


class FailingCollector:
    def collect(self) -> Iterator[Metric]:
        raise RuntimeError("secret reason")


async def test_a_collector_that_fails_is_a_problem_without_its_reason(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    registry.register(FailingCollector())
    async with serving(SaidManager(registry=registry)) as plane:
        async with session.get(f"{plane.url}/metrics") as response:
            assert response.status == 500
            assert response.headers["Content-Type"] == "application/problem+json"
            assert b"secret" not in await response.read()
        await get_json(session, f"{plane.url}/status")
    assert "secret reason" in caplog.text


async def test_a_collector_that_hangs_is_a_503(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_metrics, "RENDER_TIMEOUT_SECONDS", 0.05)
    collector = HangingCollector()
    registry = CollectorRegistry()
    registry.register(collector)
    async with (
        serving(SaidManager(registry=registry)) as plane,
        session.get(f"{plane.url}/metrics") as response,
    ):
        assert response.status == 503
        assert response.headers["Retry-After"] == "10"
    collector.let_go.set()
