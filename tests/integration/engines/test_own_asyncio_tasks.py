"""Each attempt on the loop has an asyncio task of its own, so that what code keeps by it never meets another's."""

import asyncio
import contextlib
import sys
import threading
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from qorzen_obs import Retry, TaskManager, TaskStatus, current_task, task
from qorzen_obs.testing import open_test_manager
from tests.support import PATIENCE_SECONDS, until

N = 6


def own() -> asyncio.Task[Any]:
    """Return the asyncio task; whoever keeps it keeps its id from being used again."""
    found = asyncio.current_task()
    assert found is not None
    return found


def loop_of_asyncio() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop()


def loop_of_eager_tasks() -> asyncio.AbstractEventLoop:
    factory = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        pytest.skip("Python 3.12 brought eager tasks")
    loop = asyncio.SelectorEventLoop()
    loop.set_task_factory(factory)
    return loop


def loop_in_debug_mode() -> asyncio.AbstractEventLoop:
    loop = asyncio.SelectorEventLoop()
    loop.set_debug(True)
    return loop


def loop_of_uvloop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


Run = Callable[[Callable[[TaskManager], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=[loop_of_asyncio, loop_of_eager_tasks, loop_in_debug_mode, loop_of_uvloop])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run a scenario with a task manager on one kind of loop."""

    async def with_manager(scenario: Callable[[TaskManager], Coroutine[Any, Any, None]]) -> None:
        async with open_test_manager() as tasks:
            await scenario(tasks)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            assert not [one for one in others if one.get_name() == "subject"], (
                "they are gone when they have ended"
            )

    with asyncio.Runner(loop_factory=request.param) as runner:
        yield lambda scenario: runner.run(with_manager(scenario))


class Seen:
    """Which asyncio tasks each attempt has found, in each of its steps."""

    def __init__(self) -> None:
        self.by_attempt: dict[tuple[str, int], list[asyncio.Task[Any]]] = {}

    def note(self) -> None:
        attempt = current_task()
        self.by_attempt.setdefault((attempt.task_id, attempt.number), []).append(own())


async def ends_in_its_first_step(seen: Seen) -> None:
    seen.note()


async def ends_after_it_has_waited(seen: Seen) -> None:
    for _ in range(3):
        seen.note()
        await asyncio.sleep(0)
    seen.note()


async def raises(seen: Seen) -> None:
    seen.note()
    raise ValueError


async def raises_after_it_has_waited(seen: Seen) -> None:
    seen.note()
    await asyncio.sleep(0)
    seen.note()
    raise SystemExit


async def is_cancelled(seen: Seen) -> None:
    seen.note()
    try:
        await asyncio.Event().wait()
    finally:
        seen.note()


async def cancels_itself(seen: Seen) -> None:
    seen.note()
    own().cancel()


@task(retry=Retry(max_attempts=3, backoff=lambda *_: 0.0))
async def is_tried_again(seen: Seen) -> None:
    seen.note()
    raise OSError


@task(retry=Retry(max_attempts=3, backoff=lambda *_: 0.0))
async def is_tried_again_after_it_has_waited(seen: Seen) -> None:
    seen.note()
    await asyncio.sleep(0)
    seen.note()
    raise OSError


@types.coroutine
def waits_by_a_generator(seen: Seen) -> Iterator[None]:
    seen.note()
    yield
    seen.note()


async def waits_by_what_is_no_coroutine(seen: Seen) -> None:
    await waits_by_a_generator(seen)


KINDS: list[Callable[..., Any]] = [
    ends_in_its_first_step,
    ends_after_it_has_waited,
    raises,
    raises_after_it_has_waited,
    is_cancelled,
    cancels_itself,
    is_tried_again,
    is_tried_again_after_it_has_waited,
    waits_by_what_is_no_coroutine,
]


def test_no_two_attempts_share_an_asyncio_task_however_they_end(run: Run) -> None:
    seen = Seen()
    attempts = N * (len(KINDS) + 2 * 2)  # those that are tried again have three

    async def scenario(tasks: TaskManager) -> None:
        ids = [await tasks.submit_async_task(kind, seen, name="subject") for _ in range(N) for kind in KINDS]
        await until(lambda: len(seen.by_attempt) == attempts)
        for task_id in ids[KINDS.index(is_cancelled) :: len(KINDS)]:
            await tasks.cancel_task(task_id)
        for task_id in ids:
            assert (await tasks.wait_for_task(task_id)).status is not TaskStatus.RUNNING

    run(scenario)
    for found in seen.by_attempt.values():
        assert len(set(found)) == 1, "all steps of an attempt are in the same asyncio task"
    firsts = {found[0] for found in seen.by_attempt.values()}
    assert len(firsts) == len(seen.by_attempt) == attempts
    assert all(first.done() for first in firsts)


def test_what_is_kept_by_the_asyncio_task_does_not_go_from_one_users_task_to_the_next(run: Run) -> None:
    sessions: dict[asyncio.Task[Any], str] = {}  # as async_scoped_session does with scopefunc=current_task

    async def who_am_i(user: str) -> str:
        return sessions.setdefault(own(), user)

    async def scenario(tasks: TaskManager) -> None:
        users = [f"user {number}" for number in range(N)]
        handles = [await tasks.submit_task(who_am_i, user) for user in users]
        assert [(await tasks.wait_for_task(one)).result for one in handles] == users

    run(scenario)


def test_the_asyncio_task_is_one_of_the_loops_and_has_the_tasks_name(run: Run) -> None:
    async def looks() -> tuple[str, bool]:
        return own().get_name(), own() in asyncio.all_tasks()

    async def waits_and_looks() -> tuple[str, bool]:
        await asyncio.sleep(0)
        return await looks()

    async def scenario(tasks: TaskManager) -> None:
        for func in (looks, waits_and_looks):
            task_id = await tasks.submit_task(func, name="a name")
            assert (await tasks.wait_for_task(task_id)).result == ("a name", True)

    run(scenario)


def test_no_attempt_begins_while_it_is_submitted(run: Run) -> None:
    begun: list[int] = []

    async def begins(number: int) -> None:
        begun.append(number)
        if number < N:
            await current_task().manager.submit_task(begins, number + 1)
            assert number + 1 not in begun

    async def scenario(tasks: TaskManager) -> None:
        await tasks.submit_task(begins, 0)
        assert begun == []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(begun) <= N:  # noqa: ASYNC110 - the code of the attempts says so, not an Event
                await asyncio.sleep(0)

    run(scenario)


def test_an_asyncio_task_that_its_code_cancels_is_interrupted_where_it_waits_next(run: Run) -> None:
    async def cancels_itself_and_waits() -> str:
        own().cancel("enough")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError as error:
            return f"{error.args} {own().cancelling()}"
        return "not interrupted"

    async def scenario(tasks: TaskManager) -> None:
        assert await tasks.run(cancels_itself_and_waits) == "('enough',) 1"

    run(scenario)


def test_an_asyncio_task_that_its_code_cancels_costs_no_other_attempt(run: Run) -> None:
    ran = []

    async def cancels_at_the_third(number: int) -> None:
        ran.append(number)
        if number == 2:
            own().cancel()

    async def scenario(tasks: TaskManager) -> None:
        ids = [await tasks.submit_task(cancels_at_the_third, number) for number in range(N)]
        for task_id in ids:
            assert (await tasks.wait_for_task(task_id)).status is TaskStatus.COMPLETED

    run(scenario)
    assert ran == list(range(N))


def test_a_task_that_cancels_itself_by_the_manager_in_its_first_step_is_interrupted(run: Run) -> None:
    async def cancels_itself_by_the_manager() -> None:
        await current_task().manager.cancel_task(current_task().task_id)
        await asyncio.sleep(30)

    async def scenario(tasks: TaskManager) -> None:
        task_id = await tasks.submit_task(cancels_itself_by_the_manager)
        assert (await tasks.wait_for_task(task_id)).status is TaskStatus.CANCELLED

    run(scenario)


COLOUR: ContextVar[str] = ContextVar("colour", default="none")


@asynccontextmanager
async def in_colour(colour: str) -> AsyncIterator[None]:
    token = COLOUR.set(colour)
    try:
        yield
    finally:
        COLOUR.reset(token)


async def with_a_timeout() -> str:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.sleep(0)
        return "in time"


async def with_a_timeout_that_has_passed() -> str:
    try:
        async with asyncio.timeout(-1):
            await asyncio.sleep(30)
    except TimeoutError:
        return f"too late, {own().cancelling()} cancels left"
    return "in time"


async def with_a_task_group() -> str:
    async with asyncio.TaskGroup() as group:
        child = group.create_task(asyncio.sleep(0, "by a child"))
    return child.result()


async def with_a_task_group_that_fails() -> str:
    async def fails() -> None:
        raise OSError

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            await asyncio.sleep(30)
    except* OSError:
        pass
    return f"{own().cancelling()} cancels left"


async def with_a_context_variable() -> str:
    async with in_colour("red"):
        await asyncio.sleep(0)
        inside = COLOUR.get()
    return f"{inside}, then {COLOUR.get()}"


async def with_a_child_that_inherits() -> str:
    COLOUR.set("green")

    async def child() -> str:
        return f"{COLOUR.get()} of {current_task().name}"

    return await asyncio.create_task(child())


FIRST_STEPS: list[tuple[Callable[[], Coroutine[Any, Any, str]], str]] = [
    (with_a_timeout, "in time"),
    (with_a_timeout_that_has_passed, "too late, 0 cancels left"),
    (with_a_task_group, "by a child"),
    (with_a_task_group_that_fails, "0 cancels left"),
    (with_a_context_variable, "red, then none"),
    (with_a_child_that_inherits, "green of subject"),
]


@pytest.mark.parametrize(("func", "result"), FIRST_STEPS, ids=[func.__name__ for func, _ in FIRST_STEPS])
def test_what_asyncio_keeps_by_its_task_works_from_the_first_step_on(
    func: Callable[[], Coroutine[Any, Any, str]], result: str, run: Run
) -> None:
    async def scenario(tasks: TaskManager) -> None:
        ids = [await tasks.submit_task(func, name="subject") for _ in range(N)]
        for task_id in ids:
            assert (await tasks.wait_for_task(task_id)).result == result

    run(scenario)


def test_whoever_cancels_all_asyncio_tasks_of_the_loop_ends_each_attempt_once(run: Run) -> None:
    async def waits() -> None:
        await asyncio.Event().wait()

    async def scenario(tasks: TaskManager) -> None:
        ids = [await tasks.submit_task(waits, name="subject") for _ in range(3 * N)]
        ends = asyncio.gather(*(tasks.wait_for_task(task_id) for task_id in ids))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not ends.done():  # in each turn, so that some of them have begun and some have not
                for one in asyncio.all_tasks():
                    if one.get_name() == "subject":
                        one.cancel()
                await asyncio.sleep(0)
        with contextlib.suppress(asyncio.CancelledError):
            assert {info.error_type for info in ends.result()} == {"asyncio.exceptions.CancelledError"}
        assert tasks.status()["tasks"]["by_status"]["failed"] == len(ids)

    run(scenario)


def test_the_loop_has_its_turn_before_the_next_attempt_when_one_took_long() -> None:
    class Loop(asyncio.SelectorEventLoop):
        """A loop whose time its user moves."""

        passed = 0.0

        def time(self) -> float:
            return super().time() + self.passed

    order: list[object] = []

    async def takes_two_milliseconds(number: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        loop.passed += 0.002
        order.append(number)
        loop.call_soon(order.append, "the loop's turn")

    async def scenario() -> None:
        async with open_test_manager() as tasks:
            for task_id in [await tasks.submit_task(takes_two_milliseconds, number) for number in range(3)]:
                await tasks.wait_for_task(task_id)

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(scenario())
    assert order == [0, "the loop's turn", 1, "the loop's turn", 2, "the loop's turn"]


@pytest.fixture
def threads_take_turns_all_the_time() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


async def test_what_other_threads_call_is_called_while_attempts_begin(
    threads_take_turns_all_the_time: None,
) -> None:
    loop, problems, called = asyncio.get_running_loop(), list[dict[str, Any]](), [0, 0]
    loop.set_exception_handler(lambda _, context: problems.append(context))
    over = threading.Event()

    def count(place: int) -> None:
        called[place] += 1

    def call_all_the_time(place: int, asked: list[int]) -> None:
        while not over.is_set():
            loop.call_soon_threadsafe(count, place)
            asked[place] += 1

    async def waits(event: asyncio.Event) -> bool:
        return await event.wait()

    asked = [0, 0]
    callers = [threading.Thread(target=call_all_the_time, args=(place, asked)) for place in range(2)]
    async with open_test_manager() as tasks:
        for caller in callers:
            caller.start()
        for _ in range(30):
            event = asyncio.Event()
            handles = [await tasks.start(waits, event) for _ in range(50)]
            await asyncio.sleep(0.001)
            event.set()
            assert await asyncio.gather(*handles) == [True] * 50
        over.set()
        for caller in callers:
            await asyncio.to_thread(caller.join)
        await until(lambda: called == asked)
    assert problems == []
