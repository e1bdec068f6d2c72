"""A FastAPI service with work behind it, and everything that can be seen of it below /ops.

    uvicorn examples.fastapi_service:app
    curl -X POST 'http://127.0.0.1:8000/reports?city=Oslo'

A client that follows /ops/api/events stays connected, so uvicorn needs `--timeout-graceful-shutdown` to stop.
"""

import asyncio
import os

import uvicorn
from fastapi import FastAPI, HTTPException

from qorzen_obs import TaskCategory, current_task, task, track
from qorzen_obs.hosts import AsgiHost, ContinueTrace

host = AsgiHost()
app = FastAPI(lifespan=host.lifespan)
app.mount("/ops", host.ops)
app.add_middleware(ContinueTrace)


@task(category=TaskCategory.BACKGROUND, timeout=60)
def report(city: str) -> str:
    """Plain functions run on threads, so that the loop goes on."""
    return " ".join(f"{city}:{line}" for line in track(range(3)))


@task(category=TaskCategory.CORE)
async def greet(name: str) -> str:
    await asyncio.sleep(0.01)
    return f"hello {name}, from task {current_task().task_id}"


@app.post("/reports", status_code=202)
async def make_report(city: str = "nowhere") -> dict[str, str]:
    return {"id": await host.tasks.submit_task(report, city)}


@app.get("/reports/{task_id}")
async def see_report(task_id: str) -> dict[str, str | float | None]:
    info = host.tasks.find(task_id)
    if info is None:
        raise HTTPException(404)
    return {"status": info.status.value, "percent": info.progress.percent, "report": info.result}


@app.get("/greetings/{name}")
async def see_greeting(name: str) -> str:
    greeting: str = await host.tasks.run(greet, name)
    return greeting


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), timeout_graceful_shutdown=5)
