"""F22: who blocks the work loop is named in log, span, metric and /livez?verbose, while it is blocked and after."""

import asyncio
import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from qorzen_obs import task
from qorzen_obs.app import Service
from qorzen_obs.options import with_options
from qorzen_obs.settings import ServerSettings, Settings, TelemetrySettings
from qorzen_obs.tasks import TaskCategory
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.culprit import NOBODY
from qorzen_obs.telemetry.loop_monitor import INTERVAL_SECONDS, LONG_SECONDS
from tests.services.program import Running, json_lines, write_files
from tests.services.whole_service import whole_service
from tests.support import PATIENCE_SECONDS, metric, settings, until

HERE = Path(__file__).name
A_BEAT = 2 * INTERVAL_SECONDS


class Watched:
    """A real service with its ops plane, and what it leaves in each sink."""

    def __init__(self, service: Service, stream: io.StringIO) -> None:
        self.service = service
        self.tasks = service.tasks
        self._stream = stream

    def all_lines(self) -> list[dict[str, Any]]:
        return json_lines(self._stream.getvalue())

    def lines(self) -> list[dict[str, Any]]:
        """The log lines about blocks that go on."""
        return [line for line in self._of_blocks() if "over" not in line]

    def stacks(self) -> list[dict[str, Any]]:
        """Those with a stack."""
        return [line for line in self.lines() if "stack" in line]

    def totals(self) -> list[dict[str, Any]]:
        """The log lines about long blocks that have ended."""
        return [line for line in self._of_blocks() if "over" in line]

    def _of_blocks(self) -> list[dict[str, Any]]:
        return [line for line in self.all_lines() if line["event"] == names.LOG_LOOP_BLOCKED]

    def seconds(self, category: str) -> float:
        return metric(self.service.parts.registry, f"{names.LOOP_BLOCKED.name}_total", category=category)

    def span(self, task_id: str) -> ReadableSpan:
        info = self.tasks.find(task_id)
        assert info is not None
        assert info.trace_id is not None
        (span,) = self.service.parts.tracing.traces.trace(info.trace_id)
        return span

    def ask(self, path: str) -> str:
        """Ask the ops plane, from a thread."""
        assert self.tasks.ops_url is not None
        with urllib.request.urlopen(self.tasks.ops_url + path, timeout=PATIENCE_SECONDS) as response:
            text: str = response.read().decode()
        return text

    def ask_until(self, path: str, containing: str) -> str:
        """As `ask`, until the answer has it."""
        while containing not in (answer := self.ask(path)):
            time.sleep(0.01)
        return answer


@asynccontextmanager
async def watched(**telemetry: Any) -> AsyncIterator[Watched]:
    stream = io.StringIO()
    given = Settings(
        tasks=settings().tasks, server=ServerSettings(port=0), telemetry=TelemetrySettings(**telemetry)
    )
    async with whole_service(given, log_stream=stream) as service:
        yield Watched(service, stream)


async def nothing() -> None:
    pass


def of_task(lines: list[dict[str, Any]], task_id: str) -> list[dict[str, Any]]:
    return [line for line in lines if line.get("task_id") == task_id]


