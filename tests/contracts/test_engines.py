"""What every engine does, wherever it runs its callables."""

import asyncio
import contextvars
import ctypes
import gc
import os
import socket
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from types import FrameType, ModuleType
from typing import Any, Self

import pytest

from qorzen_obs.engines import loop as loop_engine
from qorzen_obs.engines.base import Engine, KillingEngine
from qorzen_obs.engines.choice import EngineChoice
from qorzen_obs.engines.external import ExternalEngine
from qorzen_obs.engines.loop import LoopEngine
from qorzen_obs.engines.main import MainEngine
from qorzen_obs.engines.processes.engine import ProcessEngine
from qorzen_obs.engines.threads import ThreadEngine
from qorzen_obs.engines.traits import ENGINES, EXTERNAL, IO, LOOP, MAIN, PROCESS, THREAD, EngineTraits, Place
from qorzen_obs.errors import FarTaskError, TaskCancelled
from qorzen_obs.ledger import Meter
from qorzen_obs.record import Ask, Attempt
from qorzen_obs.tasks import CancelGuarantee, EngineKind, TaskCategory
from qorzen_obs.telemetry import names
from tests import support
from tests.support import ThreadGate, turns, until

ENGINES_FOLDER = os.path.dirname(loop_engine.__file__)  # noqa: PTH120 - compared with names of files
COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


