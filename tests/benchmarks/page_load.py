"""`python -m tests.benchmarks.page_load`: a service with much to show, in a process of its own.

It holds LIVE tasks that run or wait, and while it is told to, makes EVENTS_PER_SECOND by short tasks and the progress
of long ones. It prints its address once they are there; each line of its input is a command, and is answered by a line
of JSON.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import time
from typing import Any, Final

from qorzen_obs.app import Service
from qorzen_obs.core.current_task import current_task
from qorzen_obs.current import CurrentTask
from qorzen_obs.host import SWITCH_SECONDS
from qorzen_obs.settings import ServerSettings, Settings, TaskSettings
from qorzen_obs.tasks import TaskCategory, TaskPriority

LIVE: Final = 10_000
RUNNING: Final = 1_000
PROGRESS_PER_SECOND: Final = 100
SHORT_PER_SECOND: Final = 300  #: each is submitted, started and ended
EVENTS_PER_SECOND: Final = 3 * SHORT_PER_SECOND + PROGRESS_PER_SECOND

_TICK_SECONDS: Final = 0.01
_NAMES: Final = (
    "invoices.import",
    "mail.send",
    "thumbnails.make",
    "search.index",
    "feed.fetch",
    "report.build",
)
_CATEGORIES: Final = (TaskCategory.CORE, TaskCategory.IO, TaskCategory.PLUGIN, TaskCategory.USER)
_ONE_FAILS_OF: Final = 50

SETTINGS: Final = Settings(
    tasks=TaskSettings(
        max_pending=2 * LIVE,
        max_concurrent_tasks=2 * RUNNING,
        default_timeout=math.inf,
        category_limits={TaskCategory.BACKGROUND: RUNNING},  # the others find a slot at once
    ),
    server=ServerSettings(port=0),
)


class Load:
    """What happens in the service: all of it by tasks."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._long: list[CurrentTask] = []
        self._short = 0  # those that have not ended
        self._making: asyncio.Task[None] | None = None
        self.events = 0

    async def hold(self) -> None:
        """Submit the tasks that stay: RUNNING of them start, the others wait for them."""
        for number in range(LIVE):
            await self._service.tasks.submit_task(
                self._stay,
                name=f"{_NAMES[number % len(_NAMES)]} {number}",
                category=TaskCategory.BACKGROUND,
                priority=(TaskPriority.LOW, TaskPriority.NORMAL, TaskPriority.HIGH)[number % 3],
            )
        while len(self._long) < RUNNING:  # noqa: ASYNC110 - as many tasks say so
            await asyncio.sleep(_TICK_SECONDS)

    async def _stay(self) -> None:
        self._long.append(current_task())
        await asyncio.Event().wait()

    def begin(self) -> None:
        """Make EVENTS_PER_SECOND from now on."""
        self._making = asyncio.create_task(self._make())

    async def end(self) -> None:
        """Make no more; return when all short tasks have ended."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait([self._making])
        while self._short:  # noqa: ASYNC110 - no task but ours counts them
            await asyncio.sleep(_TICK_SECONDS)

    async def _make(self) -> None:
        began, submitted, reported = time.monotonic(), 0, 0
        while True:
            seconds = time.monotonic() - began
            for number in range(submitted, submitted := int(seconds * SHORT_PER_SECOND)):
                await self._submit(number)
            for number in range(reported, reported := int(seconds * PROGRESS_PER_SECOND)):
                self._report(number)
            await asyncio.sleep(_TICK_SECONDS)

    async def _submit(self, number: int) -> None:
        self._short += 1
        await self._service.tasks.submit_task(
            self._pass,
            number,
            name=_NAMES[number % len(_NAMES)],
            category=_CATEGORIES[number % len(_CATEGORIES)],
            priority=TaskPriority.HIGH,
        )

    async def _pass(self, number: int) -> None:
        try:
            await asyncio.sleep(0.01 * (number % 5))
            if number % _ONE_FAILS_OF == 0:
                raise ConnectionError("the other side has closed the connection")
        finally:
            self._short -= 1
            self.events += 3

    def _report(self, number: int) -> None:
        self._long[number % len(self._long)].progress(number / 1e4, f"{number} of 1000000 rows")
        self.events += 1

    def figures(self) -> dict[str, Any]:
        """Say what has been done, and what that took."""
        tasks = self._service.tasks
        return {
            "processor": time.process_time(),
            "events": self.events,
            "evicted": tasks.looks.event_ring.evicted,
        }


async def serve() -> None:
    """Serve until the input ends."""
    sys.setswitchinterval(SWITCH_SECONDS)
    with open(os.devnull, "w") as out:  # noqa: ASYNC230, PTH123 - never waits
        service = Service(SETTINGS, http=True, environment={}, log_stream=out)
        await service.start()
        load = Load(service)
        await load.hold()
        assert service.ops is not None
        print(service.ops.url, flush=True)
        while command := await asyncio.to_thread(sys.stdin.readline):
            match command.strip():
                case "begin":
                    load.begin()
                case "end":
                    await load.end()
            print(json.dumps(load.figures()), flush=True)
        await service.stop(grace_seconds=0)


if __name__ == "__main__":
    asyncio.run(serve())
