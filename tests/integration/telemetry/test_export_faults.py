"""F12 to F14: whatever the collector does, tasks run, the exit is on time, and every span has a fate."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import pytest

from qorzen_obs.settings import TelemetrySettings
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.export import BatchLimits, ExportQueue
from qorzen_obs.telemetry.setup import Tracing, set_up_tracing
from qorzen_obs.testing import open_test_manager
from tests.services.otlp_receiver import OtlpReceiver
from tests.services.whole_service import whole_service
from tests.support import PATIENCE_SECONDS, metric, until

TASKS = 200


def hang(_: socket.socket) -> None:
    """Read nothing and answer nothing."""


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def answer_slowly(connection: socket.socket) -> None:
    """Answer a byte at a time, so that no timeout between two of them helps."""
    with suppress(OSError):
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not threading.Event().wait(0.2):
            connection.sendall(b"x")


def unavailable(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.recv(65_536)
        connection.sendall(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        connection.close()


@contextmanager
def server(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """Accept connections and treat each so; give the address."""
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connections.append(connection)
                    behave(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in connections:
                connection.close()
            thread.join(PATIENCE_SECONDS)


@contextmanager
def refuse() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


MODES: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "refuse": refuse,
    "hang": lambda: server(hang),
    "one-byte": lambda: server(answer_slowly),
    "503": lambda: server(unavailable),
    "reset": lambda: server(reset),
}


@pytest.fixture(autouse=True)
def _short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # that what is left behind ends within the test


def set_up(endpoint: str, monkeypatch: pytest.MonkeyPatch, **bsp: str) -> Tracing:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "10", **bsp}
    settings = TelemetrySettings(traces_per_second=float("inf"))
    return set_up_tracing(settings, environment, set_global=False)


async def run_tasks(tracing: Tracing, number: int = TASKS) -> None:
    async with open_test_manager(tracer_provider=tracing.provider) as tasks:
        results = await asyncio.gather(*(tasks.run(asyncio.sleep, 0, n) for n in range(number)))
        assert results == list(range(number))
        assert tasks.status()["tasks"]["by_status"]["completed"] == number


@pytest.mark.parametrize("mode", MODES)
async def test_f12_f13_a_bad_collector_costs_spans_and_nothing_else(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MODES[mode]() as endpoint:
        tracing = set_up(endpoint, monkeypatch)
        await run_tasks(tracing)
        sent = await asyncio.to_thread(tracing.shutdown, 1.0)
    outcomes = tracing.span_outcomes()
    failed = outcomes[names.SPAN_EXPORT_FAILED]
    assert not sent or failed == TASKS, "all had failed before, and nothing was left to send"
    assert (failed + outcomes[names.SPAN_DROPPED_SHUTDOWN], sum(outcomes.values())) == (TASKS, TASKS)
    assert tracing.last_export_at == 0.0


async def test_f12_f13_a_name_that_is_looked_up_for_ever_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release, asked = threading.Event(), threading.Event()

    def stall(host: object, *_: object, **__: object) -> list[object]:
        asked.set()
        release.wait(PATIENCE_SECONDS)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    tracing = set_up("http://collector.invalid:4318", monkeypatch)
    monkeypatch.setattr(socket, "getaddrinfo", stall)
    try:
        await run_tasks(tracing)
        await until(asked.is_set)
        sent = await asyncio.to_thread(tracing.shutdown, 1.0)
    finally:
        release.set()
    assert not sent, "it returned while the look-up still stalled"
    assert tracing.span_outcomes()[names.SPAN_DROPPED_SHUTDOWN] == TASKS


async def test_f12_a_collector_that_comes_back_gets_what_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    with OtlpReceiver(status=503) as collector:
        tracing = set_up(collector.endpoint, monkeypatch)
        await run_tasks(tracing, 5)
        await until(lambda: tracing.span_outcomes()[names.SPAN_EXPORT_FAILED] == 5)
        collector.status, came_back_at = 200, time.time()
        await run_tasks(tracing, 5)
        await until(lambda: tracing.span_outcomes()[names.SPAN_EXPORTED] == 5)
        await until(lambda: tracing.last_export_at)
        assert came_back_at <= tracing.last_export_at <= time.time()
        assert await asyncio.to_thread(tracing.shutdown, 5.0)


class StuckSender:
    """An exporter that takes no batch until it is released."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()

    def __call__(self, batch: object) -> int:
        self.entered.set()
        assert self.release.wait(PATIENCE_SECONDS)
        return 0


