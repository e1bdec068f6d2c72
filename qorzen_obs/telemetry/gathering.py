"""Reads the collectors of registries in isolation: one that fails or hangs does not affect the others.

A collector is the program's code. It may raise anything, yield something other than a metric, or block. Only this
package's own collectors are read in the caller's thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, Protocol, TypeVar

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import InfoMetricFamily

from qorzen_obs import foreign

T = TypeVar("T")

#: How long a reading waits for foreign collectors, once ours are read.
PATIENCE_SECONDS: Final = 0.5
#: How long one of the program's collectors may delay the others; then another thread continues with them.
_TURN_SECONDS: Final = 0.025
_LEAST_TURN_SECONDS: Final = 0.002


class Source(Protocol):
    """A collector, or a registry of collectors."""

    def collect(self) -> Iterable[Metric]: ...


class Gathering:
    """Reads registries, one reading at a time; from any thread.

    Names in the first registry are left out of the others. A collector that still hangs is not called again, so it
    occupies only one thread, however often somebody reads. `on_error` gets each failure of each reading.
    """

    def __init__(
        self,
        *registries: Source,
        on_error: Callable[[BaseException], object] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._registries = registries
        self._on_error = on_error
        self._patience_seconds = patience_seconds
        self._one_at_a_time = threading.Lock()
        self._hanging: dict[int, _Reading[Any]] = {}  # by the collector's identity
        self.trouble: Sequence[str] = ()  #: the failures of the last reading, one text each

    def gather(self, read: Callable[[Metric], T]) -> list[T]:
        """Return the result of `read` for every family; one on which it raises is left out and counts as a failure.

        `read` is called in several threads.
        """
        with self._one_at_a_time:
            rows = self._readings(read)
            readings = [reading for row in rows for reading in row]
            crew = _Crew(reading for reading in readings if not reading.ours)
            for reading in readings:
                if reading.ours:
                    reading.run()
            crew.finish(self._patience_seconds)
            self._judge(readings)
            return list(_merged(rows))

    def _readings(self, read: Callable[[Metric], T]) -> list[list[_Reading[T]]]:
        """Return the collectors to read, by registry; one that is in two registries only once."""
        self._hanging = {key: reading for key, reading in self._hanging.items() if not reading.ended}
        known: set[int] = set()
        rows: list[list[_Reading[T]]] = []
        for registry in self._registries:
            row = []
            for collector in _collectors_of(registry):
                if id(collector) not in known:
                    known.add(id(collector))
                    row.append(_Reading(collector, read, self._hanging.get(id(collector))))
            rows.append(row)
        return rows

    def _judge(self, readings: Sequence[_Reading[Any]]) -> None:
        """Give up unfinished collectors, and report the failures."""
        trouble = []
        for reading in readings:
            reading.give_up()
            if reading.begun and not reading.ended:
                self._hanging.setdefault(id(reading.collector), reading)
            error = reading.error
            if error is not None:
                trouble.append(
                    f"metrics: the collector {foreign.full_name(type(reading.collector))} {reading.problem}"
                )
                if self._on_error is not None:
                    self._on_error(error)
        self.trouble = trouble


class _Reading(Generic[T]):
    """One reading of one collector."""

    def __init__(
        self, collector: Source, read: Callable[[Metric], T], earlier: _Reading[Any] | None = None
    ) -> None:
        self.collector = collector
        self.ours = foreign.full_name(type(collector)).startswith("qorzen_obs.")
        self.found: list[tuple[str, T]] = []
        self.error: BaseException | None = None
        self.begun = self.ended = False
        self.problem = ""
        self._read = read
        self._earlier = earlier  # it still hangs
        self._begun_at = time.monotonic()
        self._given_up = False

    def run(self) -> None:
        """Read the collector, unless it still hangs."""
        if self._earlier is not None:
            return
        self._begun_at = time.monotonic()
        self.begun = True
        try:
            for family in self.collector.collect():
                if self._given_up:
                    break
                self._take(family)
        except BaseException as error:  # noqa: BLE001 - its failure only concerns itself
            self._note(error)
        self.ended = True

    def _take(self, family: Metric) -> None:
        try:
            read = self._read(family)
            self.found.append((foreign.text(family.name), read))
        except BaseException as error:  # noqa: BLE001 - an object that is not a metric may raise anything when inspected
            self._note(error)

    def _note(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
            self.problem = f"raised {foreign.kind_name(type(error))}"

    def give_up(self) -> None:
        """Take no more from it; the thread that reads it continues until the collector returns."""
        if self.ended:
            return
        self._given_up = True
        self.found = []
        since = self._begun_at if self._earlier is None else self._earlier._begun_at
        self.problem = f"has not answered for {time.monotonic() - since:.1f} s"
        self.error = TimeoutError(f"the collector {foreign.full_name(type(self.collector))} {self.problem}")


class _Crew:
    """Threads that read collectors from one list; when one is delayed, another continues with the rest."""

    def __init__(self, row: Iterable[_Reading[Any]]) -> None:
        self._row = deque(row)
        self._left = len(self._row)
        self._changed = threading.Condition()
        if self._row:
            self._join()

    def _join(self) -> None:
        # the process cannot start a thread: unread collectors count as not answering
        with suppress(RuntimeError):
            threading.Thread(target=self._work, name="qorzen-collect", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                reading = self._row.popleft()
            except IndexError:
                return
            reading.run()
            with self._changed:
                self._left -= 1
                self._changed.notify_all()

    def finish(self, patience_seconds: float) -> None:
        """Wait until all are read or the time is over; afterwards no collector is started."""
        deadline, turn_seconds = time.monotonic() + patience_seconds, _TURN_SECONDS
        with self._changed:
            while self._left and (remaining := deadline - time.monotonic()) > 0:
                before = self._left
                turn = min(remaining, turn_seconds) if self._row else remaining
                self._changed.wait_for(lambda before=before: self._left != before, turn)  # type: ignore[misc]
                if self._left == before and self._row:
                    turn_seconds = max(_LEAST_TURN_SECONDS, turn_seconds / 2)  # if one hangs, many may
                    self._join()
        self._row.clear()


def _collectors_of(registry: Source) -> list[Source]:
    """Return the collectors of one of the client's registries, in order; anything else is itself a collector."""
    if not isinstance(registry, CollectorRegistry):
        return [registry]
    # The client has no public access to single collectors. Its lock is not used, since the client holds it while a
    # newly registered collector describes itself; copying a dictionary is one step.
    return [_TargetInfo(registry), *list[Source](registry._collector_to_names)]


class _TargetInfo:
    """A registry's own information about the program; https://prometheus.io/docs/specs/om/."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        if labels := self._registry._target_info:
            yield InfoMetricFamily("target", "Target metadata", value=labels)


def _merged(rows: Iterable[Iterable[_Reading[T]]]) -> Iterator[T]:
    """Yield the results; each name comes from the first registry that has it."""
    known: set[str] = set()
    for row in rows:
        of_row = set()
        for reading in row:
            for name, read in reading.found:
                if name not in known:
                    of_row.add(name)
                    yield read
        known |= of_row
