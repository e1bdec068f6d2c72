"""The ops plane over real HTTP: what it answers, whom it answers, and that it answers while the work loop cannot."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from qorzen_obs.errors import ManagerInitializationError, SettingsError
from qorzen_obs.server import app as server_app
from qorzen_obs.server import metrics as server_metrics
from qorzen_obs.server.app import OpsPlane
from qorzen_obs.settings import HealthSettings, ServerSettings
from tests.services.ops_plane import TOKEN, SaidManager, exchange, get_json, managing, serving

JSON = "application/json; charset=utf-8"
PAYLOADS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{7*7}}${7*7}",
    "'; DROP TABLE tasks; --",
]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Accept-Encoding": "identity"}
    async with aiohttp.ClientSession(headers=headers, auto_decompress=False) as session:
        yield session


async def nothing() -> None:
    pass


async def failing(message: str) -> None:
    raise ValueError(message)


async def blocked_until(event: asyncio.Event) -> None:
    await event.wait()


# ---------------------------------------------------------------------------- what it answers


async def test_status_is_the_managers_own(session: aiohttp.ClientSession) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        await manager.run(nothing)
        async with session.get(f"{plane.url}/status") as response:
            assert response.headers["Content-Type"] == "application/json"
            document = json.loads(await response.read())
        assert document == json.loads(json.dumps(manager.status()))
        assert document["tasks"]["by_status"]["completed"] == 1


async def test_a_task_is_found_with_its_trace(session: aiohttp.ClientSession) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        task_id = await manager.submit_task(failing, "no such host", name="mail.send", priority="high")
        await manager.wait_for_task(task_id)

        document = await get_json(session, f"{plane.url}/api/tasks/{task_id}")
        assert (document["name"], document["priority"], document["status"]) == ("mail.send", "high", "failed")
        assert (document["error_type"], document["error"]) == ("ValueError", "no such host")
        assert document["completed_at"].endswith("Z")

        trace = await get_json(session, f"{plane.url}/api/tasks/{task_id}/trace")
        (span,) = trace["resourceSpans"][0]["scopeSpans"][0]["spans"]
        assert span["name"] == "run mail.send"
        assert span["traceId"] == document["trace_id"]
        assert await get_json(session, f"{plane.url}/api/traces/{document['trace_id'].upper()}") == trace

        (summary,) = (await get_json(session, f"{plane.url}/api/traces?limit=5"))["items"]
        assert summary["trace_id"] == document["trace_id"]
        assert summary["started_at"].endswith("Z")
        assert (summary["root_name"], summary["spans"], summary["errors"]) == ("run mail.send", 1, 1)

        await manager.run(nothing)
        assert len((await get_json(session, f"{plane.url}/api/traces"))["items"]) == 2
        assert (await get_json(session, f"{plane.url}/api/traces?errors=true"))["items"] == [summary]
        problem = await get_json(session, f"{plane.url}/api/traces?errors=yes", 422)
        assert problem["parameter"] == "errors"


async def test_what_is_not_there_is_not_found(session: aiohttp.ClientSession) -> None:
    async with managing(max_concurrent_tasks=1) as (manager, spans), serving(manager, spans=spans) as plane:
        gate = asyncio.Event()
        running = await manager.submit_task(blocked_until, gate)
        pending = await manager.submit_task(nothing)
        for path in (
            "/api/tasks/unknown",
            "/api/tasks/unknown/trace",
            f"/api/tasks/{pending}/trace",
            f"/api/tasks/{running}/trace",  # its span has not ended
            "/api/traces/unknown",
            f"/api/traces/{'0' * 32}",
            f"/api/traces/0x{'1' * 30}",
        ):
            problem = await get_json(session, plane.url + path, 404)
            assert problem["title"] == "Not Found", path
        problem = await get_json(session, f"{plane.url}/api/tasks/{running}/trace", 404)
        assert problem["detail"].startswith("this task still runs, and no span of its trace has ended yet")
        gate.set()
        await manager.wait_for_task(pending)


async def test_no_traces_are_kept_without_a_store(session: aiohttp.ClientSession) -> None:
    async with serving(SaidManager()) as plane:
        assert await get_json(session, f"{plane.url}/api/traces") == {"items": []}
        await get_json(session, f"{plane.url}/api/traces/{'1' * 32}", 404)


async def test_pages_of_tasks_fit_together(session: aiohttp.ClientSession) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        ids = [await manager.submit_task(nothing) for _ in range(25)]
        await manager.wait_for_task(ids[-1])
        url = f"{plane.url}/api/tasks?limit=10"
        page = await get_json(session, url)
        seen = [task["task_id"] for task in page["items"]]
        while page["next_cursor"] is not None:
            await manager.run(nothing)  # one more comes between two pages
            page = await get_json(session, f"{url}&cursor={page['next_cursor']}")
            seen += [task["task_id"] for task in page["items"]]
        assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("status=done", "status"),
        ("category=x", "category"),
        ("priority=7", "priority"),
        ("order=x", "order"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e2", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=x", "cursor"),
        ("statsu=failed", None),
    ],
)
async def test_a_bad_query_is_told_what_would_be_right(
    session: aiohttp.ClientSession, query: str, parameter: str | None
) -> None:
    async with serving(SaidManager()) as plane:
        async with session.get(f"{plane.url}/api/tasks?{query}") as response:
            assert response.status == 422
            assert response.headers["Content-Type"] == "application/problem+json"
            problem = json.loads(await response.read())
        assert problem.get("parameter") == parameter
        assert (problem["type"], problem["title"]) == ("about:blank", HTTPStatus.UNPROCESSABLE_ENTITY.phrase)
        assert "takes" in problem["detail"] or "known are" in problem["detail"]


# ---------------------------------------------------------------------------- metrics


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
    session: aiohttp.ClientSession, headers: dict[str, str], content_type: str, coding: str | None
) -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        await manager.run(nothing)
        async with session.get(f"{plane.url}/metrics", headers=headers) as response:
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


class HangingCollector:
    """Hangs until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def collect(self) -> Iterator[Metric]:
        self.entered.set()
        self.let_go.wait(30)
        yield GaugeMetricFamily("late", "Too late.", 1)


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


