"""Metric families created at scrape from declared names, so that no collector spells a name, a label or a bucket.

The client's registry passes them on like its own families. Code that reads a family's samples gets the client's own
classes; `/metrics` takes the text instead.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.samples import Sample

from qorzen_obs.telemetry.cells import HistogramCell
from qorzen_obs.telemetry.exposition import (
    HistogramReading,
    WrittenExemplar,
    head,
    line_start,
    number,
    shown_bounds,
)
from qorzen_obs.telemetry.names import MetricName

#: What a scraper was shown of a NewcomersFamily, if that is not a number of series.
ALL_KNOWN: Final = sys.maxsize
NOBODY_KNOWN: Final = -1  #: it has not come before

#: Cached lines. The catalogue has about a thousand lines besides histograms, if all capped ones reach their caps.
_kept_start: Final = lru_cache(maxsize=8_192)(line_start)


class Family(Metric, ABC):
    """A metric at one moment."""

    _samples: list[Sample]

    def __init__(self, metric: MetricName) -> None:
        super().__init__(metric.name, metric.help, metric.type)
        self.metric = metric

    @property
    def samples(self) -> list[Sample]:
        """The client's samples, created on first use."""
        if not self._samples:
            self._samples = self._make_samples()
        return self._samples

    @samples.setter
    def samples(self, samples: list[Sample]) -> None:
        self._samples = samples  # the client's constructor sets an empty list

    def write(self, *, openmetrics: bool) -> Iterator[bytes]:
        """Yield, in pieces, what the client's generate_latest writes for this family."""
        yield head(self.metric, openmetrics=openmetrics)
        yield from self._write_samples(openmetrics)

    @abstractmethod
    def _make_samples(self) -> list[Sample]: ...

    @abstractmethod
    def _write_samples(self, openmetrics: bool) -> Iterator[bytes]: ...


class ValueFamily(Family):
    """A gauge or a counter."""

    def __init__(self, metric: MetricName) -> None:
        super().__init__(metric)
        #: Labels, value and exemplar of each series.
        self.values: list[tuple[tuple[str, ...], float, WrittenExemplar | None]] = []

    def add_metric(
        self, labels: tuple[str, ...], value: float, exemplar: WrittenExemplar | None = None
    ) -> None:
        """Add a series; only a counter's has an exemplar."""
        self.values.append((labels, value, exemplar))

    def _write_samples(self, openmetrics: bool) -> Iterator[bytes]:
        name, label_names = self.metric.name, self.metric.labels
        sample = f"{name}_total" if self.metric.type == "counter" else name
        for labels, value, exemplar in self.values:
            end = exemplar.text if openmetrics and exemplar is not None else ""
            yield f"{_kept_start(sample, label_names, labels)}{number(value)}{end}\n".encode()

    def _make_samples(self) -> list[Sample]:
        name, text, label_names = self.metric.name, self.metric.help, self.metric.labels
        if self.metric.type == "counter":
            counter = CounterMetricFamily(name, text, labels=label_names)
            for labels, value, exemplar in self.values:
                counter.add_metric(labels, value, exemplar=exemplar)
            return counter.samples
        gauge = GaugeMetricFamily(name, text, labels=label_names)
        for labels, value, _ in self.values:
            gauge.add_metric(labels, value)
        return gauge.samples


class NewcomersFamily(ValueFamily):
    """A counter whose series show each scraper 0 once before their count, so that no rate misses the first event.

    Series are added in order of appearance. The client's samples are exact, since they belong to no scraper.

    Args:
        settled: the number of series that a new scraper sees with their exact counts.
    """

    def __init__(self, metric: MetricName, settled: int) -> None:
        super().__init__(metric)
        self._settled = settled

    def __len__(self) -> int:
        return len(self.values)

    def for_scraper(self, shown: int) -> ValueFamily:
        """Return the family for a scraper that has already been `shown` this number of its series."""
        known = self._settled if shown == NOBODY_KNOWN else shown
        family = ValueFamily(self.metric)
        for index, (labels, value, _) in enumerate(self.values):
            family.add_metric(labels, value if index < known else 0.0)
        return family


class HistogramFamily(Family):
    """Histograms, each read when it is added."""

    def __init__(self, metric: MetricName) -> None:
        super().__init__(metric)
        self.readings: list[tuple[HistogramCell, HistogramReading]] = []

    def add(self, cell: HistogramCell) -> None:
        """Add the counts of a cell."""
        self.readings.append((cell, cell.read()))

    def _write_samples(self, openmetrics: bool) -> Iterator[bytes]:
        return (cell.text.write(reading, exemplars=openmetrics) for cell, reading in self.readings)

    def _make_samples(self) -> list[Sample]:
        family = HistogramMetricFamily(self.name, self.documentation, labels=self.metric.labels)
        for cell, (counts, total, exemplars) in self.readings:
            bounds = shown_bounds(cell.metric)
            shown = zip(bounds, accumulate(counts), exemplars or [None] * len(bounds), strict=True)
            buckets = [(le, n) if exemplar is None else (le, n, exemplar) for le, n, exemplar in shown]
            family.add_metric(cell.labels, buckets=buckets, sum_value=total)
        return family.samples


def gauge(metric: MetricName) -> ValueFamily:
    """Return an empty gauge family."""
    return ValueFamily(metric)


def counter(metric: MetricName) -> ValueFamily:
    """Return an empty counter family."""
    return ValueFamily(metric)


def histogram(metric: MetricName) -> HistogramFamily:
    """Return an empty histogram family."""
    return HistogramFamily(metric)
