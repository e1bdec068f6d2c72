"""What a scrape gets; many at once, or one that reads slowly, cost the work loop next to nothing (F15)."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from qorzen_obs.server import metrics as server_metrics
from qorzen_obs.server import scrapers
from qorzen_obs.settings import ServerSettings, Settings, TelemetrySettings
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.gathering import Gathering
from tests.integration.server.collectors import HangingCollector
from tests.services.ops_plane import SaidManager, get_json, managing, serving
from tests.services.whole_service import url_of, whole_service
from tests.support import PATIENCE_SECONDS, metric, until

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


async def test_f15_a_scrape_in_flight_is_shared_by_those_that_came_before_it_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrived: list[server_metrics.Variant] = []
    rendered = server_metrics.Exposition.rendered

    async def noted(
        self: server_metrics.Exposition, variant: server_metrics.Variant
    ) -> server_metrics.Rendered:
        arrived.append(variant)
        return await rendered(self, variant)

    monkeypatch.setattr(server_metrics.Exposition, "rendered", noted)
    entered, let_go = threading.Event(), threading.Event()
    order = itertools.count(1)

    class Held:
        def collect(self) -> Iterator[Metric]:
            yield GaugeMetricFamily("render", "Which render it is.", next(order))
            entered.set()
            assert let_go.wait(PATIENCE_SECONDS)

    gathering = Gathering(Held(), patience_seconds=PATIENCE_SECONDS)
    async with (
        serving(SaidManager(gathering=gathering)) as plane,
        aiohttp.ClientSession(plane.url) as session,
    ):

        async def one() -> str:
            async with session.get("/metrics") as response:
                text = await response.text()
            return next(line for line in text.splitlines() if line.startswith("render "))

        first = asyncio.create_task(one())
        assert await asyncio.to_thread(entered.wait, 30)
        later = [asyncio.create_task(one()) for _ in range(10)]
        async with session.get("/livez"):  # the ops plane is not held up
            pass
        await until(lambda: len(arrived) == 11)
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


@pytest.mark.parametrize("escaping", ["allow-utf-8", "underscores", "dots", "values"])
async def test_openmetrics_escapes_names_as_it_was_asked_to(
    raw_session: aiohttp.ClientSession, escaping: str
) -> None:
    registry = CollectorRegistry()
    Gauge("room.temperature", "Has a dot in its name.", ["room.name"], registry=registry).labels("hall").set(
        7
    )
    accept = f"application/openmetrics-text;version=1.0.0;escaping={escaping}"
    async with (
        serving(SaidManager(gathering=Gathering(registry, patience_seconds=PATIENCE_SECONDS))) as plane,
        raw_session.get(f"{plane.url}/metrics", headers={"Accept": accept}) as response,
    ):
        kind = "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert response.headers["Content-Type"] == f"{kind}; escaping={escaping}"
        theirs = generate_openmetrics(registry, escaping)  # type: ignore[no-untyped-call]
        assert await response.read() == theirs


async def test_with_dots_our_own_names_are_escaped_too(raw_session: aiohttp.ClientSession) -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        accept = "application/openmetrics-text;version=1.0.0;escaping=dots"
        async with raw_session.get(f"{plane.url}/metrics", headers={"Accept": accept}) as response:
            text = await response.text()
    assert "qorzen__tasks{" in text
    assert "qorzen_tasks{" not in text


class Broken:
    """A collector that does what a test says once it has yielded a good family."""

    def __init__(self, then: Callable[[], Iterator[Any]]) -> None:
        self._then = then

    def collect(self) -> Iterator[Any]:
        yield GaugeMetricFamily("before", "Before it breaks.", 1)
        yield from self._then()


def raises(error: BaseException) -> Callable[[], Iterator[Any]]:
    def then() -> Iterator[Any]:
        yield from ()
        raise error

    return then


def family(name: str = "junk", kind: str = "gauge", labels: Any = None, value: Any = 1.0) -> Metric:
    """A family that the client's constructors would refuse, or turn into what no scraper reads."""
    made = Metric("junk", "Junk.", "gauge")
    made.name, made.type = name, kind
    made.add_sample("junk", labels or {}, value)
    return made


def failures_of_collectors(text: str) -> float:
    """What a scrape says of those before it."""
    return sum(
        sample.value
        for found in parse_text(text.removesuffix("# EOF\n"))
        for sample in found.samples
        if sample.name == f"{names.TELEMETRY_ERRORS.name}_total"
        and sample.labels == {"component": "collector"}
    )


class HostileName(str):
    __slots__ = ()

    def __hash__(self) -> int:
        raise SystemExit(5)


