"""Collectors that make a scrape hang, or fill every buffer on its way."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from tests.support import PATIENCE_SECONDS


class HangingCollector:
    """Hangs until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def collect(self) -> Iterator[Metric]:
        self.entered.set()
        self.let_go.wait(PATIENCE_SECONDS)
        yield GaugeMetricFamily("late", "Too late.", 1)


class HugeCollector:
    """More than fits in the buffers between a server and a client that does not read."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("huge", "x" * 32_000_000, 1)
