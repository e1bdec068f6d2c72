"""Runs attempts: starts them on their engine, asks them to stop, and decides once how each ended."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Concatenate, Final, ParamSpec

from qorzen_obs import foreign
from qorzen_obs.clock import Clock
from qorzen_obs.core.deadlines import Deadlines
from qorzen_obs.core.decision import decide, decide_abandoned, decide_undescribed
from qorzen_obs.core.runtime import Runtime
from qorzen_obs.engines.base import Engine, KillingEngine
from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.record import Ask, Attempt, Decision
from qorzen_obs.tasks import TIMEOUT
from qorzen_obs.telemetry.redaction import Redactor

_PROGRESS_SECONDS: Final = 0.1
#: How long a kill may take. The process engine tries a second way after 1 s.
KILL_SECONDS: Final = 2.0
#: Turns of the loop that an attempt gets when it is interrupted a second time, at the end of its grace. They are
#: enough for it to end as asked if it gives in now, however deeply the asyncio tasks that it awaits are nested.
_LAST_TURNS: Final = 10


_P = ParamSpec("_P")


def _repaired(
    step: Callable[Concatenate[Runner, _P], None],
) -> Callable[Concatenate[Runner, _P], None]:
    """Let `Repairs` continue a step that a timer began and that was interrupted."""

    @functools.wraps(step)
    def repaired(self: Runner, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            step(self, *args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - `Repairs` raises what is not an Exception
            self._runtime.interruption = error
            ready = self._runtime.ready
            ready += self._runtime.repairs

    return repaired


class Runner:
    """The running attempts of one manager. Its methods belong to the work loop, except `report_progress`."""

    def __init__(
        self,
        runtime: Runtime,
        clock: Clock,
        *,
        on_decided: Callable[[Attempt, Decision], None],
        on_late_end: Callable[[Attempt], None],
        on_progress: Callable[[Attempt], None],
        on_engine_failed: Callable[[BaseException], None],
        redactor: Redactor | None = None,
    ) -> None:
        self._runtime = runtime
        self._clock = clock
        self._on_decided = on_decided
        self._on_late_end = on_late_end
        self._on_progress = on_progress
        self._redactor = redactor or Redactor()
        self._on_engine_failed = on_engine_failed
        self._on_ended = self.ended  # one method object for all attempts
        self._deadlines: Deadlines[Attempt] = Deadlines(runtime, clock, self._pass_deadline)

    def start(self, attempt: Attempt) -> None:
        """Start `attempt` on its engine; `on_decided` gets its end, always after this call has returned.

        An exception from the engine fails the attempt. This raises only what is not an Exception and, once, a lack of
        stack or memory: `Repairs` then starts the attempt again, where the stack is short.
        """
        record = attempt.record
        try:
            if record.on_start is not None:
                record.on_start(attempt)
            self._runtime.engines[record.engine.kind].start(attempt, self._on_ended)
        except Exception as error:
            attempt.driver = None
            is_second, attempt.outcome = attempt.outcome is not None, (None, error)
            if foreign.is_a(error, (RecursionError, MemoryError)) and not is_second:
                raise
            attempt.ended = True
            self._runtime.work_loop.call_soon(self._did_not_start, attempt)
            return
        except BaseException:
            attempt.driver = None
            raise
        if not record.engine.reports_steps:
            self.set_deadline(attempt)

    def _did_not_start(self, attempt: Attempt) -> None:
        if not attempt.settled and attempt.outcome is not None:
            self.ended(attempt, *attempt.outcome)

    def set_deadline(self, attempt: Attempt) -> None:
        """Ask `attempt` to stop when its timeout has passed."""
        timeout = attempt.record.timeout
        if timeout is not None and not attempt.settled:
            attempt.deadline = self._deadlines.add(attempt.started_at + timeout, attempt)

    def ask(self, attempt: Attempt, why: Ask, reason: str) -> None:
        """Ask `attempt` to stop. The first ask wins; a later one changes nothing."""
        if attempt.asked is not None or attempt.settled:
            return
        attempt.ask(why, reason, self._clock.monotonic())
        self._interrupt(attempt)
        if not attempt.settled:
            self._begin_grace(attempt)

    def watch(self, attempt: Attempt) -> None:
        """Make sure that a started attempt has its timers; an interruption may have lost them."""
        entry = attempt.deadline
        if attempt.asked is None:
            attempt.last = False
            if attempt.record.timeout is not None and (entry is None or entry[2] is None):
                self.set_deadline(attempt)
        elif attempt.grace is None or self._grace_left(attempt) <= 0:
            self._interrupt(attempt)
            if not attempt.settled:
                self._begin_grace(attempt)

    def close(self) -> None:
        """Stop the timer of deadlines."""
        self._deadlines.close()

    def _interrupt(self, attempt: Attempt) -> None:
        if not attempt.ended:
            self._have(self._engine_of(attempt).interrupt, attempt)

    def _engine_of(self, attempt: Attempt) -> Engine:
        return self._runtime.engines[attempt.record.engine.kind]

    def _have(self, step: Callable[[Attempt], object], attempt: Attempt) -> object:
        """Ask the engine to stop an attempt. If the engine raises, that is reported, and the grace ends as usual.

        This raises what the caller's deep stack or a lack of memory may have caused: `Repairs` takes the step again.
        """
        try:
            return step(attempt)
        except Exception as error:
            if foreign.is_a(error, (RecursionError, MemoryError)):
                raise
            self._on_engine_failed(error)
            return None

    @_repaired
    def _pass_deadline(self, attempt: Attempt) -> None:
        self.ask(attempt, Ask.DEADLINE, TIMEOUT)

    def _begin_grace(self, attempt: Attempt) -> None:
        wait = max(0.0, self._grace_left(attempt))
        attempt.grace = self._runtime.call_later(wait, self._end_grace, attempt)

    def _grace_left(self, attempt: Attempt) -> float:
        return attempt.asked_at + self._runtime.settings.cancel_grace_seconds - self._clock.monotonic()

    @_repaired
    def _end_grace(self, attempt: Attempt) -> None:
        """Kill an attempt that would not stop, if the engine can: its end decides. Else ask again, then give it up."""
        attempt.grace = None
        if attempt.settled:
            return
        engine = self._engine_of(attempt)
        if isinstance(engine, KillingEngine) and self._have(engine.kill, attempt):
            self._runtime.call_later(KILL_SECONDS, self._abandon_after, attempt, 0)
        else:
            self._interrupt(attempt)
            self._abandon_after(attempt, _LAST_TURNS)

    @_repaired
    def _abandon_after(self, attempt: Attempt, turns: int) -> None:
        """Give the attempt up after this number of turns of the loop, unless it ends."""
        if attempt.settled:
            return
        if turns:
            self._runtime.work_loop.call_soon(self._abandon_after, attempt, turns - 1)
        else:
            self._have(self._engine_of(attempt).abandon, attempt)
            self._settle(attempt, decide_abandoned(attempt))

    def ended(self, attempt: Attempt, value: object, error: BaseException | None) -> None:
        """Handle the engine's report that the code has ended: decide, or drop the result if already decided.

        Raises nothing: an attempt whose end an engine has reported is always settled.
        """
        attempt.ended = True
        try:
            if not attempt.begun:  # it was asked to stop before its code ran
                attempt.begin()
            if attempt.settled:
                self._on_late_end(attempt)
            else:
                if (
                    attempt.record.engine.holds_loop
                    and attempt.asked is None
                    and self._overran_unseen(attempt)
                ):
                    attempt.ask(Ask.DEADLINE, TIMEOUT, self._clock.monotonic())
                try:
                    decision = decide(attempt, value, error, self._redactor)
                except BaseException as broken:
                    if foreign.is_a(broken, Exception) and attempt.outcome is None:
                        raise  # such as MemoryError: `Repairs` tries again
                    decision = decide_undescribed(error, broken, self._redactor)
                self._settle(attempt, decision)
            attempt.release()
        except BaseException as interruption:  # noqa: BLE001 - `Repairs` continues from here
            attempt.outcome = value, error
            self._runtime.interruption = interruption
            ready = self._runtime.ready
            ready += self._runtime.repairs

    def _overran_unseen(self, attempt: Attempt) -> bool:
        """Report an overrun after the call: on the loop's own thread no timer can fire during it."""
        timeout = attempt.record.timeout
        return timeout is not None and self._clock.monotonic() - attempt.started_at > timeout

    def _settle(self, attempt: Attempt, decision: Decision) -> None:
        attempt.decision = decision
        attempt.settled = True
        if attempt.grace is not None:
            attempt.grace.cancel()
        if attempt.deadline is not None:
            self._deadlines.remove(attempt.deadline)
        if attempt.progress_waits:  # the last value is never lost
            self._flush_progress(attempt)
        on_decided = self._on_decided
        on_decided(attempt, decision)

    def report_progress(self, attempt: Attempt, percent: object, message: str) -> None:
        """Take a progress report, from any thread; at most ten a second reach the record.

        Raises:
            InvalidTaskError: `percent` is not a finite number.
        """
        number = foreign.number(percent)
        if number is None or not -inf < number < inf:
            raise InvalidTaskError("percent", f"{foreign.shown(percent)} is not a number from 0 to 100")
        before = attempt.reported  # merged reports keep the highest percentage and the newest message
        number = min(100.0, max(0.0, number if before is None else max(before[0], number)))
        # Made presentable here, where a failure is the reporter's; and before reading the flag, see _flush_progress.
        attempt.reported = (number, message if type(message) is str else foreign.plain(str(message)))
        if attempt.progress_waits or attempt.settled:
            return
        attempt.progress_waits = True
        if threading.get_ident() == self._runtime.loop_thread:
            self._schedule_progress(attempt)
        else:
            with suppress(RuntimeError):  # the loop is closed: nobody sees progress any more
                self._runtime.work_loop.call_soon_threadsafe(self._schedule_progress, attempt)

    def _schedule_progress(self, attempt: Attempt) -> None:
        wait = attempt.reported_at + _PROGRESS_SECONDS - self._clock.monotonic()
        if wait > 0:
            self._runtime.call_later(wait, self._flush_progress, attempt)
        else:
            self._flush_progress(attempt)

    def _flush_progress(self, attempt: Attempt) -> None:
        if not attempt.progress_waits:
            return  # the attempt has ended first
        attempt.progress_waits = False  # before reading: any later report schedules another flush
        attempt.reported_at = self._clock.monotonic()
        self._on_progress(attempt)
