"""What is done every ten seconds for the routes that show the past: by one asyncio task of the server's own loop.

It begins and ends with the application: on the ops plane's loop, or where the routes are mounted on their host's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from aiohttp import web

from qorzen_obs.telemetry.own_log import OwnLog

logger = OwnLog(__name__)

STEP_SECONDS: Final = 10.0

OnTick = Callable[[], None]


class Ticker:
    """Calls what it is given every STEP_SECONDS. What fails is logged once and called again: the next may do better."""

    def __init__(self, step_seconds: float) -> None:
        self.step_seconds = step_seconds
        self._calls: list[OnTick] = []
        self._failed: set[OnTick] = set()

    def add(self, call: OnTick) -> None:
        """Call `call` on every tick, beginning with the start. It may not block, and takes a millisecond at most."""
        self._calls.append(call)

    async def run(self) -> None:
        """Tick until cancelled. Ticks that could not be in time, as while the loop was held, are left out."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self.tick()
            due += self.step_seconds * (1.0 + (loop.time() - due) // self.step_seconds)
            await asyncio.sleep(due - loop.time())

    def tick(self) -> None:
        """Call each once."""
        for call in self._calls:
            try:
                call()
            except BaseException:  # SystemExit too would end the loop
                if call not in self._failed:
                    self._failed.add(call)
                    logger.exception("what the past is shown from could not be noted")


TICKER: Final = web.AppKey("ticker", Ticker)


def set_up(app: web.Application) -> None:
    """Let an application tick while it runs."""
    app[TICKER] = Ticker(STEP_SECONDS)
    app.cleanup_ctx.append(_tick)


async def _tick(app: web.Application) -> AsyncIterator[None]:
    ticking = asyncio.create_task(app[TICKER].run(), name="qorzen ticker")
    yield
    ticking.cancel()
    await asyncio.gather(ticking, return_exceptions=True)
