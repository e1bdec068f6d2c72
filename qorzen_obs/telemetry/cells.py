"""The smallest things that count: plain cells that one thread writes and a scrape reads.

An observation costs a bisection and three assignments, where a labelled client object takes a lock and walks its
buckets. The families that Prometheus reads are made from the cells at scrape.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from qorzen_obs.telemetry.exemplars import ExemplarSlot
from qorzen_obs.telemetry.exposition import HistogramReading, HistogramText
from qorzen_obs.telemetry.names import MetricName


class HistogramCell:
    """The histogram of one set of labels. `observe` belongs to one thread; `read` to any."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_sum", "labels", "text")

    def __init__(self, metric: MetricName, labels: tuple[str, ...] = ()) -> None:
        self.labels = labels
        self.text = HistogramText(metric, labels)
        self._bounds = metric.buckets
        self._counts = [0] * (len(metric.buckets) + 1)
        self._sum = 0.0
        self._exemplars: list[ExemplarSlot | None] | None = None

    def observe(self, value: float) -> None:
        """Count `value` (seconds)."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def slot(self, value: float) -> ExemplarSlot:
        """Return the place for an exemplar of the bucket that `value` counts in; for the thread that observes."""
        if self._exemplars is None:
            self._exemplars = [None] * len(self._counts)
        bucket = bisect_left(self._bounds, value)
        slot = self._exemplars[bucket]
        if slot is None:
            slot = self._exemplars[bucket] = ExemplarSlot()
        return slot

    @property
    def by_bucket(self) -> list[int]:
        """How many values were observed by bucket, the last without a bound; from any thread."""
        return list(self._counts)

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self._counts)

    def read(self) -> HistogramReading:
        """Return what was counted until now. The exemplars come first: none is of a value that is not counted."""
        exemplars = [None if slot is None else slot.read() for slot in self._exemplars or ()]
        return HistogramReading(list(self._counts), self._sum, exemplars)


class CappedCounter:
    """Counters by label values of which at most `cap` are told apart; the rest counts as `_other`."""

    __slots__ = ("_cap", "_counts", "overflowed")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._counts: dict[tuple[str, ...], int] = {}
        self.overflowed = 0

    def add(self, fixed: Sequence[str], free: str) -> None:
        """Count one more of these labels; only `free` may be folded."""
        labels = (*fixed, free)
        counts = self._counts
        if labels not in counts and len(counts) >= self._cap:
            self.overflowed += 1
            labels = (*fixed, "_other")
        counts[labels] = counts.get(labels, 0) + 1

    def read(self) -> list[tuple[tuple[str, ...], int]]:
        """Return each label set with its count; from any thread."""
        return list(self._counts.items())
