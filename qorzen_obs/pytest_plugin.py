"""Pytest fixtures for programs that embed a task manager. Enable them in conftest.py (docs/guide/testing.md):

    pytest_plugins = ["qorzen_obs.pytest_plugin"]

They work with pytest-asyncio and anyio. Everything is created when a test requests it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

import pytest

from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.settings import Settings
from qorzen_obs.testing import CapturedEvents, CapturedLogs, open_test_manager

_BY_ANYIO: Final = "_qorzen_tasks_by_anyio"
_BY_PYTEST_ASYNCIO: Final = "_qorzen_tasks_by_pytest_asyncio"


@pytest.fixture
def qorzen_settings() -> Settings:
    """The settings of `qorzen_tasks`: the defaults. Override this fixture to change them."""
    return Settings()


@pytest.fixture
def qorzen_logs() -> CapturedLogs:
    """The lines that `qorzen_tasks` and its tasks wrote: `qorzen_logs.of("task.finished")`."""
    return CapturedLogs()


@pytest.fixture
def qorzen_events() -> CapturedEvents:
    """The events that `qorzen_tasks` published: `qorzen_events.of(task_id)`."""
    return CapturedEvents()


@pytest.fixture
def qorzen_tasks(request: pytest.FixtureRequest) -> TaskManager:
    """A TaskManager for one test. Tasks that still run when the test ends are cancelled at once.

    It uses the clock of the test's loop if that is a VirtualTimeLoop.
    """
    by_anyio = "anyio_backend" in request.fixturenames
    if not (by_anyio or request.config.pluginmanager.hasplugin("asyncio")):
        raise pytest.UsageError(
            "qorzen_tasks is for async tests: install pytest-asyncio, or mark the test with anyio"
        )
    tasks: TaskManager = request.getfixturevalue(_BY_ANYIO if by_anyio else _BY_PYTEST_ASYNCIO)
    return tasks


@pytest.fixture(name=_BY_ANYIO)
async def _by_anyio(
    qorzen_settings: Settings, qorzen_logs: CapturedLogs, qorzen_events: CapturedEvents
) -> AsyncIterator[TaskManager]:
    async with open_test_manager(qorzen_settings, logs=qorzen_logs, events=qorzen_events) as tasks:
        yield tasks


# The decorator marks the function, so each of the two has its own.
with contextlib.suppress(ImportError):
    import pytest_asyncio

    @pytest_asyncio.fixture(name=_BY_PYTEST_ASYNCIO)
    async def _by_pytest_asyncio(
        qorzen_settings: Settings, qorzen_logs: CapturedLogs, qorzen_events: CapturedEvents
    ) -> AsyncIterator[TaskManager]:
        async with open_test_manager(qorzen_settings, logs=qorzen_logs, events=qorzen_events) as tasks:
            yield tasks
