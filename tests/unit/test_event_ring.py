"""The ring of events: what a reader gets is gapless or nothing, and its counts are those after a named event."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qorzen_obs.core.event_ring import CAPACITY, EventRing
from qorzen_obs.counts import CELLS, CountsView, TaskCounts
from qorzen_obs.record import ACCEPTED, NO_PROGRESS, TaskEvent, TaskRecord, TaskState
from qorzen_obs.tasks import ENDED, LEGAL_TRANSITIONS, EventKind, TaskStatus
from tests.support import record

KINDS = {**ENDED, TaskStatus.RUNNING: EventKind.STARTED, TaskStatus.PENDING: EventKind.RETRYING}


class Announcer:
    """Moves tasks through their states as the manager does: counted first, then announced."""

    def __init__(self, ring: EventRing, counts: TaskCounts, seed: int) -> None:
        self._ring = ring
        self._counts = counts
        self._random = random.Random(seed)
        self._sequence = 0
        self._live: dict[str, TaskRecord] = {}
        self._made = 0

    def go_on(self) -> None:
        """Let one thing happen."""
        if not self._live or self._random.random() < 0.3:
            self._submit()
        elif self._random.random() < 0.2:
            one = self._random.choice(list(self._live.values()))
            self._announce(EventKind.PROGRESS, one, one.state.status)
        else:
            self._move(self._random.choice(list(self._live.values())))

    def _submit(self) -> None:
        self._made += 1
        one = record(task_id=f"task-{self._made}", cell=self._random.randrange(len(CELLS)))
        self._live[one.task_id] = one
        self._counts.accept(one.cell)
        self._announce(EventKind.SUBMITTED, one, None)

    def _move(self, one: TaskRecord) -> None:
        before = one.state.status
        status = self._random.choice(sorted(LEGAL_TRANSITIONS[before]))
        one.state = TaskState(status)
        self._counts.move(one.cell, before, status)
        self._announce(KINDS[status], one, before)
        if status.final:
            del self._live[one.task_id]

    def skip(self) -> int:
        """Take a number for no event."""
        self._sequence += 1
        return self._sequence

    def _announce(self, kind: EventKind, one: TaskRecord, previous: TaskStatus | None) -> None:
        self._sequence += 1
        self._ring.on_event(TaskEvent(self._sequence, kind, 0.0, one, one.state, NO_PROGRESS, previous))


class Folder:
    """Follows a ring as a stream does: a snapshot, then events; another snapshot when some are gone."""

    def __init__(self, ring: EventRing) -> None:
        self._ring = ring
        self.resets = -1
        self.start_over()

    def start_over(self) -> None:
        self.resets += 1
        self.place, counts = self._ring.counted()
        self.counts = Counter({status.value: n for status, n in counts.by_status().items()})

    def look(self, limit: int) -> None:
        events = self._ring.since(self.place, limit)
        if events is None:
            self.start_over()
            return
        for event in events:
            assert event.sequence == self.place + 1
            self.place = event.sequence
            self._fold(event)

    def _fold(self, event: TaskEvent) -> None:
        if event.kind is not EventKind.PROGRESS:
            if event.previous is not None:
                self.counts[event.previous.value] -= 1
            self.counts[event.state.status.value] += 1

    def catch_up(self) -> None:
        while self.place < self._ring.last:
            self.look(1_000)


def followed(capacity: int = CAPACITY) -> tuple[EventRing, TaskCounts]:
    counts = TaskCounts()
    ring = EventRing(counts, capacity)
    ring.begin(0)
    return ring, counts


def sums(counts: TaskCounts) -> Counter[str]:
    return Counter({status.value: n for status, n in counts.read().by_status().items()})


@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 20)), max_size=60), seed=st.integers(0, 10_000)
)
def test_a_snapshot_and_the_events_after_it_add_up_to_the_counts(
    steps: list[tuple[int, int]], seed: int
) -> None:
    ring, counts = followed(capacity=16)
    announcer = Announcer(ring, counts, seed)
    folders: list[Folder] = []
    for what, number in steps:
        match what:
            case 0:
                for _ in range(number):
                    announcer.go_on()
            case 1:
                folders.append(Folder(ring))
            case _:
                for folder in folders:
                    folder.look(number)
    for folder in folders:
        folder.catch_up()
        assert folder.counts == sums(counts)


@pytest.mark.parametrize("seed", range(5))
def test_readers_on_other_threads_add_up_to_the_counts(seed: int) -> None:
    ring, counts = followed(capacity=256)
    announcer = Announcer(ring, counts, seed)
    resting = threading.Event()
    folders: list[Folder] = []

    def read() -> None:
        choose = random.Random(seed)
        folder = Folder(ring)
        folders.append(folder)
        while not resting.is_set():
            if choose.random() < 0.05:
                folder.start_over()
            folder.look(choose.randrange(1, 40))
        folder.catch_up()

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5_000):
        announcer.go_on()
    resting.set()
    for thread in threads:
        thread.join()
    assert [folder.counts for folder in folders] == [sums(counts)] * 3


class MetHalfWay(TaskCounts):
    """Counters that a reader meets when a task was counted and not yet announced, and then once more."""

    def __init__(self) -> None:
        super().__init__()
        self.announce: Callable[[], None] = lambda: None
        self._readings = 0

    def read(self) -> CountsView:
        self._readings += 1
        if self._readings == 1:
            self.accept(0)
        elif self._readings == 2:
            self.announce()
        return super().read()


def test_a_reader_that_meets_a_transition_half_way_reads_again() -> None:
    counts = MetHalfWay()
    ring = EventRing(counts)
    ring.begin(0)
    event = TaskEvent(1, EventKind.SUBMITTED, 0.0, record(), ACCEPTED, NO_PROGRESS, None)
    counts.announce = lambda: ring.on_event(event)
    sequence, view = ring.counted()
    assert (sequence, view.total) == (1, 1)


def test_what_is_overwritten_is_gone_and_the_rest_is_there() -> None:
    ring, counts = followed(capacity=4)
    announcer = Announcer(ring, counts, 0)
    for _ in range(10):
        announcer.go_on()
    assert ring.since(5, 100) is None
    events = ring.since(6, 100)
    assert events is not None
    assert [event.sequence for event in events] == [7, 8, 9, 10]
    assert ring.since(6, 2) == events[:2]
    assert ring.since(10, 100) == []


def test_what_went_by_while_nobody_listened_is_lost_and_the_counts_go_on() -> None:
    ring, counts = followed()
    announcer = Announcer(ring, counts, 0)
    announcer.go_on()
    assert ring.since(0, 1) is not None
    ring.end()
    assert ring.since(0, 1) is None
    counts.accept(0)  # which nobody announces
    sequence, view = ring.counted()
    assert (sequence, view.total) == (1, 2)
    ring.begin(announcer.skip())
    assert ring.since(1, 10) is None, "somebody who knew all may have missed something"
    assert ring.counted() == (2, view)
    announcer.go_on()
    assert [event.sequence for event in ring.since(2, 10) or []] == [3]


def test_it_is_said_from_when_on_events_are_kept_and_whether_they_are_wanted() -> None:
    told: list[bool] = []
    ring = EventRing(TaskCounts(), on_wanted=lambda: told.append(ring.wanted))
    begun = ring.listen("one")
    ring.listen("another")
    ring.leave("one")
    ring.leave("another")
    assert told == [True, True, True, False]
    assert not begun.done()
    ring.begin(0)
    assert begun.done()
    assert ring.keeps
    ring.end()
    assert not ring.listen("one").done()


def test_the_ring_keeps_no_result_no_exception_and_no_arguments_alive() -> None:
    class Large:
        pass

    ring, counts = followed()
    held = Large(), ValueError("large"), Large()
    of = [weakref.ref(held[0]), weakref.ref(held[2])]
    one = record(print, held[2], metadata={"key": "value"})
    counts.accept(one.cell)
    ring.on_event(TaskEvent(1, EventKind.SUBMITTED, 0.0, one, ACCEPTED, NO_PROGRESS, None))
    state = TaskState(TaskStatus.FAILED, error="broken", traceback="…", result=held[0], exception=held[1])
    ring.on_event(TaskEvent(2, EventKind.FAILED, 0.0, one, state, NO_PROGRESS, TaskStatus.RUNNING))
    del held, one, state
    gc.collect()
    assert [reference() for reference in of] == [None, None]
    _, event = ring.since(0, 10) or []
    assert (event.state.error, event.state.exception, event.state.traceback) == ("broken", None, None)
    assert (event.info.error, event.info.metadata) == ("broken", {})


def test_an_observer_that_was_dismissed_keeps_no_reader_waiting() -> None:
    ring, counts = followed()
    counts.accept(0)
    sequence, view = ring.counted()
    assert (sequence, view.total) == (0, 1)
