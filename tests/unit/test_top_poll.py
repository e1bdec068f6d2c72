"""What `top` asks a service for, and how little: by what is on the screen, and no more often than it can bear."""

from __future__ import annotations

import queue
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
import pytest

from qorzen_obs.cli.top.poll import (
    METRICS_SECONDS,
    STACKS_EACH_TIME,
    TASKS,
    TRACE_SECONDS,
    Asker,
    Poller,
    Watched,
)
from qorzen_obs.cli.top.view import Command, CommandKind, Listing, Tab
from qorzen_obs.client import Client, ClientError, Query
from tests.support import PATIENCE_SECONDS

T = TypeVar("T")

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
STATUS = {
    "state": "ready",
    "tasks": {"total": 1, "by_status": {"pending": 0, "running": 1, "completed": 0}},
    "queue": {"depth": 0, "limit": 10},
    "slots": {},
}
METRICS = 'qorzen_tasks{category="io",priority="low",status="pending"} 4.0\n'


def a_task(task_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "name": task_id,
        "category": "io",
        "priority": "low",
        "status": "running",
        "created_at": NOW.isoformat(),
        "engine": "loop",
        **fields,
    }


class SaidClient(Client):
    """A client of a service that says what it is told to say; anything else is 409."""

    def __init__(self, *tasks: dict[str, Any]) -> None:
        super().__init__("http://service")
        self.asked: list[str] = []
        self.queries: list[Query] = []
        self.now = 100.0
        self.answers: dict[str, Any] = {"/status": STATUS, "/health": {"status": "pass"}, "/metrics": METRICS}
        self.lists(*tasks)

    def clock(self) -> float:
        return self.now

    def lists(self, *tasks: dict[str, Any]) -> None:
        self.answers["/api/tasks"] = {"items": [*tasks], "at": NOW.isoformat()}

    def get(self, path: str, kind: type[T], query: Query | None = None, *, also: tuple[int, ...] = ()) -> T:
        self.asked.append(path)
        self.queries.append(query or {})
        if path not in self.answers:
            raise ClientError("not now", HTTPStatus.CONFLICT)
        return msgspec.convert(self.answers[path], kind)

    def metrics(self) -> str:
        return self.get("/metrics", str)

    def asked_for(self, ending: str) -> list[str]:
        """What was asked for since the last time, with this at its end."""
        found = [path for path in self.asked if path.endswith(ending)]
        self.asked.clear()
        return found


def test_a_poll_asks_for_the_list_on_the_screen_with_its_filter() -> None:
    client = SaidClient(a_task("a"))
    snapshot = Asker(client, client.clock).ask(Watched(Listing.FAILED, filter="xyz"))

    assert client.queries[client.asked.index("/api/tasks")] == {
        "status": "failed",
        "order": "ended",
        "limit": TASKS,
        "q": "xyz",
    }
    assert snapshot.gauges is not None
    assert snapshot.gauges.pending == {"low": 4}
    assert client.asked.count("/status") == client.asked.count("/health") == 1


def test_some_stacks_are_looked_at_each_time_and_all_in_turn() -> None:
    ids = [f"t{number}" for number in range(15)]
    client = SaidClient(*map(a_task, ids))
    client.answers.update(
        {f"/api/tasks/{i}/stack": {"state": "waiting", "awaiting": f"x of {i}"} for i in ids}
    )
    asker = Asker(client, client.clock)
    seen: set[str] = set()
    watched = Watched(visible=("t3", *(i for i in ids if i != "t3")))
    for _ in range(3):
        asker.ask(watched)
        asked = client.asked_for("/stack")
        assert len(asked) == STACKS_EACH_TIME
        assert "/api/tasks/t3/stack" in asked, "the selected one each time"
        seen.update(asked)
    assert len(seen) == 15
    assert asker.ask(watched).places == {i: f"x of {i}" for i in ids}
    client.lists()
    assert asker.ask(Watched()).places == {}, "nothing is kept of tasks that have gone"