# ---------------------------------------------------------------------------- while the work loop cannot


async def test_f22_everything_answers_while_the_work_loop_is_blocked() -> None:
    """One thread asks while `time.sleep` holds the work loop; what it asks and gets is all over before it ends."""
    blocked = threading.Event()
    ended_at: list[float] = []

    async def hold_the_loop() -> None:
        blocked.set()
        time.sleep(2)  # noqa: ASYNC251 - the fault that this is about
        ended_at.append(time.monotonic())

    async def ask(url: str) -> dict[str, str]:
        answers: dict[str, str] = {}
        async with aiohttp.ClientSession(url) as session:
            while "blocked for" not in answers.get("/livez?verbose", ""):
                async with session.get("/livez?verbose") as response:
                    answers["/livez?verbose"] = await response.text()
                    assert response.status == 200
            for path in (
                "/",
                "/status",
                "/metrics",
                "/health",
                "/readyz",
                "/api/tasks?status=running",
                "/api/traces",
            ):
                async with session.get(path) as response:
                    answers[path] = await response.text()
                    assert response.status == 200, path
        return answers

    def ask_from_a_thread(url: str) -> tuple[dict[str, str], float]:
        assert blocked.wait(30)
        return asyncio.run(ask(url)), time.monotonic()

    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        asking = asyncio.create_task(asyncio.to_thread(ask_from_a_thread, plane.url))
        await asyncio.sleep(0)  # the thread starts
        await manager.run(hold_the_loop)
        answers, answered_at = await asking
    assert answered_at < ended_at[0] - 0.5, "answered only after the loop was free again"
    assert json.loads(answers["/api/tasks?status=running"])["items"][0]["name"].endswith("hold_the_loop")
    assert json.loads(answers["/status"])["tasks"]["by_status"]["running"] == 1
    assert json.loads(answers["/health"])["status"] == "warn"
    assert 'qorzen_tasks{category="core",priority="normal",status="running"} 1.0' in answers["/metrics"]


