"""The smallest counters: plain cells that one thread writes and a scrape reads.

An observation costs a bisection and three assignments, while a labelled object of the client takes a lock and walks
its buckets. The families that Prometheus reads are created from the cells at scrape.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from qorzen_obs.telemetry.exemplars import ExemplarSlot
from qorzen_obs.telemetry.exponential import ExponentialCounts
from qorzen_obs.telemetry.exposition import HistogramReading, HistogramText
from qorzen_obs.telemetry.names import MetricName

OTHER: Final = "_other"  #: the label value for the rest beyond a cap


class HistogramCell:
    """The histogram of one set of labels. `observe` belongs to one thread, `slot` to one, `read` to any.

    Code that runs for each task inlines `observe`; several cells with the same bounds share the bisection.

    Args:
        exponential: counts the same values in exponential buckets, if an exporter asks for them.
    """

    __slots__ = ("_exemplars", "bounds", "counts", "exponential", "labels", "metric", "sums", "text")

    def __init__(
        self, metric: MetricName, labels: tuple[str, ...] = (), exponential: ExponentialCounts | None = None
    ) -> None:
        self.metric, self.labels, self.exponential = metric, labels, exponential
        self.text = HistogramText(metric, labels)
        self.bounds = metric.buckets
        self.counts = [0] * (len(metric.buckets) + 1)  #: counts by bucket, the last without a bound
        self.sums = [0.0]  #: sum of the values, in a list of one
        self._exemplars: list[ExemplarSlot | None] | None = None

    def observe(self, value: float) -> None:
        """Count `value` (seconds)."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sums[0] += value
        if self.exponential is not None:
            self.exponential.observe(value)

    def slot(self, value: float) -> ExemplarSlot:
        """Return the place for an exemplar of the bucket that `value` counts in."""
        if self._exemplars is None:
            self._exemplars = [None] * len(self.counts)
        bucket = bisect_left(self.bounds, value)
        slot = self._exemplars[bucket]
        if slot is None:
            slot = self._exemplars[bucket] = ExemplarSlot()
        return slot

    @property
    def by_bucket(self) -> list[int]:
        """How many values were observed by bucket, the last without a bound; from any thread."""
        return list(self.counts)

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)

    def read(self) -> HistogramReading:
        """Return the counts so far. The exemplars are read first, so that each belongs to a counted value."""
        exemplars = [None if slot is None else slot.read() for slot in self._exemplars or ()]
        return HistogramReading(list(self.counts), self.sums[0], exemplars)


class CappedCounter:
    """Counters by label values: at most `cap` are distinguished; the rest counts as `_other`."""

    __slots__ = ("_cap", "_counts", "_first_at", "overflowed")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._counts: dict[tuple[str, ...], int] = {}
        self._first_at: list[float] = []  # one for each label set, in order
        self.overflowed = 0

    def add(self, fixed: Sequence[str], free: str, at: float = 0.0) -> None:
        """Count one more for these labels, at the time `at`; only `free` may become `_other`."""
        labels = (*fixed, free)
        counts = self._counts
        if labels not in counts and len(counts) >= self._cap:
            self.overflowed += 1
            labels = (*fixed, OTHER)
        if labels not in counts:
            self._first_at.append(at)
        counts[labels] = counts.get(labels, 0) + 1

    def read(self) -> list[tuple[tuple[str, ...], int]]:
        """Return each label set with its count, in order of appearance; from any thread."""
        return list(self._counts.items())

    def known_at(self, at: float) -> int:
        """Return how many label sets existed at a moment: they are the first ones that `read` returns."""
        return sum(first <= at for first in list(self._first_at))
