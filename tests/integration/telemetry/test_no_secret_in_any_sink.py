"""T7 and D28: a canary in every place where a task can put a text, and no sink that shows it."""

import asyncio
import io
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import generate_latest

from qorzen_obs import current_task
from qorzen_obs.app import Service
from qorzen_obs.core.event_bus_manager import Event
from qorzen_obs.errors import TaskCancelled
from qorzen_obs.settings import (
    EngineSettings,
    HistorySettings,
    ServerSettings,
    Settings,
    TaskSettings,
    TelemetrySettings,
)
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.secret_forms import HIDDEN
from qorzen_obs.telemetry.span_redaction import redact_span
from qorzen_obs.testing import CapturedEvents, CapturedLogs, open_test_manager
from tests.canary_tasks import BARE, CANARY, NAMED, Spoken, hang, leak, leak_in_a_process, leak_on_the_loop
from tests.event_stream import following
from tests.services.whole_service import logging_service
from tests.support import PATIENCE_SECONDS, Spans, until

PATHS = (
    "/metrics",
    "/status",
    "/health",
    "/livez?verbose",
    "/readyz?verbose",
    "/api/tasks",
    "/api/traces",
    "/api/running",
    "/api/pending",
    "/api/definitions",
    "/api/failures",
    "/api/loop",
    "/api/series",
    "/api/health/history",
    "/api/settings",
    "/api/page",
    "/api/lost",
)
OF_A_TASK = ("", "/logs", "/trace")


class Sinks:
    """A service and all that it shows of itself."""

    def __init__(
        self, service: Service, stream: io.StringIO, session: aiohttp.ClientSession, folder: Path
    ) -> None:
        self.service = service
        self.folder = folder  #: of the history's file
        self.tasks = service.tasks
        self.stream = stream
        self.events: list[Event] = []
        self.exported = InMemorySpanExporter()
        self._session = session
        service.parts.events.subscribe("*", self._keep)
        service.tasks.looks.event_ring.listen(self)  # as a stream would that was open from the start
        service.parts.tracing.provider.add_span_processor(SimpleSpanProcessor(self.exported))  # type: ignore[attr-defined]  # the SDK's

    async def _keep(self, event: Event) -> None:
        self.events.append(event)

    async def found(self, query: dict[str, str]) -> list[str]:
        """The ids of the tasks that the listing finds."""
        assert self.service.ops is not None
        async with self._session.get(self.service.ops.url + "/api/tasks", params=query) as response:
            return [task["task_id"] for task in (await response.json())["items"]]

    async def texts(self, task_id: str, of_a_task: tuple[str, ...] = OF_A_TASK) -> dict[str, str]:
        """Everything that can be seen from outside, by where."""
        assert self.service.ops is not None
        shown: dict[str, str] = {}
        for path in (*PATHS, *(f"/api/tasks/{task_id}{below}" for below in of_a_task)):
            async with self._session.get(self.service.ops.url + path) as response:
                shown[path] = await response.text()
        redactor = Redactor()
        spans = [redact_span(span, redactor) for span in self.exported.get_finished_spans()]
        shown["spans"] = "\n".join(span.to_json() for span in spans)
        shown["log"] = self.stream.getvalue()
        shown["events"] = repr(self.events)
        shown["stream"] = await self._streamed()
        shown["file"] = await self._stored(task_id)
        return shown

    async def _stored(self, task_id: str) -> str:
        """All that the file of the history holds, once it has this task and, if it has failed, its trace."""
        stored, info = self.tasks.looks.stored, self.tasks.find(task_id)
        assert stored is not None
        assert info is not None

        def is_written() -> bool:
            found = stored.find(task_id)
            trace_id = info.trace_id if info.error_type else None
            return (
                found is not None
                and found.status is info.status
                and (not trace_id or bool(stored.spans(trace_id)))
            )

        await until(is_written)
        return b"".join(file.read_bytes() for file in self.folder.iterdir()).decode("utf-8", "replace")

    async def _streamed(self) -> str:
        assert self.service.ops is not None
        ring = self.tasks.looks.event_ring
        async with following(self.service.ops.url, last_event_id=f"{ring.instance}-0") as follower:
            await follower.reaches(ring.last)
        async with following(self.service.ops.url) as newcomer:
            await newcomer.has("snapshot")
        return "\n".join(
            line for one in (follower, newcomer) for message in one.messages for line in message.lines
        )


