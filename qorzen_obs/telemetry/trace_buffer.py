"""Decides which traces are kept: only the decision, without threads, clocks or the SDK.

A trace waits here until something decides about it, see TraceBuffer. Kept traces go to a callable; only a number
remains of dropped ones.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Final, Generic, TypeVar

from opentelemetry.trace import SpanContext

from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.exemplars import ExemplarSlot

S = TypeVar("S")

_TICK_SECONDS: Final = 1.0
_ID_RANGE: Final = 1 << 64  # like the SDK's TraceIdRatioBased: the low 64 bits of an id are random


class Verdict(Enum):
    """The decision about a trace, which also applies to its later spans."""

    KEEP = "kept"
    DROP = "dropped"
    PARTIAL = "partial"  #: dropped at first; then one of its spans had to be kept, and the rest is too


_DROP: Final = Verdict.DROP  # as in tasks.py: a name that Python finds at once
_DROPPED_BY_BUDGET: Final = (_DROP.value, names.BY_BUDGET)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much may wait for a decision, and for how long."""

    traces: int = 10_000
    spans_per_trace: int = 2_000  #: open and ended ones
    spans: int = 20_000  #: in all; an ended one takes about 2.6 kB, an open one the size of its id
    seconds: float = 60.0  #: from the first start of a span of the trace
    decisions: int = 50_000  #: that are remembered for spans that come later, some 200 bytes each
    exemplars_per_trace: int = 64


class Budget:
    """Decides which ordinary traces are kept: at most `per_second`, chosen by their ids.

    The ratio is `base_ratio` or, if that would keep too many at the present arrival rate, `per_second / rate`. The rate
    is that of the last seconds or of the present one so far, whichever is higher, so that a burst counts from its
    beginning. A bucket bounds what a ratio cannot: in any t seconds at most `t * per_second + max(1, per_second)` are
    kept.
    """

    def __init__(self, per_second: float, base_ratio: float = 1.0) -> None:
        self.per_second = per_second
        self.base_ratio = base_ratio
        self._capacity = max(1.0, per_second)
        self._tokens = self._capacity
        self._tokens_at: float | None = None
        self._rate = 0.0  # traces per second, over the past seconds; each second halves the weight
        self._seen = 0
        self._seen_since = 0.0

    def admit(self, trace_id: int, now: float) -> bool:
        """Return whether the trace is kept; `now` is monotonic and never decreases."""
        elapsed = now - self._seen_since
        if self._seen and elapsed >= 1.0:
            lately = self._seen / elapsed
            self._rate = lately + (self._rate - lately) * 0.5**elapsed
            self._seen = 0
        if not self._seen:
            self._seen_since = now
        self._seen = seen = self._seen + 1
        rate = self._rate
        if seen > rate:  # a call of `max` costs more
            rate = seen
        ratio = self.per_second / rate
        if ratio > self.base_ratio:
            ratio = self.base_ratio
        # Always the same for the same id and ratio; a higher ratio keeps everything that a lower one keeps.
        if trace_id % _ID_RANGE >= ratio * _ID_RANGE:
            return False
        if self.per_second == inf:
            return True
        since = now if self._tokens_at is None else self._tokens_at
        self._tokens = min(self._capacity, self._tokens + (now - since) * self.per_second)
        self._tokens_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class _Undecided(Generic[S]):
    __slots__ = ("ended", "exemplars", "open", "since", "unsampled")

    def __init__(self, since: float, unsampled: bool) -> None:
        self.since = since
        self.unsampled = unsampled
        self.open: set[int] = set()  # ids of the spans that have started here and not ended
        self.ended: list[S] = []
        self.exemplars: dict[ExemplarSlot, tuple[SpanContext, float, float]] | None = None