JUNK: dict[str, Callable[[], Iterator[Any]]] = {
    "RuntimeError": raises(RuntimeError("secret reason")),
    "SystemExit": raises(SystemExit(3)),
    "KeyboardInterrupt": raises(KeyboardInterrupt()),
    "GeneratorExit": raises(GeneratorExit()),
    "no family": lambda: iter([None, 7, "text", object()]),
    "a value that is no number": lambda: iter([family(value="a lot")]),
    "an unknown type": lambda: iter([family(kind="surprise")]),
    "a label without a name": lambda: iter([family(labels={"": "x"})]),
    "a label that is no text": lambda: iter([family(labels={"x": 7})]),
    "a family without a name": lambda: iter([family(name="")]),
    "a name that cannot be looked at": lambda: iter([family(name=HostileName("junk"), value=None)]),
    "text that utf-8 cannot hold": lambda: iter([family(labels={"x": "\ud800"})]),
}


@pytest.mark.parametrize("media_type", ["text/plain", "application/openmetrics-text"])
@pytest.mark.parametrize("then", JUNK.values(), ids=JUNK)
async def test_f41_a_collector_that_fails_costs_its_own_families_only(
    then: Callable[[], Iterator[Any]], media_type: str
) -> None:
    async with managing() as (tasks, _), serving(tasks) as plane:
        tasks.registry.register(Broken(then))
        tasks.registry.register(Simple())
        async with aiohttp.ClientSession(plane.url, headers={"Accept": media_type}) as session:
            for before in (0, 1):
                async with session.get("/metrics") as response:
                    assert response.status == 200
                    text = await response.text()
                assert "before 1.0" in text
                assert "simple 1.0" in text
                assert "qorzen_tasks{" in text
                assert "junk" not in text
                list((parse_openmetrics if "openmetrics" in media_type else parse_text)(text))
                assert failures_of_collectors(text) == before
            health = await get_json(session, "/health")
            assert health["status"] == "warn"
            (telemetry,) = health["checks"]["telemetry:export"]
            assert "test_scrapes.Broken raised " in telemetry["output"]
            assert "secret" not in telemetry["output"]


class Simple:
    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("simple", "Always there.", 1)


