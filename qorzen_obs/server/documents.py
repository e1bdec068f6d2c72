"""How values look in JSON: times by RFC 3339 in UTC, durations in seconds, priorities by name.

A task's arguments and result are never part of a document. Its metadata, which it was given to be seen with, is part of
its own document and of no list.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, Final, get_args, get_type_hints

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from qorzen_obs.clock import rfc_3339
from qorzen_obs.engines.traits import ENGINES
from qorzen_obs.server.family import Family
from qorzen_obs.tasks import CancelGuarantee, TaskAttempt, TaskInfo, TaskPriority
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
    """Return `document` in JSON. Infinite numbers become null, and what JSON has no form for the name of its type."""
    try:
        return msgspec.json.encode(document, enc_hook=_stand_in)
    except UnicodeEncodeError:  # undecodable file names in error messages carry lone surrogates
        return msgspec.json.encode(_encodable(msgspec.to_builtins(document, enc_hook=_stand_in)))


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


class Run(Struct, frozen=True, kw_only=True):
    """One attempt of a task."""

    number: int
    engine: EngineName
    worker: int | None  #: the id of the worker process, of an attempt that was followed by another
    started_at: Moment
    ended_at: Moment | None
    error_type: str | None


#: Fields of TaskInfo that no document has: what a task returned stays in the process.
_NEVER_SHOWN: Final = frozenset({"result"})
#: Fields that lists leave out: a task's own document has them.
_UNLISTED: Final = ("traceback", "metadata", "attempts")
#: How fields look whose type in TaskInfo says less.
_SHOWN_AS: Final[Mapping[str, Any]] = {
    "priority": PriorityName,
    "progress": Progress,
    "attempts": tuple[Run, ...],
    "engine": EngineName,
    "cancel_guarantee": CancelGuarantee,
}


def shown_fields(of: type[TaskInfo]) -> list[tuple[str, Any] | tuple[str, Any, Any]]:
    """Return what a document shows of a snapshot: every field of it, in order, with how it looks in JSON.

    Fields whose names end in `_at` are moments.
    """
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for name, kind in get_type_hints(of).items():
        if name in _NEVER_SHOWN:
            continue
        shown = _SHOWN_AS.get(name, kind)
        if name.endswith("_at"):
            shown = Moment | None if NoneType in get_args(kind) else Moment
        fields.append((name, shown | UnsetType, UNSET) if name in _UNLISTED else (name, shown))
    return fields


_Shown: Any = msgspec.defstruct("_Shown", shown_fields(TaskInfo), frozen=True, kw_only=True, module=__name__)


_MOMENTS: Final = tuple(name for name in _Shown.__struct_fields__ if name.endswith("_at"))


class RerunState(Struct, frozen=True, kw_only=True):
    """Whether a task can be run again."""

    possible: bool
    why_not: str | None = None  #: null where it is possible
    task_id: str | None = None  #: the last task that runs it again, if there was one


class Task(_Shown):  # type: ignore[misc]  # its fields are TaskInfo's
    """One task: everything that is shown of it. Lists leave out what is not required."""

    family: Family | UnsetType = UNSET  #: how many tasks it led to
    rerun: RerunState | UnsetType = UNSET
    #: Read from the durable history: memory does not have it, or has an outline only.
    stored: bool = False


def task_document(
    info: TaskInfo,
    redactor: Redactor,
    *,
    family: Family | UnsetType = UNSET,
    rerun: RerunState | UnsetType = UNSET,
    stored: bool = False,
) -> Task:
    """Return everything that is shown of one task; of its family and of a rerun what the caller knows."""
    metadata = redactor.field("metadata", info.metadata)
    return Task(**_shown(info, metadata=metadata), family=family, rerun=rerun, stored=stored)


def task_line(info: TaskInfo, *, stored: bool = False) -> Task:
    """Return what a list shows of one task: no traceback, and long texts cut."""
    unlisted = dict.fromkeys(_UNLISTED, UNSET)
    error = None if info.error is None else _cut(info.error)
    progress = _progress(info, _cut(info.progress.message))
    return Task(**_shown(info, error=error, progress=progress, **unlisted), stored=stored)


def _shown(info: TaskInfo, **instead: Any) -> dict[str, Any]:
    """Return the fields of a document; those in `instead` have another value than the snapshot's."""
    values = {name: getattr(info, name) for name in _Shown.__struct_fields__}
    values.update((name, timestamp(values[name])) for name in _MOMENTS)
    values.update(
        priority=info.priority.label,
        progress=_progress(info, info.progress.message),
        attempts=tuple(map(_run, info.attempts)),
        cancel_guarantee=_GUARANTEES[info.cancel_guarantee],
    )
    values.update(instead)
    return values


def _progress(info: TaskInfo, message: str) -> Progress:
    progress = info.progress
    return Progress(percent=progress.percent, message=message, updated_at=timestamp(progress.updated_at))


def _run(attempt: TaskAttempt) -> Run:
    return Run(
        number=attempt.number,
        engine=attempt.engine,
        worker=attempt.worker,
        started_at=rfc_3339(attempt.started_at),
        ended_at=timestamp(attempt.ended_at),
        error_type=attempt.error_type,
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_LISTED_TEXT else text[: MAX_LISTED_TEXT - 1] + "…"


def _stand_in(value: object) -> str:
    """Return what stands for a value in a document, so that no single one keeps the others from being shown."""
    return str.__str__(value) if isinstance(value, str) else f"<{type(value).__name__}>"


def _encodable(value: object) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    return value
