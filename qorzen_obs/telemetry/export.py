"""Export that cannot block the work: a bounded queue with a thread of its own, and an outcome for every item.

It replaces the SDK's batch processor, which drops the oldest items without counting them, logs a line for each,
ignores the timeout of a flush, and waits for the exporter at shutdown. Knows nothing about spans, so log records can
use it as well.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from opentelemetry import context as otel_context
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from prometheus_client import Metric
from prometheus_client.registry import Collector

from qorzen_obs.clock import Clock
from qorzen_obs.errors import SettingsError
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.families import counter, gauge
from qorzen_obs.telemetry.forks import call_in_child
from qorzen_obs.telemetry.own_log import OwnLog

T = TypeVar("T")

#: The specification's 2,048 is meant for single spans. Here a trace arrives whole, with up to 2,000 spans, so the
#: queue holds four of the largest; a full queue takes about 20 MB.
DEFAULT_QUEUE_SIZE: Final = 8_192
_DEFAULT_BATCH_SIZE: Final = 512
_DEFAULT_DELAY_MILLIS: Final = 5_000
_SILENCE_SECONDS: Final = 60.0
#: When an exporter raised on a batch: seconds in which its items are retried without the guilty ones.
_SEARCH_SECONDS: Final = 5.0
THREAD_PREFIX: Final = "qorzen-export-"  #: prefix of the names of queues' threads

_log = OwnLog(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Size of the queue and of a batch, and the delay; https://opentelemetry.io/docs/specs/otel/trace/sdk/."""

    queue_size: int = DEFAULT_QUEUE_SIZE
    batch_size: int = _DEFAULT_BATCH_SIZE
    delay_seconds: float = _DEFAULT_DELAY_MILLIS / 1000

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], prefix: str = "OTEL_BSP_") -> BatchLimits:
        """Read MAX_QUEUE_SIZE, MAX_EXPORT_BATCH_SIZE and SCHEDULE_DELAY (milliseconds) behind `prefix`.

        EXPORT_TIMEOUT has no effect, as in the SDK's own processor: nothing can interrupt an exporter. OTLP exporters
        end by themselves after OTEL_EXPORTER_OTLP_TIMEOUT.

        Raises:
            SettingsError: a value is not an integer or out of bounds, or a batch is larger than the queue.
        """
        size_name, batch_name = f"{prefix}MAX_QUEUE_SIZE", f"{prefix}MAX_EXPORT_BATCH_SIZE"
        size = _whole_number(environment, size_name, DEFAULT_QUEUE_SIZE, 1)
        batch = _whole_number(environment, batch_name, min(_DEFAULT_BATCH_SIZE, size), 1)
        if batch > size:
            raise SettingsError(batch_name, f"is {batch}, which is more than {size_name}, {size}")
        delay = _whole_number(environment, f"{prefix}SCHEDULE_DELAY", _DEFAULT_DELAY_MILLIS, 1)
        return cls(queue_size=size, batch_size=batch, delay_seconds=delay / 1000)


def encodable(text: str) -> str:
    """Return `text` with lone surrogates escaped, so that UTF-8 can hold it; the same object if it has none.

    >>> encodable("caf\\udce9")
    'caf\\\\udce9'
    """
    if text.isascii():
        return text
    fit = text.encode(errors="backslashreplace").decode()
    return text if fit == text else fit


def _whole_number(environment: Mapping[str, str], variable: str, default: int, least: int) -> int:
    text = environment.get(variable, "").strip()
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise SettingsError(variable, f"{text!r} is not a whole number of at least {least}")
    return value


