"""GET /api/tasks/{id}/logs: the lines of a task from any engine, and nobody else's."""

import asyncio
import io
import logging
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import structlog

from qorzen_obs import task
from qorzen_obs.app import Service
from qorzen_obs.errors import SettingsError
from qorzen_obs.retry import Retry
from qorzen_obs.settings import EngineSettings, ServerSettings, Settings, TaskSettings, TelemetrySettings
from qorzen_obs.tasks import TaskCategory
from qorzen_obs.telemetry import names
from tests.services.whole_service import logging_service, url_of


class Logged:
    """A service as `serve` sets it up, but for the process: its lines go to `stream`."""

    def __init__(self, service: Service, stream: io.StringIO, session: aiohttp.ClientSession) -> None:
        self.tasks = service.tasks
        self.stream = stream
        self._session = session
        self._url = url_of(service)

    async def get(self, path: str) -> tuple[int, Any]:
        async with self._session.get(self._url + path) as response:
            return response.status, await response.json()

    async def lines(self, task_id: str) -> list[dict[str, Any]]:
        status, document = await self.get(f"/api/tasks/{task_id}/logs")
        assert status == 200
        items: list[dict[str, Any]] = document["items"]
        return items


def loggers(lines: Iterable[dict[str, Any]]) -> list[tuple[str | None, str | None]]:
    """What the lines that are not ours call their loggers."""
    return [(line.get("logger_name"), line.get("logger")) for line in lines if line["event"].startswith("by")]


@asynccontextmanager
async def logged(*, telemetry: TelemetrySettings | None = None, **tasks: Any) -> AsyncIterator[Logged]:
    settings = Settings(
        server=ServerSettings(port=0),
        engines=EngineSettings(processes=1, worker_threads=2, io_threads=2),
        tasks=TaskSettings(**tasks),
        telemetry=telemetry or TelemetrySettings(),
    )
    async with logging_service(settings) as (service, written), aiohttp.ClientSession() as session:
        yield Logged(service, written, session)


def speak() -> None:
    structlog.get_logger("theirs").info("by.structlog", n=1)
    logging.getLogger("user").warning("by logging", extra={"n": 2})


async def speak_on_the_loop() -> None:
    speak()
    await asyncio.sleep(0)
    structlog.get_logger().info("later")


@task(engine="process")
def speak_in_a_process() -> None:
    structlog.get_logger("theirs").info("by.structlog", n=1)
    logging.getLogger("user").warning("by logging", extra={"n": 2})
    sys.stdout.write("by print\n")


async def test_lines_from_every_engine_are_kept_for_their_task_and_the_canonical_one_is_the_last() -> None:
    async with logged() as service:
        ids = [
            await service.tasks.submit_task(speak_on_the_loop),
            await service.tasks.submit_task(speak),
            await service.tasks.submit_task(speak, category=TaskCategory.IO),
            await service.tasks.submit_task(speak, category=TaskCategory.UI),
        ]
        for task_id in ids:
            await service.tasks.wait_for_task(task_id)
            events = [line["event"] for line in await service.lines(task_id)]
            assert events[:2] == ["by.structlog", "by logging"]
            assert loggers(await service.lines(task_id)) == [("theirs", None), ("user", None)]
            assert events[-1] == names.LOG_FINISHED
            assert events.count(names.LOG_FINISHED) == 1
        first = (await service.lines(ids[0]))[0]
        assert (first["n"], first["level"], first["attempt"]) == (1, "info", 1)
        assert first["at"].endswith("Z")
        assert len(first["trace_id"]) == 32


async def test_lines_and_output_of_a_worker_process_are_kept() -> None:
    async with logged() as service:
        task_id = await service.tasks.submit_task(speak_in_a_process)
        await service.tasks.wait_for_task(task_id)
        lines = {line["event"]: line for line in await service.lines(task_id)}
        assert loggers(lines.values())[:2] == [("theirs", None), ("user", None)]
        assert (lines["by logging"]["n"], lines["by logging"]["level"]) == (2, "warning")
        assert (lines[names.LOG_OUTPUT]["line"], lines[names.LOG_OUTPUT]["stream"]) == ("by print", "stdout")
        assert names.LOG_FINISHED in lines


async def test_a_retried_task_has_the_lines_of_all_its_attempts() -> None:
    tries = []

    @task(retry=Retry(max_attempts=2, backoff=lambda *_: 0.0))
    async def fails_once() -> None:
        structlog.get_logger().info("try")
        tries.append(1)
        if len(tries) == 1:
            raise ValueError

    async with logged() as service:
        task_id = await service.tasks.submit_task(fails_once)
        await service.tasks.wait_for_task(task_id)
        events = [line["event"] for line in await service.lines(task_id)]
        assert events == ["try", names.LOG_RETRYING, "try", names.LOG_FINISHED]


