"""Runs attempts: starts them on their engine, asks them to stop, and decides once how each one ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Final

from qorzen_obs import foreign
from qorzen_obs.clock import Clock
from qorzen_obs.core.deadlines import Deadlines
from qorzen_obs.core.decision import decide, decide_abandoned, decide_undescribed
from qorzen_obs.core.runtime import Runtime
from qorzen_obs.engines.base import KillingEngine
from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.record import Ask, Attempt, Decision
from qorzen_obs.tasks import TIMEOUT
from qorzen_obs.telemetry.redaction import Redactor

#: When, within the grace, an attempt that still runs is interrupted again: it may have swallowed the first time.
_AGAIN: Final = (0.5, 0.75, 0.9)
_PROGRESS_SECONDS: Final = 0.1
#: How long a kill may take. The process engine tries a second way after 1 s.
_KILL_SECONDS: Final = 2.0


class Runner:
    """The running attempts of one manager. Its methods belong to the work loop, but for `report_progress`."""

    def __init__(
        self,
        runtime: Runtime,
        clock: Clock,
        *,
        on_decided: Callable[[Attempt, Decision], None],
        on_late_end: Callable[[Attempt], None],
        on_progress: Callable[[Attempt], None],
        redactor: Redactor | None = None,
    ) -> None:
        self._runtime = runtime
        self._clock = clock
        self._on_decided = on_decided
        self._on_late_end = on_late_end
        self._on_progress = on_progress
        self._redactor = redactor or Redactor()
        self._on_ended = self._ended  # one method object for all attempts
        self._deadlines: Deadlines[Attempt] = Deadlines(runtime, clock, self._pass_deadline)

    def start(self, attempt: Attempt) -> None:
        """Start `attempt` on its engine; its end arrives by `on_decided`, always later than this call."""
        record = attempt.record
        try:
            self._runtime.engines[record.engine.kind].start(attempt, self._on_ended)
        except RuntimeError as error:  # no thread to be had
            self._runtime.work_loop.call_soon(self._ended, attempt, None, error)
            return
        if not record.engine.reports_steps:
            self.set_deadline(attempt)

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
        grace = self._runtime.settings.cancel_grace_seconds
        for share in _AGAIN:
            self._runtime.call_later(grace * share, self._interrupt, attempt)
        self._runtime.call_later(grace, self._end_grace, attempt)
        self._interrupt(attempt)

    def close(self) -> None:
        """Stop the timer of deadlines."""
        self._deadlines.close()

    def _interrupt(self, attempt: Attempt) -> None:
        if not attempt.ended:
            self._runtime.engines[attempt.record.engine.kind].interrupt(attempt)

    def _pass_deadline(self, attempt: Attempt) -> None:
        self.ask(attempt, Ask.DEADLINE, TIMEOUT)

    def _end_grace(self, attempt: Attempt) -> None:
        """It would not stop: kill it where the engine can, its end decides then; else give it up."""
        engine = self._runtime.engines[attempt.record.engine.kind]
        if isinstance(engine, KillingEngine) and not attempt.settled and engine.kill(attempt):
            self._runtime.call_later(_KILL_SECONDS, self._abandon, attempt)
        else:
            self._abandon(attempt)

    def _abandon(self, attempt: Attempt) -> None:
        if not attempt.settled:
            self._runtime.engines[attempt.record.engine.kind].abandon(attempt)
            self._settle(attempt, decide_abandoned(attempt))

    def _ended(self, attempt: Attempt, value: object, error: BaseException | None) -> None:
        """The engine says that the code has ended: decide, or drop the result when that is done already."""
        attempt.ended = True
        if not attempt.begun:  # it was asked to stop before its code ran
            attempt.begin()
        if attempt.settled:
            self._on_late_end(attempt)
        else:
            if attempt.record.engine.holds_loop and attempt.asked is None and self._overran_unseen(attempt):
                attempt.ask(Ask.DEADLINE, TIMEOUT, self._clock.monotonic())
            try:
                decision = decide(attempt, value, error, self._redactor)
            except BaseException as broken:  # noqa: BLE001 - its code has ended: the attempt is settled in any case
                decision = decide_undescribed(error, broken)
            self._settle(attempt, decision)
        attempt.release()

    def _overran_unseen(self, attempt: Attempt) -> bool:
        """On the loop's own thread the timer cannot fire during the call, so the overrun is reported afterwards."""
        timeout = attempt.record.timeout
        return timeout is not None and self._clock.monotonic() - attempt.started_at > timeout

    def _settle(self, attempt: Attempt, decision: Decision) -> None:
        attempt.settled = True
        if attempt.deadline is not None:
            self._deadlines.remove(attempt.deadline)
        if attempt.progress_waits:  # the last value is never lost
            self._flush_progress(attempt)
        self._on_decided(attempt, decision)

    def report_progress(self, attempt: Attempt, percent: object, message: str) -> None:
        """Take a progress report, from any thread; at most ten a second reach the record.

        Raises:
            InvalidTaskError: `percent` is not a finite number.
        """
        number = foreign.number(percent)
        if number is None or not -inf < number < inf:
            raise InvalidTaskError("percent", f"{foreign.shown(percent)} is not a number from 0 to 100")
        before = attempt.reported  # of what is coalesced the highest counts, and the newest message
        number = min(100.0, max(0.0, number if before is None else max(before[0], number)))
        # Made fit to show here, where a failure is the reporter's; before looking at the flag, see _flush_progress.
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
            return  # the end of the attempt was quicker
        attempt.progress_waits = False  # before reading: a report from now on schedules again
        attempt.reported_at = self._clock.monotonic()
        self._on_progress(attempt)
