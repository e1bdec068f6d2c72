"""The time ledger: each moment of a task's life belongs to one phase, so the phases add up to the whole.

Pure: the caller passes the time. A transition books the time since the previous one, with the same clock reading that
durations and eligibility use. The time that a task uses is measured; the remaining time is waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from qorzen_obs.engines.traits import EngineTraits

#: Seconds by phase, without phases of 0; telemetry/names.py explains each. Never changed once created.
Seconds = Mapping[str, float]
NO_SECONDS: Final[Seconds] = MappingProxyType({})


class Ledger(msgspec.Struct, frozen=True, gc=False):
    """Where the time of one task went, up to its last transition."""

    until: float  #: monotonic
    seconds: Seconds = NO_SECONDS

    def waiting(self, now: float, eligible_at: float, *, before: int) -> Seconds:
        """Return the phases of the time since then, for a task that was pending after `before` attempts.

        >>> Ledger(10.0).waiting(15.0, 12.0, before=0)
        {'scheduled': 2.0, 'queued': 3.0}
        """
        turn = min(max(self.until, eligible_at), now)
        return _some({"retry_wait" if before else "scheduled": turn - self.until, "queued": now - turn})

    def plus(self, now: float, seconds: Seconds) -> Ledger:
        """Return the ledger plus these `seconds`, which reach up to `now`.

        >>> Ledger(5.0, {"queued": 2.0}).plus(9.0, {"loop": 3.0, "await": 1.0}).seconds
        {'queued': 2.0, 'loop': 3.0, 'await': 1.0}
        """
        if not self.seconds:  # nothing was waited for
            return Ledger(now, seconds)
        total = dict(self.seconds)
        for phase, more in seconds.items():
            total[phase] = total.get(phase, 0.0) + more
        return Ledger(now, total)


class Meter(msgspec.Struct, eq=False, gc=False):
    """The time that one attempt uses, as its engine reports it.

    One thread writes, any thread reads. A reader that catches a change half done is wrong by one step at most.
    """

    clock: Callable[[], float]  #: the manager's monotonic clock
    use_seconds: float = 0.0  #: seconds on the loop, or of a processor
    #: since when it has been on the loop; that time is not in `use_seconds` yet
    use_since: float | None = None
    probe: Callable[[], float] | None = None  #: returns how much a running call has used so far
    call_since: float | None = None  #: when its call began in a worker process
    call_seconds: float | None = None  #: how long that call took

    def phases(self, engine: EngineTraits, elapsed: float, now: float) -> dict[str, float]:
        """Return the phases of `elapsed` seconds of the attempt, up to `now`.

        >>> from qorzen_obs.engines.traits import LOOP
        >>> meter = Meter(lambda: 0.0)
        >>> meter.use_seconds = 1.5
        >>> meter.phases(LOOP, 4.0, 4.0)
        {'loop': 1.5, 'await': 2.5}
        """
        use, wait = engine.use_phase, engine.wait_phase
        used, since, probe = self.use_seconds, self.use_since, self.probe
        if probe is not None:
            used = probe()
        elif since is not None:
            used += max(0.0, now - since)  # another thread may have read the clock before it began
        if not engine.measures_transfer:
            if 0.0 < used < elapsed:
                return {use: used, wait: elapsed - used}
            # Two clocks disagree, the call has started threads, or no time has passed.
            return _some({use: min(used, elapsed), wait: elapsed - min(used, elapsed)})
        call = self.call_seconds
        if call is None:  # it runs, or was killed
            call = 0.0 if self.call_since is None else max(0.0, now - self.call_since)
        call = min(call, elapsed)
        used = min(used, call)
        return _some({use: used, wait: call - used, "transfer": elapsed - call})


def _some(seconds: Seconds) -> dict[str, float]:
    return {phase: some for phase, some in seconds.items() if some}
