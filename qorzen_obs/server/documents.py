"""How values look in JSON: times by RFC 3339 in UTC, durations in seconds, priorities by name.

A task's arguments and result are never part of a document. Its metadata, which it was given to be seen with, is part of
its own document and of no list.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from qorzen_obs.clock import rfc_3339
from qorzen_obs.engines.traits import ENGINES
from qorzen_obs.tasks import CancelGuarantee, TaskCategory, TaskInfo, TaskPriority, TaskStatus
from qorzen_obs.telemetry.redaction import Redactor

#: A moment by RFC 3339.
Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
#: A priority, as it is shown.
PriorityName = Annotated[str, Meta(extra_json_schema={"enum": [priority.label for priority in TaskPriority]})]
#: The kind of an engine.
EngineName = Annotated[str, Meta(extra_json_schema={"enum": list(ENGINES)})]
#: By their value, which finds them quicker than the enum does.
_GUARANTEES: Final = {guarantee.value: guarantee for guarantee in CancelGuarantee}
MAX_LISTED_TEXT: Final = 500  #: characters of a free text in a list; a task's own document has all of it


def json_response(
    document: object, *, content_type: str = "application/json", status: int = 200
) -> web.Response:
    """Return `document` as JSON."""
    return web.Response(body=encode_json(document), content_type=content_type, status=status)


def encode_json(document: object) -> bytes:
    """Return `document` in JSON. Infinite numbers become null."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:  # undecodable file names in error messages carry lone surrogates
        return msgspec.json.encode(_encodable(msgspec.to_builtins(document)))


def now() -> str:
    """Return this moment by RFC 3339."""
    return rfc_3339(time.time())


def timestamp(unix_seconds: float | None) -> str | None:
    """Return a moment by RFC 3339, where there is one."""
    return None if unix_seconds is None else rfc_3339(unix_seconds)


def with_timestamps(value: object) -> Any:
    """Return `value` with each number under a key that ends in `_at` as a timestamp.

    Unix seconds are for Python only.

    >>> with_timestamps({"started_at": 0, "tasks": {"total": 3}})
    {'started_at': '1970-01-01T00:00:00.000000Z', 'tasks': {'total': 3}}
    """
    if isinstance(value, Mapping):
        return {
            key: timestamp(item)
            if isinstance(item, int | float) and str(key).endswith("_at")
            else with_timestamps(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [with_timestamps(item) for item in value]
    return value


class Progress(Struct, frozen=True, kw_only=True):
    """How far a task says it is."""

    percent: float
    message: str
    updated_at: Moment | None


class Task(Struct, frozen=True, kw_only=True):
    """One task: everything that is shown of it."""

    task_id: str
    name: str
    category: TaskCategory
    plugin_id: str | None
    priority: PriorityName
    status: TaskStatus
    progress: Progress
    created_at: Moment
    eligible_at: Moment | None
    started_at: Moment | None
    completed_at: Moment | None
    queue_wait_seconds: float | None
    duration_seconds: float | None
    phases: dict[str, float]
    error: str | None
    error_type: str | None
    traceback: str | UnsetType | None = UNSET  #: left out of lists
    metadata: dict[str, Any] | UnsetType = UNSET  #: redacted, and left out of lists
    cancellable: bool
    cancel_guarantee: CancelGuarantee
    cancel_reason: str | None
    attempt: int
    engine: EngineName
    timeout_seconds: float | None
    waiting_for: str | None
    abandoned: bool
    evicted: bool
    trace_id: str | None
    span_id: str | None
    rerun_of: str | None


def task_document(info: TaskInfo, redactor: Redactor) -> Task:
    """Return everything that is shown of one task."""
    metadata = redactor.field("metadata", info.metadata)
    return _task(info, info.progress.message, info.error, info.traceback, metadata)


def task_line(info: TaskInfo) -> Task:
    """Return what a list shows of one task: no traceback, and long texts cut."""
    error = None if info.error is None else _cut(info.error)
    return _task(info, _cut(info.progress.message), error, UNSET, UNSET)


def _task(
    info: TaskInfo,
    message: str,
    error: str | None,
    traceback: str | UnsetType | None,
    metadata: dict[str, Any] | UnsetType,
) -> Task:
    return Task(
        task_id=info.task_id,
        name=info.name,
        category=info.category,
        plugin_id=info.plugin_id,
        priority=info.priority.label,
        status=info.status,
        progress=Progress(
            percent=info.progress.percent,
            message=message,
            updated_at=timestamp(info.progress.updated_at),
        ),
        created_at=rfc_3339(info.created_at),
        eligible_at=timestamp(info.eligible_at),
        started_at=timestamp(info.started_at),
        completed_at=timestamp(info.completed_at),
        queue_wait_seconds=info.queue_wait_seconds,
        duration_seconds=info.duration_seconds,
        phases=info.phases,
        error=error,
        error_type=info.error_type,
        traceback=traceback,
        metadata=metadata,
        cancellable=info.cancellable,
        cancel_guarantee=_GUARANTEES[info.cancel_guarantee],
        cancel_reason=info.cancel_reason,
        attempt=info.attempt,
        engine=info.engine,
        timeout_seconds=info.timeout_seconds,
        waiting_for=info.waiting_for,
        abandoned=info.abandoned,
        evicted=info.evicted,
        trace_id=info.trace_id,
        span_id=info.span_id,
        rerun_of=info.rerun_of,
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_LISTED_TEXT else text[: MAX_LISTED_TEXT - 1] + "…"


def _encodable(value: object) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    return value
