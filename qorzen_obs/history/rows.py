"""From a task's record to the row that is stored, and back to a TaskInfo.

What lists filter and sort by has a column. Everything else that TaskInfo has is JSON in `details`, so a new field is
stored with no change here. A result never is. Runs on the writer's thread and on readers' threads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, get_type_hints

import msgspec

from qorzen_obs.clock import rfc_3339
from qorzen_obs.record import NO_PROGRESS, TaskRecord, TaskState
from qorzen_obs.tasks import PENDING, RUNNING, TaskCategory, TaskInfo, TaskPriority, TaskProgress, TaskStatus

#: In the order of statements/upsert_tasks.sql.
Row = tuple[Any, ...]

Metadata = dict[str, Any]

#: As in the scheduler: points of priority that a task gains in each `ageing_seconds`.
_AGEING_POINTS: Final = 50
_STRICT_SECONDS: Final = 1e10  # of a point where priorities do not age: more than a timestamp ever is

_EPOCH: Final = 2  # its place in a row

#: Fields of TaskInfo with a column of their own, in the order in which statements select them.
SHOWN: Final = (
    "task_id",
    "status",
    "category",
    "priority",
    "plugin_id",
    "name",
    "definition",
    "error_type",
    "error",
    "parent_id",
    "created_at",
    "started_at",
    "completed_at",
)
COLUMNS: Final = ", ".join((*SHOWN, "details"))
_COLUMNS_OF: Final = attrgetter(*SHOWN)

#: Enum's own `value` takes three times as long.
_TEXTS: Final = {one: one.value for one in (*TaskStatus, *TaskCategory)}
_NUMBERS: Final = {one: one.value for one in TaskPriority}

_HINTS: Final = get_type_hints(TaskInfo, include_extras=True)
_REST: Final = [one for one in dataclasses.fields(TaskInfo) if one.name not in {*SHOWN, "result"}]


def _field(one: dataclasses.Field[Any]) -> tuple[str, Any, Any]:
    """Return a field of TaskInfo as msgspec has it."""
    default: Any = msgspec.NODEFAULT
    if one.name == "progress":
        default = NO_PROGRESS
    elif one.default is not dataclasses.MISSING:
        default = one.default
    elif one.default_factory is not dataclasses.MISSING:
        default = msgspec.field(default_factory=one.default_factory)
    return one.name, _HINTS[one.name], default


#: The fields without a column, with their types and defaults. What has its default is not stored.
Details: Final = msgspec.defstruct(
    "Details", [_field(one) for one in _REST], omit_defaults=True, gc=False, module=__name__
)
_DETAILS_OF: Final = attrgetter(*(one.name for one in _REST))
_DETAIL_NAMES: Final = tuple(one.name for one in _REST)
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Details).decode


class RowMaker:
    """Makes the rows of one owner.

    Args:
        ageing_seconds: of the scheduler, for the order in which pending tasks start; 0 is strict priority.
        redact: gives metadata without secrets; all other texts of a record are redacted already.
    """

    def __init__(self, *, ageing_seconds: float, redact: Callable[[Metadata], Metadata] = dict) -> None:
        self._seconds_per_point = ageing_seconds / _AGEING_POINTS or _STRICT_SECONDS
        self._redact = redact

    def row(
        self, record: TaskRecord, state: TaskState, progress: TaskProgress, *, epoch: int, at: float
    ) -> Row:
        """Return the row of a task in this state; `at` is when it was handed over, in Unix seconds."""
        info = record.info(state, progress)
        if info.metadata:
            info = info.replace(metadata=self._redact(info.metadata))
        (
            task_id, status, category, priority, plugin_id, name, definition,
            error_type, error, parent_id, created_at, started_at, completed_at,
        ) = _COLUMNS_OF(info)  # fmt: skip
        eligible_at = info.eligible_at or created_at or at
        return (
            task_id,
            version_of(state),
            epoch,
            _TEXTS[status],
            _TEXTS[category],
            _NUMBERS[priority],
            plugin_id if plugin_id is None else _storable(plugin_id),
            _storable(name),
            _storable(definition),
            error_type if error_type is None else _storable(error_type),
            error if error is None else _storable(error),
            parent_id,
            created_at or at,
            started_at,
            completed_at,
            eligible_at - _NUMBERS[priority] * self._seconds_per_point,
            details_of(info),
        )


def version_of(state: TaskState) -> int:
    """Return how far in its life a task is: the number rises with each transition, also for states that arrive late.

    >>> from qorzen_obs.tasks import PENDING, COMPLETED
    >>> version_of(TaskState(PENDING)), version_of(TaskState(RUNNING, attempt=1))
    (1, 4)
    >>> version_of(TaskState(PENDING, attempt=1)), version_of(TaskState(COMPLETED, attempt=1))
    (5, 6)
    """
    return 4 * state.attempt + (0 if state.status is RUNNING else 1 if state.status is PENDING else 2)


def with_epoch(row: Row, epoch: int) -> Row:
    """Return a row that was made for an earlier epoch of the same process."""
    return row if row[_EPOCH] == epoch else (*row[:_EPOCH], epoch, *row[_EPOCH + 1 :])


def details_of(info: TaskInfo) -> str:
    """Return the fields without a column, as JSON."""
    details = Details(*_DETAILS_OF(info))
    try:
        return _encode(details).decode()
    except (UnicodeError, TypeError, ValueError, OverflowError):
        # A text that is no Unicode, which only users' metadata and messages can contain.
        return _encode(_cleaned(msgspec.to_builtins(details, enc_hook=repr))).decode()


def info_of(columns: Sequence[Any]) -> TaskInfo:
    """Return the snapshot of a task from the columns that COLUMNS names."""
    fields = dict(zip(SHOWN, columns, strict=False))
    details = _decode(columns[len(SHOWN)])
    fields.update(
        status=TaskStatus(fields["status"]),
        category=TaskCategory(fields["category"]),
        priority=TaskPriority(fields["priority"]),
    )
    fields.update((name, getattr(details, name)) for name in _DETAIL_NAMES)
    return TaskInfo(**fields)


def lost_error(status: str, created_at: float, started_at: float | None, details: str) -> str:
    """Return what a task was doing when its process died, as its error.

    >>> lost_error("running", 1.0, 2.0, '{"attempt": 2, "progress": {"percent": 50.0, "message": "half"}}')
    'its process died while attempt 2 was running, since 1970-01-01T00:00:02.000000Z; progress 50 %: half'
    >>> lost_error("pending", 1.0, None, "{}")
    'its process died before the task had started; it was accepted at 1970-01-01T00:00:01.000000Z'
    """
    found = msgspec.json.decode(details)
    attempt, progress = found.get("attempt", 0), found.get("progress", {})
    if status == RUNNING.value:
        doing = f"while attempt {attempt} was running, since {rfc_3339(started_at or created_at)}"
    elif attempt:
        doing = f"while the task waited for attempt {attempt + 1}; it was accepted at {rfc_3339(created_at)}"
    else:
        doing = f"before the task had started; it was accepted at {rfc_3339(created_at)}"
    percent, message = progress.get("percent", 0.0), progress.get("message", "")
    reached = f"; progress {percent:g} %" if progress.get("updated_at") is not None or percent else ""
    return f"its process died {doing}{reached}{f': {message}' if reached and message else ''}"


def _storable(text: str) -> str:
    """Return a text that UTF-8 can encode: with question marks in place of lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _cleaned(value: Any) -> Any:
    match value:
        case str():
            return _storable(value)
        case dict():
            return {_storable(str(key)): _cleaned(one) for key, one in value.items()}
        case list() | tuple():
            return [_cleaned(one) for one in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