class ExportQueue(Generic[T]):
    """Sends items in batches from a daemon thread; all methods from any thread.

    `send` gets a batch and returns how many of its items were refused; it may block, raise, or never return. When it
    raises, the queue tries each half by itself, so that one bad item does not spoil the others. A full queue drops new
    items. Each item ends up in exactly one of `exported`, `failed`, `dropped_full` and `dropped_shutdown`. `close` runs
    when nothing more will be sent: in the thread, or in another one if that is stuck in `send`. `on_ended` is the last
    call of the thread, however late.

    A forked process sends nothing: its parent uses the same connection of the exporter, and two processes would mix up
    their data. Its queue is empty, and it counts new items as `dropped_shutdown`.
    """

    def __init__(
        self,
        name: str,
        send: Callable[[Sequence[T]], int],
        limits: BatchLimits,
        *,
        clock: Clock,
        close: Callable[[], None] | None = None,
        on_ended: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.limit = limits.queue_size
        self._limits = limits
        self._send = send
        self._clock = clock
        self._close = close
        self._on_ended = on_ended
        self.exported = 0
        self.failed = 0
        self.dropped_full = 0
        self.dropped_shutdown = 0
        self.last_export_at = 0.0  #: Unix seconds; 0 before the first
        self._failing = False  # nothing in the last batch was accepted
        self._full_at = float("-inf")  # monotonic: when the queue was last full
        self._logged: tuple[int, float] = (0, -_SILENCE_SECONDS)  # number of logged drops, and when
        self._raised_at = -_SILENCE_SECONDS
        self._closing = False
        self._forked = False
        self._failed_before_closing = 0
        self._reset()
        self._thread: threading.Thread | None = None
        call_in_child(self._reset_in_child)

    def _reset(self) -> None:
        # Re-entrant: while it is held, the garbage collector may end the span of an unreferenced coroutine.
        self._changed = threading.Condition(threading.RLock())
        self._queue: deque[T] = deque()
        self._in_flight = 0
        self._handled = 0  # number of items ever finished
        self._accepted = 0
        self._flush_to = 0
        self._given_up = False

    def _reset_in_child(self) -> None:
        self._reset()  # a closed queue stays closed
        self._forked = True
        self._thread = None

    def start(self, on_tick: Callable[[], None] | None = None) -> None:
        """Begin to send, once. The thread calls `on_tick` before each batch and every `delay_seconds`."""
        name = f"{THREAD_PREFIX}{self.name}"
        self._thread = threading.Thread(target=self._run, args=(on_tick,), name=name, daemon=True)
        self._thread.start()

    @property
    def closing(self) -> bool:
        """Whether it takes no more items."""
        return self._closing

    @property
    def size(self) -> int:
        """How many items wait, including those that are being sent."""
        return len(self._queue) + self._in_flight

    def put(self, items: Sequence[T]) -> None:
        """Take as many items as there is room for; drop and count the others."""
        with self._changed:
            if self._closing or self._forked:
                self.dropped_shutdown += len(items)
                return
            room = self.limit - len(self._queue) - self._in_flight
            if room < len(items):
                self.dropped_full += len(items) - max(0, room)
                self._full_at = self._clock.monotonic()
                items = items[: max(0, room)]
            self._queue.extend(items)
            self._accepted += len(items)
            if len(self._queue) >= self._limits.batch_size:
                self._changed.notify_all()

    @property
    def trouble(self) -> str | None:
        """The present problem of the export; None when there is none."""
        if self._failing:
            return f"export {self.name}: the collector did not take the last batch"
        if self._clock.monotonic() - self._full_at < _SILENCE_SECONDS:
            return f"export {self.name}: the queue was full within the last minute, and some were dropped"
        return None

    def status(self) -> dict[str, Any]:
        """Return the outcomes of the items so far, in JSON's types."""
        return {
            "exported": self.exported,
            "lost": self.failed + self.dropped_full + self.dropped_shutdown,
            "last_export_at": self.last_export_at or None,
        }

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until all items so far have been sent or have failed; return False if that took too long."""
        with self._changed:
            target = self._accepted
            self._flush_to = max(self._flush_to, target)
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._handled >= target or self._given_up, max(0.0, timeout_seconds)
            )
            return self._handled >= target

    def begin_shutdown(self) -> None:
        """Take no more items, and send what waits. Idempotent."""
        with self._changed:
            if not self._closing:
                self._failed_before_closing = self.failed
                self._closing = True
                self._changed.notify_all()

    def shutdown(self, deadline_seconds: float) -> bool:
        """Send what waits until the deadline, then drop the rest; return whether all was accepted. Idempotent."""
        self.begin_shutdown()
        thread = self._thread
        if thread is not None and not self._given_up:
            thread.join(max(0.0, deadline_seconds))
        with self._changed:
            ended = self._forked if thread is None else not thread.is_alive()
            late = not ended and not self._given_up
            if late:
                self._given_up = True
                self.dropped_shutdown += len(self._queue) + self._in_flight
                self._queue.clear()
                self._in_flight = 0
                self._changed.notify_all()
            sent_all = not self._given_up and self.failed == self._failed_before_closing
        if late:  # ends its retries; a request in flight ends with the exporter's own timeout
            threading.Thread(target=self._close_once, name=f"{THREAD_PREFIX}abort", daemon=True).start()
        return sent_all

    # ------------------------------------------------------------------ the thread

    def _run(self, on_tick: Callable[[], None] | None) -> None:
        # Otherwise an instrumented HTTP library would create spans of the export, which would be exported in turn.
        otel_context.attach(otel_context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        while self._await_work():
            if on_tick is not None and not self._closing:
                self._tick(on_tick)
            while batch := self._take():
                self._export(batch)
            self._log_drops()
        self._log_drops()
        self._close_once()
        if self._on_ended is not None:
            self._on_ended()

    def _await_work(self) -> bool:
        """Wait for a full batch, a flush, the end, or the delay; return whether the thread continues."""
        with self._changed:
            self._changed.wait_for(self._has_work, self._limits.delay_seconds)
            return not self._given_up and not (self._closing and not self._queue)

    def _has_work(self) -> bool:
        return (
            len(self._queue) >= self._limits.batch_size
            or (self._handled < self._flush_to and bool(self._queue))
            or self._closing
            or self._given_up
        )

    def _tick(self, on_tick: Callable[[], None]) -> None:
        try:
            on_tick()
        except BaseException:  # noqa: BLE001  # a thread's top: the export continues
            self._log_exception("the tick of the export queue %r failed")

    def _take(self) -> list[T]:
        with self._changed:
            size = min(self._limits.batch_size, len(self._queue))
            batch = [self._queue.popleft() for _ in range(size)]
            self._in_flight = len(batch)
            return batch

    def _export(self, batch: list[T]) -> None:
        refused = self._refused(batch, None)
        with self._changed:
            if self._given_up:  # counted already, as lost by the shutdown
                return
            self._in_flight = 0
            self._handled += len(batch)
            self.failed += refused
            self.exported += len(batch) - refused
            self._failing = refused == len(batch)
            if refused < len(batch):
                self.last_export_at = self._clock.now()
            self._changed.notify_all()

    def _refused(self, batch: list[T], until: float | None) -> int:
        """Send the batch, or as much of it as possible by then; return how many items were not accepted."""
        try:
            return self._send(batch)
        except BaseException:  # noqa: BLE001  # an exporter's failure must only affect this batch
            self._log_exception("the exporter of the queue %r failed")
        now = self._clock.monotonic()
        until = now + _SEARCH_SECONDS if until is None else until
        if len(batch) == 1 or now >= until or self._given_up:
            return len(batch)
        middle = len(batch) // 2
        return self._refused(batch[:middle], until) + self._refused(batch[middle:], until)

    def _close_once(self) -> None:
        with self._changed:
            close, self._close = self._close, None
        if close is not None:
            try:
                close()
            except BaseException:  # noqa: BLE001  # no caller could do more about it
                _log.warning("the exporter of the queue %r did not close in order", self.name, exc_info=True)

    def _log_exception(self, message: str) -> None:
        now = self._clock.monotonic()
        if now - self._raised_at >= _SILENCE_SECONDS:
            self._raised_at = now
            _log.exception(message, self.name)

    def _log_drops(self) -> None:
        """Log how many were dropped, at most once a minute; the metric counts them all."""
        now, (logged, at) = self._clock.monotonic(), self._logged
        dropped = self.dropped_full - logged
        if dropped and now - at >= _SILENCE_SECONDS:
            self._logged = (self.dropped_full, now)
            _log.warning("the export queue %r was full; %d were dropped", self.name, dropped)


class OneLineAMinute(logging.Filter):
    """Passes at most one line a minute from threads of export queues, and all other lines."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._let_at = -_SILENCE_SECONDS

    def filter(self, record: logging.LogRecord) -> bool:
        if not (record.threadName or "").startswith(THREAD_PREFIX):
            return True
        now = self._clock.monotonic()
        if now - self._let_at < _SILENCE_SECONDS:
            return False
        self._let_at = now
        return True


@contextmanager
def quieted(loggers: Sequence[str], clock: Clock) -> Iterator[None]:
    """Limit each of these loggers to one line a minute about exports."""
    filters = [(logging.getLogger(name), OneLineAMinute(clock)) for name in loggers]
    for logger, limit in filters:
        logger.addFilter(limit)
    try:
        yield
    finally:
        for logger, limit in filters:
            logger.removeFilter(limit)


class TracingFigures(Protocol):
    """Figures about the export of spans; from any thread."""

    def span_outcomes(self) -> Mapping[str, int]:
        """Return how many spans had each outcome of names.SPAN_OUTCOMES."""
        ...

    def trace_decisions(self) -> Mapping[tuple[str, str], int]:
        """Return how many traces were decided, by decision and reason."""
        ...

    @property
    def span_queue_size(self) -> int: ...
    @property
    def span_queue_limit(self) -> int: ...
    @property
    def last_export_at(self) -> float: ...
    def tick(self) -> None: ...


class TracingMetrics(Collector):
    """The metrics of the export of spans, read at scrape."""

    def __init__(self, figures: TracingFigures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        figures = self._figures
        figures.tick()  # without an exporter no thread does this, and a scrape reads the exemplars
        spans, traces = counter(names.SPANS), counter(names.TRACES)
        for outcome, n in figures.span_outcomes().items():
            spans.add_metric((outcome,), n)
        for labels, n in figures.trace_decisions().items():
            traces.add_metric(labels, n)
        size, limit = gauge(names.SPAN_QUEUE_SIZE), gauge(names.SPAN_QUEUE_LIMIT)
        size.add_metric((), figures.span_queue_size)
        limit.add_metric((), figures.span_queue_limit)
        last = gauge(names.LAST_EXPORT)
        last.add_metric((), figures.last_export_at)
        yield from (spans, traces, size, limit, last)