# ---------------------------------------------------------------------------- start and stop


async def test_a_port_in_use_stops_the_start_and_says_what_to_do() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        plane = OpsPlane(SaidManager(), settings=ServerSettings(port=port), health=HealthSettings())
        with pytest.raises(ManagerInitializationError) as refused:
            await plane.start()
        assert f"127.0.0.1:{port} is in use already; set server.port to a free port" in str(refused.value)
        await plane.stop()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_an_address_that_is_not_ours_stops_the_start(host: str) -> None:
    plane = OpsPlane(
        SaidManager(), settings=ServerSettings(host=host, port=0, token=TOKEN), health=HealthSettings()
    )
    with pytest.raises(ManagerInitializationError, match=f"cannot listen on {host}:0 "):
        await plane.start()


async def test_t1_an_exposed_address_without_a_token_does_not_even_listen() -> None:
    plane = OpsPlane(SaidManager(), settings=ServerSettings(host="0.0.0.0", port=0), health=HealthSettings())
    threads = threading.active_count()
    with pytest.raises(SettingsError, match=r"server\.host"):
        await plane.start()
    assert threading.active_count() == threads


async def test_an_allowed_host_that_is_none_stops_the_start() -> None:
    settings = ServerSettings(port=0, allowed_hosts=("https://tasks.example.org",))
    plane = OpsPlane(SaidManager(), settings=settings, health=HealthSettings())
    with pytest.raises(SettingsError, match=r"server\.allowed_hosts"):
        await plane.start()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "0.0.0.0", "::"])
async def test_the_url_leads_to_the_page(session: aiohttp.ClientSession, host: str) -> None:
    settings = ServerSettings(host=host, port=0, token=TOKEN)
    try:
        async with serving(SaidManager(), settings=settings) as plane, session.get(plane.url) as response:
            assert plane.port != 0
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    except ManagerInitializationError:
        if ":" not in host:
            raise
        pytest.skip("this machine has no IPv6")


async def test_stop_is_safe_before_start_and_when_called_again() -> None:
    plane = OpsPlane(SaidManager(), settings=ServerSettings(port=0), health=HealthSettings())
    await plane.stop()
    await plane.start()
    await asyncio.gather(plane.stop(), plane.stop())
    await plane.stop()
    with pytest.raises(ManagerInitializationError, match="make a new one"):
        await plane.start()


async def test_a_port_is_free_again_after_stop(session: aiohttp.ClientSession) -> None:
    async with serving(SaidManager()) as plane:
        await get_json(session, f"{plane.url}/status")
    async with serving(SaidManager(), settings=ServerSettings(port=plane.port)) as again:
        await get_json(session, f"{again.url}/status")


async def test_a_cancelled_start_leaves_nothing_behind() -> None:
    plane = OpsPlane(SaidManager(), settings=ServerSettings(port=0), health=HealthSettings())
    starting = asyncio.create_task(plane.start())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not [
        thread for thread in threading.enumerate() if thread.name == "qorzen-ops" and thread.is_alive()
    ]


async def test_the_work_loop_turns_while_the_plane_stops() -> None:
    """A request hangs, so the stop takes its second: meanwhile the caller's loop must go on."""
    collector = HangingCollector()
    registry = CollectorRegistry()
    registry.register(collector)
    async with serving(SaidManager(registry=registry)) as plane, aiohttp.ClientSession() as session:
        hanging = asyncio.create_task(_fetch(session, f"{plane.url}/metrics"))
        assert await asyncio.to_thread(collector.entered.wait, 30)
        started = time.monotonic()
        stopping = asyncio.create_task(plane.stop())
        turns = 0
        while not stopping.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert time.monotonic() - started < 2.5
        assert turns > 20
        with pytest.raises(aiohttp.ClientError):
            await hanging
    collector.let_go.set()


