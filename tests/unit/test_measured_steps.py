"""The generator that measures a coroutine's steps, where asyncio gives no occasion: closing, and what it counts."""

import asyncio
import time
import types
from collections.abc import Generator

import pytest

from qorzen_obs.engines.loop import _as_coroutine, _measured
from qorzen_obs.ledger import Meter
from qorzen_obs.tasks import EngineKind


@types.coroutine
def pause() -> Generator[str, None, None]:
    yield "paused"


def test_closing_it_closes_the_coroutine_within() -> None:
    async def subject() -> None:
        try:
            await pause()
        except GeneratorExit:
            seen.append("closed")
            raise

    seen: list[str] = []
    steps = _measured(subject(), Meter(time.monotonic))
    assert next(steps) == "paused"
    steps.close()
    assert seen == ["closed"]


def test_a_coroutine_that_will_not_be_closed_is_told_of_as_python_does() -> None:
    async def subject() -> None:
        try:
            await pause()
        except GeneratorExit:
            await pause()

    steps = _measured(subject(), Meter(time.monotonic))
    next(steps)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        steps.close()


def test_only_its_own_steps_count_also_those_that_end_by_an_exception() -> None:
    now = 0.0

    async def subject() -> None:
        nonlocal now
        now += 1
        try:
            await pause()
        except asyncio.CancelledError:
            now += 2
            await pause()
            now += 4
            raise OSError("broken") from None

    meter = Meter(lambda: now)
    steps = _measured(subject(), meter)
    next(steps)
    now += 100
    steps.throw(asyncio.CancelledError())
    now += 100
    with pytest.raises(OSError, match="broken"):
        next(steps)
    assert meter.phases(EngineKind.LOOP, now, now) == {"loop": 7.0, "await": 200.0}


def test_what_is_awaited_and_is_no_coroutine_is_driven_by_one() -> None:
    class Subject:
        def __await__(self) -> Generator[str, None, int]:
            yield "paused"
            return 3

    steps = _measured(_as_coroutine(Subject()), Meter(time.monotonic))
    assert next(steps) == "paused"
    with pytest.raises(StopIteration) as ended:
        next(steps)
    assert ended.value.value == 3


def test_use_is_never_more_than_the_attempt_took() -> None:
    meter = Meter(time.monotonic)
    meter.use_seconds, meter.call_seconds = 5.0, 3.0  # several threads at once
    assert meter.phases(EngineKind.THREAD, 2.0, 2.0) == {"thread_cpu": 2.0, "thread_wait": 0.0}
    assert meter.phases(EngineKind.PROCESS, 4.0, 4.0) == {
        "process_cpu": 3.0,
        "process_wait": 0.0,
        "transfer": 1.0,
    }
