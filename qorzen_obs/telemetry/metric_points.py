"""Converts metric families to OpenTelemetry's: sums, gauges and histograms, since the start or the last export."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum, auto
from itertools import pairwise
from math import inf
from typing import Any, Final, NamedTuple

import prometheus_client
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.metrics.export import AggregationTemporality as Temporality
from prometheus_client.samples import Exemplar as ClientExemplar
from prometheus_client.samples import Sample

from qorzen_obs import foreign
from qorzen_obs.telemetry.exponential import ExponentialReading
from qorzen_obs.telemetry.export import encodable
from qorzen_obs.telemetry.families import HistogramFamily, ValueFamily

_UNITS: Final = {"_seconds": "s", "_bytes": "By"}
#: For how many exports the last value of a vanished series is kept.
_FORGOTTEN_AFTER: Final = 100
_NO_BUCKETS: Final = sdk.Buckets(0, [])


class Instrument(Enum):
    """The kinds of instruments; an exporter may want each one's values since the last export."""

    COUNTER = auto()
    OBSERVED_COUNTER = auto()  #: somebody else's, which we only read
    HISTOGRAM = auto()


class _Key(NamedTuple):
    name: str
    labels: tuple[tuple[str, str], ...]


class Converted(NamedTuple):
    """The points to send for a family, and the values that they reach."""

    metrics: list[sdk.Metric]
    latest: dict[_Key, Any]


class Points:
    """The values sent last for each series, for an exporter that wants the difference."""

    def __init__(self, deltas: frozenset[Instrument], started: float) -> None:
        self.deltas = deltas
        self.started = started  #: Unix seconds
        self.since = started  #: end of the time that was sent
        self._sent: dict[_Key, tuple[int, Any]] = {}  # with the number of the export
        self._exports = 0

    def sent(self, key: _Key) -> Any:
        """Return the last sent value of a series; None for a new one."""
        return self._sent.get(key, (0, None))[1]

    def commit(self, until: float, converted: Iterable[Converted]) -> None:
        """Note that these were accepted. Values that were not accepted are part of the next export."""
        self.since = until
        self._exports += 1
        for one in converted:
            self._sent.update({key: (self._exports, value) for key, value in one.latest.items()})
        oldest = self._exports - _FORGOTTEN_AFTER
        self._sent = {key: entry for key, entry in self._sent.items() if entry[0] >= oldest}

    def reading(self, now: float) -> Reading:
        """Return a converter for families that are read now."""
        return Reading(self, now)


class Reading:
    """Converts the families of one export; from several threads."""

    def __init__(self, points: Points, now: float) -> None:
        self._points = points
        self.now = now

    def read(self, family: prometheus_client.Metric) -> Converted:
        """Return the points to send for a family.

        Raises anything if the family is malformed.
        """
        one = _One(self._points, self.now)
        metrics = []
        for suffix, data in one.data_of(family):
            name = encodable(f"{foreign.plain(family.name)}{suffix}")
            if data.data_points:
                metrics.append(sdk.Metric(name, encodable(family.documentation), _unit(name), data))
        return Converted(metrics, one.latest)


