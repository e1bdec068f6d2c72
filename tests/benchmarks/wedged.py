"""How fast the ops plane answers while user code holds the work loop, for 5 s at a time.

A service as `serve` has it, with a thousand ended tasks. A client in another process asks each route in turn over one
connection: while the loop turns, while a call that lets other threads run holds it, and while Python code does.
"""

from __future__ import annotations

import http.client
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tests.services.program import Running, write_files

SECONDS: Final = 5.0
SERVICE: Final = f"""
import asyncio, math, time
from pathlib import Path
from qorzen_obs import current_task, task

async def no_op():
    pass

@task(at_start=True, timeout=math.inf)
async def wedge():
    for _ in range(1000):
        await current_task().manager.run(no_op)
    print(current_task().task_id, flush=True)
    while True:
        await asyncio.sleep(0.01)
        if Path("sleep").exists():
            Path("sleep").unlink()
            time.sleep({SECONDS})
        if Path("spin").exists():
            Path("spin").unlink()
            until = time.monotonic() + {SECONDS}
            while time.monotonic() < until:
                pass
"""
HOLDS: Final = {"turns": "turns", "sleep": "is held by time.sleep", "spin": "is held by a loop in Python"}


def ask(connection: http.client.HTTPConnection, path: str) -> tuple[float, str]:
    """Return the milliseconds that an answer takes, and the answer."""
    started = time.perf_counter()
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    return (time.perf_counter() - started) * 1e3, text


def measured(connection: http.client.HTTPConnection, routes: dict[str, str], blocked: bool) -> Iterator[str]:
    """Ask each route in turn until the loop turns again, or for as long; give a line for each."""
    took: dict[str, list[float]] = {name: [] for name in routes}
    until = time.monotonic() + SECONDS * 0.9
    while blocked and "blocked for" not in ask(connection, "/livez?verbose")[1]:
        pass
    while time.monotonic() < until:
        for name, path in routes.items():
            took[name].append(ask(connection, path)[0])
    for name, milliseconds in took.items():
        quantiles = statistics.quantiles(milliseconds, n=100, method="inclusive")
        yield f"  {name:40}{quantiles[49]:>9.2f}{quantiles[98]:>9.2f}{len(milliseconds):>8}"


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = write_files(Path(name), {"service.py": SERVICE})
        with Running(
            "serve", "service", cwd=folder, variables={"QORZEN_TELEMETRY__LOG_LEVEL": "error"}
        ) as service:
            where = urlsplit(service.line("serves").split()[-1])
            assert where.hostname is not None
            connection = http.client.HTTPConnection(where.hostname, where.port)
            service.line()  # the name of the task that it has
            task_id = service.line()
            routes = {
                "/metrics": "/metrics",
                "/livez?verbose": "/livez?verbose",
                "/readyz": "/readyz",
                "/health": "/health",
                "/api/tasks": "/api/tasks",
                "/api/tasks/{id}/stack": f"/api/tasks/{task_id}/stack",
            }
            print(f"Answers of the ops plane while the work loop is held for {SECONDS:g} s, one client")
            for hold, title in HOLDS.items():
                print(f"{f'the work loop {title}':42}{'p50 ms':>9}{'p99 ms':>9}{'n':>8}")
                if hold != "turns":
                    (folder / hold).touch()
                for line in measured(connection, routes, hold != "turns"):
                    print(line)
                while "blocked for" in ask(connection, "/livez?verbose")[1]:
                    time.sleep(0.1)
            connection.close()


if __name__ == "__main__":
    main()
