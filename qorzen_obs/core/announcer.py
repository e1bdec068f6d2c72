"""Who is notified of what: observers of events and of ends, the event bus, the streams, and the manager's own log.

Observation never breaks the observed: an observer that raises is dismissed, counted and logged once.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Final

from qorzen_obs import foreign
from qorzen_obs.clock import Clock
from qorzen_obs.core.collaborators import Collaborators
from qorzen_obs.core.decision import shown_text
from qorzen_obs.core.ends import Ends, Resumption
from qorzen_obs.core.event_feed import EventFeed
from qorzen_obs.core.event_ring import EventRing
from qorzen_obs.core.health_checks import CheckResult
from qorzen_obs.core.runtime import Runtime
from qorzen_obs.counts import TaskCounts
from qorzen_obs.record import Attempt, TaskEvent
from qorzen_obs.tasks import EventKind, TaskProgress
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.metrics import TaskMetrics
from qorzen_obs.telemetry.redaction import Redactor

_MAX_PROGRESS_MESSAGE: Final = 500

#: An observer of events, see `TaskManager.observe`. It runs on the work loop and must return at once.
OnEvent = Callable[[TaskEvent], None]


class Announcer:
    """The observers of one manager. Its methods belong to the work loop, except where they say otherwise."""

    def __init__(
        self,
        runtime: Runtime,
        collaborators: Collaborators,
        counts: TaskCounts,
        metrics: TaskMetrics,
        redactor: Redactor,
        *,
        clock: Clock,
        instance: str,
    ) -> None:
        self._clock = clock
        self._runtime = runtime
        self._collaborators = collaborators
        self._logger = collaborators.logger
        self._counts = counts
        self._metrics = metrics
        self._redactor = redactor
        self._sequence = itertools.count(1)
        #: Not announced yet: the fields of a TaskEvent from `kind` on. Code that adds one then calls `announce`.
        self.unannounced: deque[tuple[Any, ...]] = deque()
        self._event: TaskEvent | None = None  # the event that is being announced
        self._left: Iterator[tuple[str, OnEvent]] = iter(())  # the observers that have not had it yet
        self._resumption = Resumption(runtime, self.announce)
        self.observers: dict[EventKind, tuple[tuple[str, OnEvent], ...]] = dict.fromkeys(EventKind, ())
        #: The observers that may look at more than the event.
        self.look_at_once: tuple[OnEvent, ...] = ()
        self.has_dismissed = False  #: an observer has raised
        #: Announcements wait for the rest of a batch; only within one step of the loop.
        self.holds = False
        self.ends = Ends(self._dismiss, runtime)
        self.ring = EventRing(counts, on_wanted=self._ring_wanted, instance=instance)
        self._unwatch_bus: Callable[[], object] = lambda: None
        self.feed = EventFeed(
            collaborators.publish,
            self._logger,
            metrics.dropped,
            drain=collaborators.drain_events,
            before_publishing=self.ends.notify,
        )

    def start(self) -> None:
        """Begin to notify the event bus and the streams, if anybody wants events."""
        self._unwatch_bus = self._collaborators.when_subscribed(self._bus_wanted)
        self._observe_for_ring()
        self.feed.start()

    async def stop(self, deadline_seconds: float) -> None:
        """Publish the queued events within that time, and leave the event bus."""
        await self.feed.stop(deadline_seconds)
        try:
            self._unwatch_bus()
        except BaseException as error:  # noqa: BLE001 - the bus may be foreign
            self.failed("event_bus", error)

    # ------------------------------------------------------------------ events

    def announce(self) -> None:
        """Notify the observers of all due events, in order and each only once, even if this is interrupted."""
        resumption = self._resumption
        while not (resumption.waits or self.holds):
            event = self._event
            if event is None:
                if not self.unannounced:
                    return
                fields = self.unannounced[0]
                self._left = iter(self.observers[fields[0]])
                self._event = event = TaskEvent(next(self._sequence), *fields)
                del self.unannounced[0]
            for observer in self._left:
                try:
                    observer[1](event)
                except BaseException as error:  # noqa: BLE001 - observation must not break the observed
                    left, self._left = self._left, itertools.chain((observer,), self._left)
                    if resumption.of(error):
                        return
                    self._left = left
                    self.stop_observing(observer[1])
                    self._dismiss(observer[0], error)
            self._event = None
            if resumption.repeated:
                resumption.over()

    def forget_last(self, task_ids: Collection[str]) -> None:
        """Drop the announcements of these tasks, which came last and whose submission is undone."""
        while self.unannounced and self.unannounced[-1][2].task_id in task_ids:
            self.unannounced.pop()

    def progressed(self, attempt: Attempt) -> None:
        """Put the newest progress of an attempt on its record, where it never decreases, and announce it."""
        record, state, wall = attempt.record, attempt.record.state, self._clock.now()
        assert attempt.reported is not None
        percent, message = attempt.reported
        record.progress = TaskProgress(
            max(record.progress.percent, float(percent)),
            shown_text(self._redactor.head(message, _MAX_PROGRESS_MESSAGE), _MAX_PROGRESS_MESSAGE),
            wall,
        )
        if self.observers[EventKind.PROGRESS]:
            self.unannounced.append((EventKind.PROGRESS, wall, record, state, record.progress, state.status))
            self.announce()

    def observe(
        self, name: str, on_event: OnEvent, kinds: Iterable[EventKind], *, first: bool = False
    ) -> None:
        """Call `on_event` with each event of these kinds, after spans, metrics and log have had earlier ends."""
        self.collect(name, on_event, kinds, first=first)
        self.look_at_once += (on_event,)

    def collect(
        self, name: str, on_event: OnEvent, kinds: Iterable[EventKind] = EventKind, *, first: bool = False
    ) -> None:
        """As `observe`, for an observer that keeps the event and looks at nothing else until a later turn."""
        one = ((name, on_event),)
        for kind in kinds:
            others = self.observers[kind]
            self.observers[kind] = one + others if first else others + one

    def stop_observing(self, on_event: OnEvent) -> None:
        """Undo an `observe`; without one, nothing changes."""
        for kind, observers in self.observers.items():
            self.observers[kind] = tuple(one for one in observers if not foreign.same(one[1], on_event))
        self.look_at_once = tuple(one for one in self.look_at_once if not foreign.same(one, on_event))

    def _bus_wanted(self, wanted: bool) -> None:
        self.stop_observing(self.feed.on_event)
        if wanted:
            self.collect("event_bus", self.feed.on_event)

    def _ring_wanted(self) -> None:
        """React when somebody begins or stops listening to the event ring; from any thread."""
        loop = self._runtime.loop
        if loop is not None:  # else `start` looks
            with contextlib.suppress(RuntimeError):  # the loop is closed: there are no more events
                loop.call_soon_threadsafe(self._observe_for_ring)

    def _observe_for_ring(self) -> None:
        ring = self.ring
        if ring.wanted and not ring.keeps:
            self.collect("stream", ring.on_event, first=True)
            ring.begin(next(self._sequence) if self._counts.version else 0)
        elif ring.keeps and not ring.wanted:
            self.stop_observing(ring.on_event)
            ring.end()

    # ------------------------------------------------------------------ failures, and the manager's own lines

    def _dismiss(self, observer: str, error: BaseException) -> None:
        self.has_dismissed = True
        self.failed(observer, error)

    def failed(self, component: str, error: BaseException) -> None:
        """Count a failure of observation itself; log the first of each component. From any thread."""
        self._metrics.telemetry_errors[component] += 1
        if self._metrics.telemetry_errors[component] == 1:
            shown = self._redactor.text(foreign.shown(error))
            self.say(self._logger.error, names.LOG_OBSERVER_FAILED, component=component, error=shown)

    def backoff_failed(self, task_id: str, error: str) -> None:
        """Count and log that a definition's backoff raised, or did not return a number of seconds."""
        self._metrics.telemetry_errors["backoff"] += 1
        self.say(
            self._logger.error, names.LOG_BACKOFF_FAILED, task_id=task_id, error=self._redactor.text(error)
        )

    def disagree(self, problems: Iterable[str], number: int) -> None:
        """Count and log that tables of the manager disagree in `number` places, some of which are described."""
        self._metrics.telemetry_errors["consistency"] += number
        for problem in problems:
            self.say(self._logger.error, names.LOG_INCONSISTENT, problem=problem)

    def say(self, write: Callable[..., object], event: str, **fields: object) -> None:
        """Write one of the manager's own lines. A failing logger is counted and stops nothing."""
        try:
            write(event, **fields)
        except BaseException:  # noqa: BLE001 - observation must not break the observed
            self._metrics.telemetry_errors["log"] += 1

    def health_check_changed(self, check: str, result: CheckResult) -> None:
        """Log that a health check of the program began to fail, or passes again; from any thread."""
        self.say(
            self._logger.info if result.passed else self._logger.warning,
            names.LOG_HEALTH_CHECK,
            check=check,
            passed=result.passed,
            output=result.output,
            seconds=round(result.seconds, 6),
        )

    def count_dropped_reports(self, reports: int) -> None:
        """Count the reports that worker processes could not deliver."""
        self._metrics.dropped["worker_report"] += reports