class _One:
    """The conversion of one family."""

    def __init__(self, points: Points, now: float) -> None:
        self.latest: dict[_Key, Any] = {}
        self._points = points
        self._now = _nanos(now)

    def data_of(self, family: prometheus_client.Metric) -> Iterator[tuple[str, sdk.DataT]]:
        """Yield each metric of the family: the suffix of its name, and the points."""
        if isinstance(family, ValueFamily):
            name = family.metric.name
            label_names = family.metric.labels
            rows = [(_attributes(label_names, labels), n, exemplar) for labels, n, exemplar in family.values]
            if family.metric.type == "gauge":
                yield "", sdk.Gauge([self._gauge(attributes, value) for attributes, value, _ in rows])
            else:
                yield "", self._sum(Instrument.COUNTER, name, rows, {})
        elif isinstance(family, HistogramFamily):
            yield "", self._histogram_of_cells(family)
        elif family.name != "target":  # this is the resource
            yield from self._data_of_samples(family)

    def _data_of_samples(self, family: prometheus_client.Metric) -> Iterator[tuple[str, sdk.DataT]]:
        """Yield the points for the samples of a foreign collector."""
        by_suffix: dict[str, list[Sample]] = defaultdict(list)
        for sample in family.samples:
            by_suffix[sample.name.removeprefix(family.name)].append(sample)
        started = {_sorted(sample.labels): float(sample.value) for sample in by_suffix.pop("_created", ())}
        if family.type == "histogram":
            yield "", self._histogram_of_samples(family.name, by_suffix, started)
            return
        for suffix, samples in by_suffix.items():
            rows = [(_own(sample.labels), sample.value, sample.exemplar) for sample in samples]
            if family.type == "counter" or (family.type == "summary" and suffix in ("_count", "_sum")):
                shown = suffix.removesuffix("_total")
                yield shown, self._sum(Instrument.OBSERVED_COUNTER, f"{family.name}{shown}", rows, started)
            else:
                yield suffix, sdk.Gauge([self._gauge(attributes, value) for attributes, value, _ in rows])

    # ------------------------------------------------------------------ points

    def _gauge(self, attributes: dict[str, str], value: Any) -> sdk.NumberDataPoint:
        return sdk.NumberDataPoint(attributes, 0, self._now, float(value))

    def _sum(
        self,
        instrument: Instrument,
        name: str,
        rows: Iterable[tuple[dict[str, str], Any, ClientExemplar | None]],
        started: Mapping[tuple[tuple[str, str], ...], float],
    ) -> sdk.Sum:
        delta = instrument in self._points.deltas
        points = []
        for attributes, value, exemplar in rows:
            key = _Key(name, _sorted(attributes))
            number = value if type(value) is int and not name.endswith("_seconds") else float(value)
            if delta:
                self.latest[key] = number
                before = self._points.sent(key) or 0
                number = number - before if number >= before else number  # the counter has restarted
            points.append(
                sdk.NumberDataPoint(
                    attributes,
                    self._start(delta, started.get(key.labels)),
                    self._now,
                    number,
                    self._exemplars((exemplar,), delta),
                )
            )
        return sdk.Sum(points, _temporality(delta), is_monotonic=True)

    def _histogram_of_cells(self, family: HistogramFamily) -> sdk.Histogram | sdk.ExponentialHistogram:
        delta = Instrument.HISTOGRAM in self._points.deltas
        name, label_names = family.metric.name, family.metric.labels
        explicit: list[sdk.HistogramDataPoint] = []
        exponential: list[sdk.ExponentialHistogramDataPoint] = []
        for cell, reading in family.readings:
            attributes = _attributes(label_names, cell.labels)
            key, exemplars = _Key(name, _sorted(attributes)), self._exemplars(reading.exemplars, delta)
            if cell.exponential is not None:
                point = self._exponential(key, cell.exponential.read(), reading.total, delta, exemplars)
                exponential.append(point)
            else:
                counts, total = reading.counts, reading.total
                explicit.append(self._explicit(key, cell.bounds, counts, total, None, exemplars))
        if exponential:
            return sdk.ExponentialHistogram(exponential, _temporality(delta))
        return sdk.Histogram(explicit, _temporality(delta))

    def _histogram_of_samples(
        self,
        name: str,
        by_suffix: Mapping[str, Sequence[Sample]],
        started: Mapping[tuple[tuple[str, str], ...], float],
    ) -> sdk.Histogram:
        delta = Instrument.HISTOGRAM in self._points.deltas
        sums = {_sorted(sample.labels): float(sample.value) for sample in by_suffix.get("_sum", ())}
        buckets: dict[tuple[tuple[str, str], ...], list[tuple[float, int, ClientExemplar | None]]]
        buckets = defaultdict(list)
        for sample in by_suffix.get("_bucket", ()):
            without_bound = {key: value for key, value in sample.labels.items() if key != "le"}
            row = (float(sample.labels["le"]), int(sample.value), sample.exemplar)
            buckets[_sorted(without_bound)].append(row)
        points = []
        for labels, rows in buckets.items():
            rows.sort(key=lambda row: row[0])
            if rows[-1][0] != inf:
                raise ValueError("a histogram has no bucket without a bound")
            counts = [rows[0][1], *(after[1] - before[1] for before, after in pairwise(rows))]
            bounds = [bound for bound, _, _ in rows if bound < inf]
            exemplars = self._exemplars([exemplar for _, _, exemplar in rows], delta)
            key, total = _Key(name, labels), sums.get(labels, 0.0)
            points.append(self._explicit(key, bounds, counts, total, started.get(labels), exemplars))
        return sdk.Histogram(points, _temporality(delta))

    def _explicit(
        self,
        key: _Key,
        bounds: Sequence[float],
        counts: Sequence[int],
        total: float,
        started: float | None,
        exemplars: list[Exemplar],
    ) -> sdk.HistogramDataPoint:
        delta = Instrument.HISTOGRAM in self._points.deltas
        if delta:
            self.latest[key] = (counts, total)
            before, total_before = self._points.sent(key) or ([0] * len(counts), 0.0)
            if len(before) == len(counts) and sum(before) <= sum(counts):
                counts = [n - earlier for n, earlier in zip(counts, before, strict=True)]
                total -= total_before
        return sdk.HistogramDataPoint(
            attributes=dict(key.labels),
            start_time_unix_nano=self._start(delta, started),
            time_unix_nano=self._now,
            count=sum(counts),
            sum=total,
            bucket_counts=counts,
            explicit_bounds=bounds,
            exemplars=exemplars,
            **_UNKNOWN_EXTREMES,
        )

    def _exponential(
        self, key: _Key, reading: ExponentialReading, total: float, delta: bool, exemplars: list[Exemplar]
    ) -> sdk.ExponentialHistogramDataPoint:
        if delta:
            self.latest[key] = (reading, total)
            before, total_before = self._points.sent(key) or (None, 0.0)
            reading, total = reading.since(before), total - total_before
        positive = _NO_BUCKETS
        if reading.counts:
            low, high = min(reading.counts), max(reading.counts)
            positive = sdk.Buckets(low, [reading.counts.get(index, 0) for index in range(low, high + 1)])
        return sdk.ExponentialHistogramDataPoint(
            attributes=dict(key.labels),
            start_time_unix_nano=self._start(delta, None),
            time_unix_nano=self._now,
            count=sum(reading.counts.values()) + reading.zeros,
            sum=total,
            scale=reading.scale,
            zero_count=reading.zeros,
            positive=positive,
            negative=_NO_BUCKETS,
            flags=0,
            exemplars=exemplars,
            **_UNKNOWN_EXTREMES,
        )

    def _start(self, delta: bool, started: float | None) -> int:
        """Return the start time of a point."""
        if not delta:
            return _nanos(self._points.started if started is None else started)
        since = self._points.since
        return _nanos(since if started is None else max(since, started))

    def _exemplars(self, exemplars: Iterable[ClientExemplar | None], delta: bool) -> list[Exemplar]:
        """Return the exemplars with a trace; if points count since the last export, only those since then."""
        after = self._points.since if delta else 0.0
        return [
            Exemplar(
                {},
                float(exemplar.value),
                _nanos(exemplar.timestamp),
                int(exemplar.labels["span_id"], 16),
                int(exemplar.labels["trace_id"], 16),
            )
            for exemplar in exemplars
            if exemplar is not None
            and exemplar.timestamp is not None
            and float(exemplar.timestamp) > after
            and {"span_id", "trace_id"} <= exemplar.labels.keys()
        ]


#: They are not kept, and OTLP may leave them out.
_UNKNOWN_EXTREMES: Final[dict[str, Any]] = {"min": None, "max": None}


def _temporality(delta: bool) -> Temporality:
    return Temporality.DELTA if delta else Temporality.CUMULATIVE


def _nanos(seconds: Any) -> int:
    return int(float(seconds) * 1e9)


def _unit(name: str) -> str:
    return next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")


def _attributes(names: Iterable[str], values: Iterable[str]) -> dict[str, str]:
    return {name: encodable(value) for name, value in zip(names, values, strict=True)}


def _own(labels: Mapping[str, Any]) -> dict[str, str]:
    return {encodable(foreign.text(name)): encodable(foreign.text(value)) for name, value in labels.items()}


def _sorted(labels: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(_own(labels).items()))
