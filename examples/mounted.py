"""The API, the metrics and the page below a path of your own aiohttp application."""

import asyncio

import aiohttp
from aiohttp import web

from qorzen_obs import Settings, TaskRegistry, create_app, open_task_manager, task
from qorzen_obs.settings import ServerSettings


@task(name="add")
def add(a: int, b: int) -> int:
    return a + b


async def main() -> None:
    registry = TaskRegistry()
    registry.add(add)
    async with open_task_manager(Settings()) as tasks:
        app = web.Application()
        settings = ServerSettings(allow_submit=True)  # and a token, where others can reach it
        app.add_subapp("/ops/", create_app(tasks, tasks=registry, settings=settings))
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
            async with session.post("/ops/api/tasks", json={"task": "add", "args": [2, 3]}) as answer:
                print(answer.status, answer.headers["Location"].rpartition("/")[0])
                task_id = (await answer.json())["task_id"]
            print((await tasks.wait_for_task(task_id)).result)
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
