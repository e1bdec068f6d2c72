"""GET /api/traces: which come first, and how one is found by its name or id."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import StatusCode

from qorzen_obs.server.app import OpsPlane
from qorzen_obs.telemetry.span_store import SpanStore
from tests.services.ops_plane import SaidManager, managing, serving
from tests.support import Gate

CANARY = "hunter2canary"


class Listing:
    """A store of traces, and a server that lists them."""

    def __init__(self, plane: OpsPlane, store: SpanStore, session: aiohttp.ClientSession) -> None:
        self._url = f"{plane.url}/api/traces"
        self._session = session
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(store)

    def end(self, name: str, seconds: float, *, failed: bool = False) -> str:
        """End the only span of a trace; return its id."""
        span = self._provider.get_tracer("tests").start_span(name, start_time=10**18)
        if failed:
            span.set_status(StatusCode.ERROR)
        span.end(10**18 + int(seconds * 1e9))
        return f"{span.get_span_context().trace_id:032x}"

    async def ask(self, query: dict[str, str], status: int = 200) -> Any:
        async with self._session.get(self._url, params=query) as response:
            assert response.status == status
            return await response.json(content_type=None)

    async def names(self, **query: str) -> str:
        """The roots' names in order."""
        return "".join(trace["root_name"] for trace in (await self.ask(query))["items"])


@pytest.fixture
async def listing() -> AsyncIterator[Listing]:
    store = SpanStore(keep_traces=50)
    async with serving(SaidManager(), spans=store) as plane, aiohttp.ClientSession() as session:
        yield Listing(plane, store, session)


async def test_of_several_traces_those_that_are_kept_are_told_by_their_ids(listing: Listing) -> None:
    a, _, c = (listing.end(name, 1) for name in "abc")
    assert await listing.names(trace_id=f"{a},{c.upper()},{'0' * 32}", sort="slowest") == "ca"
    assert await listing.names(trace_id="0" * 32) == ""


async def test_the_newest_the_slowest_or_the_failed_come_first(listing: Listing) -> None:
    for name, seconds, failed in (("a", 3, True), ("b", 9, False), ("c", 1, True), ("d", 5, False)):
        listing.end(name, seconds, failed=failed)
    assert await listing.names() == await listing.names(sort="newest") == "dcba"
    assert await listing.names(sort="slowest") == "bdac"
    assert await listing.names(sort="failed") == "cadb"
    assert await listing.names(sort="slowest", errors="true") == "ac"
    assert await listing.names(sort="slowest", limit="2") == "bd"


async def test_the_slowest_of_all_that_are_kept_is_found_and_not_of_the_newest(listing: Listing) -> None:
    listing.end("slow", 60)
    for number in range(49):
        listing.end(str(number), 1)
    assert await listing.names(sort="slowest", limit="1") == "slow"
    assert await listing.names(q="slow", limit="1") == "slow"


async def test_a_trace_is_found_by_a_part_of_its_name_or_of_its_id(listing: Listing) -> None:
    mail = listing.end("run mail.Send", 1)
    listing.end("run report", 1)
    assert await listing.names(q="MAIL.s") == "run mail.Send"
    assert await listing.names(q=mail.upper()[:20]) == "run mail.Send"
    assert await listing.names(q="run") == "run reportrun mail.Send"
    assert await listing.names(q="nothing") == ""
    assert await listing.names(q="") == "run reportrun mail.Send"


async def test_t7_a_secret_in_a_name_cannot_be_searched_for(listing: Listing) -> None:
    listing.end(f"run mail token={CANARY}", 1)
    assert await listing.names(q="mail token") == "run mail token=[redacted]"
    assert await listing.names(q=CANARY[:3]) == ""


async def test_what_it_does_not_know_is_refused_by_name(listing: Listing) -> None:
    assert (await listing.ask({"sort": "oldest"}, 422))["parameter"] == "sort"
    assert "newest, slowest, failed" in (await listing.ask({"sort": "oldest"}, 422))["detail"]
    await listing.ask({"name": "mail"}, 422)


async def test_a_trace_that_is_not_decided_yet_is_listed_too() -> None:
    gate = Gate()

    async with (
        managing() as (manager, spans),
        serving(manager, spans=spans) as plane,
        aiohttp.ClientSession() as session,
    ):

        async def family() -> None:
            await manager.run(asyncio.sleep, 0, name="child")
            await gate()

        await manager.submit_task(family)
        await gate.holds(1)
        for query in ("sort=slowest", "sort=failed", "q=child"):
            async with session.get(f"{plane.url}/api/traces?{query}") as response:
                (trace,) = (await response.json())["items"]
            assert trace["root_name"].endswith("run child")
        gate.open()
