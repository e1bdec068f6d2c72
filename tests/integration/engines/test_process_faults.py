"""What user code can do to a worker process, and what becomes of the task then."""

import asyncio
import os
import signal
import threading
from typing import Any

import pytest

from qorzen_obs.engines.processes import channel, keepers
from qorzen_obs.engines.processes.codec import encode_plain
from qorzen_obs.engines.processes.keepers import PlainKeeper
from qorzen_obs.engines.processes.supervisor import WorkerProcess
from qorzen_obs.errors import FarTaskError, TaskLostError, TaskQuarantinedError, TaskTransferError
from qorzen_obs.settings import EngineSettings
from qorzen_obs.tasks import TaskStatus
from tests import process_tasks as work
from tests.services.process_service import guardians, process_service
from tests.support import until


@pytest.mark.parametrize(
    ("subject", "args", "reason"),
    [
        (work.abort, (), "killed by SIGABRT"),
        (work.crash, (), "killed by SIGSEGV"),
        (work.exit_hard, (0,), "exit code 0"),
        (work.exit_hard, (3,), "exit code 3"),
        (work.die_by, (signal.SIGKILL,), "killed by SIGKILL"),
        (work.die_by, (signal.SIGRTMIN + 1,), f"killed by signal {signal.SIGRTMIN + 1}"),
        (work.close_everything, (), "closed the channel"),
    ],
    ids=["abort", "segmentation fault", "exit 0", "exit 3", "SIGKILL", "real-time signal", "closed"],
)
async def test_a_task_whose_process_dies_is_lost_and_says_why(
    subject: Any, args: tuple[int, ...], reason: str
) -> None:
    async with process_service() as service:
        info = await service.end(subject, *args)
        assert (info.status, info.error_type) == (TaskStatus.FAILED, "lost")
        assert info.error is not None
        assert reason in info.error
        with pytest.raises(TaskLostError):
            await service.tasks.run(subject, *args)


def frame(kind: int, body: bytes = b"") -> bytes:
    return b"".join(channel.frame_parts(kind, [body]))


def events(value: object) -> bytes:
    return b"".join(channel.frame_parts(channel.EVENTS, encode_plain(value)))


@pytest.mark.parametrize(
    "junk",
    [
        b"print('hello')\n" * 10,
        channel._PREFIX.pack(channel.RESULT, 0, 1 << 63),
        channel._PREFIX.pack(channel.RESULT, 0, (1 << 64) - 1),
        channel._PREFIX.pack(channel.RESULT, 1, 0) + b"\xff" * 8,
        channel._PREFIX.pack(channel.EVENTS, 1, 2_000_000) + b"\xff" * 8,
        frame(channel.USAGE),
        frame(channel.USAGE, channel.USED.pack(-1.0, 0.0)),
        frame(channel.USAGE, channel.USED.pack(0.0, float("nan"))),
        frame(channel.READY, b"no number"),
        frame(channel.READY, b"1"),
        frame(channel.CALL, b"N."),
        frame(channel.USAGE, bytes(2_000_000)),
    ],
    ids=[
        "text",
        "a body of 2^63 bytes",
        "a body of 2^64 bytes",
        "a buffer of 2^64 bytes",
        "a large frame with a buffer of 2^64 bytes",
        "an empty usage",
        "a negative usage",
        "a usage that is no number",
        "ready without a number",
        "ready again",
        "what only the service says",
        "a large usage",
    ],
)
async def test_what_a_task_writes_to_its_channel_loses_it_with_the_reason_and_its_worker_is_replaced(
    junk: bytes,
) -> None:
    async with process_service(engines=EngineSettings(processes=1)) as service:
        info = await service.end(work.write_to_channel, junk, goes_on=False)
        assert (info.status, info.error_type) == (TaskStatus.FAILED, "lost")
        assert "sent what the service cannot read: ValueError" in str(info.error) or (
            "sent what the service cannot read: error: unpack requires" in str(info.error)
        )
        assert info.progress.message.isdigit()
        assert str(await service.tasks.run(work.pid)) != info.progress.message
        await until(lambda: service.engine["workers"] == service.engine["idle"])


