"""A task manager in an aiohttp application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from qorzen_obs.app import open_task_manager
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.errors import ManagerInitializationError
from qorzen_obs.hosts.request_trace import trace_of
from qorzen_obs.settings import Settings

#: The task manager of an application that has `cleanup_ctx(…)`: `request.app[TASKS]`, from its start on.
TASKS: Final = web.AppKey("qorzen_tasks", TaskManager)


def cleanup_ctx(
    settings: Settings | None = None, *, http: bool = False
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return a context for `app.cleanup_ctx`, which opens a task manager as `app[TASKS]` and closes it at the end.

        app.cleanup_ctx.append(cleanup_ctx(http=True))

    The arguments are those of `open_task_manager`. Contexts that are appended later may use the manager in both of
    their halves. At the end accepted tasks have `tasks.shutdown_grace_seconds` to end.

    The context raises ManagerInitializationError, and the application does not start, if it has a task manager already.
    """

    async def context(app: web.Application) -> AsyncIterator[None]:
        if TASKS in app:
            raise ManagerInitializationError(
                "cleanup_ctx", "this application has a task manager already; append one context"
            )
        async with open_task_manager(settings, http=http) as tasks:
            app[TASKS] = tasks
            yield

    return context


@web.middleware
async def continue_trace(request: web.Request, handler: Handler) -> web.StreamResponse:
    """As ContinueTrace, for aiohttp: `web.Application(middlewares=[continue_trace])`."""
    with trace_of(request.headers):
        return await handler(request)
