"""Asks the service again and again, from a thread, so that keys are answered while the service is not.

It asks for what is on the screen and no more: a bounded number of tasks, some of their stacks, one opened task. The
slower the answers, the rarer the questions: a service in trouble is not asked more than it can bear.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Self, TypeVar

from qorzen_obs.cli.account import place
from qorzen_obs.cli.texts import short_id
from qorzen_obs.cli.top.figures import Gauges, Rates, blocked_share, lag_quantile, read_gauges
from qorzen_obs.cli.top.view import Command, CommandKind, Listing, Tab, busy_share
from qorzen_obs.cli.waterfall import Span, TraceDocument, read_spans
from qorzen_obs.client import (
    Client,
    ClientError,
    Health,
    LogLines,
    RunningList,
    Stack,
    Status,
    Task,
    TaskPage,
    Why,
    WorkLoop,
    task_path,
)
from qorzen_obs.engines.traits import runs_in_process

T = TypeVar("T")

TASKS: Final = 200  #: listed at most; the header says how many there are
STACKS_EACH_TIME: Final = 6
NAMES_EACH_TIME: Final = 6
METRICS_SECONDS: Final = 2.0  #: rendering them takes the service tens of milliseconds
TRACE_SECONDS: Final = 5.0  #: a trace may be a megabyte
#: After a slow poll, pause for this many times its duration if that is longer than the interval.
_RARER: Final = 5
_BREATH_SECONDS: Final = 0.05  #: between two polls, however fast keys are pressed
_JOIN_SECONDS: Final = 0.5

#: How each list is asked for.
_QUERIES: Final[Mapping[Listing, Mapping[str, str]]] = {
    Listing.RUNNING: {"status": "running", "order": "oldest"},
    Listing.PENDING: {"status": "pending", "order": "oldest"},
    Listing.FAILED: {"status": "failed", "order": "ended"},
    Listing.ENDED: {"order": "ended"},
}


@dataclass(frozen=True, slots=True)
class Watched:
    """What is on the screen."""

    listing: Listing = Listing.RUNNING
    filter: str = ""
    visible: tuple[str, ...] = ()  #: ids of tasks, the selected one first
    opened: str | None = None
    tab: Tab = Tab.TASK
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """What is known of the opened task; a part that the service cannot give is None."""

    task: Task
    why: Why | None = None
    stack: Stack | None = None
    logs: LogLines | None = None
    spans: list[Span] | None = None
    missing: str = ""  #: why a part is


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The answers of one poll."""

    status: Status
    health: Health
    listing: Listing
    page: TaskPage
    rates: Mapping[str, float] = field(default_factory=dict)  #: by status, each second
    gauges: Gauges | None = None
    lag: float | None = None  #: of the loop, p99 in seconds
    blocked: Mapping[str, float] = field(default_factory=dict)  #: the share of time, by category
    loop: WorkLoop | None = None  #: who holds it; None where the service does not say
    busy: Mapping[str, float] = field(default_factory=dict)  #: by task
    places: Mapping[str, str] = field(default_factory=dict)  #: where running tasks are
    names: Mapping[str, str] = field(default_factory=dict)  #: of tasks that listed ones wait for
    opened_id: str | None = None  #: which task was to be opened
    opened: Opened | None = None  #: None where it is not known any more


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there is no newer snapshot."""

    message: str
    since: float  #: monotonic
    answered: bool  #: the service answered, and refused


class Asker:
    """Asks once for all that is watched, and remembers what only two looks can tell."""

    def __init__(self, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._rates = Rates()
        self._gauges: tuple[Gauges, ...] = ()  # the last two
        self._metrics_at = -METRICS_SECONDS
        self._phases: dict[str, Mapping[str, float]] = {}
        self._places: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._trace: tuple[str, float, list[Span]] | None = None  # task's id, when

    def ask(self, watched: Watched) -> Snapshot:
        """Return what the service says now.

        Raises:
            ClientError: it does not answer, or refuses.
        """
        status = self._client.status()
        self._rates.add(self._clock(), _ends(status))
        health = self._client.health()
        query = {**_QUERIES[watched.listing], "limit": TASKS, "q": watched.filter or None}
        page = self._client.tasks(query)
        gauges = self._look_at_metrics()
        before = self._gauges[0] if len(self._gauges) == 2 else None
        return Snapshot(
            status=status,
            health=health,
            listing=watched.listing,
            page=page,
            rates=self._rates.per_second(),
            gauges=gauges,
            lag=lag_quantile(before or Gauges(0.0), gauges, 0.99) if gauges else None,
            blocked=blocked_share(before, gauges) if before and gauges else {},
            loop=self._if_any(lambda: self._client.get("/api/loop", WorkLoop)),
            busy=self._busy(page),
            places=self._look_at_places(page, watched),
            names=self._look_at_awaited(page, watched),
            opened_id=watched.opened,
            opened=None if watched.opened is None else self._look_at_opened(watched.opened, watched.tab),
        )

    def _look_at_metrics(self) -> Gauges | None:
        begun = self._clock()
        if begun >= self._metrics_at:
            # Refused or no metrics at all: the header does without.
            with suppress(ValueError):
                found = self._if_any(lambda: read_gauges(self._client.metrics(), begun))
                if found is not None:
                    self._gauges = (*self._gauges[-1:], found)
            took = self._clock() - begun
            self._metrics_at = begun + max(METRICS_SECONDS, _RARER * 2 * took)
        return self._gauges[-1] if self._gauges else None

    def _busy(self, page: TaskPage) -> dict[str, float]:
        shares = {
            task.task_id: busy_share(task.phases, self._phases.get(task.task_id, {})) for task in page.items
        }
        self._phases = {task.task_id: task.phases for task in page.items}
        return {task_id: share for task_id, share in shares.items() if share is not None}

    def _look_at_places(self, page: TaskPage, watched: Watched) -> dict[str, str]:
        """Return where running tasks are: in which worker process, and where there, as far as was looked."""
        places = self._look_at_stacks(page, watched)
        if any(task.status == "running" and runs_in_process(task.engine) for task in page.items):
            running = self._if_any(lambda: self._client.get("/api/running", RunningList, {"limit": TASKS}))
            for one in () if running is None else running.items:
                if one.pid is not None:
                    places[one.task_id] = f"pid {one.pid} {places.get(one.task_id, '')}".rstrip()
        return places

    def _look_at_stacks(self, page: TaskPage, watched: Watched) -> dict[str, str]:
        """Look where some of the visible tasks are: the selected one each time, then those not seen for longest."""
        running = {task.task_id: task for task in page.items if task.status == "running"}
        selected = watched.visible[0] if watched.visible else None
        # A worker process is interrupted to answer, so only the selected one's is.
        wanted = [
            task_id
            for task_id in dict.fromkeys((*watched.visible, *list(running)[:STACKS_EACH_TIME]))
            if (task := running.get(task_id)) is not None
            and task.waiting_for is None
            and (task_id == selected or not runs_in_process(task.engine))
        ]
        # The order of the dict is the order in which they were seen.
        seen = {task_id: index for index, task_id in enumerate(self._places)}
        wanted.sort(key=lambda task_id: (task_id != selected, seen.get(task_id, -1)))
        for task_id in wanted[:STACKS_EACH_TIME]:
            stack = self._if_any(partial(self._client.get, task_path(task_id, "stack"), Stack))
            self._places.pop(task_id, None)
            if stack is not None:
                self._places[task_id] = place(stack)
        self._places = {task_id: where for task_id, where in self._places.items() if task_id in running}
        return dict(self._places)

    def _look_at_awaited(self, page: TaskPage, watched: Watched) -> dict[str, str]:
        """Find out what some of the tasks are called that visible ones wait for."""
        listed = {task.task_id for task in page.items}
        awaited = {task.task_id: task.waiting_for for task in page.items if task.waiting_for is not None}
        self._names = {task_id: name for task_id, name in self._names.items() if task_id in awaited.values()}
        unknown = (awaited[task_id] for task_id in watched.visible if task_id in awaited)
        for task_id in [one for one in unknown if one not in listed and one not in self._names][
            :NAMES_EACH_TIME
        ]:
            task = self._if_any(partial(self._client.task, task_id))
            if task is not None:
                self._names[task_id] = task.name
        return dict(self._names)

    def _look_at_opened(self, task_id: str, tab: Tab) -> Opened | None:
        try:
            task = self._client.task(task_id)
        except ClientError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return None
        parts: dict[str, Any] = {}
        try:
            if task.status == "pending" and tab is Tab.TASK:
                parts["why"] = self._client.get(task_path(task_id, "why"), Why)
            elif tab is Tab.STACK:
                parts["stack"] = self._client.get(task_path(task_id, "stack"), Stack)
            elif tab is Tab.LOG:
                parts["logs"] = self._client.get(task_path(task_id, "logs"), LogLines)
            elif tab is Tab.TRACE:
                parts["spans"] = self._spans(task)
        except ClientError as error:
            if error.status is None:
                raise
            parts["missing"] = str(error)
        return Opened(task, **parts)

    def _spans(self, task: Task) -> list[Span]:
        now = self._clock()
        if self._trace is not None:
            task_id, at, spans = self._trace
            if task_id == task.task_id and now - at < TRACE_SECONDS:
                return spans
        spans = read_spans(self._client.get(task_path(task.task_id, "trace"), TraceDocument))
        self._trace = (task.task_id, now, spans)
        return spans

    def _if_any(self, ask: Callable[[], T]) -> T | None:
        """Return an answer, or None where the service refuses this one."""
        try:
            return ask()
        except ClientError as error:
            if error.status is None:
                raise
            return None


def _ends(status: Status) -> dict[str, int]:
    """Return the counters: what is pending or running may fall."""
    return {name: n for name, n in status.tasks.by_status.items() if name not in ("pending", "running")}


class Poller:
    """Asks from a thread of its own. A context manager; `on_change` is called there after each answer."""

    def __init__(self, client: Client, interval_seconds: float, on_change: Callable[[], object]) -> None:
        self._client = client
        self._asker = Asker(client)
        self._interval_seconds = interval_seconds
        self._on_change = on_change
        self._commands: queue.Queue[Command] = queue.Queue(maxsize=8)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._watched = Watched()
        self._thread = threading.Thread(target=self._run, name="qorzen-top", daemon=True)
        self.snapshot: Snapshot | None = None
        self.trouble: Trouble | None = None
        self._notice = ""
        self._is_due = True  # whatever is paused
        self.fault: Exception | None = None  #: of ours; nothing more is asked after it

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it; a question that is not answered keeps its daemon thread, no more."""
        self._stop.set()
        self._wake.set()
        self._thread.join(_JOIN_SECONDS)

    def watch(self, watched: Watched) -> None:
        """Ask for this from now on; at once where it is something else."""
        before, self._watched = self._watched, watched
        if _is_another(before, watched):
            self._is_due = True
        if self._is_due or before.paused != watched.paused:
            self._wake.set()

    def take_notice(self) -> str:
        """Return what became of the last command, once."""
        notice, self._notice = self._notice, ""
        return notice

    def do(self, command: Command) -> bool:
        """Have a command given to the service; return False when too many wait."""
        try:
            self._commands.put_nowait(command)
        except queue.Full:
            return False
        self._wake.set()
        return True

    def _run(self) -> None:
        try:
            while not self._stop.wait(_BREATH_SECONDS):
                begun = time.monotonic()
                self._wake.clear()
                self._do_commands()
                if self._is_due or not self._watched.paused:
                    self._is_due = False
                    self._poll()
                self._on_change()
                took = time.monotonic() - begun
                self._wake.wait(max(self._interval_seconds - took, _RARER * took) - _BREATH_SECONDS)
        except Exception as error:  # noqa: BLE001 - the top of a thread; who draws raises it
            self.fault = error
            self._on_change()

    def _poll(self) -> None:
        try:
            self.snapshot = self._asker.ask(self._watched)
            self.trouble = None
        except ClientError as error:
            since = time.monotonic() if self.trouble is None else self.trouble.since
            self.trouble = Trouble(str(error), since, error.status is not None)

    def _do_commands(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._notice = self._do(self._commands.get_nowait())
                self._is_due = True

    def _do(self, command: Command) -> str:
        try:
            if command.kind is CommandKind.RERUN:
                return f"runs again as {short_id(self._client.rerun(command.task_id))}"
            task = self._client.cancel(command.task_id)
        except ClientError as error:
            return str(error)
        return f"{task.name} {'is cancelled' if task.status == 'cancelled' else 'was asked to stop'}"


def _is_another(before: Watched, now: Watched) -> bool:
    """Return whether what is on the screen is not just what was, moved on."""
    return (before.listing, before.filter, before.opened, before.tab) != (
        now.listing,
        now.filter,
        now.opened,
        now.tab,
    )
