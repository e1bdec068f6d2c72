"""F42: hundreds of connections that say nothing, or never end: probes find a place, and the log stays short."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from qorzen_obs.server import door
from qorzen_obs.server.app import OpsPlane
from qorzen_obs.server.door import MAX_CONNECTIONS, PROBE_PLACES
from qorzen_obs.server.stream import MAX_STREAMS
from tests.services.ops_plane import SaidManager, exchange, serving
from tests.services.program import Running, write_files
from tests.support import PATIENCE_SECONDS

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
STATUS = b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n"
EVENTS = b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Client:
    """A connection whose client decides what is sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def follow_events(self) -> None:
        """Ask for the stream of events, which never ends, and return when it has begun."""
        self._writer.write(EVENTS)
        await self._reader.readuntil(b"\r\n\r\n")

    async def ask(self, request: bytes) -> int:
        """The status of the answer."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length"))
        await self._reader.readexactly(int(length.split()[1]))
        return int(head.split()[1])

    async def is_closed(self) -> None:
        """Return when the server has closed it."""
        with contextlib.suppress(ConnectionError):
            assert await self._reader.read() == b""

    async def close(self) -> None:
        self._writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def connected(plane: OpsPlane, number: int) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(number):
            client = Client(*await asyncio.open_connection("127.0.0.1", plane.port))
            stack.push_async_callback(client.close)
            clients.append(client)
        yield clients


async def probe(plane: OpsPlane) -> int:
    status, _, _ = await exchange(plane, LIVEZ)
    return status


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Enough of them for both sides of each connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MAX_CONNECTIONS
    if soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            pytest.skip(f"needs {wanted} open files; raise the hard limit: ulimit -Hn {wanted}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_f42_of_silent_connections_the_longest_silent_goes_first(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(door, "MAX_CONNECTIONS", 3)
    async with serving(SaidManager()) as plane, connected(plane, 3) as (first, second, third):
        assert await first.ask(STATUS) == 200
        for _ in range(2):  # a probe each
            assert await probe(plane) == 200
        await second.is_closed()
        assert await first.ask(STATUS) == 200
        async with connected(plane, 2):
            await third.is_closed()
            assert await first.ask(STATUS) == 200
    assert len(caplog.records) <= 1


async def test_f42_where_no_connection_is_silent_probes_have_places_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(door, "PROBE_PLACES", 2)
    async with serving(SaidManager()) as plane, connected(plane, 3) as clients:
        for client in clients:
            await client.follow_events()
        for _ in range(10):
            assert await probe(plane) == 200
            assert (await exchange(plane, b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"))[0] == 200
        status, headers, _ = await exchange(plane, STATUS)
        assert (status, headers["Retry-After"]) == (503, "1")
        async with connected(plane, 6):  # silent, on the places of the probes
            assert await probe(plane) == 200
            async with connected(plane, 3) as others:  # which they have left to these
                assert await others[1].ask(STATUS) == await others[2].ask(STATUS) == 503
        async with connected(plane, 6):
            assert await probe(plane) == 200
        await clients[0].close()
        async with aiohttp.ClientSession() as session:
            while True:  # until the server has seen that it is gone
                async with session.get(f"{plane.url}/status") as response:
                    if response.status == 200:
                        break


@pytest.mark.usefixtures("descriptors")
async def test_f42_livez_answers_beside_512_silent_connections() -> None:
    async with serving(SaidManager()) as plane, connected(plane, MAX_CONNECTIONS + 2 * PROBE_PLACES):
        for _ in range(20):
            assert await probe(plane) == 200


@pytest.mark.usefixtures("descriptors")
async def test_f42_livez_answers_beside_384_streams_and_128_more_connections() -> None:
    async with serving(SaidManager()) as plane, connected(plane, MAX_STREAMS) as streams:
        for stream in streams:
            await stream.follow_events()
        async with connected(plane, MAX_CONNECTIONS - MAX_STREAMS):
            for _ in range(20):
                assert await probe(plane) == 200


IDLE = """
from qorzen_obs import task

@task
async def nothing():
    pass
"""


@pytest.mark.parametrize("at_once", [False, True], ids=["one after the other", "at once"])
@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors as Linux does")
def test_f42_a_process_with_few_descriptors_stops_accepting_before_the_last_and_says_so_once(
    tmp_path: Path, at_once: bool
) -> None:
    folder = write_files(tmp_path, {"idle.py": IDLE})
    with Running("serve", "idle", cwd=folder, descriptors=64) as service, ExitStack() as stack:
        url = "http://" + service.line("http://").partition("http://")[2].strip("/ ")
        address = urllib.parse.urlsplit(url)

        def ask() -> None:
            with urllib.request.urlopen(f"{url}/livez", timeout=PATIENCE_SECONDS) as answer:
                assert answer.status == 200

        for _ in range(80):
            client = stack.enter_context(socket.socket())
            client.setblocking(not at_once)
            client.connect_ex((str(address.hostname), int(address.port or 0)))
            if not at_once:
                ask()
        for _ in range(10):
            ask()
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
        said = [line for line in service.log() if line["event"] != "manager.state"]
        assert ["longest silent" in line["event"] for line in said] == [True], said