class TestClock:
    """A clock that moves when it is told to."""

    __test__ = False

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


def test_f14_a_burst_of_ten_times_the_queue_is_dropped_counted_and_said_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    send, clock = StuckSender(), TestClock()
    queue: ExportQueue[int] = ExportQueue(
        "test", send, BatchLimits(queue_size=100, batch_size=10, delay_seconds=0.001), clock=clock
    )
    queue.start()
    for n in range(1_000):
        queue.put([n])
    assert (queue.size, queue.dropped_full) == (100, 900)
    send.release.set()
    assert queue.flush(PATIENCE_SECONDS)
    for n in range(10):  # more drops, within the minute
        queue.put([n] * 200)
        assert queue.flush(PATIENCE_SECONDS)
    assert queue.shutdown(PATIENCE_SECONDS)
    lines = [record for record in caplog.records if "were dropped" in record.getMessage()]
    assert len(lines) == 1
    assert queue.exported + queue.dropped_full == 1_000 + 2_000
    assert queue.size == 0


async def test_f14_a_full_queue_of_spans_drops_whole_tasks_of_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with server(hang) as endpoint:
        tracing = set_up(
            endpoint, monkeypatch, OTEL_BSP_MAX_QUEUE_SIZE="20", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="5"
        )
        await run_tasks(tracing)
        assert tracing.span_queue_limit == 20
        assert tracing.span_queue_size <= 20
        await asyncio.to_thread(tracing.shutdown, 1.0)
    outcomes = tracing.span_outcomes()
    assert outcomes[names.SPAN_DROPPED_QUEUE_FULL] >= TASKS - 60
    assert sum(outcomes.values()) == TASKS
    by_logger = [record.name for record in caplog.records]
    assert all(by_logger.count(name) <= 1 for name in by_logger), caplog.text


def has_failed(tracing: Tracing, spans: int) -> bool:
    return tracing.span_outcomes()[names.SPAN_EXPORT_FAILED] == spans


async def test_f14_the_exporters_own_lines_are_limited_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with OtlpReceiver(status=400) as collector:
        tracing = set_up(collector.endpoint, monkeypatch)
        for _ in range(5):
            failed = tracing.span_outcomes()[names.SPAN_EXPORT_FAILED]
            await run_tasks(tracing, 1)
            await until(functools.partial(has_failed, tracing, failed + 1))
        await asyncio.to_thread(tracing.shutdown, 1.0)
    assert caplog.text.count("Failed to export") == 1


async def test_a_service_shows_the_figures_of_its_export() -> None:
    async with whole_service(http=False) as service:
        await service.tasks.run(asyncio.sleep, 0)
        shown = service.tasks.status()["telemetry"]
        if shown["sampling"] == "tail":  # else another test has set the global provider
            assert shown["spans"][names.SPAN_KEPT] >= 1
        registry = service.parts.registry
        for outcome, n in shown["spans"].items():
            assert metric(registry, names.SPANS.name + "_total", outcome=outcome) == n
        assert metric(registry, names.SPAN_QUEUE_LIMIT.name) == shown["span_queue"]["limit"]
        assert metric(registry, names.LAST_EXPORT.name) == 0
        assert metric(registry, names.TRACES.name + "_total", decision="kept") == shown["traces"]["kept"]
