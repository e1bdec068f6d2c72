"""Standing tasks of `serve`: without a default timeout, restarted as they say, and missed by /readyz."""

import asyncio
import signal
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qorzen_obs import Retry, TaskManager, TaskStatus, task
from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.registry import TaskRegistry
from qorzen_obs.standing import RequiredTaskDownError, StandingTasks
from qorzen_obs.testing import open_test_manager
from tests.services.program import Running, write_files
from tests.support import PATIENCE_SECONDS, settings, turns, virtual_time


class Consumer:
    """An endless task that ends when it is told how."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self._end: asyncio.Future[Any] = asyncio.Future()

    async def __call__(self) -> Any:
        loop = asyncio.get_running_loop()
        self.began.append(loop.time())
        self._end = loop.create_future()
        return await self._end

    def return_(self) -> None:
        self._end.set_result(None)

    def raise_(self) -> None:
        self._end.set_exception(ConnectionError("the queue is gone"))


def after(attempt: int, source: object) -> float:
    """Wait 10 s, then 20 s …"""
    return 10.0 * attempt


AFTER = Retry(max_attempts=1, backoff=after)


@asynccontextmanager
async def standing(
    consumer: Consumer, retry: Retry = AFTER, **options: Any
) -> AsyncIterator[tuple[TaskManager, StandingTasks, list[dict[str, Any]]]]:
    known, lines = TaskRegistry(), list[dict[str, Any]]()

    @task(name="consume", at_start=True, retry=retry, **options)
    async def consume() -> None:
        await consumer()

    known.add(consume)
    all_of_them = StandingTasks(known)

    def log(event: str, **fields: Any) -> None:
        lines.append({"event": event, **fields})

    async with open_test_manager(settings()) as tasks, all_of_them.kept(tasks, log):
        await turns()
        yield tasks, all_of_them, lines


@virtual_time
async def test_an_endless_consumer_has_no_default_timeout_but_its_own() -> None:
    consumer = Consumer()
    async with standing(consumer) as (tasks, _, _lines):
        await asyncio.sleep(3_000)  # ten times the default timeout
        (info,) = await tasks.get_tasks()
        assert (info.status, info.timeout_seconds) == (TaskStatus.RUNNING, None)
    async with standing(consumer, timeout=5) as (tasks, _, _lines):
        await asyncio.sleep(10)
        (info,) = await tasks.get_tasks()
        assert (info.status, info.error_type) == (TaskStatus.FAILED, "timeout")


@pytest.mark.parametrize(
    ("restart", "again_after_failure", "again_after_return"),
    [(None, False, False), ("never", False, False), ("on_failure", True, False), ("always", True, True)],
)
@virtual_time
async def test_restart_says_after_which_end_it_is_submitted_again(
    restart: str | None, again_after_failure: bool, again_after_return: bool
) -> None:
    given: dict[str, Any] = {} if restart is None else {"restart": restart}
    for end, again in ((Consumer.raise_, again_after_failure), (Consumer.return_, again_after_return)):
        consumer = Consumer()
        async with standing(consumer, **given) as (tasks, _, lines):
            end(consumer)
            await asyncio.sleep(9)
            assert len(consumer.began) == 1
            await asyncio.sleep(2)
            assert len(consumer.began) == 1 + again
            assert len(await tasks.get_tasks()) == 1 + again
            assert [(line["event"], line["task_name"]) for line in lines] == [
                ("task.restarting", "consume")
            ] * again


@virtual_time
async def test_each_failure_waits_longer_until_it_has_run_for_a_minute() -> None:
    consumer, waited = Consumer(), list[float]()
    async with standing(consumer, restart="on_failure"):
        for seconds in (0, 0, 0, 61, 0):
            await asyncio.sleep(seconds)
            ended = asyncio.get_running_loop().time()
            consumer.raise_()
            await asyncio.sleep(31)
            waited.append(consumer.began[-1] - ended)
        assert waited == pytest.approx([10, 20, 30, 10, 20], abs=0.1)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
@virtual_time
async def test_a_backoff_that_fails_later_is_told_and_the_default_takes_its_place(
    error: type[BaseException],
) -> None:
    def fails(number: int, source: object) -> float:
        tried.append(number)
        if len(tried) > 1:
            raise error("no wait")
        return 1.0

    tried = list[int]()
    consumer = Consumer()
    async with standing(consumer, Retry(max_attempts=1, backoff=fails), restart="always") as (_, _, lines):
        consumer.raise_()
        await asyncio.sleep(2)
        assert len(consumer.began) == 2
        assert [line["event"] for line in lines] == ["task.backoff_failed", "task.restarting"]
        assert "no wait" in lines[0]["error"]


@virtual_time
async def test_a_required_task_is_missed_while_it_does_not_run() -> None:
    consumer = Consumer()
    async with standing(consumer, restart="always", required=True) as (tasks, known, _):
        (check,) = known.checks()
        check()
        consumer.raise_()
        await turns()
        with pytest.raises(RequiredTaskDownError, match="consume"):
            check()
        await asyncio.sleep(11)
        check()
        await tasks.shutdown(grace_seconds=0)
        with pytest.raises(RequiredTaskDownError):
            check()


@virtual_time
async def test_nothing_is_required_or_restarted_unless_it_says_so() -> None:
    async with standing(Consumer(), restart="always") as (tasks, known, _):
        assert known.checks() == []
        await tasks.shutdown(grace_seconds=0)
        await asyncio.sleep(1_000)
        assert len(await tasks.get_tasks()) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"at_start": True, "restart": "sometimes"}, "never, on_failure, always"),
        ({"restart": "always"}, "at_start=True"),
        ({"required": True}, "at_start=True"),
    ],
)
def test_a_standing_task_that_cannot_be_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidTaskError, match=problem):
        task(**options)(turns)


FRAGILE = """
import asyncio
from qorzen_obs import Retry, task

begun = 0

soon = Retry(max_attempts=1, backoff=lambda number, source: 0.3)

@task(name="consume", at_start=True, restart="always", required=True, retry=soon)
async def consume():
    global begun
    begun += 1
    print("begun", begun, flush=True)
    if begun == 1:
        return
    await asyncio.Event().wait()
"""


def test_readyz_fails_while_a_required_task_of_serve_is_down(tmp_path: Path) -> None:
    with Running("serve", "fragile", cwd=write_files(tmp_path, {"fragile.py": FRAGILE})) as service:
        url = service.line("serves").split()[-1]
        service.line("begun 1")
        told = ""
        while "consume" not in told:
            try:
                urllib.request.urlopen(f"{url}readyz?verbose", timeout=PATIENCE_SECONDS).close()
            except urllib.error.HTTPError as error:
                with error:
                    told = error.read().decode()
            time.sleep(0.05)
        assert "[-]required-tasks failed" in told
        service.line("begun 2")
        while True:
            try:
                urllib.request.urlopen(f"{url}readyz", timeout=PATIENCE_SECONDS).close()
                break
            except urllib.error.HTTPError as error:
                error.close()
            time.sleep(0.05)
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
