"""A task manager in a web application, from its start to its stop. One line each.

aiohttp, with the ops plane on a port of its own:

    app = web.Application(middlewares=[continue_trace])
    app.cleanup_ctx.append(cleanup_ctx(http=True))  # request.app[TASKS] is the task manager

FastAPI, Starlette and others that speak ASGI, with the routes below a path of the application:

    host = AsgiHost()
    app = FastAPI(lifespan=host.lifespan)  # host.tasks is the task manager
    app.mount("/ops", host.ops)
    app.add_middleware(ContinueTrace)

The middlewares continue the trace that a request's headers name, so the tasks of the request belong to it. An
application that OpenTelemetry instruments needs none: its span of the request is the parent of the tasks.
"""

from qorzen_obs.hosts.aiohttp_host import TASKS, cleanup_ctx, continue_trace
from qorzen_obs.hosts.asgi_host import AsgiHost
from qorzen_obs.hosts.request_trace import ContinueTrace

__all__ = ["TASKS", "AsgiHost", "ContinueTrace", "cleanup_ctx", "continue_trace"]
