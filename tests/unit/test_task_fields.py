"""A field of TaskInfo is named in two places: in TaskInfo, and in TaskRecord.info, where its value comes from."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass, fields
from typing import Any

from opentelemetry.trace import SpanContext

from qorzen_obs.history.memory import MemoryHistory
from qorzen_obs.ledger import Ledger
from qorzen_obs.record import Rerun, TaskEvent, TaskRecord, TaskState
from qorzen_obs.server.documents import Moment, shown_fields
from qorzen_obs.tasks import EventKind, TaskInfo, TaskProgress, TaskStatus
from tests.support import attempt, record

NAMES = {field.name for field in fields(TaskInfo)}


def missing_in_info(of: type[TaskInfo], source: str) -> set[str]:
    """The fields that a function gives no value when it makes a TaskInfo."""
    call = next(
        node
        for node in ast.walk(ast.parse(textwrap.dedent(source)))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "TaskInfo"
    )
    return {field.name for field in fields(of)} - {keyword.arg or "" for keyword in call.keywords}


@dataclass(slots=True, kw_only=True)
class WithMore(TaskInfo):
    """As TaskInfo after somebody has added two fields."""

    shelf: str | None = None
    seen_at: float | None = None


SOURCE = inspect.getsource(TaskRecord.info)


def test_a_record_gives_each_field_its_value() -> None:
    assert missing_in_info(TaskInfo, SOURCE) == {"evicted"}, "true of outlines in the history only"


def test_a_field_that_is_added_without_a_value_is_found() -> None:
    assert missing_in_info(WithMore, SOURCE) == {"evicted", "shelf", "seen_at"}


def test_a_field_that_is_added_is_shown_by_the_api_as_its_type_and_name_say() -> None:
    shown: dict[str, Any] = {field[0]: field[1] for field in shown_fields(WithMore)}
    assert shown["shelf"] == str | None
    assert shown["seen_at"] == Moment | None


def test_a_document_shows_everything_but_the_result() -> None:
    assert {field[0] for field in shown_fields(TaskInfo)} == NAMES - {"result"}


def ended() -> TaskRecord:
    """A record with a value of its own in each field that an ended task can have."""
    span = SpanContext(7, 8, is_remote=False)
    one = record(
        plugin_id="plugin",
        metadata={"nested": {"list": [1]}},
        timeout=3.0,
        cancellable=False,
        created_at=10.0,
        eligible_wall=11.0,
        rerun=Rerun("before", None),
    )
    one.progress = TaskProgress(50.0, "half", 12.0)
    one.state = TaskState(
        TaskStatus.FAILED,
        result="result",
        error="error",
        error_type="error_type",
        traceback="traceback",
        cancel_reason="reason",
        abandoned=True,
        code_ended_at=9.0,
        result_released=True,
        attempt=2,
        started_at=12.0,
        completed_at=13.0,
        queue_wait_seconds=1.0,
        duration_seconds=1.5,
        span=span,
        ledger=Ledger(0.0, {"queued": 1.0}),
    )
    return one


def differing(one: TaskInfo, other: TaskInfo) -> set[str]:
    return {name for name in NAMES if getattr(one, name) != getattr(other, name)}


def test_an_event_of_the_stream_has_every_field_but_those_that_keep_much_alive() -> None:
    one = ended()
    event = TaskEvent(1, EventKind.FAILED, 13.0, one, one.state, one.progress)
    assert differing(event.outline().info, one.info()) == {"metadata", "result", "traceback"}


def test_an_outline_of_the_history_has_no_free_texts_and_says_that_it_was_evicted() -> None:
    history, one = MemoryHistory(keep=0, on_evicted=lambda _: None), ended()
    history.add(one)
    history.shrink()
    outline = history.info(one.task_id)
    assert outline is not None
    lost = {"result", "error", "traceback", "metadata", "progress", "phases", "cancel_reason"}
    untold = {
        "attempts",
        "cancellable",
        "timeout_seconds",
        "eligible_at",
        "abandoned",
        "code_ended_at",
        "rerun_of",
        "result_released",
    }
    assert differing(outline, one.info()) == {"evicted"} | lost | untold


def test_a_snapshot_shares_no_container_with_the_live_task() -> None:
    one = ended()
    one.state = one.state.but(status=TaskStatus.RUNNING)
    attempt(one).phases = {}
    info = one.info()
    info.metadata["nested"]["list"].append(2)
    info.phases["queued"] = 5.0
    again = one.info()
    assert again.metadata == {"nested": {"list": [1]}}
    assert again.phases == {"queued": 1.0}
