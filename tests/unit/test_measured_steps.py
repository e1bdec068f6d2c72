"""The generator that measures a coroutine's steps, where asyncio gives no occasion: closing, and what it counts."""

import asyncio
import time
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest

from qorzen_obs.engines.loop import _go_on, _Run
from qorzen_obs.engines.traits import LOOP, PROCESS, THREAD
from qorzen_obs.ledger import Meter
from qorzen_obs.record import Attempt
from tests.support import attempt, record


@types.coroutine
def pause() -> Generator[None, None, None]:
    yield


class Steps:
    """What the engine does with an attempt of `func` after its first step, one step after the other."""

    def __init__(self, func: Callable[[], Coroutine[None, None, Any]], meter: Meter | None = None) -> None:
        of = attempt(record(func))
        of.meter = meter or Meter(time.monotonic)
        self.outcome: tuple[object, BaseException | None] | None = None
        run = _Run(of, self._ended)
        run.coroutine = func()
        self.rest = _go_on(run, run.coroutine.send(None))
        assert next(self.rest) is None

    def _ended(self, _: Attempt, value: object, error: BaseException | None) -> None:
        self.outcome = value, error


def test_closing_it_closes_the_coroutine_within_and_reports_no_end() -> None:
    async def subject() -> None:
        try:
            await pause()
        except GeneratorExit:
            seen.append("closed")
            raise

    seen: list[str] = []
    steps = Steps(subject)
    steps.rest.close()
    assert seen == ["closed"]
    assert steps.outcome is None


def test_a_coroutine_that_will_not_be_closed_is_told_of_as_python_does() -> None:
    async def subject() -> None:
        try:
            await pause()
        except GeneratorExit:
            await pause()

    steps = Steps(subject)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        steps.rest.close()


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
    steps = Steps(subject, meter)
    now += 100
    assert steps.rest.throw(asyncio.CancelledError()) is None
    now += 100
    with pytest.raises(StopIteration):
        next(steps.rest)
    assert steps.outcome is not None
    assert isinstance(steps.outcome[1], OSError)
    assert meter.phases(LOOP, now, now) == {"loop": 6.0, "await": 201.0}, (
        "the first step is counted elsewhere"
    )


def test_use_is_never_more_than_the_attempt_took() -> None:
    meter = Meter(time.monotonic)
    meter.use_seconds, meter.call_seconds = 5.0, 3.0  # several threads at once
    assert meter.phases(THREAD, 2.0, 2.0) == {"thread_cpu": 2.0}
    assert meter.phases(PROCESS, 4.0, 4.0) == {"process_cpu": 3.0, "transfer": 1.0}
