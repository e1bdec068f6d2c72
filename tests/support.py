"""What the tests of the task manager share: gates that hold tasks, readers of spans and metrics, virtual time.

Nothing here patches the code under test.
"""

import asyncio
import functools
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, ParamSpec, Self

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from qorzen_obs import testing
from qorzen_obs.definition import NO_DEFINITION
from qorzen_obs.engines.traits import LOOP
from qorzen_obs.record import Attempt, FarSide, TaskRecord
from qorzen_obs.settings import EngineSettings, Settings, TaskSettings
from qorzen_obs.tasks import TaskCategory, TaskPriority
from qorzen_obs.telemetry import names

P = ParamSpec("P")

#: How long a condition may take on a busy machine. Nothing waits this long where all is well.
PATIENCE_SECONDS = 300.0


def settings(*, worker_threads: int = 4, io_threads: int = 4, **tasks: Any) -> Settings:
    """Settings of a service, from the fields of `tasks.*`."""
    engines = EngineSettings(io_threads=io_threads, worker_threads=worker_threads)
    return Settings(tasks=TaskSettings(**tasks), engines=engines)


def virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """As the one that ships; an asyncio task left running fails the test."""

    @functools.wraps(test)
    async def watched(*args: P.args, **kwargs: P.kwargs) -> None:
        await test(*args, **kwargs)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"the test left asyncio tasks running: {left}"

    return testing.virtual_time(watched)


async def until(condition: Callable[[], object]) -> None:
    """Return once `condition()` holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - it may be about another thread, which sets no Event of ours
            await asyncio.sleep(0.003)


async def turns(number: int = 10) -> None:
    """Let everything that is ready on the loop run, so that what does not happen had its chance."""
    for _ in range(number):
        await asyncio.sleep(0)


class Owner:
    """What runs an attempt that nobody runs."""

    manager: object = None
    far_side: FarSide | None = None

    def begin(self, attempt: Attempt) -> None: ...
    def suspended(self, attempt: Attempt) -> None: ...
    def report_progress(self, attempt: Attempt, percent: float, message: str) -> None: ...
    def keep_trace(self, attempt: Attempt) -> None: ...


def record(func: Callable[..., Any] = print, *args: Any, **fields: Any) -> TaskRecord:
    """A task's record as submit_task makes it, with these fields."""
    given: dict[str, Any] = {
        "task_id": "id",
        "sequence": 1,
        "name": "job",
        "category": TaskCategory.CORE,
        "priority": TaskPriority.NORMAL,
        "cell": 0,
        "plugin_id": None,
        "metadata": None,
        "timeout": None,
        "cancellable": True,
        "definition": NO_DEFINITION,
        "limit": None,
        "wants_progress": False,
        "engine": LOOP,
        "context": copy_context(),
        "created_at": 0.0,
        "eligible_at": 0.0,
        "eligible_wall": 0.0,
        "kwargs": {},
        **fields,
    }
    return TaskRecord(func=func, args=args, **given)


def attempt(of: TaskRecord) -> Attempt:
    """The first attempt of a task, as the manager makes it."""
    assert of.context is not None
    made = Attempt(of, 1, of.context.copy(), Owner(), of.kwargs)
    of.attempt = made
    return made


class Gate:
    """An async callable for tasks: they arrive in order and wait until it is opened."""

    def __init__(self) -> None:
        self.arrived: list[Any] = []
        self._open = asyncio.Event()

    async def __call__(self, value: Any = None) -> Any:
        self.arrived.append(value)
        await self._open.wait()
        return value

    async def holds(self, number: int) -> None:
        """Return once so many tasks have arrived."""
        await until(lambda: len(self.arrived) >= number)

    def open(self) -> None:
        self._open.set()


class ThreadGate:
    """As Gate, a synchronous callable for threads. Open it in any case, or its threads outlive the test."""

    def __init__(self) -> None:
        self.arrived: list[Any] = []
        self.threads: list[threading.Thread] = []
        self._open = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()

    def __call__(self, value: Any = None) -> Any:
        self.threads.append(threading.current_thread())
        self.arrived.append(value)
        assert self._open.wait(PATIENCE_SECONDS), "nobody opened the gate"
        return value

    async def holds(self, number: int) -> None:
        """Return once so many calls have arrived."""
        await until(lambda: len(self.arrived) >= number)

    def open(self) -> None:
        self._open.set()


class Spans:
    """A private SDK provider and what it has seen end."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("tests")

    def all(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def one(self, name: str) -> ReadableSpan:
        """The only span of this name; that of an attempt is found by its task's own name too."""
        (span,) = (span for span in self.all() if name in {span.name, self._run_of(span)})
        return span

    def _run_of(self, span: ReadableSpan) -> str:
        attributes = span.attributes or {}
        return f"run {attributes[names.TASK_NAME]!s}" if names.TASK_ATTEMPT in attributes else ""


def metric(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """The sum of all samples of this name with these labels."""
    return sum(
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@contextmanager
def root_handlers(*handlers: logging.Handler) -> Iterator[None]:
    """Give the root logger these handlers only, and those of pytest at the end of the block."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, list(handlers)
    try:
        yield
    finally:
        root.handlers = before
