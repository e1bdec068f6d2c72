"""A task manager in an ASGI application: its lifespan, and its routes below a path of the application."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any

from qorzen_obs.app import open_task_manager
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.errors import ManagerError, ManagerInitializationError
from qorzen_obs.hosts.asgi_routes import AsgiRoutes, send_problem
from qorzen_obs.hosts.request_trace import Receive, Scope, Send
from qorzen_obs.registry import TaskRegistry
from qorzen_obs.server.app import create_app
from qorzen_obs.settings import Settings, load_settings

_NOT_STARTED = (
    "has no running task manager; pass host.lifespan to the application, and have the server run lifespans"
)

#: What FastAPI and Starlette take as `lifespan`: it gets the application, and returns a context manager.
Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


class AsgiHost:
    """The task manager of one application, while the application runs.

        host = AsgiHost()
        app = FastAPI(lifespan=host.lifespan)
        app.mount("/ops", host.ops)

        @app.post("/reports")
        async def make_report(city: str) -> str:
            return await host.tasks.submit_task(report, city)

    Args:
        settings: as for `open_task_manager`; None reads the environment when the application starts.
        http: serve the routes by the ops plane too, on a port of its own, where they answer while the loop is blocked.
        registry: the tasks that `server.allow_submit` lets clients of the mounted routes submit.
        lifespan: the application's own, which runs inside: it may use `tasks` in both of its halves.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        http: bool = False,
        registry: TaskRegistry | None = None,
        lifespan: Lifespan | None = None,
    ) -> None:
        self._settings = settings
        self._http = http
        self._registry = registry
        self._inner = lifespan
        self._tasks: TaskManager | None = None
        self._routes: AsgiRoutes | None = None

    @property
    def tasks(self) -> TaskManager:
        """The task manager, while the application runs.

        Raises:
            ManagerError: it does not run.
        """
        if self._tasks is None:
            raise ManagerError("AsgiHost", _NOT_STARTED)
        return self._tasks

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[Any]:
        """Open the task manager for the block, and yield what the application's own lifespan yields.

        At the end accepted tasks have `tasks.shutdown_grace_seconds` to end. It may be entered again afterwards, as
        tests do.

        Raises:
            ManagerInitializationError: it is entered already, or as for `open_task_manager`.
            SettingsError: as for `open_task_manager`.
        """
        if self._tasks is not None:
            raise ManagerInitializationError(
                "AsgiHost", "is in use by a running application; make one for each"
            )
        settings = self._settings or load_settings(environment=os.environ)
        async with AsyncExitStack() as ends:
            tasks = await ends.enter_async_context(open_task_manager(settings, http=self._http))
            routes = create_app(
                tasks,
                tasks=self._registry,
                settings=settings.server,
                health=settings.health,
                # One thread counts the requests: the ops plane's, where there is one.
                on_request=None if self._http else tasks.looks.metrics.on_request,
            )
            ends.callback(self._forget)
            self._tasks, self._routes = tasks, await ends.enter_async_context(AsgiRoutes(routes))
            yield None if self._inner is None else await ends.enter_async_context(self._inner(app))

    def _forget(self) -> None:
        self._tasks = self._routes = None

    async def ops(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve metrics, status, health, tasks, traces and the page: `app.mount("/ops", host.ops)`.

        They are those of `create_app`, so they do not answer while the loop is blocked. Where others than this machine
        can reach them, set `server.token`, and the names that they use in `server.allowed_hosts`.
        """
        if self._routes is not None:
            await self._routes(scope, receive, send)
        elif scope["type"] == "http":
            await send_problem(send, HTTPStatus.SERVICE_UNAVAILABLE, f"the application {_NOT_STARTED}")
        else:
            raise ManagerError("AsgiHost", _NOT_STARTED)