async def test_a_childs_canonical_line_is_its_own_and_not_its_parents() -> None:
    async with logged() as service:

        async def parent() -> str:
            child = await service.tasks.submit_task(speak)
            await service.tasks.wait_for_task(child)
            return child

        parent_id = await service.tasks.submit_task(parent)
        child_id = (await service.tasks.wait_for_task(parent_id)).result
        assert [line["event"] for line in await service.lines(parent_id)] == [names.LOG_FINISHED]
        assert len(await service.lines(child_id)) == 3


async def test_the_level_of_the_log_does_not_hide_the_canonical_line_and_the_bound_is_said() -> None:
    def chatter() -> None:
        for number in range(10):
            structlog.get_logger().error("line", number=number)

    telemetry = TelemetrySettings(log_level="error", keep_log_lines_per_task=3)
    async with logged(telemetry=telemetry) as service:
        task_id = await service.tasks.submit_task(chatter)
        await service.tasks.wait_for_task(task_id)
        _, document = await service.get(f"/api/tasks/{task_id}/logs")
        assert [item["event"] for item in document["items"]] == ["line", "line", names.LOG_FINISHED]
        assert document["dropped"] == 8
        assert names.LOG_FINISHED not in service.stream.getvalue()


async def test_a_pending_task_has_no_lines_an_unknown_one_is_not_found_and_a_forgotten_ones_are_gone() -> (
    None
):
    async with logged(keep_completed_tasks=1, max_concurrent_tasks=1) as service:
        blocker = await service.tasks.submit_task(asyncio.sleep, 60)
        pending = await service.tasks.submit_task(time.time)
        nothing_yet = {"items": [], "dropped": 0, "missing": "early"}
        assert await service.get(f"/api/tasks/{pending}/logs") == (200, nothing_yet)
        assert (await service.get("/api/tasks/unknown/logs"))[0] == 404
        await service.tasks.cancel_task(blocker)
        await service.tasks.wait_for_task(pending)
        gone = {"items": [], "dropped": 0, "missing": "late"}
        assert await service.get(f"/api/tasks/{blocker}/logs") == (200, gone), "only one ended task is kept"
        (_, whole) = await service.get(f"/api/tasks/{pending}/logs")
        assert (len(whole["items"]), whole["missing"]) == (1, None)


async def test_lines_are_counted_in_metrics() -> None:
    async with logged() as service:
        await service.tasks.wait_for_task(await service.tasks.submit_task(speak))
        collected = {
            (sample.name, *sample.labels.values()): sample.value
            for family in service.tasks.registry.collect()
            for sample in family.samples
        }
        assert collected["qorzen_log_messages_total", "warning"] == 1
        assert collected["qorzen_log_messages_total", "info"] >= 3
        assert collected["qorzen_events_dropped_total", "log_line"] == 0


@task(engine="process")
def write_long_lines() -> None:
    for before in range(8_192 - 20, 8_192 + 1):
        sys.stdout.write("x" * before + " password=" + "canary" * 3 + "\n")


async def test_t7_a_long_line_of_output_is_redacted_before_it_is_cut() -> None:
    async with logged() as service:
        await service.tasks.wait_for_task(await service.tasks.submit_task(write_long_lines))
        shown = service.stream.getvalue()
        assert "canary" not in shown
        assert "xxx" in shown
        assert "[redacted]" in shown


@task(engine="process")
def say_what_only_the_settings_know() -> None:
    logging.getLogger("user").warning("patient P-123456", extra={"iban": "DE00123456"})
    sys.stdout.write("patient P-123456\n")


async def test_t7_own_keys_and_patterns_hold_in_worker_processes_too() -> None:
    async with logged(
        telemetry=TelemetrySettings(redact_keys=("iban",), redact_patterns=(r"P-\d{6}",))
    ) as service:
        task_id = await service.tasks.submit_task(say_what_only_the_settings_know)
        await service.tasks.wait_for_task(task_id)
        shown = f"{await service.lines(task_id)}{service.stream.getvalue()}"
        assert "123456" not in shown
        assert "patient [redacted]" in shown


def test_a_setting_that_cannot_be_followed_stops_the_start_by_its_name() -> None:
    with pytest.raises(SettingsError, match=r"telemetry\.redact_patterns"):
        Service(Settings(telemetry=TelemetrySettings(redact_patterns=("(",))))
