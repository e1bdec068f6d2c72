"""The smallest things that count: plain cells that one thread writes and a scrape reads.

An observation costs a bisection and three assignments, where a labelled client object takes a lock and walks its
buckets. The families that Prometheus reads are made from the cells at scrape.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from qorzen_obs.telemetry.exemplars import ExemplarSlot
from qorzen_obs.telemetry.exponential import ExponentialCounts
from qorzen_obs.telemetry.exposition import HistogramReading, HistogramText
from qorzen_obs.telemetry.names import MetricName

OTHER: Final = "_other"  #: the label value under which a cap counts the rest


class HistogramCell:
    """The histogram of one set of labels. `observe` belongs to one thread, `slot` to one, `read` to any.

    What runs for each task does in line what `observe` does; several cells of the same bounds share the bisection.

    Args:
        exponential: counts the same values by exponential buckets, where an exporter asks for them.
    """

    __slots__ = ("_exemplars", "bounds", "counts", "exponential", "labels", "metric", "sums", "text")

    def __init__(
        self, metric: MetricName, labels: tuple[str, ...] = (), exponential: ExponentialCounts | None = None
    ) -> None:
        self.metric, self.labels, self.exponential = metric, labels, exponential
        self.text = HistogramText(metric, labels)
        self.bounds = metric.buckets
        self.counts = [0] * (len(metric.buckets) + 1)  #: by bucket, the last without a bound
        self.sums = [0.0]  #: of the values, in a list of one
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
        """Return what was counted until now. The exemplars come first: none is of a value that is not counted."""
        exemplars = [None if slot is None else slot.read() for slot in self._exemplars or ()]
        return HistogramReading(list(self.counts), self.sums[0], exemplars)


class CappedCounter:
    """Counters by label values, at most `cap` of them; the rest counts as `_other`."""

    __slots__ = ("_cap", "_counts", "_first_at", "overflowed")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._counts: dict[tuple[str, ...], int] = {}
        self._first_at: list[float] = []  # of each label set, in their order
        self.overflowed = 0

    def add(self, fixed: Sequence[str], free: str, at: float = 0.0) -> None:
        """Count one more of these labels `at` a moment; only `free` may be folded."""
        labels = (*fixed, free)
        counts = self._counts
        if labels not in counts and len(counts) >= self._cap:
            self.overflowed += 1
            labels = (*fixed, OTHER)
        if labels not in counts:
            self._first_at.append(at)
        counts[labels] = counts.get(labels, 0) + 1

    def read(self) -> list[tuple[tuple[str, ...], int]]:
        """Return each label set with its count, in the order in which they came; from any thread."""
        return list(self._counts.items())

    def known_at(self, at: float) -> int:
        """Return how many of the label sets were there at a moment: the first ones that `read` returns."""
        return sum(first <= at for first in list(self._first_at))