async def test_f22_a_task_that_blocks_the_loop_is_named_everywhere_while_it_does() -> None:
    begun, looking_over = threading.Event(), threading.Lock()
    looking_over.acquire()
    held: list[float] = []

    async def hold_the_loop() -> None:
        secret = "never shown"  # noqa: F841 - no sink may show the values of locals
        held.append(time.time())
        begun.set()
        assert looking_over.acquire(timeout=PATIENCE_SECONDS), "it is not named while it blocks"
        time.sleep(LONG_SECONDS)  # noqa: ASYNC251 - the fault that this is about
        held.append(time.time())

    started = time.time()
    async with watched() as service:
        seen: dict[str, Any] = {}

        def look() -> None:
            try:
                assert begun.wait(PATIENCE_SECONDS)
                seen["livez"] = service.ask_until("/livez?verbose", " by task ")
                while not service.stacks():
                    time.sleep(0.01)
                seen["lines"] = service.lines()
                seen["health"] = service.ask("/health")
                seen["seconds"] = service.seconds("plugin")
            finally:
                looking_over.release()

        looking = threading.Thread(target=look)
        looking.start()
        task_id = await service.tasks.submit_task(
            hold_the_loop, name="hold the loop", category=TaskCategory.PLUGIN
        )
        await service.tasks.wait_for_task(task_id)
        await asyncio.to_thread(looking.join)
        await until(lambda: of_task(service.totals(), task_id))

        assert f"by task hold the loop ({task_id}), at " in seen["livez"]
        assert "looking_over.acquire(timeout=PATIENCE_SECONDS)" in seen["livez"]
        assert f"by task hold the loop ({task_id})" in seen["health"]
        begun_line, line = of_task(seen["lines"], task_id)[:2]
        assert (begun_line["cause"], line["cause"]) == ("code", "code")
        assert "stack" not in begun_line
        assert "trace_id" in begun_line
        assert "trace_id" in line
        assert HERE in line["stack"]
        assert "never shown" not in line["stack"]

        total = of_task(service.totals(), task_id)[0]
        span = service.span(task_id)  # it ended in the very step that blocked
        event = span.events[0]
        assert event.name == names.LOOP_BLOCKED_EVENT
        assert event.attributes is not None
        assert event.attributes[names.BLOCKED_CAUSE] == "code"
        assert "looking_over.acquire(timeout=PATIENCE_SECONDS)" in str(event.attributes[names.STACKTRACE])
        assert span.start_time is not None
        assert span.start_time <= event.timestamp  # back-dated to where the block began
        assert event.timestamp / 1e9 < held[0] + A_BEAT

        # The loop was due for a beat at the latest soon after the task held it, and all that is held is counted once.
        counted = sum(service.seconds(category) for category in names.LOOP_BLOCKED_BY)
        least, most = held[1] - held[0] - A_BEAT, time.time() - started
        assert least <= total["seconds"] <= most
        assert least <= float(str(event.attributes[names.BLOCKED_SECONDS])) <= most
        assert 0 < seen["seconds"] <= service.seconds("plugin")
        assert least <= service.seconds("plugin")
        assert counted <= most


async def test_f22_what_ended_before_the_loop_was_blocked_is_told_while_it_is() -> None:
    async with watched() as service:
        told: list[tuple[list[str], float]] = []

        def ended() -> list[str]:
            return [line["task_name"] for line in service.all_lines() if line["event"] == names.LOG_FINISHED]

        def look() -> None:
            give_up_at = time.monotonic() + PATIENCE_SECONDS
            while not ended() and time.monotonic() < give_up_at:
                time.sleep(0.01)
            told.append((ended(), metric(service.service.parts.registry, f"{names.RUN_DURATION.name}_count")))

        async def block() -> None:
            watching = threading.Thread(target=look)
            watching.start()
            watching.join()

        await service.tasks.submit_task(nothing, name="quick")
        await service.tasks.run(block)  # it begins in the turn of the loop in which the other one ends
        assert told == [(["quick"], 1)]


async def test_f22_an_asyncio_task_that_a_task_has_started_is_the_task_s() -> None:
    async def child() -> None:
        time.sleep(0.7)  # noqa: ASYNC251 - the fault that this is about

    async def parent() -> None:
        await asyncio.create_task(child())

    async with watched() as service:
        task_id = await service.tasks.submit_task(parent, category=TaskCategory.IO)
        await service.tasks.wait_for_task(task_id)
        line = of_task(service.stacks(), task_id)[0]
        assert (
            "in test_f22_an_asyncio_task_that_a_task_has_started_is_the_task_s.<locals>.child"
            in line["stack"]
        )
        assert {event.name for event in service.span(task_id).events} == {names.LOOP_BLOCKED_EVENT}
        assert service.seconds("io") > 0.1


