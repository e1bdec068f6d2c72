"""GET /api/loop: who holds the work loop right now, and who held it before."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.request
from typing import Any

import pytest

from qorzen_obs.server.app import OpsPlane
from qorzen_obs.stacks import Frame
from qorzen_obs.telemetry.culprit import NOBODY, Culprit
from qorzen_obs.telemetry.loop_monitor import Block, EndedBlock
from qorzen_obs.telemetry.watchdog import CODE, NOT_RUNNING
from tests.services.ops_plane import SaidManager, serving
from tests.services.whole_service import whole_service
from tests.support import PATIENCE_SECONDS, until

CANARY = "hunter2-canary"


def ask(plane: OpsPlane) -> Any:
    with urllib.request.urlopen(f"{plane.url}/api/loop", timeout=PATIENCE_SECONDS) as response:
        return json.load(response)


async def asked(plane: OpsPlane) -> Any:
    return await asyncio.to_thread(ask, plane)


async def test_who_holds_the_loop_is_named_meanwhile_and_remembered_after() -> None:
    meanwhile: list[Any] = []
    seen = threading.Event()

    async def hold_the_loop() -> None:
        password = "hunter2"  # noqa: F841 - no local is shown
        assert seen.wait(PATIENCE_SECONDS)

    async with whole_service() as service:
        plane = service.ops
        assert plane is not None
        before = await asked(plane)
        assert (before["state"], before["blocked_seconds"], before["culprit"]) == ("running", 0.0, None)
        assert before["recent"] == []

        def watch() -> None:
            while not meanwhile or meanwhile[-1]["culprit"] is None:
                meanwhile.append(ask(plane))
            seen.set()

        watching = threading.Thread(target=watch)
        watching.start()
        task_id = await service.tasks.submit_task(hold_the_loop, name="report", category="io")
        await service.tasks.wait_for_task(task_id)
        watching.join(PATIENCE_SECONDS)
        during = meanwhile[-1]
        assert during["state"] == "blocked"
        assert during["blocked_seconds"] >= 0.1
        culprit = during["culprit"]
        assert (culprit["task_id"], culprit["task_name"], culprit["category"]) == (task_id, "report", "io")
        assert "hold_the_loop" in {frame["function"].rpartition(".")[2] for frame in culprit["frames"]}

        await until(service.tasks.looks.ended_blocks)
        after = await asked(plane)
        assert (after["state"], after["culprit"]) == ("running", None)
        (block,) = (block for block in after["recent"] if block["cause"] == "code")
        assert block["seconds"] >= 0.1
        assert (block["culprit"]["task_id"], block["culprit"]["name"]) == (task_id, "report")
        assert block["culprit"]["frames"] == culprit["frames"]


async def test_the_last_block_comes_first_and_no_line_of_it_shows_a_secret() -> None:
    frame = Frame("/app/shop.py", 7, "connect", f'connect(password="{CANARY}")')
    manager = SaidManager(
        blocks=[
            EndedBlock(0.25, 0.5, CODE, "mail", "1", "io", (frame,)),
            EndedBlock(60.0, 1.5, CODE, f"asyncio task token={CANARY} of poll"),
        ]
    )
    async with serving(manager) as plane:
        document = await asked(plane)
    assert CANARY not in json.dumps(document)
    foreign, mail = document["recent"]
    assert (foreign["at"], foreign["seconds"]) == ("1970-01-01T00:01:00.000000Z", 1.5)
    assert (foreign["culprit"]["task_id"], foreign["culprit"]["task_name"]) == (None, None)
    assert foreign["culprit"]["name"].startswith("asyncio task ")
    assert mail["culprit"]["task_name"] == "mail"
    assert mail["culprit"]["frames"][0]["line"] == 7


async def test_a_process_that_did_not_get_to_run_blames_nobody() -> None:
    block = Block(Culprit(NOBODY, None, []), NOT_RUNNING, time.monotonic() - 2)
    manager = SaidManager(blocked=2.0, block=block, blocks=[EndedBlock(0.25, 0.5, NOT_RUNNING, NOBODY)])
    async with serving(manager) as plane:
        document = await asked(plane)
        answer = await asyncio.to_thread(urllib.request.urlopen, f"{plane.url}/livez?verbose")
        text = answer.read().decode()
    assert (document["cause"], document["culprit"]) == ("not_running", None)
    ((cause, culprit),) = [(ended["cause"], ended["culprit"]) for ended in document["recent"]]
    assert (cause, culprit) == ("not_running", None)
    assert "blocked for 2.0 s, in which the process did not get to run" in text


@pytest.mark.parametrize(("seconds", "state"), [(0.0, "running"), (0.09, "running"), (0.2, "blocked")])
async def test_a_loop_that_is_a_little_late_turns(seconds: float, state: str) -> None:
    async with serving(SaidManager(blocked=seconds)) as plane:
        document = await asked(plane)
    assert (document["state"], document["culprit"]) == (state, None)
