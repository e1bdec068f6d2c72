"""What a task in a worker process says arrives as if it had been said here: progress, lines, output, spans."""

import asyncio
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from opentelemetry import baggage, context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)

from qorzen_obs.core.concurrency_manager import ConcurrencyManager
from qorzen_obs.engines.processes.output import MAX_LINES_PER_SECOND, OutputReader
from qorzen_obs.options import with_options
from qorzen_obs.settings import EngineSettings
from qorzen_obs.tasks import TaskCategory, TaskPriority
from qorzen_obs.telemetry.remote_spans import RemoteSpans
from qorzen_obs.telemetry.sampling import RecordAll
from qorzen_obs.testing import CapturedLogs, open_test_manager
from tests import process_tasks as work
from tests.services.process_service import ProcessService, process_service
from tests.services.program import write_files


class Kept(SpanProcessor):
    """The spans that ended."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.name == name]
        return span


def belongs(line: dict[str, object], task_id: str) -> bool:
    """Whether a line has the task's fields."""
    return line["task_id"] == task_id and line["category"] == "core" and line["attempt"] == 1


async def test_output_of_the_task_and_its_children_becomes_log_lines() -> None:
    async with process_service() as service:
        info = await service.end(work.print_lines)
        lines = service.lines("task.output")
        assert sorted((line["stream"], line["line"]) for line in lines) == [
            ("stderr", "to the errors"),
            ("stdout", "from a child"),
            ("stdout", "to the output"),
            ("stdout", "unfinished"),
        ]
        assert all(belongs(line, info.task_id) for line in lines)


async def test_managers_that_share_an_engine_each_hear_of_their_own_tasks() -> None:
    concurrency = ConcurrencyManager(EngineSettings(processes=1))
    await concurrency.initialize()
    all_logs = [CapturedLogs(), CapturedLogs()]
    async with (
        open_test_manager(concurrency=concurrency, logs=all_logs[0]) as first,
        open_test_manager(concurrency=concurrency, logs=all_logs[1]) as second,
    ):
        for tasks, logs in zip((first, second), all_logs, strict=True):
            task_id = await tasks.submit_task(work.print_lines)
            await tasks.wait_for_task(task_id)
            assert {line["task_id"] for line in logs.of("task.output")} == {task_id}
    await concurrency.shutdown()


async def test_a_flood_of_output_is_drained_and_counted_but_not_shown() -> None:
    async with process_service() as service:
        await service.end(work.print_flood, 20_000)
        shown = len(service.lines("task.output"))
        assert MAX_LINES_PER_SECOND <= shown < 10_000
        assert shown + service.tasks.looks.metrics.dropped["worker_report"] == 20_000


