"""A logger that fails stops neither the manager nor a task."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry

from qorzen_obs.core.runtime import ManagerState
from qorzen_obs.testing import open_test_manager, virtual_time


class Broken:
    def get_logger(self, name: str) -> Any:
        return self

    def info(self, *_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    warning = error = info


@virtual_time
async def test_a_logger_that_fails_is_counted_and_stops_nothing() -> None:
    registry = CollectorRegistry()
    async with open_test_manager(logs=Broken(), registry=registry) as tasks:
        assert await tasks.run(asyncio.sleep, 1, "done") == "done"
        await tasks.shutdown()
        assert tasks.state is ManagerState.STOPPED
        assert (registry.get_sample_value("qorzen_telemetry_errors_total", {"component": "log"}) or 0) >= 3
