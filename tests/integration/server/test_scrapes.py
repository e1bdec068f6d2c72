"""F15: many scrapes at once, and one that reads slowly, cost the work loop next to nothing."""

import asyncio
import itertools
import threading
from collections.abc import Iterator

import aiohttp
import pytest
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from tests.services.ops_plane import managing, serving

SCRAPES = 50


class Counting:
    """A large collector that notes who renders, and how many at once."""

    def __init__(self) -> None:
        self.renders = 0
        self.threads: set[threading.Thread] = set()
        self.most_at_once = 0
        self._running = 0
        self._lock = threading.Lock()

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            self.renders += 1
            self.threads.add(threading.current_thread())
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        family = GaugeMetricFamily("large", "Large.", labels=("number",))
        for number in range(5_000):
            family.add_metric((str(number),), number)
        yield family
        with self._lock:
            self._running -= 1


@pytest.mark.slow
async def test_f15_fifty_scrapes_and_a_slow_reader_share_renders_off_the_work_loop() -> None:
    here = threading.current_thread()
    counting = Counting()
    async with managing() as (tasks, _), serving(tasks) as plane:
        tasks.registry.register(counting)

        async def scrape_from_elsewhere() -> list[int]:
            # A reader that stops reading; its response is larger than the socket takes.
            _, slow = await asyncio.open_connection("127.0.0.1", plane.port, limit=1)
            slow.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(plane.url, connector=connector) as session:

                async def one(_: int) -> int:
                    async with session.get("/metrics") as response:
                        await response.read()
                        return response.status

                statuses = await asyncio.gather(*map(one, range(SCRAPES)))
            slow.transport.abort()
            return statuses

        statuses = await asyncio.to_thread(asyncio.run, scrape_from_elsewhere())

    assert statuses == [200] * SCRAPES
    assert counting.most_at_once == 1
    assert here not in counting.threads
    # All that came while one was rendered share the next: far fewer renders than scrapes.
    assert counting.renders < SCRAPES / 2


async def test_f15_a_scrape_in_flight_is_shared_by_those_that_came_before_it_began() -> None:
    entered, let_go = threading.Event(), threading.Event()
    order = itertools.count(1)

    class Held:
        def describe(self) -> Iterator[Metric]:
            return iter(())

        def collect(self) -> Iterator[Metric]:
            yield GaugeMetricFamily("render", "Which render it is.", next(order))
            entered.set()
            assert let_go.wait(30)

    async with managing() as (tasks, _), serving(tasks) as plane:
        tasks.registry.register(Held())
        async with aiohttp.ClientSession(plane.url) as session:

            async def one() -> str:
                async with session.get("/metrics") as response:
                    text = await response.text()
                return next(line for line in text.splitlines() if line.startswith("render "))

            first = asyncio.create_task(one())
            assert await asyncio.to_thread(entered.wait, 30)
            later = [asyncio.create_task(one()) for _ in range(10)]
            async with session.get("/livez"):  # the ops plane is not held up, and has seen the others by now
                pass
            let_go.set()
            assert await first == "render 1.0"
            assert set(await asyncio.gather(*later)) <= {"render 2.0", "render 3.0"}
