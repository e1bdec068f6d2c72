"""Our lines go where those of the program go: by its structlog, else its `logging`, else as JSON on standard error."""

from __future__ import annotations

import contextvars
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qorzen_obs import TaskManager, open_task_manager
from qorzen_obs.app import Service
from qorzen_obs.settings import EngineSettings, Settings, TelemetrySettings
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.log_records import RecordsAsLines, TaskLogHandler
from tests.process_tasks import log_a_number
from tests.services.program import environment, write_files
from tests.services.whole_service import whole_service
from tests.support import PATIENCE_SECONDS, metric, root_handlers

PROGRAM = """
import asyncio, logging, logging.config, sys, structlog
from qorzen_obs import Settings, TelemetrySettings, open_task_manager

def fails():
    raise ValueError("password=hunter2-secret\\nWARNING:forged:a line of its own")

async def main():
    async with open_task_manager(Settings(telemetry=TelemetrySettings(watch_loop=False))) as tasks:
        await tasks.run(sum, [1, 2], name="adds up")
        {meanwhile}
        await tasks.wait_for_task(await tasks.submit_task(fails, metadata={{"for": "ada"}}))

{configure}
asyncio.run(main())
"""

#: A machine under load stalls, which is a line of its own.
QUIET = Settings(telemetry=TelemetrySettings(watch_loop=False))

#: As most programs have it: a formatter, a handler, and other loggers than those in the table disabled.
DICT = """
logging.config.dictConfig({
    "version": 1,
    "formatters": {"short": {"format": "%(levelname)s:%(name)s:%(event)s"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "short"}},
    LOGGERS
})
"""
ROOT_AT_INFO = DICT.replace("LOGGERS", '"root": {"level": "INFO", "handlers": ["out"]},')
OURS_ALONE = DICT.replace(
    "LOGGERS",
    '"loggers": {"qorzen_obs": {"level": "WARNING", "handlers": ["out"], "propagate": False}},',
)
STRUCTLOG = """
structlog.configure(
    processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
    logger_factory=structlog.PrintLoggerFactory(sys.stdout),
)
"""


