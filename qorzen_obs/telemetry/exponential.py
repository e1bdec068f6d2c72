"""Histograms whose buckets grow by a constant factor, kept only where an exporter asks for them.

The data model is OpenTelemetry's: https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import ceil, log2
from typing import Final, NamedTuple

MAX_BUCKETS: Final = 160  #: as in the SDK; over five decades, neighbouring bounds differ by 7 %
MAX_SCALE: Final = 20


class ExponentialReading(NamedTuple):
    """The counts of an exponential histogram at one moment."""

    scale: int  #: buckets grow by the factor 2 ** (2 ** -scale)
    zeros: int
    counts: Mapping[int, int]  #: by index; bucket i ends at factor ** (i + 1), inclusive

    def at_scale(self, scale: int) -> ExponentialReading:
        """Return the same with wider buckets.

        >>> ExponentialReading(3, 0, {-1: 2, 4: 1, 5: 1}).at_scale(2).counts
        {-1: 2, 2: 2}
        """
        counts: dict[int, int] = {}
        for index, n in self.counts.items():
            wider = index >> (self.scale - scale)
            counts[wider] = counts.get(wider, 0) + n
        return ExponentialReading(scale, self.zeros, counts)

    def since(self, earlier: ExponentialReading | None) -> ExponentialReading:
        """Return the counts since an earlier reading of the same histogram."""
        if earlier is None:
            return self
        before = earlier.at_scale(self.scale)
        counts = Counter(self.counts)
        counts.subtract(before.counts)
        left = {index: n for index, n in counts.items() if n}
        return ExponentialReading(self.scale, self.zeros - before.zeros, left)


class ExponentialCounts:
    """An exponential histogram. `observe` belongs to one thread; `read` to any."""

    __slots__ = ("_by_index", "_factor", "_zeros")

    def __init__(self) -> None:
        self._zeros = 0
        self._factor = 2.0**MAX_SCALE  # indices per doubling
        #: The scale and its counts, replaced as one.
        self._by_index: tuple[int, dict[int, int]] = (MAX_SCALE, {})

    def observe(self, value: float) -> None:
        """Count `value`."""
        if value <= 0:
            self._zeros += 1
            return
        counts = self._by_index[1]
        index = ceil(log2(value) * self._factor) - 1
        if index in counts:
            counts[index] += 1
            return
        counts[index] = 1
        low, high = min(counts), max(counts)
        if high - low >= MAX_BUCKETS:
            self._widen(low, high)

    def _widen(self, low: int, high: int) -> None:
        """Merge neighbours until at most MAX_BUCKETS lie between the lowest and the highest."""
        scale, counts = self._by_index
        wider = scale
        while (high >> (scale - wider)) - (low >> (scale - wider)) >= MAX_BUCKETS:
            wider -= 1
        reading = ExponentialReading(scale, 0, counts).at_scale(wider)
        self._by_index = (wider, dict(reading.counts))
        self._factor = 2.0**wider

    def read(self) -> ExponentialReading:
        """Return the counts so far."""
        scale, counts = self._by_index
        return ExponentialReading(scale, self._zeros, dict(counts))
