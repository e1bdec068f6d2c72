"""What a program logs by a configuration of its own is exported, counted and kept with its task, and stays as it is."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from qorzen_obs.app import Service
from qorzen_obs.errors import ManagerInitializationError
from qorzen_obs.settings import EngineSettings, Settings, TelemetrySettings
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.log_records import RecordsAsLines, TaskLogHandler
from qorzen_obs.telemetry.task_lines import keep_task_line
from qorzen_obs.testing import CapturedLogs, open_test_manager
from tests.process_tasks import make_spans
from tests.services.otlp_receiver import OtlpReceiver
from tests.services.program import write_files
from tests.services.whole_service import whole_service
from tests.support import metric

ENVIRONMENT = {"OTEL_LOGS_EXPORTER": "otlp"}
plain = logging.getLogger("shop")


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as listening:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", listening.endpoint)
        yield listening


@pytest.fixture(autouse=True)
def _no_structlog() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def embedded(*, exporting: bool = True) -> AbstractAsyncContextManager[Service]:
    """A service as open_task_manager starts it, whose environment asks for log records, and that logs no stalls."""
    settings = Settings(telemetry=TelemetrySettings(watch_loop=False))
    return whole_service(settings, http=False, environment=ENVIRONMENT if exporting else {})


@contextmanager
def handling(handler: logging.Handler) -> Iterator[None]:
    """A handler on the root logger."""
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def said(receiver: OtlpReceiver) -> dict[str, list[LogRecord]]:
    found: dict[str, list[LogRecord]] = {}
    for record in receiver.log_records:
        found.setdefault(record.body.string_value, []).append(record)
    return found


def attribute(record: LogRecord, key: str) -> str:
    return next((a.value.string_value for a in record.attributes if a.key == key), "")


def kept(service: Service, task_id: str) -> list[dict[str, Any]]:
    return [json.loads(bytes(line)) for line in service.tasks.looks.log_of(task_id).items]


def counted(service: Service, level: str) -> float:
    return metric(service.parts.registry, f"{names.LOG_MESSAGES.name}_total", level=level)


def fail() -> None:
    raise ValueError("token=hunter2-secret")


async def speaks() -> None:
    try:
        fail()
    except ValueError:
        structlog.get_logger().error("by structlog", exc_info=True, password="hunter2-secret")


async def speaks_plainly() -> None:
    try:
        fail()
    except ValueError:
        plain.exception("by %s", "logging", extra={"password": "hunter2-secret"})


def json_to(stream: io.StringIO) -> None:
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


def colours_to(stream: io.StringIO) -> None:
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.dev.ConsoleRenderer(colors=False)],
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )


def json_by_logging(_: io.StringIO) -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def by_the_formatter_of_logging(_: io.StringIO) -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def as_arguments_of_logging(_: io.StringIO) -> None:
    structlog.configure(
        processors=[structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


CONFIGURATIONS = [json_to, colours_to, json_by_logging, by_the_formatter_of_logging, as_arguments_of_logging]


@pytest.mark.parametrize("configure", CONFIGURATIONS)
async def test_lines_of_a_structlog_of_the_users_are_exported_counted_and_kept_once(
    configure: Any, receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    configure(io.StringIO())
    async with embedded() as service:
        task_id = await service.tasks.submit_task(speaks)
        info = await service.tasks.wait_for_task(task_id)
        assert (counted(service, "error"), counted(service, "info") >= 1) == (1, True)
        spoken, finished = kept(service, task_id)
    found = said(receiver)
    for event in ("by structlog", names.LOG_FINISHED):
        (record,) = found[event]
        assert (record.trace_id.hex(), attribute(record, "task_id")) == (info.trace_id, task_id)
    assert (spoken["event"], spoken["level"], finished["event"]) == (
        "by structlog",
        "error",
        names.LOG_FINISHED,
    )
    (record,) = found["by structlog"]
    for fields in (spoken, {a.key: a.value.string_value for a in record.attributes}):
        assert fields["password"] == "[redacted]"
        assert fields["exception"].endswith("ValueError: token=[redacted]\n") or fields["exception"].endswith(
            "ValueError: token=[redacted]"
        )


async def test_what_the_user_renders_stays_as_it_is_and_afterwards_nothing_is_left() -> None:
    stream = io.StringIO()
    json_to(stream)
    before = list(structlog.get_config()["processors"])
    calls = logging.Logger.callHandlers
    early = structlog.get_logger().bind(early=True)
    async with embedded(exporting=False) as service:
        await service.tasks.run(speaks)
        early.warning("made before")
        assert counted(service, "warning") == 1
    assert logging.Logger.callHandlers is calls
    assert structlog.get_config()["processors"] == before
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (spoken,) = [line for line in lines if line["event"] == "by structlog"]
    assert spoken.keys() == {"event", "exception", "password"}
    assert spoken["password"] == "hunter2-secret", "what the program writes itself is its own"


async def test_a_program_that_uses_logging_alone_has_its_records_exported_counted_and_kept(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with embedded() as service:
        task_id = await service.tasks.submit_task(speaks_plainly)
        info = await service.tasks.wait_for_task(task_id)
        plain.warning("outside of a task")
        assert (counted(service, "error"), counted(service, "warning")) == (1, 1)
        spoken, _ = kept(service, task_id)
    (record,) = said(receiver)["by logging"]
    assert (record.trace_id.hex(), attribute(record, "task_id")) == (info.trace_id, task_id)
    bodies = {
        scope: [one.body.string_value for one in found] for scope, found in receiver.logs_by_scope.items()
    }
    assert bodies["shop"] == ["by logging", "outside of a task"]
    assert bodies["task_manager"].count(names.LOG_FINISHED) == 1
    for fields in (spoken, {a.key: a.value.string_value for a in record.attributes}):
        assert fields["password"] == "[redacted]"
        assert fields["exception"].endswith("ValueError: token=[redacted]\n")
    assert len(said(receiver)["outside of a task"]) == 1


async def test_the_users_logging_works_as_without_us(monkeypatch: pytest.MonkeyPatch) -> None:
    root, written = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler(written))
    async with embedded(exporting=False):
        plain.warning("without a handler")
        assert written.getvalue() == "without a handler\n"
        logging.basicConfig(stream=written, format="%(funcName)s %(message)s")
        plain.warning("with one")
    assert written.getvalue().splitlines()[1:] == ["test_the_users_logging_works_as_without_us with one"]


class LoggingHandler(logging.Handler):
    """Stands for the one that opentelemetry-instrument puts on the root logger, which has a warning of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.exported: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.exported.append(record.getMessage())


