"""A service starts once, stops at any time, and has parts only from its start on."""

import asyncio
import contextvars
import io
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import pytest

from qorzen_obs.app import Service, open_task_manager
from qorzen_obs.core.concurrency_manager import ConcurrencyManager
from qorzen_obs.errors import ManagerError, ManagerInitializationError
from qorzen_obs.settings import EngineSettings, ServerSettings, Settings
from tests.support import ThreadGate


def make() -> Service:
    return Service(Settings(), environment={}, log_stream=io.StringIO())


async def test_a_service_has_its_parts_once_it_has_started_and_also_after_the_stop() -> None:
    service = make()
    with pytest.raises(ManagerError, match=r"await start\(\) first"):
        _ = service.tasks
    await service.start()
    tasks = service.tasks
    await service.stop()
    assert service.tasks is tasks
    assert service.ops is None, "nobody asked for HTTP"


async def test_a_service_that_never_started_stops_and_is_told_to_refuse_traffic_without_effect() -> None:
    service = make()
    service.refuse_traffic()
    await service.stop()


async def test_a_service_starts_once() -> None:
    service = make()
    await service.start()
    with pytest.raises(ManagerInitializationError, match="make a new one"):
        await service.start()
    await service.tasks.run(int)
    await service.stop()
    await service.stop()


# ---------------------------------------------------------------------- beside asyncio's own pool


@pytest.fixture
async def busy_pool() -> AsyncIterator[ThreadGate]:
    """Every thread of asyncio's own pool is taken, and calls wait for more."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool, ThreadGate() as gate:
        loop.set_default_executor(pool)
        calls = [loop.run_in_executor(None, gate) for _ in range(3)]
        await gate.holds(1)
        yield gate
        assert not any(call.done() for call in calls), "it was waited for"
        gate.open()
        await asyncio.gather(*calls)


@pytest.mark.parametrize("http", [False, True])
async def test_a_manager_starts_works_and_stops_while_asyncios_own_pool_is_busy(
    busy_pool: ThreadGate, http: bool
) -> None:
    settings = Settings(server=ServerSettings(port=0))
    async with open_task_manager(settings, http=http) as tasks:
        assert await tasks.run(max, 2, 3) == 3
        assert await tasks.run(max, 2, 3, category="io") == 3
        if http:
            async with aiohttp.ClientSession() as session:
                for path in ("/api/tasks", "/metrics", "/health", "/status", "/"):
                    async with session.get(f"{tasks.ops_url}{path}") as response:
                        assert response.status == 200


async def test_run_in_thread_has_threads_of_its_own(busy_pool: ThreadGate) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("the caller's")
    manager = ConcurrencyManager()
    assert await manager.run_in_thread(variable.get) == "the caller's"
    assert await manager.run_io_task(max, 2, 3) == 3


async def test_run_in_thread_has_so_many_threads_and_no_more() -> None:
    manager = ConcurrencyManager(EngineSettings(io_threads=2))
    with ThreadGate() as gate:
        calls = [asyncio.create_task(manager.run_in_thread(gate, number)) for number in range(5)]
        await gate.holds(2)
        assert len(gate.arrived) == 2
        gate.open()
        assert await asyncio.gather(*calls) == [0, 1, 2, 3, 4]


def leave() -> None:
    raise SystemExit(3)


def stop_iterating() -> None:
    raise StopIteration


@pytest.mark.parametrize("func", [leave, stop_iterating])
async def test_what_a_call_in_a_thread_raises_ends_no_loop(func: Callable[[], None]) -> None:
    with pytest.raises(RuntimeError, match="a call in a thread raised"):
        await ConcurrencyManager().run_in_thread(func)
