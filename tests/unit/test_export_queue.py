"""The export queue alone: bounded, counted to the last item, and gone when it is told to go."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qorzen_obs.clock import SystemClock
from qorzen_obs.errors import SettingsError
from qorzen_obs.telemetry.export import DEFAULT_QUEUE_SIZE, BatchLimits, ExportQueue
from tests.support import PATIENCE_SECONDS

Send = Callable[[Sequence[int]], int]
SOON = BatchLimits(queue_size=10, batch_size=4, delay_seconds=0.001)
NEVER = BatchLimits(queue_size=10, batch_size=4, delay_seconds=1_000.0)


class Clock:
    """Stands still."""

    at = 0.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Make:
    """Makes queues, which end with the test."""

    def __init__(self) -> None:
        self.made: list[ExportQueue[int]] = []

    def __call__(
        self,
        send: Send,
        limits: BatchLimits = NEVER,
        *,
        close: Callable[[], None] | None = None,
        on_tick: Callable[[], None] | None = None,
    ) -> ExportQueue[int]:
        self.made.append(ExportQueue("test", send, limits, clock=SystemClock(), close=close))
        self.made[-1].start(on_tick)
        return self.made[-1]


@pytest.fixture
def make() -> Iterator[Make]:
    make = Make()
    yield make
    for queue in make.made:
        queue.shutdown(PATIENCE_SECONDS)


def fates(queue: ExportQueue[int]) -> tuple[int, int, int, int]:
    return queue.exported, queue.failed, queue.dropped_full, queue.dropped_shutdown


def test_items_arrive_in_order_and_in_batches(make: Make) -> None:
    batches: list[list[int]] = []

    def send(batch: Sequence[int]) -> int:
        batches.append(list(batch))
        return 0

    queue = make(send)
    queue.put(range(3))
    assert queue.size == 3, "less than a batch waits for the delay"
    queue.put(range(3, 10))
    assert queue.flush(PATIENCE_SECONDS)
    assert [item for batch in batches for item in batch] == list(range(10))
    assert max(map(len, batches)) == 4
    assert fates(queue) == (10, 0, 0, 0)
    assert queue.last_export_at > 0


def test_what_an_exporter_refuses_or_raises_on_is_failed(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def send(batch: Sequence[int]) -> int:
        if batch[0] == 8:
            raise ConnectionError("gone")
        return 1

    queue = make(send)
    queue.put(range(10))
    assert queue.flush(PATIENCE_SECONDS)
    assert fates(queue) == (6, 4, 0, 0)
    queue.put([8])
    assert queue.flush(PATIENCE_SECONDS)
    assert queue.failed == 5
    assert caplog.text.count("gone") <= 3, "one line, with its traceback, a minute"
    assert len(caplog.records) == 1


def test_a_flush_is_bounded_by_its_timeout(make: Make) -> None:
    release = threading.Event()
    queue = make(lambda batch: 0 if release.wait(PATIENCE_SECONDS) else 1)
    queue.put([1])
    assert queue.flush(0.01) is False
    release.set()
    assert queue.flush(PATIENCE_SECONDS) is True


def test_a_shutdown_sends_what_waits_then_closes_and_takes_no_more(make: Make) -> None:
    closed: list[bool] = []
    queue = make(lambda batch: 0, close=lambda: closed.append(True))
    queue.put(range(3))
    assert queue.shutdown(PATIENCE_SECONDS) is True
    assert queue.shutdown(PATIENCE_SECONDS) is True
    queue.put([1, 2])
    assert fates(queue) == (3, 0, 0, 2)
    assert closed == [True]


def test_what_is_given_up_is_counted_once_even_when_it_arrives_after_all(make: Make) -> None:
    entered, release, closed = threading.Event(), threading.Event(), threading.Event()

    def send(batch: Sequence[int]) -> int:
        entered.set()
        release.wait(PATIENCE_SECONDS)
        return 0

    queue = make(send, close=closed.set)
    queue.put(range(9))
    assert entered.wait(PATIENCE_SECONDS)
    assert queue.shutdown(0.01) is False
    assert fates(queue) == (0, 0, 0, 9)
    assert closed.wait(PATIENCE_SECONDS), "closing it is what may end what it is stuck in"
    assert queue.flush(0.01) is False
    release.set()
    assert queue.shutdown(PATIENCE_SECONDS) is False
    assert (fates(queue), queue.size) == ((0, 0, 0, 9), 0)


def test_it_ticks_while_nothing_happens_and_survives_a_tick_that_raises(make: Make) -> None:
    ticks, twice = [0], threading.Event()

    def tick() -> None:
        ticks[0] += 1
        if ticks[0] == 1:
            raise ValueError("once")
        twice.set()

    make(lambda batch: 0, SOON, on_tick=tick)
    assert twice.wait(PATIENCE_SECONDS)


def test_a_queue_that_never_started_counts_what_it_holds_and_closes_its_exporter() -> None:
    closed = threading.Event()
    queue: ExportQueue[int] = ExportQueue("test", lambda _: 0, NEVER, clock=SystemClock(), close=closed.set)
    queue.put([1, 2])
    assert not queue.shutdown(PATIENCE_SECONDS)
    assert closed.wait(PATIENCE_SECONDS)
    assert fates(queue) == (0, 0, 0, 2)


@given(
    st.lists(st.lists(st.integers(), max_size=15), max_size=10),
    st.lists(st.sampled_from(["all", "none", "one", "raise"]), min_size=1, max_size=10),
)
def test_every_item_has_exactly_one_fate(puts: list[list[int]], answers: list[str]) -> None:
    answer = iter(answers * 100)

    def send(batch: Sequence[int]) -> int:
        match next(answer):
            case "none":
                return len(batch)
            case "one":
                return 1
            case "raise":
                raise ConnectionError
        return 0

    queue: ExportQueue[int] = ExportQueue("test", send, NEVER, clock=SystemClock())
    queue.start()
    for items in puts:
        queue.put(items)
        assert queue.size <= queue.limit
    queue.shutdown(PATIENCE_SECONDS)
    assert sum(fates(queue)) == sum(map(len, puts))
    assert queue.size == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("closed", [False, True])
def test_a_forked_process_sends_nothing_by_its_parents_connection_and_counts_it(
    make: Make, closed: bool
) -> None:
    sent: list[int] = []

    def send(batch: Sequence[int]) -> int:
        sent.extend(batch)
        return 0

    queue = make(send)
    queue.put([1, 2])
    if closed:
        assert queue.shutdown(PATIENCE_SECONDS)
    child = os.fork()
    if child == 0:
        before = list(sent)
        queue.put([3])
        good = queue.flush(PATIENCE_SECONDS) and queue.shutdown(PATIENCE_SECONDS)
        good = good and (sent, queue.size, queue.dropped_shutdown) == (before, 0, 1) and queue._closing
        os._exit(0 if good else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert queue.flush(PATIENCE_SECONDS)
    assert sent == [1, 2]


def test_the_variables_of_the_specification_hold() -> None:
    asked = {
        "OTEL_BSP_MAX_QUEUE_SIZE": "50",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "7",
        "OTEL_BSP_SCHEDULE_DELAY": "250",
    }
    limits = BatchLimits.from_environment(asked)
    assert (limits.queue_size, limits.batch_size, limits.delay_seconds) == (50, 7, 0.25)
    assert BatchLimits.from_environment({}) == BatchLimits()
    assert BatchLimits().queue_size == DEFAULT_QUEUE_SIZE
    assert BatchLimits.from_environment({"OTEL_BSP_MAX_QUEUE_SIZE": "9"}).batch_size == 9


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
@pytest.mark.parametrize("name", ["MAX_QUEUE_SIZE", "MAX_EXPORT_BATCH_SIZE", "SCHEDULE_DELAY"])
def test_a_bad_variable_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"OTEL_BSP_{name}"):
        BatchLimits.from_environment({f"OTEL_BSP_{name}": value})


def test_it_tells_its_trouble_while_nothing_is_taken_and_not_after(make: Make) -> None:
    answers = iter([0, 2, 1, 0])
    queue = make(lambda _: next(answers))
    told = []
    for _ in range(4):
        queue.put([1, 2])
        queue.flush(PATIENCE_SECONDS)
        told.append(queue.trouble)
    assert told == [None, "export test: the collector did not take the last batch", None, None]


def test_a_queue_that_was_full_is_trouble_for_a_minute(make: Make) -> None:
    clock = Clock()
    queue: ExportQueue[int] = ExportQueue("test", lambda _: 0, NEVER, clock=clock)
    make.made.append(queue)
    queue.start()
    queue.put(range(20))
    queue.flush(PATIENCE_SECONDS)
    assert queue.trouble == ("export test: the queue was full within the last minute, and some were dropped")
    clock.at += 61
    assert queue.trouble is None


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_an_exporter_that_exits_loses_its_batch_and_no_other(make: Make, error: BaseException) -> None:
    sent: list[int] = []

    def send(batch: Sequence[int]) -> int:
        if 1 in batch:
            raise error
        sent.extend(batch)
        return 0

    def tick() -> None:
        raise error

    queue = make(send, SOON, on_tick=tick)
    queue.put(range(8))
    assert not queue.shutdown(PATIENCE_SECONDS)  # one was not taken
    assert sorted(sent) == [0, 2, 3, 4, 5, 6, 7]
    assert fates(queue) == (7, 1, 0, 0)
