"""What is read from the metrics and from two looks at the counters: rates, loop lag, the queue by priority. Pure."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.quantiles import bucket_quantile

WINDOW_SECONDS: Final = 5.0  #: the time over which rates are computed

_PENDING: Final = names.TASKS.name
_OLDEST: Final = names.OLDEST_PENDING.name
_LAG: Final = f"{names.LOOP_LAG.name}_bucket"
_BLOCKED: Final = f"{names.LOOP_BLOCKED.name}_total"
_MEMORY: Final = "process_resident_memory_bytes"  #: of prometheus_client's ProcessCollector
_READ: Final = (*(f"{name}{{" for name in (_PENDING, _OLDEST, _LAG, _BLOCKED)), f"{_MEMORY} ")


@dataclass(frozen=True, slots=True)
class Gauges:
    """What one look at the metrics says."""

    at: float  #: monotonic
    pending: Mapping[str, int] = field(default_factory=dict)  #: by priority
    oldest: Mapping[str, float] = field(default_factory=dict)  #: seconds, by priority
    lag_buckets: Mapping[float, float] = field(default_factory=dict)  #: cumulative, by upper bound in seconds
    blocked: Mapping[str, float] = field(default_factory=dict)  #: seconds in all, by category
    memory: float | None = None  #: bytes of the service's process, without its worker processes


def read_gauges(text: str, at: float) -> Gauges:
    """Return what the metrics in Prometheus' text format say.

    Raises:
        ValueError: this is no such text.
    """
    # The parser takes 10 µs a line, and most of the lines are histograms of tasks.
    lines = [line for line in text.splitlines() if line.startswith(_READ)]
    pending: dict[str, int] = defaultdict(int)
    oldest: dict[str, float] = defaultdict(float)
    lag: dict[float, float] = {}
    blocked: dict[str, float] = {}
    memory: float | None = None
    for family in _families("\n".join(lines) + "\n"):
        for sample in family.samples:
            labels, value = sample.labels, sample.value
            if sample.name == _PENDING and labels.get("status") == "pending":
                pending[labels.get("priority", "")] += int(value)
            elif sample.name == _OLDEST:
                priority = labels.get("priority", "")
                oldest[priority] = max(oldest[priority], value)
            elif sample.name == _LAG:
                lag[float(labels.get("le", "nan"))] = value
            elif sample.name == _BLOCKED:
                blocked[labels.get("category", "")] = value
            elif sample.name == _MEMORY:
                memory = value
    return Gauges(at, pending, oldest, lag, blocked, memory)


def _families(text: str) -> Iterator[Metric]:
    yield from text_string_to_metric_families(text)


def lag_quantile(before: Gauges, now: Gauges, quantile: float) -> float | None:
    """Return a quantile of the loop's lag between two looks; None where there was none, or the service is another.

    Within a bucket it is interpolated.
    """
    bounds = sorted(now.lag_buckets)
    up_to = [now.lag_buckets[bound] - before.lag_buckets.get(bound, 0.0) for bound in bounds]
    if min(up_to, default=0.0) < 0:
        return None
    counts = [count - below for count, below in zip(up_to, [0.0, *up_to], strict=False)]
    return bucket_quantile(quantile, bounds[:-1], counts)  # the last is infinity


def blocked_share(before: Gauges, now: Gauges) -> dict[str, float]:
    """Return the share of the time between two looks in which the loop was held, by each category that held it.

    A block is counted when it is over, so more may be counted than has passed: then the shares are cut to 1 together.
    """
    seconds = now.at - before.at
    if seconds <= 0:
        return {}
    shares = {
        category: (value - before.blocked.get(category, 0.0)) / seconds
        for category, value in now.blocked.items()
    }
    held = {category: share for category, share in shares.items() if share > 0}
    too_much = max(1.0, sum(held.values()))
    return {category: share / too_much for category, share in held.items()}


class Rates:
    """How fast counters rise, over the last WINDOW_SECONDS."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Mapping[str, int]]] = deque()

    def add(self, at: float, counts: Mapping[str, int]) -> None:
        """Take note of the counters at a moment. Where one fell, the service is another, and it starts anew."""
        if self._seen and any(counts.get(name, 0) < count for name, count in self._seen[-1][1].items()):
            self._seen.clear()
        self._seen.append((at, counts))
        while len(self._seen) > 2 and at - self._seen[1][0] >= WINDOW_SECONDS:
            self._seen.popleft()

    def per_second(self) -> dict[str, float]:
        """Return the rates by counter; none before the second look."""
        if len(self._seen) < 2:
            return {}
        (first_at, first), (last_at, last) = self._seen[0], self._seen[-1]
        seconds = last_at - first_at
        return {name: (last[name] - first.get(name, 0)) / seconds for name in last} if seconds > 0 else {}