async def _fetch(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url) as response:
        return await response.read()


class HugeCollector:
    """More than fits in the buffers between a server and a client that does not read."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("huge", "x" * 32_000_000, 1)


@pytest.mark.parametrize(
    "sent", [b"", b"GET /status HT", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
async def test_a_stuck_client_does_not_hold_the_stop(sent: bytes) -> None:
    """Silent, in the middle of its request, or not reading its response."""
    registry = CollectorRegistry()
    registry.register(HugeCollector())
    async with serving(SaidManager(registry=registry)) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port, limit=1000)
        writer.write(sent)
        if b"metrics" in sent:
            await reader.readline()  # from here on it does not read any more
        started = time.monotonic()
        await plane.stop()
        assert time.monotonic() - started < server_app.SHUTDOWN_SECONDS + 0.9
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


# ---------------------------------------------------------------------------- what a browser may do with it


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_t6_errors_repeat_nothing_of_the_request(session: aiohttp.ClientSession, payload: str) -> None:
    async with serving(SaidManager()) as plane:
        for path, params in (
            (f"/{payload}", {}),
            (f"/api/tasks/{payload}", {}),
            (f"/api/traces/{payload}", {}),
            (f"/livez/{payload}", {}),
            ("/api/tasks", {"status": payload}),
            ("/api/tasks", {"cursor": payload}),
            ("/api/tasks", {payload: "1"}),
        ):
            async with session.get(plane.url + path, params=params) as response:
                assert response.status in (404, 422)
                assert response.headers["Content-Type"] == "application/problem+json"
                assert payload not in (await response.text())


@pytest.mark.parametrize(
    "request_line",
    [b"GET /<script> HTTP/9.9", b"<script>", b"GET /status HTTP/1.1\r\n<script>", b"G<script>T / HTTP/1.1"],
)
async def test_t6_what_is_no_http_is_a_problem_that_repeats_nothing(
    request_line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(SaidManager()) as plane:
        status, headers, body = await exchange(plane, request_line + b"\r\n\r\n")
    assert status == 400
    assert headers["Content-Type"] == "application/problem+json"
    assert b"script" not in body
    assert not caplog.records, "a scanner fills the log"


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_t6_a_tasks_texts_are_data(session: aiohttp.ClientSession, payload: str) -> None:
    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        task_id = await manager.submit_task(failing, payload, name=payload, plugin_id=payload)
        await manager.wait_for_task(task_id)
        async with session.get(f"{plane.url}/api/tasks", params={"name": payload}) as response:
            assert response.headers["Content-Type"] == "application/json"
            (task,) = json.loads(await response.read())["items"]
        assert (task["name"], task["plugin_id"], task["error"]) == (payload, payload, payload)


async def test_t7_arguments_and_results_are_not_served_and_metadata_only_with_the_task_itself(
    session: aiohttp.ClientSession,
) -> None:
    canary, metadata = "canary-3f9a", "canary-of-metadata"

    async def give_back(value: str, *, option: str) -> str:
        return value

    async with managing() as (manager, spans), serving(manager, spans=spans) as plane:
        task_id = await manager.submit_task(give_back, canary, option=canary, metadata={"key": metadata})
        info = await manager.wait_for_task(task_id)
        assert info.result == canary
        for path in (
            f"/api/tasks/{task_id}",
            f"/api/tasks/{task_id}/trace",
            "/api/tasks",
            "/status",
            "/metrics",
        ):
            async with session.get(plane.url + path) as response:
                assert response.status == 200
                text = await response.text()
                assert canary not in text, path
                assert (metadata in text) == (task_id in path), path


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/%2e%2e%2fapp.py",
        "/static/..%5capp.py",
        "/static/....//app.py",
        "/static//etc/passwd",
        "/static/%00page.css",
        "/static/page.css%00",
        "/static/",
        "/static",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
    ],
)
async def test_t8_no_path_leads_out_of_the_table(path: str) -> None:
    async with serving(SaidManager()) as plane:
        status, _, _ = await exchange(plane, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert status in (400, 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_a_wrong_method_is_told_the_right_ones(session: aiohttp.ClientSession, method: str) -> None:
    async with serving(SaidManager()) as plane, session.request(method, f"{plane.url}/status") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"
        assert json.loads(await response.read())["title"] == "Method Not Allowed"


# ---------------------------------------------------------------------------- limits


async def test_t9_a_client_that_never_ends_its_headers_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(server_app.CONNECTION_OPTIONS, "keepalive_timeout", 0.1)
    async with serving(SaidManager()) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
        writer.write(b"GET /status HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /status HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 10_000 + b"\r\n",
        b"GET /status HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 100,
    ],
)
async def test_t9_a_head_that_is_too_long_is_refused(request_head: bytes) -> None:
    async with serving(SaidManager()) as plane:
        status, _, _ = await exchange(plane, request_head + b"\r\n")
        assert status == 400


async def test_t9_a_body_is_never_unpacked() -> None:
    """Who unpacks this one fails, and loses the request behind it; who does not cannot be hurt by a bomb either."""
    head = b"POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 7\r\n\r\n"
    async with serving(SaidManager()) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
        writer.write(head + b"no gzip")
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answers = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answers.startswith(b"HTTP/1.1 405 ")
    assert answers.endswith(b"\r\n\r\nok")


async def test_t9_a_body_that_does_not_end_is_not_waited_for() -> None:
    async with serving(SaidManager()) as plane:
        head = b"POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000000\r\n\r\n"
        status, _, _ = await exchange(plane, head)
        assert status == 405


async def test_t9_one_connection_too_many_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_app, "MAX_CONNECTIONS", 2)
    async with (
        serving(SaidManager()) as plane,
        aiohttp.ClientSession() as one,
        aiohttp.ClientSession() as two,
    ):
        await get_json(one, f"{plane.url}/status")
        await get_json(two, f"{plane.url}/status")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await exchange(plane, b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await get_json(one, f"{plane.url}/status")


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux can tell")
async def test_t9_a_client_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_app, "STALLED_SECONDS", 0.3)
    monkeypatch.setattr(server_app, "MAX_CONNECTIONS", 1)
    registry = CollectorRegistry()
    registry.register(HugeCollector())
    async with serving(SaidManager(registry=registry)) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port, limit=1000)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readline()  # from here on it does not read any more
        status = None
        async with asyncio.timeout(20):
            while status is None:  # until its place is free
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    status, _, _ = await exchange(plane, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status == 200
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


# ---------------------------------------------------------------------------- around it


async def test_each_request_is_observed_by_its_template(session: aiohttp.ClientSession) -> None:
    seen: list[tuple[str, str, int]] = []

    def on_request(method: str, route: str, code: int, seconds: float) -> None:
        assert 0 <= seconds < 60
        seen.append((method, route, code))

    async with serving(SaidManager(), on_request=on_request) as plane:
        for method, path in (
            ("GET", "/livez"),
            ("GET", "/api/tasks/1234"),
            ("GET", "/api/tasks?limit=x"),
            ("HEAD", "/status"),
            ("GET", "/secret-path"),
            ("POST", "/status"),
            ("PROPFIND", "/status"),
        ):
            async with session.request(method, plane.url + path):
                pass
    assert seen == [
        ("GET", "/livez", 200),
        ("GET", "/api/tasks/{task_id}", 404),
        ("GET", "/api/tasks", 422),
        ("HEAD", "/status", 200),
        ("GET", "other", 404),
        ("POST", "other", 405),
        ("other", "other", 405),
    ]


async def test_an_observer_that_fails_is_not_asked_again(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    def on_request(method: str, route: str, code: int, seconds: float) -> None:
        raise RuntimeError

    async with serving(SaidManager(), on_request=on_request) as plane:
        for _ in range(3):
            await get_json(session, f"{plane.url}/status")
    assert len(caplog.records) == 1
