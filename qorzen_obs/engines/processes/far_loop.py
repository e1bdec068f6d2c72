"""Runs an async callable in a worker process, on a loop for that call; a request to stop cancels it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from qorzen_obs.engines.processes.channel import FrameReader
from qorzen_obs.engines.processes.far_task import FarTask


def run_async(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    task: FarTask,
    sock: socket.socket,
    reader: FrameReader,
) -> Any:
    """Run the coroutine to its end; cancel it once for each request of the service."""

    async def body() -> Any:
        loop = asyncio.get_running_loop()
        me = asyncio.current_task()
        assert me is not None, "a coroutine on a loop runs in a task"

        def asked() -> None:
            task.asked()
            me.cancel()
            try:
                reader.read()
            except EOFError:  # the service is gone: once is enough
                loop.remove_reader(sock)

        loop.add_reader(sock, asked)
        try:
            return await func(*args, **kwargs)
        finally:
            loop.remove_reader(sock)

    return asyncio.run(body())
