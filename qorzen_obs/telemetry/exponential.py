"""Histograms whose buckets grow by a constant factor, kept only where an exporter asks for them.

The data model is OpenTelemetry's: https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import ceil, log2
from typing import Final, NamedTuple

MAX_BUCKETS: Final = 160  #: as many as the SDK keeps; over five decades neighbours are 7 % apart
MAX_SCALE: Final = 20


class ExponentialReading(NamedTuple):
    """What an exponential histogram had counted at one moment."""

    scale: int  #: buckets grow by the factor 2 ** (2 ** -scale)
    zeros: int
    counts: Mapping[int, int]  #: by index; bucket i ends at factor ** (i + 1), and that belongs to it

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
        """Return what was counted after an earlier reading of the same histogram."""
        if earlier is None:
            return self
        before = earlier.at_scale(self.scale)
        counts = Counter(self.counts)
        counts.subtract(before.counts)
        left = {index: n for index, n in counts.items() if n}
        return ExponentialReading(self.scale, self.zeros - before.zeros, left)


class ExponentialCounts:
    """What an exponential histogram has counted. `observe` belongs to one thread; `read` to any."""

    __slots__ = ("_by_index", "_factor", "_zeros")

    def __init__(self) -> None:
        self._zeros = 0
        self._factor = 2.0**MAX_SCALE  # indices of a doubling
        #: The scale with the counts of that scale, replaced as one.
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
        """Merge neighbours until no more than MAX_BUCKETS are between the lowest and the highest."""
        scale, counts = self._by_index
        wider = scale
        while (high >> (scale - wider)) - (low >> (scale - wider)) >= MAX_BUCKETS:
            wider -= 1
        reading = ExponentialReading(scale, 0, counts).at_scale(wider)
        self._by_index = (wider, dict(reading.counts))
        self._factor = 2.0**wider

    def read(self) -> ExponentialReading:
        """Return what was counted until now."""
        scale, counts = self._by_index
        return ExponentialReading(scale, self._zeros, dict(counts))
