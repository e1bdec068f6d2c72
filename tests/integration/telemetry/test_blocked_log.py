"""F17: whoever should read the service's log does not, and the service works on."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO

import pytest

from qorzen_obs.app import Service
from qorzen_obs.settings import Settings
from qorzen_obs.tasks import TaskStatus
from qorzen_obs.telemetry.log_sink import MAX_LINES
from tests.support import metric


@pytest.fixture
def unread() -> Iterator[TextIO]:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    yield stream
    os.close(reading)  # lets go whoever waits
    with suppress(OSError):
        stream.close()


async def test_f17_an_unread_pipe_loses_lines_that_are_counted_and_never_holds_the_loop(
    unread: TextIO,
) -> None:
    service = Service(Settings(), environment={"OTEL_TRACES_EXPORTER": "none"}, log_stream=unread)
    await service.start()
    logger = service.parts.loggers.get_logger("user")
    gaps: list[float] = []

    async def chatter() -> None:
        for _ in range(MAX_LINES // 5):
            before = time.monotonic()
            for _ in range(10):
                logger.info("line", text="x" * 100)
            await asyncio.sleep(0)
            gaps.append(time.monotonic() - before)

    task_id = await service.tasks.submit_task(chatter)
    info = await service.tasks.wait_for_task(task_id)
    assert info.status is TaskStatus.COMPLETED
    lost = metric(service.parts.registry, "qorzen_events_dropped_total", kind="log_line")
    assert lost > MAX_LINES / 2
    assert metric(service.parts.registry, "qorzen_log_messages_total", level="info") >= 2 * MAX_LINES
    gaps.sort()
    assert gaps[len(gaps) // 2] < 0.02
    assert gaps[-1] < 1.0, "on a busy machine; a direct write would wait for ever"
    assert len(service.tasks.looks.task_lines.of(task_id).items) == 200, (
        "what the pipe lost is there all the same"
    )
    before = time.monotonic()
    await service.stop(grace_seconds=0)
    assert time.monotonic() - before < 5.0
