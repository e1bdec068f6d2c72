"""Runs synchronous callables that need the loop's own thread. Each blocks the loop while it runs."""

from __future__ import annotations

import asyncio
import threading

from qorzen_obs.engines.base import Ended, call_surely, without_engine
from qorzen_obs.engines.traits import MAIN
from qorzen_obs.record import Attempt
from qorzen_obs.stacks import RUNNING, STARTING, LiveStack, is_of_engines, places_of, shown, thread_frame


class MainEngine:
    """Runs one callable at a time between two turns of the loop. Nothing can stop it once it runs."""

    traits = MAIN
    slots: int | None = 1

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread_id = threading.get_ident()

    def start(self, attempt: Attempt, ended: Ended) -> None:
        call_surely(self._loop, _run, attempt, context=attempt.context)
        attempt.driver = (ended,)  # until it begins

    def interrupt(self, attempt: Attempt) -> None:
        if attempt.driver:  # it has not begun: take it back
            (ended,) = attempt.driver
            attempt.driver = ()
            ended(attempt, None, asyncio.CancelledError())

    def abandon(self, attempt: Attempt) -> None:
        pass

    def close(self) -> None:
        pass

    def stack(self, attempt: Attempt) -> LiveStack | None:
        """Return where the call is; it holds the loop's thread from start to end."""
        if attempt.driver:
            return LiveStack(STARTING)
        places = places_of(thread_frame(self._thread_id), is_of_engines)
        return None if attempt.ended else LiveStack(RUNNING, shown(places))


def _run(attempt: Attempt) -> None:
    if not attempt.driver:  # it was withdrawn, or could not be started, or this is the second call
        return
    (ended,) = attempt.driver
    attempt.driver = ()
    record = attempt.record
    value, error = None, None
    meter = attempt.meter
    if meter is not None:
        meter.use_since = meter.clock()
    try:
        value = record.func(*record.args, **attempt.kwargs)  # type: ignore[misc]  # func is set while it runs
    except BaseException as caught:  # noqa: BLE001 - the run boundary: a task's exception is data
        error = without_engine(caught)
    if meter is not None and meter.use_since is not None:
        meter.use_seconds, meter.use_since = meter.clock() - meter.use_since, None
    ended(attempt, value, error)
    del value, error  # the exception's frames lead to this one, which would keep the exception alive
