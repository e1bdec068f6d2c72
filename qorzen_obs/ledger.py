"""The time ledger: each moment of a task's life belongs to one phase, so that the phases sum to the whole.

Pure: the caller gives the time. A transition books the time since the one before it, with the same reading of the clock
that durations and eligibility come from. What is measured is what a task uses; waits are what remains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from qorzen_obs.engines.traits import EngineTraits

#: Seconds by phase, of those that took any; what each means stands in telemetry/names.py. Never changed once made.
Seconds = Mapping[str, float]
NO_SECONDS: Final[Seconds] = MappingProxyType({})


class Ledger(msgspec.Struct, frozen=True, gc=False):
    """Where the time of one task went, up to its last transition."""

    until: float  #: monotonic
    seconds: Seconds = NO_SECONDS

    def waiting(self, now: float, eligible_at: float, *, before: int) -> Seconds:
        """Return where the time since then went of a task that was pending, after `before` attempts.

        >>> Ledger(10.0).waiting(15.0, 12.0, before=0)
        {'scheduled': 2.0, 'queued': 3.0}
        """
        turn = min(max(self.until, eligible_at), now)
        return _some({"retry_wait" if before else "scheduled": turn - self.until, "queued": now - turn})

    def plus(self, now: float, seconds: Seconds) -> Ledger:
        """Return the ledger with these `seconds`, which reach up to `now`.

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
    """What one attempt uses, as its engine tells it.

    One thread writes, any reads: a reader that meets a change half done is wrong by one step at most.
    """

    clock: Callable[[], float]  #: monotonic, of the manager
    use_seconds: float = 0.0  #: on the loop, or of a processor
    use_since: float | None = None  #: since when it is on the loop, which is not in `use_seconds` yet
    probe: Callable[[], float] | None = None  #: asks how much a call has used that still runs
    call_since: float | None = None  #: when its call began in a worker process
    call_seconds: float | None = None  #: how long that took

    def phases(self, engine: EngineTraits, elapsed: float, now: float) -> dict[str, float]:
        """Return where `elapsed` seconds of the attempt went, up to `now`.

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
            # Two clocks, the threads that a call has started, or no time at all.
            return _some({use: min(used, elapsed), wait: elapsed - min(used, elapsed)})
        call = self.call_seconds
        if call is None:  # it runs, or was killed
            call = 0.0 if self.call_since is None else max(0.0, now - self.call_since)
        call = min(call, elapsed)
        used = min(used, call)
        return _some({use: used, wait: call - used, "transfer": elapsed - call})


def _some(seconds: Seconds) -> dict[str, float]:
    return {phase: some for phase, some in seconds.items() if some}
