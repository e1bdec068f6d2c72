"""A command crosses to the work loop: what a caller is told that waited in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from threading import Event, Thread
from types import SimpleNamespace
from typing import cast

import pytest
from aiohttp import web

from qorzen_obs.server import commands
from qorzen_obs.server.commands import on_work_loop
from qorzen_obs.server.problems import ProblemError
from qorzen_obs.server.sources import LOOKS
from tests.support import PATIENCE_SECONDS


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def test_a_late_answer_says_whether_the_command_had_begun(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "DEADLINE_SECONDS", 0.05)
    request = cast(web.Request, SimpleNamespace(app={LOOKS: SimpleNamespace(loop=loop)}))
    release, ran = Event(), []

    async def block() -> None:
        ran.append("first")
        release.wait(PATIENCE_SECONDS)  # holds the loop

    async def wait_its_turn() -> None:
        ran.append("second")

    try:
        with pytest.raises(ProblemError, match="what was asked may have been done"):
            await on_work_loop(request, block())
        with pytest.raises(ProblemError, match="nothing was done"):
            await on_work_loop(request, wait_its_turn())
    finally:
        release.set()
    turned: Future[None] = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop)
    await asyncio.wrap_future(turned)
    assert ran == ["first"]


@pytest.mark.parametrize("closed", [False, True])
async def test_f39_without_a_loop_that_runs_the_service_says_that_it_does_not(closed: bool) -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    looks = SimpleNamespace(loop=loop if closed else None)
    request = cast(web.Request, SimpleNamespace(app={LOOKS: looks}))
    with pytest.raises(ProblemError, match="the service is not running"):
        await on_work_loop(request, asyncio.sleep(0))
