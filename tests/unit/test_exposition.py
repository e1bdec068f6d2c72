"""Who shares a render of the metrics with whom."""

import asyncio
import gzip
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric

from qorzen_obs.server import metrics
from qorzen_obs.server.metrics import Exposition, Variant
from qorzen_obs.server.negotiation import OPENMETRICS, TEXT
from qorzen_obs.telemetry.gathering import Gathering
from tests.support import PATIENCE_SECONDS

PLAIN = Variant(TEXT, compressed=False)
COMPRESSED = Variant(OPENMETRICS, compressed=True)


class GatedCollector:
    """Waits in each render until it is let on, and gives the number of the render."""

    def __init__(self) -> None:
        self._entered = threading.Semaphore(0)
        self._may_go_on = threading.Semaphore(0)
        self.renders = 0
        self.at_once = 0
        self.most_at_once = 0

    def collect(self) -> Iterator[Metric]:
        self.renders += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        value = self.renders
        self._entered.release()
        assert self._may_go_on.acquire(timeout=PATIENCE_SECONDS)
        self.at_once -= 1
        yield GaugeMetricFamily("render", "Its number.", value)

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self._entered.acquire, timeout=PATIENCE_SECONDS)

    def let_on(self, renders: int = 1) -> None:
        self._may_go_on.release(renders)


@pytest.fixture
def collector() -> Iterator[GatedCollector]:
    collector = GatedCollector()
    yield collector
    collector.let_on(100)


@pytest.fixture
def exposition(collector: GatedCollector) -> Exposition:
    registry = CollectorRegistry()
    registry.register(collector)
    return Exposition(Gathering(registry, patience_seconds=PATIENCE_SECONDS))


async def test_a_render_is_shared_only_by_those_who_were_there_before_it_began(
    exposition: Exposition, collector: GatedCollector
) -> None:
    first = asyncio.create_task(exposition.body(PLAIN))
    await collector.wait_entered()
    late = [asyncio.create_task(exposition.body(PLAIN)) for _ in range(50)]
    collector.let_on()
    assert b"render 1.0" in await first
    await collector.wait_entered()
    collector.let_on()
    bodies = await asyncio.gather(*late)
    assert all(b"render 2.0" in body for body in bodies)
    assert collector.renders == 2


async def test_forms_are_rendered_one_after_the_other(
    exposition: Exposition, collector: GatedCollector
) -> None:
    collector.let_on(2)
    plain, compressed = await asyncio.gather(exposition.body(PLAIN), exposition.body(COMPRESSED))
    assert b"render 1.0" in plain
    assert gzip.decompress(compressed).endswith(b"render 2.0\n# EOF\n")
    assert collector.most_at_once == 1


async def test_a_caller_who_leaves_takes_nothing_from_the_others(
    exposition: Exposition, collector: GatedCollector
) -> None:
    leaves, stays = (asyncio.create_task(exposition.body(PLAIN)) for _ in range(2))
    await collector.wait_entered()
    leaves.cancel()
    collector.let_on()
    assert b"render 1.0" in await stays
    with pytest.raises(asyncio.CancelledError):
        await leaves


async def test_a_collector_that_hangs_does_not_hold_the_callers(
    exposition: Exposition, collector: GatedCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "RENDER_TIMEOUT_SECONDS", 0.05)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await exposition.body(PLAIN)
    assert collector.renders == 1, "the next render waits for the one that hangs"
    await exposition.close()