async def test_f41_collectors_that_hang_cost_their_own_families_and_a_thread_each(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = [HangingCollector() for _ in range(30)]
    async with managing() as (tasks, _), serving(tasks) as plane:
        # A busy machine may not come to the last collector in the second that a scrape usually waits.
        monkeypatch.setattr(tasks.looks.gathering, "_patience_seconds", 3.0)
        for collector in hanging:
            tasks.registry.register(collector)
        tasks.registry.register(Simple())
        for before in range(4):  # none of them is let go meanwhile
            async with session.get(f"{plane.url}/metrics") as response:
                text = await response.text()
            assert "simple 1.0" in text
            assert "qorzen_tasks{" in text
            assert "late 1.0" not in text
            assert failures_of_collectors(text) == before * len(hanging)
        assert sum(thread.name == "qorzen-collect" for thread in threading.enumerate()) == len(hanging)
        (telemetry,) = (await get_json(session, f"{plane.url}/health"))["checks"]["telemetry:export"]
        assert "collectors.HangingCollector has not answered for " in telemetry["output"]
        for collector in hanging:
            collector.let_go.set()

        async def served_again() -> bool:
            async with session.get(f"{plane.url}/metrics") as response:
                return (await response.text()).count("late 1.0") == len(hanging)

        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await served_again():
                pass
        assert (await get_json(session, f"{plane.url}/health"))["status"] == "pass"


async def test_metrics_that_are_not_ready_in_time_are_a_503(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_metrics, "RENDER_TIMEOUT_SECONDS", 0.05)
    collector = HangingCollector()
    gathering = Gathering(collector, patience_seconds=PATIENCE_SECONDS)
    async with (
        serving(SaidManager(gathering=gathering)) as plane,
        session.get(f"{plane.url}/metrics") as response,
    ):
        assert response.status == 503
        assert response.headers["Retry-After"] == "10"
    collector.let_go.set()


@pytest.fixture
def in_default_registry() -> Iterator[Gauge]:
    """A metric of a program that knows nothing of us."""
    gauge = Gauge("shop_open_carts", "In the default registry.")
    gauge.set(3)
    yield gauge
    REGISTRY.unregister(gauge)


@pytest.mark.parametrize("asked", [True, False])
async def test_metrics_of_the_default_registry_are_served_where_that_is_asked_for(
    session: aiohttp.ClientSession, in_default_registry: Gauge, asked: bool
) -> None:
    settings = Settings(
        server=ServerSettings(port=0), telemetry=TelemetrySettings(default_registry=asked, log_level="off")
    )
    async with whole_service(settings) as service:
        Gauge("shop_visitors", "In the manager's registry.", registry=service.tasks.registry).set(4)
        async with session.get(f"{url_of(service)}/metrics") as response:
            text = await response.text()
    families = [found.name for found in parse_text(text)]
    assert ("shop_open_carts" in families) is asked
    assert "shop_visitors" in families
    assert "process_start_time_seconds" in families
    assert "python_info" in families
    assert len(families) == len(set(families)), "each once"


# ------------------------------------------------------------------ the first of a type of errors


class NewError(Exception):
    """A type of errors that comes for the first time."""


async def fail() -> None:
    raise NewError


async def errors(session: aiohttp.ClientSession, url: str, name: str = "Prometheus/1") -> dict[str, float]:
    """Scrape as a scraper of this name; return the errors by type."""
    async with session.get(f"{url}/metrics", headers={"User-Agent": name}) as response:
        text = await response.text()
    return {
        sample.labels["error_type"].rpartition(".")[2]: sample.value
        for family in parse_text(text)
        for sample in family.samples
        if sample.name == "qorzen_task_errors_total"
    }


async def test_a_new_type_of_errors_shows_0_once_to_each_scraper(session: aiohttp.ClientSession) -> None:
    async with managing() as (tasks, _), serving(tasks) as plane:
        assert await errors(session, plane.url) == await errors(session, plane.url, "other") == {}
        for _ in range(3):
            await tasks.wait_for_task(await tasks.submit_task(fail))
        assert await errors(session, plane.url) == {"NewError": 0}
        await tasks.wait_for_task(await tasks.submit_task(fail))
        assert await errors(session, plane.url) == {"NewError": 4}
        assert await errors(session, plane.url, "other") == {"NewError": 0}
        assert await errors(session, plane.url, "other") == {"NewError": 4}
        assert await errors(session, plane.url, "late, and may have missed its first") == {"NewError": 0}
        assert await errors(session, plane.url) == {"NewError": 4}
        assert metric(tasks.registry, "qorzen_task_errors_total") == 4, "in the process all is exact"


async def test_scrapers_of_one_name_are_told_apart_by_their_connections() -> None:
    async with (
        managing() as (tasks, _),
        serving(tasks) as plane,
        aiohttp.ClientSession() as one,
        aiohttp.ClientSession() as other,
    ):
        assert await errors(one, plane.url) == {}
        await tasks.wait_for_task(await tasks.submit_task(fail))
        for session in (one, other):
            assert await errors(session, plane.url) == {"NewError": 0}
            assert await errors(session, plane.url) == {"NewError": 1}


async def test_a_scraper_that_connects_anew_is_known_by_its_name() -> None:
    async with managing() as (tasks, _), serving(tasks) as plane:
        seen = []
        await tasks.wait_for_task(await tasks.submit_task(fail))
        for _ in range(3):
            async with aiohttp.ClientSession() as session:
                seen.append(await errors(session, plane.url))
        assert seen == [{"NewError": 0}, {"NewError": 1}, {"NewError": 1}]


async def test_asking_for_the_headers_alone_shows_nothing(session: aiohttp.ClientSession) -> None:
    async with managing() as (tasks, _), serving(tasks) as plane:
        await tasks.wait_for_task(await tasks.submit_task(fail))
        async with session.head(f"{plane.url}/metrics", headers={"User-Agent": "Prometheus/1"}) as response:
            assert response.status == 200
        assert await errors(session, plane.url) == {"NewError": 0}


async def test_a_scrape_without_the_errors_lets_none_of_them_begin_again(
    session: aiohttp.ClientSession,
) -> None:
    async with managing() as (tasks, _), serving(tasks) as plane:
        await tasks.wait_for_task(await tasks.submit_task(fail))
        assert await errors(session, plane.url) == {"NewError": 0}
        metrics = tasks.looks.metrics
        counted, metrics.errors = metrics.errors, None  # type: ignore[assignment]  # so that our collector fails
        assert await errors(session, plane.url) == {}
        metrics.errors = counted
        assert await errors(session, plane.url) == {"NewError": 1}


async def test_so_many_scrapers_are_known_by_name_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapers, "_MAX_NAMED", 3)
    async with managing() as (tasks, _), serving(tasks) as plane:
        await tasks.wait_for_task(await tasks.submit_task(fail))

        async def seen(name: str) -> float:
            async with aiohttp.ClientSession() as session:
                return (await errors(session, plane.url, name))["NewError"]

        assert [await seen(name) for name in ("a", "b", "a", "c", "d")] == [0, 0, 1, 0, 0]
        assert await seen("a") == 1
        assert await seen("b") == 0, "it was away for longest"
