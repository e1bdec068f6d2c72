"""The lines of a task: one when it ends, its own with its name and trace, and none that waits for a reader (F17)."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO

import pytest
from opentelemetry import trace

from qorzen_obs import TaskStatus, open_task_manager
from qorzen_obs.app import Service
from qorzen_obs.settings import Settings
from qorzen_obs.tasks import CategoryName
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.log_sink import MAX_LINES
from qorzen_obs.testing import CapturedLogs, open_test_manager
from tests.integration.telemetry.ends import every_kind_of_end
from tests.support import Gate, Spans, metric, root_handlers, settings


async def test_every_ended_task_has_exactly_one_finished_line() -> None:
    logs, spans = CapturedLogs(), Spans()
    async with open_test_manager(
        settings(max_concurrent_tasks=5), logs=logs, tracer_provider=spans.provider
    ) as tasks:
        ids = await every_kind_of_end(tasks)
        lines = logs.of(names.LOG_FINISHED)
        assert sorted(line["task_id"] for line in lines) == sorted(ids)
        for line in lines:
            info = tasks.find(line["task_id"])
            assert info is not None
            assert (line["status"], line["task_name"], line["category"], line["priority"]) == (
                info.status.value,
                info.name,
                info.category.value,
                info.priority.label,
            )
            assert line.get("trace_id") == info.trace_id
            assert line.get("span_id") == info.span_id
            assert line["attempt"] == info.attempt
            assert line.get("error_type") == info.error_type
            assert line["level"] == ("warning" if info.status is TaskStatus.FAILED else "info")
            for key, value in (
                ("duration_seconds", info.duration_seconds),
                ("queue_wait_seconds", info.queue_wait_seconds),
            ):
                assert line[key] == (None if value is None else round(value, 6))


async def test_a_task_cancelled_while_pending_has_its_line_in_its_submitters_trace() -> None:
    logs, spans, gate = CapturedLogs(), Spans(), Gate()
    one_slot = settings(max_concurrent_tasks=1)
    async with open_test_manager(one_slot, logs=logs, tracer_provider=spans.provider) as tasks:
        victims: list[str] = []

        async def kill() -> None:
            await gate()
            for victim in victims:
                await tasks.cancel_task(victim, reason="not needed")

        killing = await tasks.submit_task(kill, name="kill")
        victims.append(await tasks.submit_task(max, 1, 2, name="outside"))
        with spans.tracer.start_as_current_span("request") as request:
            victims.append(await tasks.submit_task(max, 1, 2, name="inside"))
        gate.open()
        await tasks.wait_for_task(killing)
    lines = {line["task_name"]: line for line in logs.of(names.LOG_FINISHED)}
    assert (lines["inside"]["status"], lines["inside"]["attempt"]) == ("cancelled", 0)
    assert lines["inside"]["cancel_reason"] == "not needed"
    assert lines["inside"]["duration_seconds"] is None
    assert lines["inside"]["trace_id"] == trace.format_trace_id(request.get_span_context().trace_id)
    assert "trace_id" not in lines["outside"], "not that of the task which cancelled it"


@pytest.mark.parametrize("category", ["core", "io", "ui"])
async def test_a_line_that_a_task_logs_says_which_task_and_trace_it_is_from(category: CategoryName) -> None:
    logs, spans = CapturedLogs(), Spans()
    logger = logs.get_logger("user")

    def work() -> None:
        logger.info("hello", size=3)

    async def work_async() -> None:
        await asyncio.sleep(0)
        logger.info("hello", size=3)

    async with open_test_manager(logs=logs, tracer_provider=spans.provider) as tasks:
        for func in (work, work_async):
            info = await tasks.wait_for_task(
                await tasks.submit_task(func, name="talker", category=category, priority="low")
            )
            assert logs.of("hello").pop() == {
                "event": "hello",
                "level": "info",
                "logger": "user",
                "size": 3,
                "task_id": info.task_id,
                "task_name": "talker",
                "category": category,
                "priority": "low",
                "attempt": 1,
                "trace_id": info.trace_id,
                "span_id": info.span_id,
            }
        logger.info("outside")
        assert set(logs.of("outside")[0]) == {"event", "level", "logger"}


async def test_a_program_without_a_standard_error_has_its_tasks_run_and_its_lines_counted_as_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr", None)  # as it is where a program was started with it closed
    with root_handlers():
        async with open_task_manager(Settings()) as tasks:
            await tasks.run(asyncio.sleep, 0)
            registry = tasks.registry
    assert metric(registry, f"{names.EVENTS_DROPPED.name}_total", kind="log_line") >= 1
    assert metric(registry, f"{names.LOG_MESSAGES.name}_total", level="info") >= 1


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

    async def chatter() -> None:
        """Write what would wait for ever, if a line went to the pipe itself."""
        for _ in range(MAX_LINES // 5):
            for _ in range(10):
                logger.info("line", text="x" * 100)
            await asyncio.sleep(0)

    task_id = await service.tasks.submit_task(chatter)
    info = await service.tasks.wait_for_task(task_id)
    assert info.status is TaskStatus.COMPLETED
    lost = metric(service.parts.registry, "qorzen_events_dropped_total", kind="log_line")
    assert lost > MAX_LINES / 2
    assert metric(service.parts.registry, "qorzen_log_messages_total", level="info") >= 2 * MAX_LINES
    assert len(service.tasks.looks.task_lines.of(task_id).items) == 200, (
        "what the pipe lost is there all the same"
    )
    await service.stop(grace_seconds=0)
