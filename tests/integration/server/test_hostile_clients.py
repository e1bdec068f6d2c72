"""T6, T8 and T9: what a client sends is never repeated, leads nowhere, and takes up no more than its share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from qorzen_obs.server import door, listener
from qorzen_obs.telemetry.gathering import Gathering
from tests.integration.server.collectors import HugeCollector
from tests.services.ops_plane import SaidManager, exchange, get_json, managing, serving
from tests.support import PATIENCE_SECONDS

PAYLOADS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{7*7}}${7*7}",
    "'; DROP TABLE tasks; --",
]


async def failing(message: str) -> None:
    raise ValueError(message)


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


async def test_t9_a_client_that_never_ends_its_headers_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(door.CONNECTION_OPTIONS, "keepalive_timeout", 0.1)
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
        b"GET /status HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n",
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


async def test_t9_of_too_many_connections_the_longest_silent_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "MAX_CONNECTIONS", 2)
    async with serving(SaidManager()) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
        async with aiohttp.ClientSession() as one, aiohttp.ClientSession() as two:
            await get_json(one, f"{plane.url}/status")
            await get_json(two, f"{plane.url}/status")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux can tell")
async def test_t9_a_client_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "STALLED_SECONDS", 0.3)
    monkeypatch.setattr(door, "MAX_CONNECTIONS", 1)
    registry = CollectorRegistry()
    registry.register(HugeCollector())
    async with serving(
        SaidManager(gathering=Gathering(registry, patience_seconds=PATIENCE_SECONDS))
    ) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port, limit=1000)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readline()  # from here on it does not read any more
        status = None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while status is None:  # until its place is free
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    status, _, _ = await exchange(plane, b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    if status == 503:  # it has one of the places of the probes
                        status = None
        assert status == 200
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