def run_program(configure: str, tmp_path: Path, meanwhile: str = "") -> tuple[list[str], list[str]]:
    """Run a program that embeds a manager; return the lines of its standard output and of its standard error."""
    write_files(tmp_path, {"program.py": PROGRAM.format(configure=configure, meanwhile=meanwhile)})
    done = subprocess.run(
        [sys.executable, "-W", "error", tmp_path / "program.py"],
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "hunter2-secret" not in done.stdout + done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_without_any_configuration_lines_are_json_on_standard_error(tmp_path: Path) -> None:
    out, err = run_program("", tmp_path)
    assert out == []
    events = [json.loads(line)["event"] for line in err]
    assert events.count(names.LOG_FINISHED) == 2


def test_basic_config_gets_all_lines_from_its_level_on_as_texts(tmp_path: Path) -> None:
    out, err = run_program("logging.basicConfig(level='INFO')", tmp_path)
    assert out == []
    state, adds_up, fails, *rest = err
    assert state == "INFO:qorzen_obs.task_manager:manager.state state=ready"
    assert adds_up.startswith("INFO:qorzen_obs.task_manager:task.finished task_id=")
    assert ' task_name="adds up" ' in adds_up
    assert fails.startswith("WARNING:qorzen_obs.task_manager:task.finished task_id=")
    assert r'error="password=[redacted]\nWARNING:forged:a line of its own"' in fails
    assert [line for line in rest if not line.startswith("  ")] == [
        "INFO:qorzen_obs.task_manager:manager.state state=draining",
        "INFO:qorzen_obs.task_manager:manager.state state=stopped abandoned=0",
    ], "the traceback is further in, so that no line of it passes for a record"
    assert "  ValueError: password=[redacted]" in rest


def test_the_programs_level_holds(tmp_path: Path) -> None:
    """Warnings only, as basicConfig has it without a level."""
    _, err = run_program("logging.basicConfig()", tmp_path)
    (fails,) = [line for line in err if not line.startswith("  ")]
    assert fails.startswith("WARNING:qorzen_obs.task_manager:task.finished")


def test_a_dict_config_has_its_formatter_see_each_field(tmp_path: Path) -> None:
    out, err = run_program(ROOT_AT_INFO, tmp_path)
    assert err == []
    assert [line for line in out if not line.startswith("  ")] == [
        "INFO:qorzen_obs.task_manager:manager.state",
        "INFO:qorzen_obs.task_manager:task.finished",
        "WARNING:qorzen_obs.task_manager:task.finished",
        "INFO:qorzen_obs.task_manager:manager.state",
        "INFO:qorzen_obs.task_manager:manager.state",
    ]


def test_a_dict_config_of_our_logger_alone_is_enough(tmp_path: Path) -> None:
    out, err = run_program(OURS_ALONE, tmp_path)
    assert err == []
    assert out[0] == "WARNING:qorzen_obs.task_manager:task.finished"
    assert all(line.startswith("  ") for line in out[1:])


@pytest.mark.parametrize(
    "silence",
    [
        "logging.getLogger('qorzen_obs').addHandler(logging.NullHandler())",
        "logging.getLogger('qorzen_obs').setLevel('CRITICAL')",
        "logging.basicConfig(level='INFO'); logging.getLogger('qorzen_obs.task_manager').disabled = True",
    ],
)
def test_what_silences_a_library_silences_us(silence: str, tmp_path: Path) -> None:
    assert run_program(silence, tmp_path) == ([], [])


def test_the_roots_level_alone_is_no_configuration(tmp_path: Path) -> None:
    _, err = run_program("logging.getLogger().setLevel('DEBUG')", tmp_path)
    assert [json.loads(line)["event"] for line in err].count(names.LOG_FINISHED) == 2


def test_a_configuration_of_structlog_goes_before_one_of_logging(tmp_path: Path) -> None:
    out, err = run_program(STRUCTLOG + "\nlogging.basicConfig(level='INFO')", tmp_path)
    assert err == []
    ended = [line for line in map(json.loads, out) if line["event"] == names.LOG_FINISHED]
    assert [line["level"] for line in ended] == ["info", "warning"]


def test_a_configuration_that_comes_late_holds_from_then_on(tmp_path: Path) -> None:
    _, err = run_program("", tmp_path, meanwhile="logging.basicConfig()")
    texts = [line for line in err if not line.startswith(("{", "  "))]
    assert [json.loads(line)["event"] for line in err if line.startswith("{")] == [
        names.LOG_MANAGER_STATE,
        names.LOG_FINISHED,
    ]
    (fails,) = texts
    assert fails.startswith("WARNING:qorzen_obs.task_manager:task.finished")


# ---------------------------------------------------------------------- in this process, where pytest has configured it


def fails() -> None:
    raise ValueError("password=hunter2-secret")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    logger = logging.getLogger("qorzen_obs.task_manager")
    yield
    assert not logger.handlers
    assert not logger.level


async def run_both(tasks: TaskManager) -> str:
    """Run one task that completes, and one that fails, whose id is returned."""
    await tasks.run(sum, [1, 2])
    task_id = await tasks.submit_task(fails, name="fails")
    await tasks.wait_for_task(task_id)
    return task_id


async def test_caplog_has_the_lines_of_a_test_with_their_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with open_task_manager(QUIET) as tasks:
        task_id = await run_both(tasks)
    ended = [vars(record) for record in caplog.records if vars(record).get("event") == names.LOG_FINISHED]
    assert [(end["status"], end["levelname"]) for end in ended] == [
        ("completed", "INFO"),
        ("failed", "WARNING"),
    ]
    failed = ended[1]
    assert (failed["task_id"], failed["error"], failed["name"]) == (
        task_id,
        "password=[redacted]",
        "qorzen_obs.task_manager",
    )
    assert failed["exc_text"].endswith("ValueError: password=[redacted]")
    assert "hunter2-secret" not in caplog.text


async def test_caplog_without_a_level_has_warnings_only(caplog: pytest.LogCaptureFixture) -> None:
    async with open_task_manager(QUIET) as tasks:
        await run_both(tasks)
    assert [vars(record)["status"] for record in caplog.records if "status" in vars(record)] == ["failed"]


async def test_a_line_is_counted_and_kept_once_and_what_the_level_turns_away_is_not_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with whole_service(QUIET, http=False) as service:
        task_id = await run_both(service.tasks)
        count = [
            metric(service.parts.registry, f"{names.LOG_MESSAGES.name}_total", level=level)
            for level in ("info", "warning")
        ]
        kept = [json.loads(bytes(line)) for line in service.tasks.looks.log_of(task_id).items]
    assert count == [0, 1]
    assert [line["event"] for line in kept] == [names.LOG_FINISHED]
    assert len([record for record in caplog.records if vars(record).get("task_id") == task_id]) == 1


async def test_a_filter_sees_the_context_that_the_task_was_submitted_in() -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(request)s %(event)s"))

    def name_request(record: logging.LogRecord) -> bool:
        record.request = request.get()
        return True

    handler.addFilter(name_request)
    with root_handlers(handler):
        async with open_task_manager(QUIET) as tasks:
            request.set("r-17")
            await tasks.wait_for_task(await tasks.submit_task(fails))
    assert written.getvalue().splitlines()[0] == f"r-17 {names.LOG_FINISHED}"


async def test_our_handlers_on_the_root_logger_are_no_configuration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    service = Service(QUIET, environment={"OTEL_TRACES_EXPORTER": "none"})
    with root_handlers(TaskLogHandler()):
        await service.start()
        with root_handlers(RecordsAsLines(service.parts.loggers.get_logger("program"))):
            await run_both(service.tasks)
            logging.getLogger("shop").warning("sold out")
        await service.stop()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines].count(names.LOG_FINISHED) == 2
    assert [line["logger_name"] for line in lines if line["event"] == "sold out"] == ["shop"]


class Broken(logging.Handler):
    """Raises what no handler may."""

    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit(record.getMessage())


async def test_a_handler_that_raises_loses_a_line_which_is_counted_and_tasks_go_on() -> None:
    with root_handlers(Broken()):
        async with open_task_manager(QUIET) as tasks:
            await run_both(tasks)
            await run_both(tasks)
            assert tasks.healthy
            lost = metric(tasks.registry, f"{names.EVENTS_DROPPED.name}_total", kind="log_record")
    assert lost == 2


async def test_a_handler_that_writes_a_line_of_ours_does_not_come_round(
    capsys: pytest.CaptureFixture[str],
) -> None:
    service = Service(QUIET, environment={"OTEL_TRACES_EXPORTER": "none"})
    await service.start()
    ours = service.parts.loggers.get_logger("program")

    class Echo(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            ours.warning("echo", of=record.getMessage().split()[0])

    with root_handlers(Echo()):
        await run_both(service.tasks)
    await service.stop()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert ("echo", names.LOG_FINISHED) in [(line["event"], line.get("of")) for line in lines]


async def test_a_line_of_a_worker_process_is_said_by_the_logger_that_is_known_here(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("theirs")
    async with open_task_manager(Settings(engines=EngineSettings(processes=1))) as tasks:
        await tasks.run(log_a_number)
    said = [record for record in caplog.records if record.name == "theirs"]
    assert [record.levelname for record in said] == ["WARNING"]
