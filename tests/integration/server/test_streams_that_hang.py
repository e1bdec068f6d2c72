"""F25: clients of the event stream that stall, come back a thousand times, or stay and say nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

from qorzen_obs.app import Service
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.server import stream
from qorzen_obs.settings import ServerSettings, Settings, TaskSettings, TelemetrySettings
from qorzen_obs.telemetry import names
from tests.event_stream import Follower, following, parse
from tests.services.whole_service import whole_service
from tests.support import PATIENCE_SECONDS, metric, until

pytestmark = pytest.mark.slow  # programs of their own, which no version of Python makes another

RECEIVE_BUFFER = 4_096
#: What a client that does not read may cost, apart from what its own side of the connection holds.
MOST_QUEUED = 256 * 1024
REQUEST = b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def nothing() -> None:
    pass


@asynccontextmanager
async def service() -> AsyncIterator[Service]:
    settings = Settings(
        server=ServerSettings(port=0),
        tasks=TaskSettings(keep_completed_tasks=100),
        telemetry=TelemetrySettings(log_level="off"),
    )
    async with whole_service(settings) as made:
        yield made


def streams(of: Service) -> float:
    return metric(of.parts.registry, names.HTTP_STREAMS.name)


def evicted(of: Service) -> float:
    return metric(of.parts.registry, names.HTTP_STREAMS_EVICTED.name + "_total")


def connect(to: Service) -> socket.socket:
    """A connection that has asked for the stream and has little room for it."""
    assert to.ops is not None
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    connection.connect(("127.0.0.1", to.ops.port))
    connection.sendall(REQUEST)
    return connection


async def run_tasks(tasks: TaskManager, until_true: asyncio.Event) -> None:
    while not until_true.is_set():
        await tasks.run(nothing)


def read_all(connection: socket.socket) -> bytes:
    """Everything that comes until the connection ends, however it does."""
    text = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65_536):
            text += chunk
    return text


async def test_a_client_that_does_not_read_is_cut_off_and_costs_little_until_then() -> None:
    async with service() as running, AsyncExitStack() as stack:
        stalled = stack.enter_context(connect(running))
        await until(lambda: streams(running) == 1)
        done = asyncio.Event()
        working = asyncio.create_task(run_tasks(running.tasks, done))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not evicted(running):  # noqa: ASYNC110 - the server counts on another thread
                    await asyncio.sleep(0.01)
        finally:
            done.set()
            await working
        await until(lambda: streams(running) == 0)
        text = await asyncio.to_thread(read_all, stalled)
        assert b"event: snapshot" in text
        assert len(text) <= MOST_QUEUED


async def test_a_client_that_stalls_keeps_nothing_from_the_others() -> None:
    async with service() as running, AsyncExitStack() as stack:
        assert running.ops is not None
        for _ in range(5):
            stack.enter_context(connect(running))
        async with following(running.ops.url) as follower:
            await follower.has("snapshot")
            done = asyncio.Event()
            working = asyncio.create_task(run_tasks(running.tasks, done))
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while evicted(running) < 5:  # noqa: ASYNC110 - as above
                        await asyncio.sleep(0.01)
            finally:
                done.set()
                await working
            await follower.reaches(running.tasks.looks.event_ring.last)
            assert not follower.of("reset")
            assert follower.counts["completed"] == running.tasks.status()["tasks"]["total"]


async def test_a_client_that_reads_again_in_time_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "STALLED_TICKS", 1_000_000)
    async with service() as running, AsyncExitStack() as stack:
        running.tasks.looks.event_ring.capacity = 256
        slow = stack.enter_context(connect(running))
        slow.settimeout(PATIENCE_SECONDS)
        text = await asyncio.to_thread(_read_until, slow, b"event: snapshot")
        for _ in range(400):  # more than the connection and the ring hold
            await running.tasks.run(nothing)
        ring = running.tasks.looks.event_ring
        text += await asyncio.to_thread(_read_until, slow, f"id: {ring.instance}-{ring.last}\n".encode())
        follower = Follower()
        for block in _body(text).split(b"\n\n")[:-1]:
            follower.take(parse(block.decode()))
        assert follower.problem is None
        assert {message.data["reason"] for message in follower.of("reset")} == {"lost"}
        assert follower.counts["completed"] == 400
        assert evicted(running) == 0


def _body(answer: bytes) -> bytes:
    """The content of a chunked answer, as far as its chunks are whole."""
    rest, body = answer.partition(b"\r\n\r\n")[2], b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


async def test_a_stream_begins_while_the_work_loop_is_held_up() -> None:
    async with service() as running:
        await running.tasks.run(nothing)
        with connect(running) as connection:
            connection.settimeout(PATIENCE_SECONDS)
            _read_until(connection, b"event: snapshot")  # on the work loop itself


async def test_a_thousand_reconnects_leave_nothing() -> None:
    async with service() as running:
        await running.tasks.run(nothing)
        before = _open_files()
        for number in range(1_000):
            with connect(running) as connection:
                if number % 10 == 0:
                    await asyncio.to_thread(connection.recv, 1)
        await until(lambda: streams(running) == 0)
        await until(lambda: _open_files() <= before)
        assert threading.active_count() < 30


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a directory of the kernel's, which counts the listing too


async def test_three_hundred_idle_clients_are_written_to_when_there_is_something_to_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 600.0)
    async with service() as running, AsyncExitStack() as stack:
        assert running.ops is not None
        connections = [stack.enter_context(connect(running)) for _ in range(300)]
        await until(lambda: streams(running) == 300)
        for connection in connections:
            await asyncio.to_thread(_read_until, connection, b"event: snapshot")
        async with aiohttp.ClientSession() as session, session.get(f"{running.ops.url}/livez") as response:
            assert response.status == 200
        assert [connection for connection in connections if _has_more(connection)] == []
        await running.tasks.run(nothing)
        for connection in connections:
            await asyncio.to_thread(_read_until, connection, b"event: task/completed")
        assert evicted(running) == 0


def _read_until(connection: socket.socket, end: bytes) -> bytes:
    """Return what comes, up to the end of the message that contains `end`."""
    text = b""
    while end not in text or not text.endswith(b"\n\n\r\n"):
        chunk = connection.recv(65_536)
        assert chunk, "the connection has ended"
        text += chunk
    return text


def _has_more(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


async def test_one_stream_too_many_is_refused_and_a_probe_is_still_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "MAX_STREAMS", 3)
    async with service() as running, AsyncExitStack() as stack:
        assert running.ops is not None
        for _ in range(3):
            stack.enter_context(connect(running))
        await until(lambda: streams(running) == 3)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{running.ops.url}/api/events") as response:
                assert response.status == 503
                assert response.headers["Retry-After"] == "5"
                assert response.content_type == "application/problem+json"
            async with session.get(f"{running.ops.url}/readyz") as response:
                assert response.status == 200
        await stack.aclose()
        await until(lambda: streams(running) == 0)
        async with following(running.ops.url) as follower:
            await follower.has("snapshot")


async def test_a_stalled_client_does_not_hold_up_the_stop() -> None:
    async with service() as running, AsyncExitStack() as stack:
        stalled = stack.enter_context(connect(running))
        await until(lambda: streams(running) == 1)
        for _ in range(500):
            await running.tasks.run(nothing)
        async with asyncio.timeout(5):
            await running.stop(grace_seconds=0)
        assert await asyncio.to_thread(read_all, stalled)
