"""Ended tasks in memory: the latest whole, many more as outlines.

Failed tasks have a quota of their own, so that failures can still be inspected however many other tasks end.

Only the work loop writes. Reading from another thread copies a dictionary's values in one step.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Final

import msgspec
from opentelemetry.trace import format_span_id, format_trace_id

from qorzen_obs.engines.traits import EngineTraits
from qorzen_obs.history.base import OnEvicted
from qorzen_obs.record import NO_PROGRESS, TaskRecord
from qorzen_obs.tasks import FAILED, TaskCategory, TaskInfo, TaskPriority, TaskStatus

MAX_OUTLINES: Final = 100_000

#: What a record takes besides its `kept_bytes`; measured, see tests/performance/sizes.py.
RECORD_BYTES: Final = 1_400


class Outline(msgspec.Struct, frozen=True, gc=False):
    """What is left of a task after retention: status, times, error type, trace and name.

    Fields as in TaskInfo, except that the ids of trace and span are numbers, which take half the room of text.
    """

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
    trace_id: int | None
    span_id: int | None
    parent_id: str | None
    definition: str


_NO_SPAN: Final = (None, None)


def outline_of(record: TaskRecord) -> Outline:
    """Return the outline of an ended task."""
    state = record.state
    trace_id, span_id = _NO_SPAN if state.span is None else state.span[:2]
    return Outline(
        task_id=record.task_id,
        name=record.name,
        category=record.category,
        priority=record.priority,
        plugin_id=record.plugin_id,
        status=state.status,
        created_at=record.created_at,
        started_at=state.started_at,
        completed_at=state.completed_at,
        queue_wait_seconds=state.queue_wait_seconds,
        duration_seconds=state.duration_seconds,
        error_type=state.error_type,
        attempt=state.attempt,
        engine=record.engine,
        trace_id=trace_id,
        span_id=span_id,
        parent_id=record.parent_id,
        definition=record.definition_name,
    )


def info_of(outline: Outline) -> TaskInfo:
    """Return a snapshot that says it was evicted."""
    fields = msgspec.structs.asdict(outline)
    engine: EngineTraits = fields["engine"]
    fields.update(engine=engine.kind, cancel_guarantee=engine.cancel_guarantee.value)
    if outline.trace_id is not None and outline.span_id is not None:
        fields.update(trace_id=format_trace_id(outline.trace_id), span_id=format_span_id(outline.span_id))
    return TaskInfo(**fields, progress=NO_PROGRESS, evicted=True)


class MemoryHistory:
    """The last `keep` failed records, the last `keep` other records, and up to 100,000 outlines.

    The oldest of each kind is dropped first. If both together take more than `keep_bytes`, the kind that takes more
    loses its oldest, so half of the bytes is always there for each kind.
    """

    def __init__(self, keep: int, on_evicted: OnEvicted, *, keep_bytes: float = inf) -> None:
        self.keep = keep
        self.keep_bytes = keep_bytes
        self._failed_bytes = 0
        self._other_bytes = 0
        self._on_evicted = on_evicted
        self._records: dict[str, TaskRecord] = {}
        self._outlines: dict[str, Outline] = {}
        # The order is kept apart: finding a dict's first key walks over all keys deleted before it.
        self._failed_order: deque[str] = deque()
        self._other_order: deque[str] = deque()
        self._outline_order: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: TaskRecord) -> bool:
        """Remember an ended task whole; return whether too much is kept now and `shrink` is due."""
        failed = record.state.status is FAILED
        order = self._failed_order if failed else self._other_order
        self._records[record.task_id] = record
        order.append(record.task_id)
        # Last, and without a call: nothing interrupts it.
        if failed:
            self._failed_bytes += RECORD_BYTES + record.kept_bytes
        else:
            self._other_bytes += RECORD_BYTES + record.kept_bytes
        return len(order) > self.keep or self._failed_bytes + self._other_bytes > self.keep_bytes

    @property
    def bytes(self) -> int:
        """How many bytes the whole records take, about."""
        return self._failed_bytes + self._other_bytes

    def shrink(self) -> None:
        """Turn the oldest records beyond `keep` and `keep_bytes` into outlines."""
        for order in (self._other_order, self._failed_order):
            while len(order) > self.keep:
                self._evict(order)
        while self._records and self.bytes > self.keep_bytes:
            self._evict(self._failed_order if self._failed_bytes > self._other_bytes else self._other_order)

    def _evict(self, order: deque[str]) -> None:
        """Turn the oldest of an order into its outline."""
        record = self._records[order.popleft()]
        size = RECORD_BYTES + record.kept_bytes
        if order is self._failed_order:
            self._failed_bytes -= size
        else:
            self._other_bytes -= size
        # The outline first, so that a reader always finds one of the two.
        self._outlines[record.task_id] = outline_of(record)
        self._outline_order.append(record.task_id)
        del self._records[record.task_id]
        if len(self._outlines) > MAX_OUTLINES:
            del self._outlines[self._outline_order.popleft()]
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
        return None if outline is None else info_of(outline)

    def records(self) -> list[TaskRecord]:
        """Return the kept records, oldest end first; from any thread."""
        return list(self._records.values())