async def test_f22_a_callable_on_the_loop_s_own_thread_is_a_culprit_too() -> None:
    def draw() -> None:
        time.sleep(0.7)

    async with watched() as service:
        task_id = await service.tasks.submit_task(draw, category=TaskCategory.UI)
        await service.tasks.wait_for_task(task_id)
        assert (
            "in test_f22_a_callable_on_the_loop_s_own_thread"
            in of_task(service.stacks(), task_id)[0]["stack"]
        )
        assert service.seconds("ui") > 0.1


async def test_f22_a_foreign_callback_is_named_and_blamed_on_no_task() -> None:
    def refresh_the_cache() -> None:
        time.sleep(0.7)

    async with watched() as service:

        def blamed(name: str) -> list[dict[str, Any]]:
            return [line for line in service.stacks() if line["culprit"].endswith(name)]

        asyncio.get_running_loop().call_soon(refresh_the_cache)
        await until(lambda: blamed("refresh_the_cache"))
        line = blamed("refresh_the_cache")[0]
        assert "task_id" not in line
        assert "time.sleep(0.7)" in line["stack"]
        assert service.seconds("foreign") > 0.1


async def test_f22_garbage_collection_is_told_from_code() -> None:
    class Slow:
        """Stands for a collection that takes long: what is collected says when, and lets others run."""

        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            time.sleep(0.4)

    async def make_garbage() -> None:
        Slow()
        gc.collect()

    async def told() -> dict[str, Any]:
        async with watched() as service:
            task_id = await service.tasks.submit_task(make_garbage)
            await service.tasks.wait_for_task(task_id)
            lines = [line["cause"] for line in of_task(service.lines(), task_id)]
            events = [(event.attributes or {})[names.BLOCKED_CAUSE] for event in service.span(task_id).events]
            core = service.seconds("core")
            return {"lines": lines, "events": events, "long": service.seconds("gc") > 0.1, "core": core}

    expected, found = {"lines": ["gc"], "events": ["gc"], "long": True, "core": 0}, await told()
    for _ in range(2):
        if found != expected:  # on a busy machine the loop may be late before the collection begins
            found = await told()
    assert found == expected


async def test_f22_short_blocks_of_one_culprit_make_one_line_without_a_stack() -> None:
    @task(name="stall")
    async def stall() -> None:
        time.sleep(0.15)  # noqa: ASYNC251 - the fault that this is about

    async with watched() as service:
        for number in range(10):
            await service.tasks.run(with_options(stall, name=f"stall {number}"))
            await asyncio.sleep(0.03)
        (line,) = [line for line in service.lines() if line["culprit"].startswith("stall")]
        assert line["count"] == 1
        assert "stack" not in line
        assert service.seconds("core") > 0.5


async def test_the_watchdog_can_be_switched_off_and_leaves_no_thread() -> None:
    def watchdogs() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "qorzen-watchdog"]

    async with watched():
        assert len(watchdogs()) == 1
    assert watchdogs() == []
    hooks = len(gc.callbacks)
    async with watched(watch_loop=False):
        assert watchdogs() == []
        assert len(gc.callbacks) <= hooks + 1  # prometheus_client's own


async def test_f22_a_block_is_found_on_uvloop_too() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def child() -> None:
        time.sleep(0.7)  # noqa: ASYNC251 - the fault that this is about

    async def parent() -> None:
        await asyncio.create_task(child())

    async def scenario() -> tuple[str, list[dict[str, Any]]]:
        async with watched() as service:
            task_id = await service.tasks.submit_task(parent)
            await service.tasks.wait_for_task(task_id)
            return task_id, service.stacks()

    def run() -> tuple[str, list[dict[str, Any]]]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(scenario())

    task_id, lines = await asyncio.to_thread(run)
    line = of_task(lines, task_id)[0]
    assert "time.sleep(0.7)" in line["stack"]


IDLE = """
import asyncio
from qorzen_obs import task

@task(at_start=True)
async def ready():
    await asyncio.sleep(1)  # by then the start is over, which is code and holds the loop
    print("ready", flush=True)
"""


def blocks_of(service: Running) -> list[dict[str, Any]]:
    return [line for line in service.log() if line["event"] == names.LOG_LOOP_BLOCKED]


