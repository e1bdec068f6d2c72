"""The lines of `/metrics`, written straight from the counts: the same bytes as the client's generate_latest.

Only the number in a line changes from scrape to scrape. The text before it is made once, and an unchanged histogram
keeps its text.
"""

from __future__ import annotations

from functools import cached_property
from itertools import accumulate
from typing import Final, NamedTuple

from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from qorzen_obs.telemetry.names import MetricName

#: from this value on Go, and so the exposition, writes numbers with an exponent
EXPONENT_FROM: Final = 1_000_000


def number(value: float) -> str:
    """Return a sample's value as Go writes it.

    >>> number(3), number(0.25), number(1_500_000), number(float("inf"))
    ('3.0', '0.25', '1.5e+06', '+Inf')
    """
    if 0 <= value < EXPONENT_FROM:
        return repr(float(value))
    shown: str = floatToGoString(value)  # type: ignore[no-untyped-call]  # theirs
    return shown


def escape(text: str) -> str:
    r"""Return a label's value, escaped for its quotes.

    >>> print(escape('a "b"\n\\'))
    a \"b\"\n\\
    """
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def line_start(sample: str, label_names: tuple[str, ...], labels: tuple[str, ...]) -> str:
    """Return a sample's line up to its number.

    >>> line_start("tasks_total", ("status", "kind"), ("failed", "io"))
    'tasks_total{kind="io",status="failed"} '
    """
    pairs = ",".join(
        f'{name}="{escape(value)}"' for name, value in sorted(zip(label_names, labels, strict=True))
    )
    return f"{sample}{{{pairs}}} " if pairs else f"{sample} "


def head(metric: MetricName, *, openmetrics: bool) -> bytes:
    """Return the lines above a metric's samples."""
    if openmetrics:
        name, text = metric.name, escape(metric.help)
    else:
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        text = metric.help.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {text}\n# TYPE {name} {metric.type}\n".encode()


class WrittenExemplar(Exemplar):
    """An exemplar that is written once, however often it is shown."""

    @cached_property
    def text(self) -> str:
        """The text after the number of a line."""
        labels = ",".join(f'{name}="{escape(value)}"' for name, value in sorted(self.labels.items()))
        return f" # {{{labels}}} {number(self.value)} {self.timestamp}"


class HistogramReading(NamedTuple):
    """The counts of a histogram at one moment."""

    counts: list[int]  #: counts by bucket, the last without a bound; not cumulative
    total: float  #: sum of the values
    exemplars: list[WrittenExemplar | None]  #: exemplars by bucket; empty if there was never one


class HistogramText:
    """Writes the lines of one histogram; from any thread, since the cache is replaced whole."""

    __slots__ = ("_kept", "_labels", "_metric", "_starts")

    def __init__(self, metric: MetricName, labels: tuple[str, ...]) -> None:
        self._metric, self._labels = metric, labels
        self._starts: list[str] | None = None
        #: The reading behind the last text, and that text; without and with exemplars.
        self._kept: list[tuple[object, bytes]] = [((), b""), ((), b"")]

    def write(self, reading: HistogramReading, *, exemplars: bool) -> bytes:
        """Return the lines; reuse the last ones if nothing has changed."""
        source = reading if exemplars else reading[:2]
        kept, text = self._kept[exemplars]
        if kept != source:
            text = self._text(reading, reading.exemplars if exemplars else [])
            self._kept[exemplars] = (source, text)
        return text

    def _text(self, reading: HistogramReading, exemplars: list[WrittenExemplar | None]) -> bytes:
        if self._starts is None:
            self._starts = self._line_starts()
        *of_counts, of_sum = self._starts
        counts = list(accumulate(reading.counts))
        counts.append(counts[-1])  # for the line with the total count
        if counts[-1] < EXPONENT_FROM:
            lines = [f"{start}{n}.0" for start, n in zip(of_counts, counts, strict=True)]
        else:
            lines = [f"{start}{number(n)}" for start, n in zip(of_counts, counts, strict=True)]
        for index, exemplar in enumerate(exemplars):
            if exemplar is not None:
                lines[index] += exemplar.text
        lines.append(f"{of_sum}{number(reading.total)}\n")
        return "\n".join(lines).encode()

    def _line_starts(self) -> list[str]:
        """Return the beginnings of the lines: each bucket's, the count's and the sum's."""
        name, label_names, labels = self._metric.name, self._metric.labels, self._labels
        with_bound = (*label_names, "le")
        return [
            *(
                line_start(f"{name}_bucket", with_bound, (*labels, bound))
                for bound in shown_bounds(self._metric)
            ),
            line_start(f"{name}_count", label_names, labels),
            line_start(f"{name}_sum", label_names, labels),
        ]


def shown_bounds(metric: MetricName) -> list[str]:
    """Return the upper bounds of a histogram's buckets as the label `le` shows them."""
    return [number(bound) for bound in (*metric.buckets, float("inf"))]
