"""Owns the engines, so that a service has one set of threads and of processes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import ParamSpec, TypeVar

from qorzen_obs.core.base import QorzenManager
from qorzen_obs.engines.base import Engine
from qorzen_obs.engines.loop import LoopEngine
from qorzen_obs.engines.main import MainEngine
from qorzen_obs.engines.processes.engine import ProcessEngine
from qorzen_obs.engines.threads import ThreadEngine
from qorzen_obs.engines.traits import IO, THREAD
from qorzen_obs.errors import ManagerError, ManagerInitializationError
from qorzen_obs.in_thread import run_in_daemon_thread
from qorzen_obs.settings import EngineSettings

P = ParamSpec("P")
R = TypeVar("R")


class ConcurrencyManager(QorzenManager):
    """Makes the engines for the running loop and closes them."""

    def __init__(self, settings: EngineSettings | None = None) -> None:
        super().__init__("concurrency_manager")
        self.settings = settings or EngineSettings()
        self._engines: dict[str, Engine] = {}
        self._processes: ProcessEngine | None = None
        self._threads = asyncio.Semaphore(self.settings.io_threads)  # of `run_in_thread`

    async def initialize(self) -> None:
        if self._initialized:
            raise ManagerInitializationError(self.name, "is initialized already; make a new one")
        loop = asyncio.get_running_loop()
        self._processes = processes = ProcessEngine(
            loop,
            self.settings.processes,
            tasks_per_worker=self.settings.process_tasks_per_worker,
            quarantine_seconds=self.settings.process_quarantine_seconds,
        )
        engines: tuple[Engine, ...] = (
            LoopEngine(loop),
            ThreadEngine(loop, IO, self.settings.io_threads),
            ThreadEngine(loop, THREAD, self.settings.worker_threads),
            processes,
            MainEngine(loop),
        )
        self._engines = {engine.traits.kind: engine for engine in engines}
        self._become_ready()

    async def shutdown(self) -> None:
        for engine in self._engines.values():
            engine.close()
        if self._processes is not None:
            await self._processes.wait_closed()
        self._become_stopped()

    @property
    def engines(self) -> Mapping[str, Engine]:
        """All engines by kind. A manager that adds one adds it here.

        Raises:
            ManagerError: not initialized.
        """
        if not self._engines:
            raise ManagerError(self.name, "has no engines yet; await initialize() first")
        return self._engines

    def engine(self, kind: str) -> Engine:
        """Return the engine of this kind.

        Raises:
            ManagerError: not initialized, or there is no such engine.
        """
        try:
            return self.engines[kind]
        except KeyError:
            raise ManagerError(self.name, f"has no engine {kind!r}") from None

    async def run_in_thread(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `func` on a thread outside the slots of tasks; at most `engines.io_threads` of them at once.

        It runs with the caller's context variables. Cancelled, the thread goes on and its outcome is dropped.
        """
        call = functools.partial(copy_context().run, func, *args, **kwargs)
        async with self._threads:
            return await run_in_daemon_thread(call, name="qorzen-run-in-thread")

    async def run_io_task(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """As `run_in_thread`."""
        return await self.run_in_thread(func, *args, **kwargs)