@asynccontextmanager
async def sinks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Sinks]:
    settings = Settings(
        server=ServerSettings(port=0),
        engines=EngineSettings(processes=1),
        tasks=TaskSettings(cancel_grace_seconds=1.0),
        telemetry=TelemetrySettings(log_level="debug"),
        history=HistorySettings(url=f"sqlite:{tmp_path / 'history.sqlite'}"),
    )
    async with logging_service(settings) as (service, written), aiohttp.ClientSession() as session:
        monkeypatch.setattr("opentelemetry.trace.get_tracer", service.parts.tracing.provider.get_tracer)
        yield Sinks(service, written, session, tmp_path)


METADATA = {"api_key": CANARY, "url": f"https://me:{CANARY}@host/", "nested": {"password": CANARY}}


@pytest.mark.parametrize("func", [leak, leak_on_the_loop, leak_in_a_process])
async def test_t7_nothing_that_a_task_is_given_or_says_shows_a_secret(
    func: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with sinks(monkeypatch, tmp_path) as seen:
        args = (BARE, f"password={CANARY}", *([] if func is leak_in_a_process else [Spoken()]))
        task_id = await seen.tasks.submit_task(
            func,
            *args,
            bare=BARE,
            token=CANARY,
            metadata=METADATA,
            name=f"leak with {NAMED}",
            plugin_id=NAMED,
        )
        info = await seen.tasks.wait_for_task(task_id)
        await until(lambda: any(event.event_type == f"task/{info.status.value}" for event in seen.events))
        shown = await seen.texts(task_id)
        for where, text in shown.items():
            assert CANARY not in text, where
            assert BARE not in text, where
        assert CANARY not in f"{info.error}{info.traceback}{info.progress}{info.cancel_reason}"
        assert (info.name, info.plugin_id) == (f"leak with password={HIDDEN}", f"password={HIDDEN}")
        for where in (
            "log",
            "stream",
            "file",
            f"/api/tasks/{task_id}",
            f"/api/tasks/{task_id}/logs",
            f"/api/tasks/{task_id}/trace",
        ):
            assert HIDDEN in shown[where], f"{where}: the test itself has put something there"
        lines = json.loads(shown[f"/api/tasks/{task_id}/logs"])["items"]
        assert len(lines) >= 4
        if info.error is not None:
            assert info.error_type == f"tests.canary_tasks.password={HIDDEN}"
            own = [event for span in seen.exported.get_finished_spans() for event in span.events]
            (failure,) = [
                event for event in own if (event.attributes or {}).get(names.EXCEPTION_MESSAGE) == info.error
            ]
            assert CANARY not in f"{failure.attributes}", (
                "also for a processor of the user's, which nobody redacts for"
            )
            for stack in ((failure.attributes or {})[names.EXCEPTION_STACKTRACE], lines[-1]["exception"]):
                assert HIDDEN in str(stack)
        if func is leak_in_a_process:
            printed = [line["line"] for line in lines if line["event"] == "task.output"]
            assert "the rest" in printed, "what is printed after a secret is kept"


async def test_t7_run_raises_the_tasks_own_exception_unchanged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with sinks(monkeypatch, tmp_path) as seen:
        with pytest.raises(ValueError, match=CANARY) as caught:
            await seen.tasks.run(leak)
        assert CANARY in caught.value.__notes__[0]


async def test_t7_a_cancel_reason_is_redacted_for_pending_and_running_tasks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with sinks(monkeypatch, tmp_path) as seen:
        running = await seen.tasks.submit_task(asyncio.sleep, 60)
        await seen.tasks.cancel_task(running, reason=f"token={CANARY}")
        info = await seen.tasks.wait_for_task(running)
        assert info.cancel_reason == f"token={HIDDEN}"
        shown = await seen.texts(running)
        assert not [where for where, text in shown.items() if CANARY in text]
        with pytest.raises(TaskCancelled) as caught:
            raise TaskCancelled(running, info.cancel_reason)
        assert CANARY not in str(caught.value)


async def test_t7_names_of_tasks_and_asyncio_tasks_show_no_secret_while_they_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with sinks(monkeypatch, tmp_path) as seen:
        started = asyncio.Event()
        task_id = await seen.tasks.submit_task(hang, started, name=NAMED, plugin_id=NAMED)
        await started.wait()
        held = await seen.tasks.submit_task(hang, started)
        shown = await seen.texts(task_id, ("", "/stack")) | await seen.texts(held, ("", "/why"))
        assert not [where for where, text in shown.items() if CANARY in text]
        for where in ("/api/running", f"/api/tasks/{task_id}/stack"):
            assert f"asyncio task password={HIDDEN}" in shown[where], where
        assert f"max_concurrent of password={HIDDEN}" in shown[f"/api/tasks/{held}/why"]
        (found,) = await seen.tasks.get_tasks(plugin_id=NAMED)
        assert found.task_id == task_id, "who knows the name finds what has it"
        assert await seen.found({"plugin_id": NAMED}) == [task_id]
        assert await seen.found({"name": NAMED}) == [held, task_id]
        assert await seen.found({"q": CANARY}) == [], "a search tells nothing of what is hidden"
        for one in (held, task_id):
            await seen.tasks.cancel_task(one)
            await seen.tasks.wait_for_task(one)
        metrics = (await seen.texts(task_id))["/metrics"]
        assert CANARY not in metrics
        assert f'"password={HIDDEN}"' in metrics, "where metrics tell definitions apart"


async def test_t7_who_blocks_the_loop_is_named_without_a_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    over = threading.Event()

    async def block() -> None:
        assert over.wait(PATIENCE_SECONDS)

    def look(url: str) -> dict[str, str]:
        try:
            while json.loads(_read(f"{url}/api/loop"))["culprit"] is None:
                pass
            return {path: _read(url + path) for path in ("/api/loop", "/livez?verbose", "/health")}
        finally:
            over.set()

    async with sinks(monkeypatch, tmp_path) as seen:
        assert seen.service.ops is not None
        looking = asyncio.create_task(asyncio.to_thread(look, seen.service.ops.url))
        await asyncio.create_task(block(), name=NAMED)
        shown = await looking
        await until(seen.tasks.looks.ended_blocks)
        await until(lambda: names.LOG_LOOP_BLOCKED in seen.stream.getvalue())
        shown["ended"] = repr(seen.tasks.looks.ended_blocks())
        shown["log"] = seen.stream.getvalue()
    for where, text in shown.items():
        assert CANARY not in text, where
        assert f"asyncio task password={HIDDEN}" in text, where


def test_t7_the_stacks_of_a_process_that_does_not_stop_show_no_secret() -> None:
    program = f"""
import asyncio
from qorzen_obs import host

async def main():
    hanging = asyncio.create_task(asyncio.sleep(3_600), name={NAMED!r})
    await asyncio.sleep(0)
    end = host._EndTimer(asyncio.get_running_loop())
    end.start()
    end.come_in(0.6)
    await hanging

asyncio.run(main())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert ended.returncode == 1
    assert CANARY not in ended.stderr
    assert f"asyncio task password={HIDDEN}" in ended.stderr


def _read(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as response:
            return str(response.read(), "utf-8")
    except urllib.error.HTTPError as error:  # a probe that fails says why
        return str(error.read(), "utf-8")


async def test_results_and_arguments_are_in_no_event_line_span_or_metric() -> None:
    canary = "canary-4711"
    events, logs, spans = CapturedEvents(), CapturedLogs(), Spans()

    def work(secret: str, *, also: str) -> str:
        current_task().progress(50, "working")
        return secret + also

    async with open_test_manager(events=events, logs=logs, tracer_provider=spans.provider) as tasks:
        await tasks.run(work, canary, also=canary)
        await tasks.shutdown()
        sinks = [
            repr([event.payload for event in events.events]),
            repr(logs.lines),
            "".join(span.to_json() for span in spans.all()),
            generate_latest(tasks.registry).decode(),
            repr(tasks.status()),
        ]
    assert [canary in sink for sink in sinks] == [False] * 5