LoggingHandler.__module__ = "opentelemetry.sdk._logs._internal"


@pytest.mark.parametrize("rendered_here", [False, True])
async def test_what_opentelemetry_instrument_exports_is_not_exported_again(
    rendered_here: bool, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, written = LoggingHandler(), io.StringIO()
    with handling(theirs):
        async with whole_service(
            Settings(), http=False, environment=ENVIRONMENT, log_stream=written
        ) as service:
            stream = service.parts.loggers.stream
            ours = RecordsAsLines(stream.logger("logging")) if rendered_here else logging.NullHandler()
            with handling(ours):
                task_id = await service.tasks.submit_task(speaks_plainly)
                await service.tasks.wait_for_task(task_id)
            assert counted(service, "error") == 1
            assert [line["event"] for line in kept(service, task_id)] == ["by logging", names.LOG_FINISHED]
    found = said(receiver)
    assert theirs.exported.count("by logging") == 1
    assert "by logging" not in found
    assert len(found[names.LOG_FINISHED]) == 1, "which goes by no logger of the standard library"
    assert written.getvalue().count("by logging") == int(rendered_here)


#: What opentelemetry-instrument does to a worker process, before anything else is imported there.
INSTRUMENTED = """
import logging

class LoggingHandler(logging.Handler):
    def emit(self, record):
        with open({exported!r}, "a") as file:
            print(record.getMessage(), file=file)

LoggingHandler.__module__ = "opentelemetry.sdk._logs._internal"
logging.basicConfig(format="correlated: %(message)s")
logging.getLogger().addHandler(LoggingHandler())
"""


async def test_a_line_from_an_instrumented_worker_is_written_and_exported_once(
    receiver: OtlpReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported, written = tmp_path / "exported", io.StringIO()
    write_files(tmp_path, {"sitecustomize.py": INSTRUMENTED.format(exported=str(exported))})
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    settings = Settings(engines=EngineSettings(processes=1))
    async with whole_service(settings, http=False, environment=ENVIRONMENT, log_stream=written) as service:
        task_id = await service.tasks.submit_task(make_spans)
        await service.tasks.wait_for_task(task_id)
        lines = [line["event"] for line in kept(service, task_id)]
    assert lines == ["inside", names.LOG_FINISHED]
    assert written.getvalue().count("inside") == 1
    assert exported.read_text().split() == ["inside"]
    assert "inside" not in said(receiver)


async def test_lines_that_the_user_keeps_with_their_task_are_kept_once() -> None:
    structlog.configure(processors=[keep_task_line, structlog.processors.JSONRenderer()])
    with handling(TaskLogHandler()):
        async with embedded(exporting=False) as service:

            async def both() -> None:
                plain.warning("by logging")
                structlog.get_logger().warning("by structlog")

            task_id = await service.tasks.submit_task(both)
            await service.tasks.wait_for_task(task_id)
            events = [line["event"] for line in kept(service, task_id)]
    assert events == ["by logging", "by structlog", names.LOG_FINISHED]


async def test_of_two_managers_both_count_a_line_and_one_exports_it(receiver: OtlpReceiver) -> None:
    async with embedded() as one:
        async with embedded() as other:
            plain.warning("said once")
            assert (counted(one, "warning"), counted(other, "warning")) == (1, 1)
            plain.warning("said twice")
        plain.warning("after the first has gone")
        assert counted(one, "warning") == 3
    found = said(receiver)
    assert [len(found[event]) for event in ("said once", "said twice", "after the first has gone")] == [
        1,
        1,
        1,
    ]


class Hostile:
    def __str__(self) -> str:
        raise SystemExit("no")

    __repr__ = __str__


async def test_f37_a_value_that_cannot_be_shown_fails_no_call_of_a_logger(receiver: OtlpReceiver) -> None:
    structlog.configure(
        processors=[lambda *_: "rendered"], logger_factory=structlog.PrintLoggerFactory(io.StringIO())
    )
    async with embedded() as service:

        async def says() -> str:
            structlog.get_logger().warning("hostile", value=Hostile())
            structlog.get_logger().warning(Hostile())
            return "it goes on"

        assert await service.tasks.run(says) == "it goes on"
        assert counted(service, "warning") == 2
    assert len(said(receiver)["hostile"]) == 1


async def test_a_structlog_whose_methods_are_coroutines_has_the_canonical_lines_written() -> None:
    stream = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(stream),
        wrapper_class=structlog.stdlib.AsyncBoundLogger,
    )

    async def speaks_later() -> None:
        await structlog.get_logger().warning("by coroutine")

    async with embedded(exporting=False) as service:
        task_id = await service.tasks.submit_task(speaks_later)
        await service.tasks.wait_for_task(task_id)
        events = [line["event"] for line in kept(service, task_id)]
    assert events == ["by coroutine", names.LOG_FINISHED]
    lines = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert (lines.count("by coroutine"), lines.count(names.LOG_FINISHED)) == (1, 1)


async def test_a_logger_of_a_foreign_manager_whose_methods_are_coroutines_is_used_or_refused() -> None:
    class Async(CapturedLogs):
        def __init__(self, logger: Any) -> None:
            super().__init__()
            self._given = logger

        def get_logger(self, name: str) -> Any:
            return self._given

    class Coroutines:
        async def info(self, event: str, **_: Any) -> None: ...

        debug = warning = error = info

    structlog.configure(
        processors=[structlog.testing.LogCapture()],
        logger_factory=structlog.PrintLoggerFactory(io.StringIO()),
        wrapper_class=structlog.stdlib.AsyncBoundLogger,
    )
    (captured,) = structlog.get_config()["processors"]
    bound = structlog.get_logger().bind()
    async with open_test_manager(logs=Async(bound)) as tasks:
        await tasks.run(speaks_plainly)
    assert [entry["event"] for entry in captured.entries].count(names.LOG_FINISHED) == 1
    for logger in (Coroutines(), structlog.get_logger()):
        with pytest.raises(ManagerInitializationError, match="write at once"):
            async with open_test_manager(logs=Async(logger)):
                pass