def test_a_worker_process_is_interrupted_for_the_selected_task_only() -> None:
    tasks = [a_task("p", engine="process"), a_task("q", engine="process"), a_task("w", waiting_for="p")]
    client = SaidClient(*tasks)
    Asker(client, client.clock).ask(Watched(visible=("q", "p", "w")))
    assert client.asked_for("/stack") == ["/api/tasks/q/stack"]


def test_a_task_in_a_worker_process_is_shown_with_its_pid() -> None:
    client = SaidClient(a_task("p", engine="process"), a_task("q", engine="process"), a_task("l"))
    client.answers["/api/tasks/p/stack"] = {"state": "running", "awaiting": "a lock"}
    client.answers["/api/running"] = {
        "items": [{"task_id": "p", "pid": 7}, {"task_id": "q", "pid": 8}, {"task_id": "l", "pid": None}]
    }
    asker = Asker(client, client.clock)
    assert asker.ask(Watched(visible=("p",))).places == {"p": "pid 7 a lock", "q": "pid 8"}
    client.asked_for("")
    client.lists(a_task("l"))
    asker.ask(Watched())
    assert not client.asked_for("/api/running"), "nobody wants to know"


def test_what_a_task_waits_for_is_asked_for_its_name_once() -> None:
    client = SaidClient(a_task("a", waiting_for="b"), a_task("c", waiting_for="d"), a_task("d"))
    client.answers["/api/tasks/b"] = a_task("b", name="read the file")
    asker = Asker(client, client.clock)
    for _ in range(2):
        assert asker.ask(Watched(visible=("a", "c", "d"))).names == {"b": "read the file"}
    assert client.asked_for("/api/tasks/b") == ["/api/tasks/b"]
    client.lists(a_task("a"))
    assert asker.ask(Watched(visible=("a",))).names == {}


def test_metrics_are_asked_for_rarely_and_more_rarely_where_they_take_long() -> None:
    client = SaidClient()
    asker = Asker(client, client.clock)
    asker.ask(Watched())
    client.now += METRICS_SECONDS / 2
    asker.ask(Watched())
    assert len(client.asked_for("/metrics")) == 1
    client.now += METRICS_SECONDS

    def slow_metrics() -> str:
        client.now += 3.0
        return METRICS

    client.metrics = slow_metrics  # type: ignore[method-assign]  # the service became slow
    asker.ask(Watched())
    client.asked.clear()
    del client.metrics
    client.now += 20.0
    asker.ask(Watched())
    assert client.asked_for("/metrics") == []
    client.now += 10.0
    asker.ask(Watched())
    assert len(client.asked_for("/metrics")) == 1


def test_without_metrics_the_rest_is_shown() -> None:
    client = SaidClient(a_task("a"))
    del client.answers["/metrics"]
    snapshot = Asker(client, client.clock).ask(Watched())
    assert (snapshot.gauges, snapshot.lag, len(snapshot.page.items)) == (None, None, 1)


@pytest.mark.parametrize("path", ["/status", "/health", "/api/tasks"])
def test_without_the_rest_there_is_nothing_to_show(path: str) -> None:
    client = SaidClient()
    del client.answers[path]
    with pytest.raises(ClientError, match="not now"):
        Asker(client, client.clock).ask(Watched())


@pytest.mark.parametrize(
    ("tab", "status", "asked"),
    [
        (Tab.TASK, "running", None),
        (Tab.TASK, "pending", "why"),
        (Tab.STACK, "running", "stack"),
        (Tab.LOG, "failed", "logs"),
        (Tab.TRACE, "failed", "trace"),
    ],
)
def test_of_an_opened_task_only_the_part_on_the_screen_is_asked_for(
    tab: Tab, status: str, asked: str | None
) -> None:
    client = SaidClient()
    client.answers["/api/tasks/t"] = a_task("t", status=status)
    snapshot = Asker(client, client.clock).ask(Watched(opened="t", tab=tab))
    expected = ["/api/tasks/t"] + ([f"/api/tasks/t/{asked}"] if asked else [])
    assert [path for path in client.asked if path.startswith("/api/tasks/t")] == expected
    assert snapshot.opened is not None
    assert snapshot.opened.missing == ("not now" if asked else "")