async def test_a_lost_task_keeps_its_reason_where_the_guardian_takes_too_long_for_the_kill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keepers, "KILL_GROUP_SECONDS", 0.0)
    async with process_service(engines=EngineSettings(processes=1)) as service:
        info = await service.end(work.write_to_channel, b"no frame of ours", goes_on=False)
        assert "sent what the service cannot read" in str(info.error)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(PlainKeeper, "_look"), (WorkerProcess, "_cut_off")],
    ids=["for its death", "after its channel broke"],
)
async def test_f38_a_look_at_a_worker_that_is_interrupted_at_its_entry_is_made_up_for(
    kind: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, interrupted = getattr(kind, name), set[object]()

    def interrupted_once(one: object) -> None:
        if one not in interrupted:
            interrupted.add(one)
            raise MemoryError
        look(one)

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    monkeypatch.setattr(kind, name, interrupted_once)
    if kind is PlainKeeper:
        monkeypatch.delattr(os, "pidfd_open")
    async with process_service() as service:
        info = await service.end(work.write_to_channel, b"junk" * 10, goes_on=False)
        assert (info.error_type, bool(interrupted)) == ("lost", True)
        assert await service.tasks.run(work.echo, "alive") == "alive"


@pytest.mark.parametrize("then_dies", [False, True], ids=["and goes on", "and dies"])
async def test_reports_that_nobody_can_read_are_counted_and_harm_nothing(then_dies: bool) -> None:
    junk = [
        5,
        [5],
        [("progress", 3)],
        [("progress", ("half", "way"))],
        [("log", 7)],
        [("log", ("info", "event", 5))],
        [("output", (1, 2, 3))],
        [("dropped", "many")],
    ]
    unreadable = frame(channel.EVENTS, b"no pickle")
    async with process_service() as service:
        sent = b"".join(map(events, junk)) + unreadable
        if then_dies:
            info = await service.end(work.write_to_channel_and_die, sent)
            assert (info.error_type, "SIGKILL" in str(info.error)) == ("lost", True)
        else:
            assert await service.tasks.run(work.write_to_channel, sent, goes_on=True) == "went on"
        assert await service.tasks.run(work.echo, "alive") == "alive"
        assert service.tasks.looks.metrics.dropped["worker_report"] == len(junk) + 1


async def test_f9_a_task_that_uses_up_its_memory_fails_by_name_and_its_worker_is_replaced() -> None:
    async with process_service(engines=EngineSettings(processes=1)) as service:
        first = await service.tasks.run(work.pid)
        info = await service.end(work.use_up_memory, 1_000_000_000)
        assert (info.status, info.error_type) == (TaskStatus.FAILED, "MemoryError")
        assert await service.tasks.run(work.pid) != first


async def test_f11_a_task_that_kills_its_worker_is_quarantined_after_three_deaths() -> None:
    async with process_service() as service:
        infos = [await service.end(work.abort) for _ in range(6)]
        assert [info.error_type for info in infos[:3]] == ["lost"] * 3
        assert {info.error_type for info in infos[3:]} == {"qorzen_obs.errors.TaskQuarantinedError"}
        assert list(service.engine["quarantined"]) == ["abort"]
        with pytest.raises(TaskQuarantinedError, match="killed its worker process 3 times"):
            await service.tasks.run(work.abort)
        assert await service.tasks.run(work.echo, "others run") == "others run"


async def test_killing_a_task_on_request_is_not_held_against_its_name() -> None:
    async with process_service(grace_seconds=0.01) as service:
        for _ in range(4):
            task_id, _ = await service.start(work.spin)
            await service.tasks.cancel_task(task_id)
            assert (await service.tasks.wait_for_task(task_id)).status is TaskStatus.CANCELLED
        assert service.engine["quarantined"] == {}


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_f23_what_is_no_exception_fails_the_task_and_is_harmless_here(
    kind: type[BaseException],
) -> None:
    async with process_service() as service:
        info = await service.end(work.raise_it, kind, "why")
        assert (info.status, info.error_type, info.error) == (TaskStatus.FAILED, kind.__name__, "why")
        with pytest.raises(FarTaskError, match=f"{kind.__name__}: why"):
            await service.tasks.run(work.raise_it, kind, "why")


@pytest.mark.parametrize("kind", [ValueError, MemoryError, RecursionError, asyncio.CancelledError])
async def test_f23_other_exceptions_arrive_as_themselves(kind: type[BaseException]) -> None:
    async with process_service() as service:
        info = await service.end(work.raise_it, kind, "why")
        assert info.status is TaskStatus.FAILED
        assert info.error == "why"
        assert info.traceback is not None
        assert "in raise_it" in info.traceback
        assert "qorzen_obs" not in info.traceback
        assert await service.tasks.run(work.echo, "alive") == "alive"


@pytest.mark.parametrize(
    ("subject", "message"), [(work.raise_two_arguments, "this and that"), (work.raise_has_lock, "locked")]
)
async def test_f23_an_exception_that_does_not_survive_pickling_keeps_its_name(
    subject: Any, message: str
) -> None:
    async with process_service() as service:
        info = await service.end(subject)
        assert info.error == message
        assert info.error_type is not None
        assert info.error_type.startswith("tests.process_tasks.")
        assert info.traceback is not None
        assert subject.__name__ in info.traceback


@pytest.mark.parametrize(
    ("subject", "args", "what"),
    [
        (work.echo, (threading.Lock(),), "argument 1 ('value')"),
        (work.add, (1, threading.Lock()), "argument 2 ('right')"),
        (work.return_lock, (), "the result cannot be sent back"),
        (work.return_what_fails_to_arrive, (), "the result cannot be rebuilt"),
        (work.echo, (work.FailsToArrive(),), "the call cannot be read in the worker process"),
    ],
    ids=["argument", "second argument", "result", "result on arrival", "argument on arrival"],
)
async def test_f23_what_does_not_pickle_is_named(subject: Any, args: tuple[Any, ...], what: str) -> None:
    async with process_service() as service:
        with pytest.raises(TaskTransferError) as caught:
            await service.tasks.run(subject, *args)
        assert what in str(caught.value)
        assert "make locks, files and connections inside the task" in str(caught.value)
        assert await service.tasks.run(work.echo, "alive") == "alive"


async def test_f23_a_keyword_argument_that_does_not_pickle_is_named() -> None:
    async with process_service() as service:
        with pytest.raises(TaskTransferError, match="argument 'value'"):
            await service.tasks.run(work.echo, value=threading.Lock())


async def test_f23_a_giant_result_arrives_whole_while_the_loop_turns() -> None:
    async with process_service() as service:
        turns, longest, running = 0, 0.0, True
        loop = asyncio.get_running_loop()

        async def watch() -> None:
            nonlocal turns, longest
            while running:
                before = loop.time()
                await asyncio.sleep(0.001)
                turns, longest = turns + 1, max(longest, loop.time() - before)

        watcher = asyncio.create_task(watch())
        sent = os.urandom(100_000_000)
        received = await service.tasks.run(work.echo, sent)
        running = False
        await watcher
        assert received == sent
        print(f"longest gap of the loop: {longest * 1e3:.0f} ms")  # noqa: T201 - the figure
        assert turns > 20  # on the loop itself it would be a handful


async def test_f24_a_forked_child_that_comes_back_ends_without_a_word() -> None:
    async with process_service() as service:
        info = await service.end(work.fork_and_return)
        assert info.result == "parent"
        assert info.progress.message == ""
        assert await service.tasks.run(work.echo, "alive") == "alive"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
async def test_f24_a_forked_child_has_none_of_our_threads_and_locks() -> None:
    async with process_service() as service:
        assert await service.tasks.run(work.fork_while_reporting) == [0] * 20


async def test_standard_input_is_empty() -> None:
    async with process_service() as service:
        assert await service.tasks.run(work.read_stdin) == ""


async def test_without_pidfds_a_task_still_runs_and_is_killed_and_status_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    async with process_service(grace_seconds=0.1) as service:
        assert "pidfd_open" in service.engine["degraded"]
        assert await service.tasks.run(work.echo, 1) == 1
        task_id, _ = await service.start(work.spin)
        await service.tasks.cancel_task(task_id)
        info = await service.tasks.wait_for_task(task_id)
        assert (info.status, info.abandoned) == (TaskStatus.CANCELLED, False)
        assert info.cancel_guarantee == "cooperative", "children that left its group would survive"
        info = await service.end(work.abort)
        assert info.error is not None
        assert "SIGABRT" in info.error
        assert (await service.end(work.exit_hard, 3)).error_type == "lost"
    assert guardians() == []


async def test_with_everything_there_nothing_is_degraded_and_a_kill_is_promised() -> None:
    async with process_service() as service:
        assert service.engine["degraded"] is None
        assert (await service.end(work.echo, 1)).cancel_guarantee == "kill"
