"""An aiohttp service with work behind it: a client asks for a report, gets an id, and looks how far it is.

    python examples/aiohttp_service.py
    curl -X POST 'http://127.0.0.1:8000/reports?city=Oslo'

PORT and QORZEN_SERVER__PORT are other ports; 0 takes any free one.
"""

import os

from aiohttp import web

from qorzen_obs import TaskCategory, TaskManager, current_task, task, track
from qorzen_obs.hosts import TASKS, cleanup_ctx, continue_trace

routes = web.RouteTableDef()


@task(category=TaskCategory.BACKGROUND, timeout=60)
def report(city: str) -> str:
    """Plain functions run on threads, so that the loop goes on."""
    return " ".join(f"{city}:{line}" for line in track(range(3)))


@task(category=TaskCategory.CORE)
async def greet(name: str) -> str:
    return f"hello {name}, from task {current_task().task_id}"


@routes.post("/reports")
async def make_report(request: web.Request) -> web.Response:
    tasks: TaskManager = request.app[TASKS]
    task_id = await tasks.submit_task(report, request.query.get("city", "nowhere"))
    return web.json_response({"id": task_id}, status=202)


@routes.get("/reports/{id}")
async def see_report(request: web.Request) -> web.Response:
    info = request.app[TASKS].find(request.match_info["id"])
    if info is None:
        raise web.HTTPNotFound
    return web.json_response(
        {"status": info.status.value, "percent": info.progress.percent, "report": info.result}
    )


@routes.get("/greetings/{name}")
async def see_greeting(request: web.Request) -> web.Response:
    return web.Response(text=await request.app[TASKS].run(greet, request.match_info["name"]))


async def say_where(app: web.Application) -> None:
    print(f"metrics, traces and the page: {app[TASKS].ops_url}/", flush=True)


def make_app() -> web.Application:
    app = web.Application(middlewares=[continue_trace])
    app.cleanup_ctx.append(cleanup_ctx(http=True))
    app.on_startup.append(say_where)
    app.add_routes(routes)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
