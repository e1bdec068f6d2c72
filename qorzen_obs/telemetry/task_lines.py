"""The log lines of each task, from any engine, in memory: what `/api/tasks/{id}/logs` shows.

Lines come in redacted. They are kept as JSON, a few hundred bytes each, and what they take is counted
(docs/decisions/0085-memory-of-ended-tasks.md).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

import msgspec

from qorzen_obs import foreign
from qorzen_obs.clock import rfc_3339
from qorzen_obs.current import CURRENT
from qorzen_obs.telemetry.log_rendering import to_json
from qorzen_obs.telemetry.redaction import Redactor

MAX_LINE_CHARACTERS: Final = 8_192
_MAX_TEXT: Final = 2_000
#: Texts whose end is kept, since it says what failed.
_STACKS: Final = frozenset({"exception", "stack"})

#: Fields that every line of a task would repeat, or that have another name here.
_LEFT_OUT: Final = frozenset(
    {"at", "category", "event", "level", "priority", "task_id", "task_name", "timestamp"}
)


class KeptLines(NamedTuple):
    """The kept lines of one task."""

    #: Oldest first; each is a JSON object with `at`, `level`, `event` and the line's fields.
    items: list[msgspec.Raw]
    dropped: int  #: how many older ones are not kept


#: What the first line of a task takes besides itself, and each line; measured, see tests/performance/sizes.py.
TASK_BYTES: Final = 350
LINE_BYTES: Final = 24
_size_of: Final = str.__sizeof__


class _Ring:
    """The lines of one task. A list: a deque takes 600 bytes more, and most tasks write a few lines."""

    __slots__ = ("bytes", "dropped", "gone", "lines")

    def __init__(self) -> None:
        self.lines: list[str] = []  # as JSON, oldest first
        self.bytes = TASK_BYTES
        self.dropped = 0
        self.gone = 0  # how many of its places in the order of all lines are of lines that are gone


class TaskLines:
    """The last lines of each task: at most `per_task` of one, `total` and `total_bytes` in all.

    Beyond that the oldest are dropped. From any thread. `dropped` counts lines that were written and are not kept,
    except those of forgotten tasks.
    """

    def __init__(self, per_task: int = 200, total: int = 50_000, total_bytes: int = 12 * 2**20) -> None:
        self._per_task = per_task
        self._total = total
        self._total_bytes = total_bytes
        self._lock = threading.RLock()  # a signal handler may write a line while its thread holds it
        self._rings: dict[str, _Ring] = {}
        self._order: deque[_Ring] = deque()  # of all lines, in order; dropped ones are skipped
        self._kept = 0
        self.bytes = 0  #: that the kept lines take, about
        self.dropped = 0

    def __len__(self) -> int:
        return self._kept

    def add(
        self, task_id: str, level: str, event: str, fields: Mapping[str, Any], at: str | None = None
    ) -> None:
        """Keep one line; `at` is in RFC 3339, None means now. `fields` are already redacted."""
        line = encoded_line(at or utc_now(), level, event, fields)
        with self._lock:
            ring = self._rings.get(task_id)
            if ring is None:
                ring = self._rings[task_id] = _Ring()
                self.bytes += TASK_BYTES
            ring.lines.append(line)
            self._order.append(ring)
            self._kept += 1
            size = LINE_BYTES + _size_of(line)
            ring.bytes += size
            self.bytes += size
            if len(ring.lines) > self._per_task:
                self._drop(ring)
                ring.gone += 1
            while self._kept and (self._kept > self._total or self.bytes > self._total_bytes):
                self._drop_oldest()
            if len(self._order) > 2 * self._kept + 1_000:
                self._forget_gone()

    def of(self, task_id: str, last: str | None = None) -> KeptLines:
        """Return the lines of a task; none if it wrote none or is unknown. `last` counts as one more."""
        with self._lock:
            ring = self._rings.get(task_id)
            lines = list(ring.lines) if ring is not None else []
            dropped = ring.dropped if ring is not None else 0
        if last is not None:
            lines.append(last)
        over = max(0, len(lines) - self._per_task)
        return KeptLines([msgspec.Raw(line.encode()) for line in lines[over:]], dropped + over)

    def forget(self, task_id: str) -> None:
        """Drop the lines of a task that is no longer remembered."""
        if task_id not in self._rings:
            return
        with self._lock:
            ring = self._rings.pop(task_id, None)
            if ring is not None:
                lines, ring.lines = ring.lines, []
                ring.gone += len(lines)
                self._kept -= len(lines)
                self.bytes -= ring.bytes

    def _drop(self, ring: _Ring) -> None:
        size = LINE_BYTES + _size_of(ring.lines.pop(0))
        ring.bytes -= size
        self.bytes -= size
        ring.dropped += 1
        self.dropped += 1
        self._kept -= 1

    def _drop_oldest(self) -> None:
        while True:
            ring = self._order.popleft()
            if not ring.gone:
                self._drop(ring)
                return
            ring.gone -= 1  # the lines that are gone are the oldest of their task

    def _forget_gone(self) -> None:
        order: deque[_Ring] = deque()
        for ring in self._order:
            if ring.gone:
                ring.gone -= 1
            else:
                order.append(ring)
        self._order = order


_KEPT: ContextVar[bool] = ContextVar("qorzen_line_is_kept", default=False)


@contextmanager
def kept_already() -> Iterator[None]:
    """Mark the lines that are written inside as kept by the code that writes them, for the task that they are about."""
    token = _KEPT.set(True)
    try:
        yield
    finally:
        _KEPT.reset(token)


def keep_line(level: str, event: Mapping[str, Any], redactor: Redactor | None = None) -> None:
    """Keep a line of the running task, if the caller is in one; pass a `redactor` if it is not redacted yet."""
    task = CURRENT.get()
    lines: TaskLines | None = getattr(getattr(task, "owner", None), "task_lines", None)
    if task is None or lines is None or _KEPT.get():
        return
    fields = event if redactor is None else redactor.field("", event)
    lines.add(task.task_id, level, foreign.text(fields.get("event", "")), fields, fields.get("timestamp"))


def keep_task_line(_: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep the line for `/api/tasks/{id}/logs` if a task writes it. A processor for any structlog configuration.

    Place it before the renderer and after the processor that formats exceptions. It redacts what it keeps, and does not
    change the line itself. For lines of the standard library's logging, use `TaskLogHandler`.

        structlog.configure(processors=[add_task_context, format_exc_info, keep_task_line, JSONRenderer()])
    """
    owner = getattr(CURRENT.get(), "owner", None)
    keep_line(method, event, getattr(owner, "redactor", None) or Redactor())
    return event


def utc_now() -> str:
    """Return the present time in RFC 3339."""
    return rfc_3339(time.time())


def encoded_line(at: str, level: str, event: str, fields: Mapping[str, Any]) -> str:
    """Return a line in its kept form: JSON with `at`, `level`, `event` and the fields that are not repeated."""
    line: dict[str, Any] = {"at": at, "level": level, "event": event[:_MAX_TEXT]}
    line.update((key, _shortened(key, value)) for key, value in fields.items() if key not in _LEFT_OUT)
    text = to_json(line)
    if len(text) > MAX_LINE_CHARACTERS:
        text = to_json({"at": at, "level": level, "event": event[:_MAX_TEXT], "shortened": True})
    return text


def _shortened(key: str, value: Any) -> Any:
    if not foreign.is_a(value, str):
        return value
    text = foreign.plain(value)
    return text[-_MAX_TEXT:] if key in _STACKS else text[:_MAX_TEXT]