async def run_in_thread(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A foreign concurrency manager's: a plain thread and a future."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def work() -> None:
        value, error = None, None
        try:
            value = func(*args, **kwargs)
        except BaseException as caught:  # noqa: BLE001 - a thread's top
            error = caught
        loop.call_soon_threadsafe(set_outcome, future, value, error)

    threading.Thread(target=work, name="foreign", daemon=True).start()
    return await carried(future)


def set_outcome(future: asyncio.Future[Any], value: object, error: BaseException | None) -> None:
    if not future.done():
        future.set_result((value, error))


async def carried(future: asyncio.Future[Any]) -> Any:
    value, error = await future
    if error is not None:
        raise error
    return value


MAKE: dict[str, Callable[[asyncio.AbstractEventLoop], Engine]] = {
    LOOP.kind: LoopEngine,
    IO.kind: lambda loop: ThreadEngine(loop, IO, 4),
    THREAD.kind: lambda loop: ThreadEngine(loop, THREAD, 4),
    PROCESS.kind: lambda loop: ProcessEngine(loop, 2),
    MAIN.kind: MainEngine,
    EXTERNAL.kind: lambda loop: ExternalEngine(loop, run_in_thread),
}

THREADED = [engine for engine in ENGINES.values() if engine.place is Place.THREAD]


def kind_of(engine: EngineTraits) -> str:
    """Name a test's parameter."""
    return engine.kind


@dataclass
class End:
    value: object
    error: BaseException | None
    thread: threading.Thread


class Witness(support.Owner):
    """The manager of an attempt, which notes what it hears."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def begin(self, attempt: Attempt) -> None:
        attempt.begun = True
        self.seen.append("begun")

    def suspended(self, attempt: Attempt) -> None:
        self.seen.append("suspended")


class Bench:
    """An engine on the running loop, and what it says has ended."""

    def __init__(self, wanted: EngineTraits) -> None:
        self.engine = MAKE[wanted.kind](asyncio.get_running_loop())
        self.traits = self.engine.traits
        self.ends: list[tuple[Attempt, End]] = []

    def start(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Attempt:
        """Start a synchronous callable, or an async one that does the same where the engine runs only those."""
        return self.begin(func if self.traits.runs_sync else self.as_async(func), *args, **kwargs)

    def begin(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Attempt:
        """Start a callable of the kind that the engine runs."""
        attempt = support.attempt(support.record(func, *args, kwargs=kwargs, engine=self.traits))
        attempt.context.run(COLOUR.set, "the attempt's")
        self.engine.start(attempt, self.ended)
        return attempt

    def ended(self, attempt: Attempt, value: object, error: BaseException | None) -> None:
        self.ends.append((attempt, End(value, error, threading.current_thread())))

    async def end_of(self, attempt: Attempt) -> End:
        """The only end of an attempt."""
        await until(lambda: any(ended is attempt for ended, _ in self.ends))
        await turns()
        (end,) = (end for ended, end in self.ends if ended is attempt)
        return end

    @staticmethod
    def as_async(func: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            return func(*args, **kwargs)

        return wrapped


@pytest.fixture(params=ENGINES.values(), ids=kind_of)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    bench = Bench(request.param)
    yield bench
    bench.engine.close()
    if isinstance(bench.engine, ProcessEngine):
        await bench.engine.wait_closed()


@pytest.fixture
def near(bench: Bench) -> Bench:
    """Only where the callable runs in this process."""
    if bench.traits.place is Place.PROCESS:
        pytest.skip("what it runs has no part in the memory of this process")
    return bench


def test_the_suite_runs_over_every_engine() -> None:
    assert set(MAKE) == set(ENGINES) == set(EngineKind)


async def test_it_says_which_engine_it_is(bench: Bench) -> None:
    assert bench.traits.kind in ENGINES
    assert ENGINES[bench.traits.kind].place is bench.traits.place
    assert bench.engine.slots is None or bench.engine.slots >= 1


async def test_it_reports_the_value_once_and_only_after_start_has_returned(bench: Bench) -> None:
    attempt = bench.start(lambda a, b: (a, b), 1, b=2)
    assert bench.ends == []
    end = await bench.end_of(attempt)
    assert (end.value, end.error) == ((1, 2), None)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, MemoryError, GeneratorExit])
async def test_it_reports_whatever_the_callable_raises(bench: Bench, error: type[BaseException]) -> None:
    raised = error("on purpose")

    def fail() -> None:
        raise raised

    end = await bench.end_of(bench.start(fail))
    assert end.value is None
    if bench.traits.place is not Place.PROCESS:
        assert end.error is raised
    elif issubclass(error, Exception):
        assert (type(end.error), str(end.error)) == (error, "on purpose")
    else:  # raised here, the like of SystemExit would end the service
        assert isinstance(end.error, FarTaskError)
        assert end.error.error_type == error.__name__
    assert (await bench.end_of(bench.start(int))).value == 0, "it goes on working"


async def test_it_reports_on_the_loops_own_thread(bench: Bench) -> None:
    end = await bench.end_of(bench.start(int))
    assert end.thread is threading.current_thread()


async def test_it_runs_the_callable_where_it_should(near: Bench) -> None:
    thread = (await near.end_of(near.start(threading.current_thread))).value
    assert (thread is not threading.main_thread()) == (near.traits.place is Place.THREAD)


async def test_it_runs_the_callable_in_the_attempts_context(near: Bench) -> None:
    COLOUR.set("the starter's")

    def repaint() -> str:
        seen = COLOUR.get()
        COLOUR.set("changed")
        return seen

    assert (await near.end_of(near.start(repaint))).value == "the attempt's"
    assert COLOUR.get() == "the starter's"


async def test_it_runs_many_and_each_ends_once_with_its_own_value(bench: Bench) -> None:
    attempts = [bench.start(lambda number: number * 2, number) for number in range(40)]
    values = [(await bench.end_of(attempt)).value for attempt in attempts]
    assert values == [number * 2 for number in range(40)]
    assert len(bench.ends) == 40


async def test_interrupted_before_it_began_it_keeps_its_guarantee(bench: Bench) -> None:
    begun: list[int] = []
    attempt = bench.start(begun.append, 1)
    attempt.ask(Ask.CANCEL, "test", 0.0)
    bench.engine.interrupt(attempt)
    bench.engine.interrupt(attempt)
    end = await bench.end_of(attempt)
    if bench.traits.place is Place.LOOP:
        assert isinstance(end.error, asyncio.CancelledError)
        assert begun == []
    elif bench.traits.place is Place.PROCESS:
        assert isinstance(end.error, TaskCancelled)
    else:
        assert (end.error, begun) == (None, [1]), "what runs elsewhere has to look at its token"


async def test_the_token_is_seen_by_the_code_on_every_engine(near: Bench) -> None:
    def look() -> bool:
        return attempt.cancelled

    attempt = near.start(look)
    attempt.ask(Ask.CANCEL, "test", 0.0)
    assert (await near.end_of(attempt)).value is True


async def test_close_is_safe_when_nothing_ran_and_when_it_is_called_again(bench: Bench) -> None:
    bench.engine.close()
    bench.engine.close()


def test_each_callable_has_one_default_engine_and_everyone_knows_its_phases() -> None:
    own = [engine for engine in ENGINES.values() if engine.choosable]  # of a service with its own engines
    for is_async in (True, False):
        defaults = [engine for engine in own if engine.runs(is_async=is_async)]
        for category in TaskCategory:
            assert len([engine for engine in defaults if category in engine.default_for]) == 1
    for engine in ENGINES.values():
        assert engine.runs_sync or engine.runs_async
        assert {engine.use_phase, engine.wait_phase} <= set(names.PHASES)


def test_engines_that_leave_a_category_without_a_default_are_refused() -> None:
    with pytest.raises(LookupError, match="no engine runs synchronous callables of the categories ui, io"):
        EngineChoice([LOOP, THREAD, PROCESS])


async def test_it_can_kill_where_it_promises_to(bench: Bench) -> None:
    if bench.traits.cancel_guarantee is CancelGuarantee.KILL:
        assert isinstance(bench.engine, KillingEngine)


@pytest.mark.parametrize(("owner", "name"), [(os, "pidfd_open"), (os, "fork"), (socket, "AF_UNIX")])
async def test_no_kill_is_promised_where_the_system_cannot_keep_the_promise(
    owner: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ProcessEngine(asyncio.get_running_loop(), 1).traits == PROCESS
    monkeypatch.delattr(owner, name)
    traits = ProcessEngine(asyncio.get_running_loop(), 1).traits
    assert traits.cancel_guarantee is CancelGuarantee.COOPERATIVE
    assert replace(traits, cancel_guarantee=CancelGuarantee.KILL) == PROCESS, "and nothing else changes"


async def test_only_who_says_so_reports_the_steps_of_an_attempt(bench: Bench) -> None:
    owner = Witness()
    attempt = support.attempt(support.record(Bench.as_async(int) if bench.traits.runs_async else int))
    attempt.owner = owner
    bench.engine.start(attempt, bench.ended)
    await bench.end_of(attempt)
    assert owner.seen == (["begun", "suspended"] if bench.traits.reports_steps else [])


async def test_the_transfer_of_a_call_is_measured_where_it_says_so(bench: Bench) -> None:
    attempt = support.attempt(support.record(Bench.as_async(int) if bench.traits.runs_async else int))
    attempt.meter = Meter(asyncio.get_running_loop().time)
    bench.engine.start(attempt, bench.ended)
    await bench.end_of(attempt)
    assert (attempt.meter.call_seconds is not None) == bench.traits.measures_transfer


async def test_what_a_running_attempt_uses_is_known_at_any_moment_where_it_says_so(near: Bench) -> None:
    meter = Meter(asyncio.get_running_loop().time)

    def begun() -> bool:
        return meter.use_since is not None

    attempt = support.attempt(support.record(Bench.as_async(begun) if near.traits.runs_async else begun))
    attempt.meter = meter
    near.engine.start(attempt, near.ended)
    assert (await near.end_of(attempt)).value == near.traits.use_is_live


@pytest.mark.parametrize("kind", THREADED, ids=kind_of)
class TestEnginesWithThreads:
    async def test_an_abandoned_attempt_gives_its_place_to_another(self, kind: EngineTraits) -> None:
        bench = Bench(kind)
        with ThreadGate() as gate:
            stuck = bench.start(gate, "late")
            await gate.holds(1)
            bench.engine.abandon(stuck)
            assert (await bench.end_of(bench.start(int))).value == 0
            assert [ended for ended, _ in bench.ends if ended is stuck] == []
            gate.open()
            assert (await bench.end_of(stuck)).value == "late", "it says so when the code ends at last"
        bench.engine.close()

    async def test_closed_while_a_call_runs_it_leaves_the_call_to_end_and_reports_it(
        self, kind: EngineTraits
    ) -> None:
        bench = Bench(kind)
        with ThreadGate() as gate:
            running = bench.start(gate, "value")
            await gate.holds(1)
            bench.engine.close()
            gate.open()
            assert (await bench.end_of(running)).value == "value"


@pytest.mark.parametrize("kind", [IO, THREAD], ids=kind_of)
class TestThreadEngine:
    async def test_it_raises_when_there_is_no_thread_to_be_had_and_recovers(
        self, kind: EngineTraits, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        bench = Bench(kind)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start"):
                bench.start(int)
        assert bench.ends == []
        assert (await bench.end_of(bench.start(int))).value == 0
        bench.engine.close()

    async def test_its_threads_are_daemons_with_its_name_and_are_used_again(self, kind: EngineTraits) -> None:
        bench = Bench(kind)
        threads = [(await bench.end_of(bench.start(threading.current_thread))).value for _ in range(5)]
        assert len(set(threads)) == 1
        assert isinstance(threads[0], threading.Thread)
        assert threads[0].name.startswith(f"qorzen-{kind.kind}-")
        assert threads[0].daemon
        bench.engine.close()
        await until(lambda: not threads[0].is_alive())  # type: ignore[attr-defined]  # it is a thread, as asserted

    async def test_a_thread_whose_place_was_taken_leaves_when_its_call_ends(self, kind: EngineTraits) -> None:
        bench = Bench(kind)
        with ThreadGate() as gate:
            stuck = bench.start(gate)
            await gate.holds(1)
            bench.engine.abandon(stuck)
            threads = {(await bench.end_of(bench.start(threading.current_thread))).value for _ in range(5)}
            assert len(threads) == 1, "one took its place"
            gate.open()
            await until(lambda: not gate.threads[0].is_alive())
            assert (await bench.end_of(bench.start(threading.current_thread))).value in threads
        bench.engine.close()

    async def test_an_idle_thread_holds_no_result(self, kind: EngineTraits) -> None:
        class Big:
            pass

        bench = Bench(kind)
        attempt = bench.start(Big)
        end = await bench.end_of(attempt)
        seen = weakref.ref(end.value)
        bench.ends.clear()
        del end, attempt
        gc.collect()
        assert seen() is None
        bench.engine.close()

    async def test_a_call_that_ends_after_the_loop_has_closed_harms_nobody(self, kind: EngineTraits) -> None:
        gate, threads = ThreadGate(), list[threading.Thread]()

        async def leave_it_running() -> None:
            bench = Bench(kind)
            bench.start(gate)
            await gate.holds(1)
            bench.engine.close()
            threads.extend(gate.threads)

        await asyncio.to_thread(asyncio.run, leave_it_running())
        gate.open()
        await until(lambda: not threads[0].is_alive())


async def test_the_main_engine_takes_one_at_a_time() -> None:
    assert Bench(MAIN).engine.slots == 1


async def test_the_loop_engine_interrupts_again_what_swallowed_the_first_time() -> None:
    bench, interrupted = Bench(LOOP), list[int]()

    async def stubborn() -> str:
        while len(interrupted) < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                interrupted.append(1)
        return "at last"

    attempt = support.attempt(support.record(stubborn))
    bench.engine.start(attempt, bench.ended)
    for number in range(3):
        await turns()
        assert len(interrupted) == number
        bench.engine.interrupt(attempt)
    assert (await bench.end_of(attempt)).value == "at last"


async def test_a_coroutine_that_is_collected_with_its_loop_reports_nothing() -> None:
    ends: list[object] = []

    def in_another_loop() -> None:
        loop = asyncio.new_event_loop()
        engine = LoopEngine(loop)
        attempt = support.attempt(support.record(asyncio.Event().wait))
        engine.start(attempt, lambda *end: ends.append(end))
        loop.run_until_complete(asyncio.sleep(0))
        attempt.driver.task._log_destroy_pending = False
        attempt.driver = None
        loop.close()

    await asyncio.to_thread(in_another_loop)
    gc.collect()
    assert ends == []


async def test_a_cancel_that_an_attempt_has_taken_back_does_not_hit_the_next_one_on_the_loop() -> None:
    async def takes_it_back() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        task.uncancel()

    bench = Bench(LOOP)
    first = bench.begin(takes_it_back)
    second = bench.begin(asyncio.sleep, 0, "slept")
    assert (await bench.end_of(first)).error is None
    end = await bench.end_of(second)
    assert (end.value, end.error) == ("slept", None)


async def test_what_an_attempt_on_the_loop_has_awaited_first_is_gone_when_it_lets_go_of_it() -> None:
    class Data:
        pass

    held: list[weakref.ref[Data]] = []
    gate = support.Gate()

    async def read() -> Data:
        await asyncio.sleep(0)
        data = Data()
        held.append(weakref.ref(data))
        return data

    async def reads_and_goes_on() -> None:
        await asyncio.ensure_future(read())
        await gate()

    bench = Bench(LOOP)
    attempt = bench.begin(reads_and_goes_on)
    await gate.holds(1)
    gc.collect()
    assert held[0]() is None
    gate.open()
    await bench.end_of(attempt)


class Interruption:
    """Raises at the n-th call of its own that the loop engine makes while it runs what is ready."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __enter__(self) -> Self:
        sys.setprofile(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and self._is_meant(frame):
            self.left -= 1
            if self.left == 0:
                raise MemoryError

    def _is_meant(self, frame: FrameType) -> bool:
        own = frame.f_code.co_filename in (loop_engine.__file__, support.__file__)
        return own and not is_called_by_asyncio(frame)


def is_called_by_asyncio(frame: FrameType) -> bool:
    """Whether this is the code of a callback, or of a coroutine that goes on."""
    return frame.f_back is not None and frame.f_back.f_code is asyncio.Handle._run.__code__


async def test_f38_whatever_call_of_the_loop_engine_is_interrupted_each_end_is_reported_once() -> None:
    async def subject() -> str:
        return "value"

    async def suspended_subject() -> str:
        await asyncio.sleep(0)
        return "value"

    errors, number, left = 0, 0, 0
    while left <= 0:
        number += 1
        bench = Bench(LOOP)
        attempts = [bench.begin(func) for func in (subject, suspended_subject, subject)]
        with Interruption(number) as interruption:
            for _ in range(3):
                await asyncio.sleep(0)
        left = interruption.left
        ends = [await bench.end_of(attempt) for attempt in attempts]
        assert [type(end.error) for end in ends if end.value != "value"] in ([], [MemoryError])
        errors += any(end.error is not None for end in ends)
    assert errors >= 9, "at least when it begins, at its first line, and when it waits"


class InterruptionAtEntry(Interruption):
    """Raises before the first line of the n-th call that asyncio makes of code of the engines."""

    def _is_meant(self, frame: FrameType) -> bool:
        return ENGINES_FOLDER in frame.f_code.co_filename and is_called_by_asyncio(frame)


async def test_f38_whatever_callback_of_an_engine_is_interrupted_at_its_entry_each_end_is_reported_once(
    bench: Bench,
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    number, left = 0, 0
    while left <= 0:
        number += 1
        with InterruptionAtEntry(number) as interruption:
            attempts = [bench.start(list) for _ in range(3)]  # a worker's is rebuilt in a thread
            ends = [await bench.end_of(attempt) for attempt in attempts]
        left = interruption.left
        errors = [end.error for end in ends if end.value != []]
        assert [type(error) for error in errors] in ([], [MemoryError])
        # Where asyncio calls the attempt's own coroutine there is somebody to be told.
        assert not errors or bench.traits.kind in {LOOP.kind, EXTERNAL.kind}
    assert number > 1, "nothing was interrupted"


@pytest.mark.parametrize("kind", [IO, THREAD], ids=kind_of)
async def test_f38_an_end_that_the_loop_did_not_take_is_taken_while_the_next_call_still_runs(
    kind: EngineTraits,
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    bench = Bench(kind)
    with ThreadGate() as gate:
        both = [bench.begin(gate) for _ in range(2)]
        await gate.holds(2)
        gate.open()
        for attempt in both:  # there are two threads now
            await bench.end_of(attempt)
    with ThreadGate() as gate:
        with InterruptionAtEntry(1) as interruption:
            attempt = bench.begin(int)
            await until(lambda: interruption.left == 0)
        following = bench.begin(gate)
        assert (await bench.end_of(attempt)).value == 0
        gate.open()
        await bench.end_of(following)
    bench.engine.close()


@pytest.mark.parametrize("error", [MemoryError, RecursionError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", [IO, THREAD, PROCESS], ids=kind_of)
async def test_f38_a_thread_that_cannot_tell_the_loop_of_an_end_tells_it_later(
    kind: EngineTraits, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, refused = asyncio.get_running_loop(), list[object]()
    tell = loop.call_soon_threadsafe

    def refuse_once(*args: Any, **options: Any) -> asyncio.Handle:
        if not refused:
            refused.append(args)
            raise error
        return tell(*args, **options)

    bench = Bench(kind)
    monkeypatch.setattr(loop, "call_soon_threadsafe", refuse_once)
    attempt = bench.start(list)
    assert (await bench.end_of(attempt)).value == []
    assert (await bench.end_of(bench.start(list))).value == []
    assert refused
    bench.engine.close()
    if isinstance(bench.engine, ProcessEngine):
        await bench.engine.wait_closed()


class Junk:
    """Whatever is asked of it raises."""

    def __init__(self, error: BaseException) -> None:
        object.__setattr__(self, "error", error)

    def __getattribute__(self, name: str) -> Any:
        raise object.__getattribute__(self, "error")

    def __repr__(self) -> str:
        raise object.__getattribute__(self, "error")


class Iterated:
    """Waits for these things, by an iterator that has neither `send` nor `throw`."""

    def __init__(self, *waits_for: Any) -> None:
        self.waits_for = waits_for

    def __await__(self) -> Any:
        return iter(self.waits_for)


class RaisesWhenAwaited:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __await__(self) -> Any:
        raise self.error


class IsNoIterator:
    def __await__(self) -> Any:
        return 3


class Unlookable(BaseException):
    """Nobody can ask it for its traceback, or for its class."""

    @property
    def __traceback__(self) -> Any:  # type: ignore[override]  # on purpose
        raise SystemExit

    @property  # type: ignore[misc]  # as above
    def __class__(self) -> Any:
        raise SystemExit


ERRORS = [
    ValueError,
    RecursionError,
    MemoryError,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    StopIteration,
    StopAsyncIteration,
    asyncio.CancelledError,
    Unlookable,
]


async def at_its_first_step(error: BaseException) -> None:
    raise error


async def after_an_await(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


async def instead_of_being_cancelled(error: BaseException) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        raise error from None


def when_it_is_called(error: BaseException) -> Any:
    raise error


def when_it_is_awaited(error: BaseException) -> Any:
    return RaisesWhenAwaited(error)


async def by_what_it_waits_for_first(error: BaseException) -> None:
    await Iterated(Junk(error))


async def by_what_it_waits_for_later(error: BaseException) -> None:
    await Iterated(None, Junk(error), Junk(error))


PLACES: list[Callable[[BaseException], Any]] = [
    at_its_first_step,
    after_an_await,
    instead_of_being_cancelled,
    when_it_is_called,
    when_it_is_awaited,
    by_what_it_waits_for_first,
    by_what_it_waits_for_later,
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("error", ERRORS)
async def test_f37_whatever_code_on_the_loop_raises_and_where_its_end_is_reported_once_and_the_next_begins(
    place: Callable[[BaseException], Any], error: type[BaseException]
) -> None:
    bench = Bench(LOOP)
    attempt, following = bench.begin(place, error()), bench.begin(asyncio.sleep, 0, "slept")
    assert (await bench.end_of(attempt)).error is not None
    assert (await bench.end_of(following)).value == "slept"


async def junk_of_a_loop(*waits_for: Any) -> str:
    await Iterated(*waits_for)
    return "waited"


async def waits_for_a_future_of_another_loop() -> None:
    other = asyncio.new_event_loop()
    try:
        await other.create_future()
    finally:
        other.close()


async def waits_for_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    await task


STRANGE: dict[str, Callable[[], Any]] = {
    "it is no coroutine": lambda: 3,
    "it is None": lambda: None,
    "its __await__ returns no iterator": IsNoIterator,
    "it waits for a number": lambda: Iterated(3),
    "it waits for a number after an await": lambda: Iterated(None, 3),
    "it waits for a class": lambda: Iterated(asyncio.Future),
    "it waits for a generator": lambda: Iterated(number for number in range(3)),
    "it waits for a coroutine function": lambda: Iterated(asyncio.sleep),
    "it waits for junk again and again": lambda: junk_of_a_loop(3, None, 3),
    "it waits for a future of another loop": waits_for_a_future_of_another_loop,
    "it waits for itself": waits_for_itself,
}


@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
async def test_f37_what_asyncio_cannot_wait_for_fails_its_attempt_and_no_other(
    strange: Callable[[], Any],
) -> None:
    bench = Bench(LOOP)
    attempt, following = bench.begin(strange), bench.begin(asyncio.sleep, 0, "slept")
    assert isinstance((await bench.end_of(attempt)).error, (TypeError, RuntimeError))
    assert (await bench.end_of(following)).value == "slept"


async def test_f37_code_on_the_loop_may_go_on_after_it_waited_for_what_asyncio_refuses() -> None:
    async def goes_on() -> str:
        try:
            await Iterated(Junk(SystemExit()))
        except RuntimeError as error:
            return str(error)
        return ""

    bench = Bench(LOOP)
    end = await bench.end_of(bench.begin(goes_on))
    assert (end.value, end.error) == ("what it waits for raised an exception when asyncio asked it", None)


class LikeAFuture:
    """A future that is no asyncio.Future, as another library may bring."""

    def __init__(self) -> None:
        self._asyncio_future_blocking = False
        self._future = asyncio.get_running_loop().create_future()
        self.add_done_callback = self._future.add_done_callback
        self.get_loop = self._future.get_loop
        self.cancel = self._future.cancel
        self.cancelled = self._future.cancelled
        self.result = self._future.result
        self.set_result = self._future.set_result

    def __await__(self) -> Any:
        self._asyncio_future_blocking = True
        yield self
        return self.result()


class OwnFuture(asyncio.Future[str]):
    """A future of a class of the user's."""


@pytest.mark.parametrize("kind", [LikeAFuture, OwnFuture])
@pytest.mark.parametrize("before", [0, 1])
async def test_code_on_the_loop_may_wait_for_what_is_like_a_future(
    kind: type[LikeAFuture | OwnFuture], before: int
) -> None:
    async def waits() -> str:
        for _ in range(before):
            await asyncio.sleep(0)
        future = kind()
        asyncio.get_running_loop().call_soon(future.set_result, "value")
        result: str = await future
        return result

    async def waits_for_ever() -> None:
        for _ in range(before):
            await asyncio.sleep(0)
        futures.append(kind())
        await futures[0]

    bench, futures = Bench(LOOP), list[Any]()
    assert (await bench.end_of(bench.begin(waits))).value == "value"
    attempt = bench.begin(waits_for_ever)
    await turns()
    bench.engine.interrupt(attempt)
    assert isinstance((await bench.end_of(attempt)).error, asyncio.CancelledError)
    assert futures[0].cancelled(), "it learns of the cancellation"


@pytest.mark.parametrize("hook", ["add_done_callback", "get_loop", "_asyncio_future_blocking", "cancel"])
@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("error", [ValueError, SystemExit])
async def test_f37_a_future_of_the_users_that_raises_fails_its_attempt_and_no_other(
    hook: str, before: int, error: type[BaseException]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    class Broken(OwnFuture):
        pass

    async def waits() -> None:
        for _ in range(before):
            await asyncio.sleep(0)
        future = Broken()
        setattr(Broken, hook, property(fail, fail) if hook.startswith("_") else fail)
        await future

    bench = Bench(LOOP)
    attempt, following = bench.begin(waits), bench.begin(asyncio.sleep, 0, "slept")
    await turns()
    bench.engine.interrupt(attempt)
    assert (await bench.end_of(attempt)).error is not None
    assert (await bench.end_of(following)).value == "slept"


@pytest.mark.parametrize("error", [*ERRORS, TaskCancelled])
@pytest.mark.parametrize("kind", [IO, THREAD, MAIN, EXTERNAL], ids=kind_of)
async def test_f37_whatever_a_call_raises_its_end_is_reported_once_and_the_next_begins(
    kind: EngineTraits, error: type[BaseException]
) -> None:
    raised = error("id") if error is TaskCancelled else error()
    bench = Bench(kind)
    attempt = bench.begin(when_it_is_called, raised)
    following = bench.begin(int)
    end = await bench.end_of(attempt)
    # What goes through a coroutine may not be a StopIteration.
    assert end.error is raised or (kind is EXTERNAL and error is StopIteration)
    assert (await bench.end_of(following)).value == 0
    bench.engine.close()


@pytest.mark.parametrize("kind", [LOOP, IO, THREAD, MAIN, EXTERNAL], ids=kind_of)
async def test_an_end_that_cannot_be_reported_keeps_no_other_from_being_reported(kind: EngineTraits) -> None:
    class Unreportable(BaseException):
        pass

    def refuse(*_: object) -> None:
        raise Unreportable

    def call() -> None:
        pass

    async def coroutine() -> None:
        pass

    func = coroutine if kind is LOOP else call
    bench = Bench(kind)
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    for _ in range(3):
        bench.engine.start(support.attempt(support.record(func, engine=kind)), refuse)
    attempts = [bench.begin(func) for _ in range(3)]
    for attempt in attempts:
        assert (await bench.end_of(attempt)).error is None
    later = bench.begin(func)
    assert (await bench.end_of(later)).error is None
    gc.collect()
    assert [type(error) for error in told] == [Unreportable] * 3
    bench.engine.close()


@pytest.mark.parametrize("kind", [IO, THREAD], ids=kind_of)
async def test_what_is_thrown_into_an_idle_thread_from_outside_costs_no_attempt(kind: EngineTraits) -> None:
    """As libraries do that end a call in a thread after some seconds: the call may have ended by then."""
    bench = Bench(kind)
    for _ in range(3):
        thread: threading.Thread = (await bench.end_of(bench.start(threading.current_thread))).value  # type: ignore[assignment]
        ident = ctypes.c_ulong(thread.ident or 0)
        assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit)) == 1
        assert (await bench.end_of(bench.start(int))).error is None
    bench.engine.close()
    await until(lambda: not thread.is_alive())


async def test_a_foreign_call_that_somebody_cancels_before_it_begins_has_ended() -> None:
    bench = Bench(EXTERNAL)
    attempt = bench.begin(int)
    attempt.driver.cancel()
    assert isinstance((await bench.end_of(attempt)).error, asyncio.CancelledError)