class TraceBuffer(Generic[S]):
    """The undecided traces of a process, and recent decisions. For one thread at a time.

    A trace is decided at the first of these: one of its spans must be kept; its last open span has ended; it has
    `spans_per_trace` spans or is `seconds` old; too much waits and it is the oldest. All but the first ask the budget,
    or drop the trace if it is `unsampled`, as its caller decided. Later spans follow the decision, except that a span
    that must be kept turns a drop into a partial trace. A trace so old that its decision was forgotten is decided
    again.

    `keep` is called with spans of one trace in the order in which they ended, with whether the trace is partial, and
    with whether it is kept for a reason of its own rather than by the budget.
    """

    def __init__(
        self, budget: Budget, keep: Callable[[Sequence[S], bool, bool], None], bounds: Bounds | None = None
    ) -> None:
        self._budget = budget
        self._keep = keep
        self._bounds = bounds or Bounds()
        self._undecided: OrderedDict[int, _Undecided[S]] = OrderedDict()  # by age, oldest first
        self._decided: OrderedDict[int, Verdict] = OrderedDict()  # by last use
        # Most traces have one span and are dropped: those are remembered in a set, and of two sets the older is
        # discarded.
        self._dropped_alone: set[int] = set()
        self._dropped_alone_before: set[int] = set()
        self._by_budget: set[int] = set()  # those of them that only the budget has kept
        self._tick_at = 0.0  # when a span next checks for old traces; a tick from outside always does
        self._spans = 0  # open and ended ones of all undecided traces
        self._dropped_spans = 0  # without those in `_alone_dropped`
        self._alone_dropped = 0  # traces of one span each, dropped by the budget
        self._decisions: Counter[tuple[str, str]] = Counter()  # without those in `_alone_dropped`
        self._max_dropped_alone = self._bounds.decisions // 2

    @property
    def dropped_spans(self) -> int:
        """How many spans were dropped with their traces."""
        return self._dropped_spans + self._alone_dropped

    @property
    def decisions(self) -> Counter[tuple[str, str]]:
        """How many traces were decided, by names.TRACE_DECISIONS and TRACE_REASONS."""
        decisions = self._decisions.copy()
        if self._alone_dropped:
            decisions[_DROPPED_BY_BUDGET] += self._alone_dropped
        return decisions

    @property
    def undecided(self) -> int:
        """How many traces wait for their decision."""
        return len(self._undecided)

    @property
    def waiting_spans(self) -> int:
        """How many open or ended spans those have."""
        return self._spans

    def start(
        self, trace_id: int, span_id: int, must_keep: str | None, now: float, unsampled: bool = False
    ) -> None:
        """Note that a span has started; `must_keep` is the reason to keep its trace in any case."""
        verdict = self._verdict(trace_id)
        if verdict is not None:
            if trace_id in self._decided:
                self._decided.move_to_end(trace_id)
            if must_keep is not None and verdict is Verdict.DROP:
                self._record(trace_id, Verdict.PARTIAL, must_keep)
            elif must_keep is not None:
                self._by_budget.discard(trace_id)
            return
        trace = self._find(trace_id, now, unsampled)
        trace.open.add(span_id)
        self._spans += 1
        if must_keep is not None:
            self._decide(trace_id, trace, Verdict.KEEP, must_keep)
        else:
            self._hold_bounds(trace_id, trace, now)

    def end(
        self, trace_id: int, span_id: int, span: S, must_keep: str | None, now: float, unsampled: bool = False
    ) -> None:
        """Take a span that has ended, also one whose start was not seen, such as a worker's."""
        verdict = self._verdict(trace_id)
        if verdict is not None:
            if trace_id in self._decided:
                self._decided.move_to_end(trace_id)
            if must_keep is not None and verdict is Verdict.DROP:
                verdict = self._record(trace_id, Verdict.PARTIAL, must_keep)
            if verdict is Verdict.DROP:
                self._dropped_spans += 1
            else:
                if must_keep is not None:
                    self._by_budget.discard(trace_id)
                self._keep((span,), verdict is Verdict.PARTIAL, trace_id not in self._by_budget)
            return
        trace = self._find(trace_id, now, unsampled)
        if span_id in trace.open:
            trace.open.remove(span_id)
        else:
            self._spans += 1
        trace.ended.append(span)
        if must_keep is not None:
            self._decide(trace_id, trace, Verdict.KEEP, must_keep)
        elif not trace.open:
            self._ask_budget(trace_id, trace, names.BY_BUDGET, now)
        else:
            self._hold_bounds(trace_id, trace, now)

    def end_alone(self, trace_id: int, span: S, must_keep: str | None, now: float) -> None:
        """Take the only span of a trace, without a previous `start`: a shortcut for `start` and `end`."""
        if must_keep is not None or self._budget.admit(trace_id, now):
            if must_keep is None:
                self._by_budget.add(trace_id)
            self._record(trace_id, Verdict.KEEP, must_keep or names.BY_BUDGET)
            self._keep((span,), False, must_keep is not None)
        else:
            self._alone_dropped += 1
            dropped = self._dropped_alone
            dropped.add(trace_id)
            if len(dropped) >= self._max_dropped_alone:
                self._dropped_alone_before, self._dropped_alone = dropped, set()
        if now >= self._tick_at:
            self._tick_at = now + _TICK_SECONDS
            self.tick(now)

    def may_keep(self, span: SpanContext) -> bool:
        """Return whether the span's trace is not known to be dropped; from any thread."""
        trace_id = span[0]
        verdict = self._decided.get(trace_id)
        if verdict is not None:
            return verdict is not _DROP
        return trace_id not in self._dropped_alone and trace_id not in self._dropped_alone_before

    def offer(self, span: SpanContext, observations: Sequence[tuple[ExemplarSlot, float]], at: float) -> None:
        """Write exemplars that lead to `span` if its trace is kept, once that is known."""
        verdict = self._verdict(span.trace_id)
        if verdict is None:
            trace = self._undecided.get(span.trace_id)
            if trace is None:
                return
            if trace.exemplars is None:
                trace.exemplars = {}
            for slot, value in observations:
                if slot in trace.exemplars or len(trace.exemplars) < self._bounds.exemplars_per_trace:
                    trace.exemplars[slot] = (span, value, at)
        elif verdict is not Verdict.DROP:
            for slot, value in observations:
                slot.put(span, value, at)

    def _verdict(self, trace_id: int) -> Verdict | None:
        """Return the decision about a trace."""
        verdict = self._decided.get(trace_id)
        if verdict is None and (trace_id in self._dropped_alone or trace_id in self._dropped_alone_before):
            return _DROP
        return verdict

    def tick(self, now: float) -> None:
        """Decide traces that have waited for too long."""
        while self._undecided:
            trace_id, oldest = next(iter(self._undecided.items()))
            if now - oldest.since < self._bounds.seconds:
                return
            self._ask_budget(trace_id, oldest, names.BY_WINDOW, now)

    def decide_all(self, now: float) -> None:
        """Ask the budget about all waiting traces."""
        while self._undecided:
            trace_id, oldest = next(iter(self._undecided.items()))
            self._ask_budget(trace_id, oldest, names.BY_WINDOW, now)

    def ended_spans(self, trace_id: int) -> list[S]:
        """Return the spans of an undecided trace that have ended."""
        trace = self._undecided.get(trace_id)
        return [] if trace is None else list(trace.ended)

    def newest(self, limit: int) -> list[tuple[int, list[S]]]:
        """Return at most `limit` undecided traces with an ended span, the youngest first."""
        found: list[tuple[int, list[S]]] = []
        for trace_id, trace in reversed(self._undecided.items()):
            if len(found) >= limit:
                break
            if trace.ended:
                found.append((trace_id, list(trace.ended)))
        return found

    def _find(self, trace_id: int, now: float, unsampled: bool) -> _Undecided[S]:
        trace = self._undecided.get(trace_id)
        if trace is None:
            trace = self._undecided[trace_id] = _Undecided(now, unsampled)
        return trace

    def _hold_bounds(self, trace_id: int, trace: _Undecided[S], now: float) -> None:
        bounds = self._bounds
        if len(trace.open) + len(trace.ended) >= bounds.spans_per_trace:
            self._ask_budget(trace_id, trace, names.BY_WINDOW, now)
        if now >= self._tick_at:
            self._tick_at = now + _TICK_SECONDS
            self.tick(now)
        while self._spans > bounds.spans or len(self._undecided) > bounds.traces:
            oldest_id, oldest = next(iter(self._undecided.items()))
            self._ask_budget(oldest_id, oldest, names.BY_OVERFLOW, now)

    def _ask_budget(self, trace_id: int, trace: _Undecided[S], reason: str, now: float) -> None:
        kept = not trace.unsampled and self._budget.admit(trace_id, now)
        if kept:
            self._by_budget.add(trace_id)
        self._decide(trace_id, trace, Verdict.KEEP if kept else Verdict.DROP, reason)

    def _decide(self, trace_id: int, trace: _Undecided[S], verdict: Verdict, reason: str) -> None:
        del self._undecided[trace_id]
        self._spans -= len(trace.open) + len(trace.ended)
        self._record(trace_id, verdict, reason)
        if verdict is Verdict.DROP:
            self._dropped_spans += len(trace.ended)
            return
        if trace.ended:
            self._keep(trace.ended, False, trace_id not in self._by_budget)
        for slot, exemplar in (trace.exemplars or {}).items():
            slot.put(*exemplar)

    def _record(self, trace_id: int, verdict: Verdict, reason: str) -> Verdict:
        self._decisions[verdict.value, reason] += 1
        if trace_id in self._decided:
            self._decided.move_to_end(trace_id)
        self._decided[trace_id] = verdict
        if len(self._decided) > self._bounds.decisions:
            oldest, _ = self._decided.popitem(last=False)
            self._by_budget.discard(oldest)
        return verdict