async def test_a_child_that_writes_without_an_end_does_not_hold_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = 0

    def read(_: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        assert reads < 100
        return b"y\n" * (size // 2)

    there, here = os.pipe()
    reader = OutputReader(asyncio.get_running_loop(), there, lambda _: None, lambda _: None)
    with monkeypatch.context() as patched:
        patched.setattr(os, "read", read)
        reader.drain()
    assert reads * 65_536 == 1_048_576  # as much as a pipe holds
    reader.stop()
    os.close(there)
    os.close(here)


async def test_log_lines_of_logging_and_structlog_belong_to_the_task() -> None:
    async with process_service() as service:
        info = await service.end(work.log_lines)
        (line,) = service.lines("by logging: 7")
        assert (line["level"], line["logger_name"], line["answer"]) == ("warning", "theirs", 42)
        assert belongs(line, info.task_id)
        (line,) = service.lines("by structlog")
        assert (line["level"], line["answer"], line["odd"]) == ("info", 43, "<class 'object'>")
        assert belongs(line, info.task_id)
        (line,) = service.lines("with a traceback")
        assert "ValueError: seen" in line["exception"]


async def spans_of(service: ProcessService) -> str:
    """Make spans in a worker, below a span here; return what the worker saw of the baggage."""
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        return str(await service.tasks.run(work.make_spans))
    finally:
        context.detach(token)


async def test_spans_of_user_code_are_children_of_the_attempt() -> None:
    kept = Kept()
    provider = TracerProvider(resource=Resource({"service.name": "test"}), shutdown_on_exit=False)
    provider.add_span_processor(kept)
    on_spans = RemoteSpans(kept, provider.resource)
    async with process_service(tracer_provider=provider, on_spans=on_spans) as service:
        for _ in range(2):  # the second time everything is set up already
            kept.spans.clear()
            assert await spans_of(service) == "acme"
            attempt, outer, inner = kept.named("run make_spans"), kept.named("outer"), kept.named("inner")
            assert attempt.context
            assert outer.parent
            assert inner.parent
            assert outer.context.trace_id == inner.context.trace_id == attempt.context.trace_id
            assert outer.parent.span_id == attempt.context.span_id
            assert inner.parent.span_id == outer.context.span_id
            assert outer.resource is provider.resource
            assert dict(outer.attributes or {}) == {"a": 1}
            assert [(event.name, dict(event.attributes or {})) for event in outer.events] == [
                ("happened", {"b": "two"})
            ]
            assert outer.instrumentation_scope is not None
            assert outer.instrumentation_scope.version == "1.0"
            line = service.lines("inside")[-1]
            assert line["trace_id"] == format_trace_id(attempt.context.trace_id)
            assert line["span_id"] == format_span_id(inner.context.span_id)


@pytest.mark.parametrize(
    "module",
    [
        "qorzen_obs.app",
        "qorzen_obs.record",
        "qorzen_obs.telemetry.remote_spans",
        "qorzen_obs.telemetry.redaction",
        "opentelemetry.sdk.trace",
        "opentelemetry.trace",
        "structlog",
    ],
)
async def test_a_task_may_be_the_first_to_import_what_its_telemetry_needs(module: str) -> None:
    kept = Kept()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(kept)
    on_spans = RemoteSpans(kept, provider.resource)
    async with process_service(tracer_provider=provider, on_spans=on_spans) as service:
        info = await service.end(work.import_lazily, module)
        assert info.error is None
        assert kept.named("inner").context.trace_id == kept.named("run import_lazily").context.trace_id


OWN_PROVIDER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

class Writes(SpanProcessor):
    def on_end(self, span):
        with open({exported!r}, "a") as file:
            print(span.name, file=file)

provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(Writes())
trace.set_tracer_provider(provider)

def work():
    trace.get_tracer("theirs").start_span("inside").end()
"""


async def test_what_a_provider_of_the_users_exports_from_the_worker_is_not_exported_from_here_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported, ours, theirs = tmp_path / "exported", Kept(), Kept()
    write_files(tmp_path, {"own_provider.py": OWN_PROVIDER.format(exported=str(exported))})
    monkeypatch.syspath_prepend(tmp_path)

    def far_work() -> None:
        """Stands for the function of that module, which must set no provider here."""

    far_work.__module__, far_work.__qualname__, far_work.__name__ = "own_provider", "work", "work"
    monkeypatch.setitem(sys.modules, "own_provider", ModuleType("own_provider"))
    setattr(sys.modules["own_provider"], "work", far_work)  # noqa: B010  # no attribute that mypy knows
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(theirs)
    on_spans = RemoteSpans(ours, provider.resource, provider)
    async with process_service(tracer_provider=provider, on_spans=on_spans) as service:
        info = await service.end(with_options(far_work, engine="process"))
        assert info.error is None
    assert exported.read_text().split() == ["inside"]
    assert [span.name for span in ours.spans] == ["inside"]
    assert [span.name for span in theirs.spans] == ["run work"]


async def test_a_processor_of_the_users_that_raises_on_a_span_from_a_worker_fails_no_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Raising(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            if span.name == "inner":
                raise SystemExit(3)

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Raising())
    on_spans = RemoteSpans(Kept(), provider.resource, provider)
    async with process_service(tracer_provider=provider, on_spans=on_spans) as service:
        for _ in range(2):
            assert (await service.end(work.make_spans)).error is None
    assert caplog.text.count("a span processor failed") == 1


async def test_what_the_caller_did_not_sample_is_recorded_in_the_worker_as_it_is_here() -> None:
    kept = Kept()
    provider = TracerProvider(sampler=RecordAll(), shutdown_on_exit=False)
    provider.add_span_processor(kept)
    caller = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(0))
    token = context.attach(set_span_in_context(NonRecordingSpan(caller)))
    try:
        async with process_service(
            tracer_provider=provider, on_spans=RemoteSpans(kept, provider.resource)
        ) as service:
            await service.end(work.make_spans)
    finally:
        context.detach(token)
    for name in ("run make_spans", "outer", "inner"):
        assert kept.named(name).context.trace_id == 0xABC
        assert not kept.named(name).context.trace_flags.sampled


async def test_what_a_foreign_sampler_drops_is_not_sent_from_the_worker_either() -> None:
    kept = Kept()
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(kept)
    async with process_service(
        tracer_provider=provider, on_spans=RemoteSpans(kept, provider.resource)
    ) as service:
        await service.end(work.make_spans)
    assert kept.spans == []


async def test_without_a_taker_no_span_is_recorded_and_the_trace_still_crosses() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    async with process_service(tracer_provider=provider) as service:
        info = await service.end(work.make_spans)
        (line,) = service.lines("inside")
        assert line["trace_id"] == info.trace_id


async def test_progress_crosses_and_the_last_word_is_not_lost() -> None:
    async with process_service() as service:
        info = await service.end(work.count_up, 5_000)
        assert (info.progress.percent, info.progress.message) == (100.0, "done")


async def test_a_task_knows_who_it_is() -> None:
    async with process_service() as service:
        task_id = await service.tasks.submit_task(
            work.who_am_i, name="me", category="io", priority=TaskPriority.HIGH
        )
        info = await service.tasks.wait_for_task(task_id)
        assert info.engine == "process"
        assert info.result == {
            "task_id": task_id,
            "name": "me",
            "category": TaskCategory.IO,
            "priority": TaskPriority.HIGH,
            "number": 1,
            "cancelled": False,
        }


async def test_the_manager_is_not_to_be_had_in_a_worker() -> None:
    async with process_service() as service:
        info = await service.end(work.ask_for_the_manager)
        assert info.error is not None
        assert "in another process" in info.error


async def test_async_callables_lambdas_and_closures_run_in_a_worker() -> None:
    factor = 6

    @work.process
    def closure(value: int) -> tuple[int, int]:
        return os.getpid(), value * factor

    async with process_service() as service:
        assert await service.tasks.run(work.async_echo, "async") == "async"
        pid, value = await service.tasks.run(closure, 7)
        assert (pid == os.getpid(), value) == (False, 42)
        multiply = await service.tasks.run(work.return_lambda, 5)
        assert multiply(8) == 40
