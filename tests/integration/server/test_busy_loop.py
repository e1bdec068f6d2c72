"""A work loop that never waits, with turns so short that Python's own switching would give nobody else a turn."""

from __future__ import annotations

import asyncio
import os
import sys
from subprocess import PIPE

from tests.services.whole_service import url_of, whole_service

CALLERS = 16
REQUESTS = 20
#: In a process of its own: a thread of this one would starve with the server that it asks.
CLIENT = """
import sys, urllib.request
for _ in range(int(sys.argv[2])):
    urllib.request.urlopen(sys.argv[1] + "/livez").read()
"""


async def no_op() -> None:
    pass


async def test_the_ops_plane_and_the_log_get_their_turns_from_a_loop_that_is_never_idle() -> None:
    assert sys.getswitchinterval() == 0.005, "what a service has that leaves it alone"
    with open(os.devnull, "w") as out:  # noqa: ASYNC230, PTH123 - never waits
        done, answered = 0, False
        async with whole_service(log_stream=out) as service:

            async def call() -> None:
                nonlocal done
                while not answered:
                    await service.tasks.run(no_op)
                    done += 1

            calls = [asyncio.create_task(call()) for _ in range(CALLERS)]
            client = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CLIENT, url_of(service), str(REQUESTS), stderr=PIPE
            )
            _, said = await client.communicate()
            answered = True
            await asyncio.gather(*calls)
            lost = service.parts.loggers.stream.lost()["log_line"]
    assert (client.returncode, said) == (0, b"")
    # Without giving way it was 30,000 tasks a request, and more than half of the lines; with it 700 and none.
    assert done / REQUESTS < 7_000
    assert lost == 0
