"""What a second service on a file answers about the tasks that the first one ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from click.testing import CliRunner, Result
from opentelemetry import trace

from qorzen_obs import Retry, current_task, task
from qorzen_obs.app import Service
from qorzen_obs.cli import cli
from qorzen_obs.settings import HistorySettings, ServerSettings, Settings, TelemetrySettings
from qorzen_obs.telemetry import names


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Service]:
    """A service on the file that answers HTTP."""
    settings = Settings(
        history=HistorySettings(url=f"sqlite:{path}"),
        server=ServerSettings(port=0),
        telemetry=TelemetrySettings(log_level="off"),
    )
    service = Service(settings, http=True, environment={"OTEL_TRACES_EXPORTER": "none"})
    await service.start()
    try:
        yield service
    finally:
        await service.stop(grace_seconds=0)


def url_of(service: Service) -> str:
    assert service.ops is not None
    return service.ops.url


async def get(service: Service, target: str, status: int = 200) -> Any:
    async with aiohttp.ClientSession() as session, session.get(url_of(service) + target) as answer:
        assert answer.status == status, await answer.text()
        return await answer.json(content_type=None)


async def invoke(service: Service, *arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, cli, [*arguments, "--url", url_of(service)])


async def read_price() -> None:
    with trace.get_tracer("shop").start_as_current_span("SELECT price"):
        raise LookupError("no such price")


async def sell(service: Service) -> None:
    await service.tasks.run(read_price)


@task(retry=Retry(max_attempts=3, backoff=lambda *_: 0.001))
async def call_the_bank() -> None:
    if current_task().number < 3:
        raise ConnectionError("busy")


@task(delay=3600)
async def remind() -> None: ...


def spans_in(document: Any) -> dict[str, Any]:
    """The spans of an OTLP/JSON document: those of attempts by the names of their tasks, others by their own."""
    found = [
        span for one in document["resourceSpans"] for scope in one["scopeSpans"] for span in scope["spans"]
    ]
    return {task_of(span) or span["name"]: span for span in found}


def task_of(span: Any) -> str | None:
    values = {one["key"]: one["value"].get("stringValue") for one in span.get("attributes", ())}
    name: str | None = values.get(names.TASK_NAME)
    return name


async def test_the_trace_of_a_failure_outlives_its_process(tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite"
    async with serving(file) as first:
        seller = await first.tasks.submit_task(sell, first, name="sell")
        await first.tasks.wait_for_task(seller)
        (reader,) = [one for one in await first.tasks.get_tasks() if one.parent_id == seller]
    async with serving(file) as second:
        document = await get(second, f"/api/tasks/{seller}/trace")
        whole = spans_in(document)
        below = spans_in(await get(second, f"/api/tasks/{reader.task_id}/trace"))
        more = spans_in(await get(second, f"/api/tasks/{reader.task_id}/trace?whole=true"))
        same = spans_in(await get(second, f"/api/traces/{reader.trace_id}"))
        await get(second, f"/api/traces/{'0e' * 16}", 404)
        drawn = await invoke(second, "trace", seller, "--width", "100")
    assert set(whole) == {"sell", reader.name, "SELECT price"}
    assert set(below) == {reader.name, "SELECT price"}
    assert set(more) == set(same) == set(whole)
    scopes = [one["scope"].get("name") for one in document["resourceSpans"][0]["scopeSpans"]]
    assert scopes == [names.SCOPE, None]
    assert whole["SELECT price"]["parentSpanId"] == whole[reader.name]["spanId"]
    assert drawn.exit_code == 0, drawn.output
    assert "SELECT price" in drawn.output


async def test_show_has_a_line_for_each_of_several_attempts(tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite"
    async with serving(file) as first:
        thrice = await first.tasks.submit_task(call_the_bank)
        once = await first.tasks.submit_task(asyncio.sleep, 0)
        for task_id in (thrice, once):
            await first.tasks.wait_for_task(task_id)
    async with serving(file) as second:
        document = await get(second, f"/api/tasks/{thrice}")
        shown, shown_once = await invoke(second, "show", thrice), await invoke(second, "show", once)
    errors = [(1, "ConnectionError"), (2, "ConnectionError"), (3, None)]
    assert [(one["number"], one["error_type"]) for one in document["attempts"]] == errors
    lines = [line.split() for line in shown.output.splitlines() if " took " in line]
    assert [line[0] for line in lines] == ["1", "2", "3"]
    assert [line[-1] for line in lines[:2]] == ["ConnectionError", "ConnectionError"]
    assert " took " not in shown_once.output


async def test_a_task_that_never_started_says_why_it_has_no_trace(tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite"
    async with serving(file) as first:
        task_id = await first.tasks.submit_task(remind)
        await first.tasks.cancel_task(task_id)
    async with serving(file) as second:
        answer = await get(second, f"/api/tasks/{task_id}/trace", 404)
    assert answer["detail"] == "this task has no trace: it ended before it started"