def test_a_process_that_was_stopped_blames_nobody(tmp_path: Path) -> None:
    """SIGSTOP keeps the watchdog from waking as well, and the process uses no processor time."""
    seconds = 1.0
    with Running("serve", "idle", cwd=write_files(tmp_path, {"idle.py": IDLE})) as service:
        service.line("ready")
        service.signal(signal.SIGSTOP)
        time.sleep(seconds)  # what is measured is real time
        before = len(blocks_of(service))
        service.signal(signal.SIGCONT)
        lines = _wait_for(
            lambda: [one for one in blocks_of(service)[before:] if one["seconds"] > 0.8 * seconds]
        )
    line = lines[0]
    assert (line["cause"], line["culprit"]) == ("not_running", NOBODY)
    assert "task_id" not in line
    assert {one["cause"] for one in lines} == {"not_running"}


@pytest.mark.slow
def test_f40_on_an_overloaded_machine_nobody_is_blamed_for_waiting_for_a_processor(tmp_path: Path) -> None:
    spin = "import time\nprint('spins', flush=True)\nend = time.monotonic() + 300\nwhile time.monotonic() < end: pass"
    with ExitStack() as stack:
        if hasattr(os, "sched_setaffinity"):  # all on one processor, so that other tests have the others
            allowed = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {min(allowed)})
            stack.callback(os.sched_setaffinity, 0, allowed)
            processors = 1
        else:
            processors = os.cpu_count() or 2
        for _ in range(8 * processors):
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE))
            stack.callback(busy.kill)
            assert busy.stdout is not None
            busy.stdout.readline()
        service = stack.enter_context(Running("serve", "idle", cwd=write_files(tmp_path, {"idle.py": IDLE})))
        service.line("ready")
        began = len(blocks_of(service))
        time.sleep(5)  # what is measured is real time
        lines = blocks_of(service)[began:]
    assert {line["cause"] for line in lines} <= {"not_running"}, lines


GREEDY = """
import re
from qorzen_obs import task

@task(at_start=True, name="match")
async def match():
    re.match(r"(a*)*b", "a" * LENGTH)
    print("matched", flush=True)
"""


@pytest.mark.slow
def test_f22_code_that_lets_no_python_run_is_reported_with_its_stack(tmp_path: Path) -> None:
    usual = _length_that_takes_a_second()

    def blocked(length: int) -> dict[str, Any]:
        folder = write_files(tmp_path, {"greedy.py": GREEDY.replace("LENGTH", str(length))})
        with Running("serve", "greedy", cwd=folder) as service:
            service.line("matched")
            lines = _wait_for(lambda: _blocked_lines(service))
            for _ in range(500):  # the stack has a line of its own, which the watchdog writes later
                lines = _blocked_lines(service)
                if any(line.get("stack") for line in lines):
                    break
                time.sleep(0.01)
        held = [line for line in lines if line["cause"] == "gil_held"]
        return max(held, key=lambda line: len(line.get("stack", "")), default=lines[0])

    line = blocked(usual)
    for longer in (1, 2):
        # A busy machine may be late before the interpreter is held, or the watchdog before its first turn.
        if line["cause"] != "gil_held" or "greedy.py" not in line.get("stack", ""):
            line = blocked(usual + longer)
    assert line["cause"] == "gil_held", line
    assert line.get("task_name", "match") == "match"  # the loop may turn before anybody can look whose it was
    assert "greedy.py" in line["stack"], line
    assert line["seconds"] > 0.3


def _blocked_lines(service: Running) -> list[dict[str, Any]]:
    return [line for line in service.log() if line["event"] == names.LOG_LOOP_BLOCKED]


def _length_that_takes_a_second() -> int:
    """The time doubles with each character; how long one takes depends on the machine."""
    import re  # noqa: PLC0415 - used here only

    for length in range(15, 40):
        started = time.thread_time()  # of the processor: it does not matter who else is at work
        re.match(r"(a*)*b", "a" * length)
        if time.thread_time() - started > 0.25:
            return length + 2
    raise AssertionError("this machine's regular expressions do not run away")


def _wait_for(condition: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)
    return found
