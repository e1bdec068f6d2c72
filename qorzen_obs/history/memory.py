"""Ended tasks in memory: the last ones whole, many more as their outline.

Failed tasks have a quota of their own, so that however many others end, what failed can still be looked into.

Only the work loop writes. Reading from another thread copies a dictionary's values in one step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
from opentelemetry.trace import format_span_id, format_trace_id

from qorzen_obs.engines.traits import EngineTraits
from qorzen_obs.record import TaskRecord
from qorzen_obs.tasks import (
    FAILED,
    TaskCategory,
    TaskInfo,
    TaskPriority,
    TaskProgress,
    TaskStatus,
)

MAX_OUTLINES: Final = 100_000
_NO_SPAN: Final = (None, None)


class Outline(msgspec.Struct, frozen=True, gc=False):
    """What is left of a task after retention: status, times, error type, trace, and what it was called."""

    task_id: str
    name: str
    category: TaskCategory
    priority: TaskPriority
    plugin_id: str | None
    status: TaskStatus
    created_at: float
    started_at: float | None
    completed_at: float | None
    queue_wait_seconds: float | None
    duration_seconds: float | None
    error_type: str | None
    attempt: int
    engine: EngineTraits
    trace_id: int | None  # as numbers, which take half the room of their text
    span_id: int | None

    def info(self) -> TaskInfo:
        """Return a snapshot that says it was evicted."""
        fields = {**msgspec.structs.asdict(self), "engine": self.engine.kind}
        if self.trace_id is not None and self.span_id is not None:
            fields.update(trace_id=format_trace_id(self.trace_id), span_id=format_span_id(self.span_id))
        return TaskInfo(**fields, progress=TaskProgress(), evicted=True)


class MemoryHistory:
    """The last `keep` records that failed and the last `keep` of the others, then up to 100,000 outlines.

    Of each the oldest goes first.
    """

    def __init__(self, keep: int, on_evicted: Callable[[TaskRecord], None] | None = None) -> None:
        self.keep = keep
        self._on_evicted = on_evicted
        self._records: dict[str, TaskRecord] = {}
        self._outlines: dict[str, Outline] = {}
        # The order stands apart: the first key of a dict costs a walk over all that was deleted before it.
        self._failed_order: deque[str] = deque()
        self._other_order: deque[str] = deque()
        self._outline_order: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: TaskRecord) -> bool:
        """Remember an ended task whole; return whether there are too many now, and `shrink` is to be called."""
        order = self._failed_order if record.state.status is FAILED else self._other_order
        self._records[record.task_id] = record
        order.append(record.task_id)
        return len(order) > self.keep

    def shrink(self) -> None:
        """Turn the oldest that are beyond `keep` into outlines."""
        for order in (self._other_order, self._failed_order):
            while len(order) > self.keep:
                self._evict(self._records[order.popleft()])

    def _evict(self, record: TaskRecord) -> None:
        self._outlines[record.task_id] = _outline(record)  # first, so that a reader always finds one of them
        self._outline_order.append(record.task_id)
        del self._records[record.task_id]
        if len(self._outlines) > MAX_OUTLINES:
            del self._outlines[self._outline_order.popleft()]
        if self._on_evicted is not None:
            self._on_evicted(record)

    def record(self, task_id: str) -> TaskRecord | None:
        """Return the whole record while it is kept; from any thread."""
        return self._records.get(task_id)

    def info(self, task_id: str) -> TaskInfo | None:
        """Return a snapshot of a kept task or of an outline; from any thread."""
        record = self._records.get(task_id)
        if record is not None:
            return record.info()
        outline = self._outlines.get(task_id)
        return None if outline is None else outline.info()

    def records(self) -> list[TaskRecord]:
        """Return the kept records, oldest end first; from any thread."""
        return list(self._records.values())


def _outline(record: TaskRecord) -> Outline:
    state = record.state
    span = state.span
    return Outline(
        record.task_id,
        record.name,
        record.category,
        record.priority,
        record.plugin_id,
        state.status,
        record.created_at,
        state.started_at,
        state.completed_at,
        state.queue_wait_seconds,
        state.duration_seconds,
        state.error_type,
        state.attempt,
        record.engine,
        *(_NO_SPAN if span is None else span[:2]),
    )
