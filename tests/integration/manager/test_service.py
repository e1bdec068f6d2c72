"""A service starts once, stops at any time, and has parts only from its start on."""

import io

import pytest

from qorzen_obs.app import Service
from qorzen_obs.errors import ManagerError, ManagerInitializationError
from qorzen_obs.settings import Settings


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
