"""How values look in JSON: times by RFC 3339 in UTC, durations in seconds, priorities by name.

A task's arguments, result and metadata are never part of a document.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from aiohttp import web

from qorzen_obs.tasks import TaskInfo

MAX_LISTED_TEXT: Final = 500
"""Characters of a free text in a list; a task's own document has all of it."""


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
        return msgspec.json.encode(_encodable(document))


def now() -> str:
    """Return this moment by RFC 3339."""
    return _rfc3339(datetime.now(UTC))


def timestamp(unix_seconds: float | None) -> str | None:
    """Return a moment by RFC 3339, to the microsecond.

    >>> timestamp(0.25)
    '1970-01-01T00:00:00.250000Z'
    """
    return None if unix_seconds is None else _rfc3339(datetime.fromtimestamp(unix_seconds, UTC))


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


def task_document(info: TaskInfo) -> dict[str, Any]:
    """Return everything that is shown of one task."""
    return {
        "task_id": info.task_id,
        "name": info.name,
        "category": info.category.value,
        "plugin_id": info.plugin_id,
        "priority": info.priority.label,
        "status": info.status.value,
        "progress": {
            "percent": info.progress.percent,
            "message": info.progress.message,
            "updated_at": timestamp(info.progress.updated_at),
        },
        "created_at": timestamp(info.created_at),
        "eligible_at": timestamp(info.eligible_at),
        "started_at": timestamp(info.started_at),
        "completed_at": timestamp(info.completed_at),
        "queue_wait_seconds": info.queue_wait_seconds,
        "duration_seconds": info.duration_seconds,
        "phases": info.phases,
        "error": info.error,
        "error_type": info.error_type,
        "traceback": info.traceback,
        "cancellable": info.cancellable,
        "cancel_guarantee": info.cancel_guarantee,
        "cancel_reason": info.cancel_reason,
        "attempt": info.attempt,
        "engine": info.engine,
        "timeout_seconds": info.timeout_seconds,
        "waiting_for": info.waiting_for,
        "abandoned": info.abandoned,
        "evicted": info.evicted,
        "trace_id": info.trace_id,
        "span_id": info.span_id,
        "rerun_of": info.rerun_of,
    }


def task_line(info: TaskInfo) -> dict[str, Any]:
    """Return what a list shows of one task: no traceback, and long texts cut."""
    line = task_document(info)
    del line["traceback"]
    line["error"] = _cut(info.error)
    line["progress"]["message"] = _cut(info.progress.message)
    return line


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= MAX_LISTED_TEXT else text[: MAX_LISTED_TEXT - 1] + "…"


def _rfc3339(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _encodable(value: object) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    return value