def test_a_trace_is_not_asked_for_each_time() -> None:
    client = SaidClient()
    client.answers["/api/tasks/t"] = a_task("t")
    client.answers["/api/tasks/t/trace"] = {"resourceSpans": []}
    asker = Asker(client, client.clock)
    for _ in range(3):
        asker.ask(Watched(opened="t", tab=Tab.TRACE))
    assert len(client.asked_for("/trace")) == 1
    client.now += TRACE_SECONDS
    asker.ask(Watched(opened="t", tab=Tab.TRACE))
    assert len(client.asked_for("/trace")) == 1


def test_busy_is_the_share_since_the_look_before() -> None:
    client = SaidClient(a_task("a", phases={"queued": 5.0, "loop": 1.0, "await": 9.0}))
    asker = Asker(client, client.clock)
    assert asker.ask(Watched()).busy == {"a": pytest.approx(0.1)}
    client.lists(a_task("a", phases={"queued": 5.0, "loop": 1.75, "await": 9.25}))
    assert asker.ask(Watched()).busy == {"a": pytest.approx(0.75)}


def test_rates_are_of_ends() -> None:
    client = SaidClient()
    asker = Asker(client, client.clock)
    asker.ask(Watched())
    client.now += 2.0
    client.answers["/status"] = {**STATUS, "tasks": {"total": 9, "by_status": {"running": 3, "completed": 5}}}
    assert asker.ask(Watched()).rates == {"completed": 2.5}


class Watching:
    """A poller of a service, and how often it has come to an end of asking."""

    def __init__(self, client: Client) -> None:
        self.changes: queue.Queue[None] = queue.Queue()
        self.poller = Poller(client, interval_seconds=3600.0, on_change=lambda: self.changes.put(None))

    def wait(self) -> None:
        self.changes.get(timeout=PATIENCE_SECONDS)


def test_what_is_new_on_the_screen_is_asked_for_at_once_and_paused_nothing_else() -> None:
    client = SaidClient(a_task("a"))
    watching = Watching(client)
    with watching.poller as poller:
        watching.wait()
        assert poller.snapshot is not None
        client.asked.clear()
        poller.watch(Watched(paused=True))
        watching.wait()
        assert client.asked == []
        poller.watch(Watched(Listing.PENDING, paused=True))
        watching.wait()
        assert client.asked != []
        assert poller.snapshot.listing is Listing.PENDING
        poller.watch(Watched(Listing.PENDING, paused=False))
        watching.wait()


def test_a_command_is_given_and_what_became_of_it_told_once() -> None:
    client = SaidClient()
    client.post = lambda path, kind, document=None: msgspec.convert({"task_id": path}, kind)  # type: ignore[method-assign]  # a service that takes commands
    watching = Watching(client)
    with watching.poller as poller:
        watching.wait()
        assert poller.do(Command(CommandKind.RERUN, "t"))
        watching.wait()
        assert poller.take_notice() == "runs again as /api/tas"
        assert poller.take_notice() == ""


def test_trouble_is_told_from_its_begin_and_over_when_it_is() -> None:
    client = SaidClient()
    status = client.answers.pop("/status")
    watching = Watching(client)
    with watching.poller as poller:
        watching.wait()
        first = poller.trouble
        assert first is not None
        assert (first.message, first.answered) == ("not now", True)
        poller.watch(Watched(Listing.PENDING))
        watching.wait()
        assert poller.trouble == first
        client.answers["/status"] = status
        poller.watch(Watched(Listing.FAILED))
        watching.wait()
        assert poller.trouble is None


def test_a_fault_of_ours_is_not_swallowed() -> None:
    client = SaidClient()
    client.metrics = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]  # what nobody expects
    watching = Watching(client)
    with watching.poller as poller:
        watching.wait()
        assert isinstance(poller.fault, ZeroDivisionError)
