"""Any object with the methods that are called will do for each collaborator: here they have nothing else."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from qorzen_obs import TaskManager, TaskStatus, current_task, task
from qorzen_obs.errors import SettingsError
from qorzen_obs.telemetry import names
from tests.support import Gate, ThreadGate, turns, until

Listener = Callable[[str, Any], Awaitable[None]]


class Config:
    """A dictionary, and one listener."""

    def __init__(self, **tasks: Any) -> None:
        self._tasks = tasks
        self.listeners: dict[str, Listener] = {}

    async def get(self, key: str, default: Any) -> Any:
        return self._tasks if key == "tasks" and self._tasks else default

    async def register_listener(self, key: str, listener: Listener) -> None:
        self.listeners[key] = listener

    async def tell(self, key: str, value: object) -> None:
        await self.listeners["tasks"](key, value)


class Bus:
    def __init__(self) -> None:
        self.published: list[dict[str, Any]] = []

    async def publish(self, *, event_type: str, source: str, payload: dict[str, Any]) -> None:
        self.published.append({"event_type": event_type, "source": source, **payload})


class Threads:
    async def run_in_thread(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(func, *args, **kwargs)


class MoreThreads(Threads):
    """Has the two other ways too, and notes which one was taken."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def run_in_thread(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.taken.append("thread")
        return await super().run_in_thread(func, *args, **kwargs)

    async def run_io_task(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.taken.append("io")
        return await super().run_in_thread(func, *args, **kwargs)

    async def run_on_main_thread(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.taken.append("main")
        return func(*args, **kwargs)


class Logs:
    def get_logger(self, name: str) -> logging.Logger:
        return logging.getLogger(f"test.{name}")


@asynccontextmanager
async def manager(config: Config | None = None, bus: Any = None, threads: Any = None) -> Any:
    tasks = TaskManager(threads or Threads(), bus or Bus(), Logs(), config or Config())
    await tasks.initialize()
    try:
        yield tasks
    finally:
        await tasks.shutdown(grace_seconds=0)


async def test_a_manager_runs_on_collaborators_that_have_only_what_is_called() -> None:
    bus = Bus()
    async with manager(bus=bus) as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(max, 2, 3, name="largest"))
        assert (info.status, info.result) == (TaskStatus.COMPLETED, 3)
        assert (info.engine, info.cancel_guarantee) == ("external", "none")
        assert await tasks.run(asyncio.sleep, 0, "on the loop") == "on the loop"
        assert await tasks.run(threading.current_thread, category="ui") is threading.main_thread()
        await tasks.shutdown()
    first = [event for event in bus.published if event["task_id"] == info.task_id]
    assert [event["event_type"] for event in first] == ["task/submitted", "task/started", "task/completed"]
    assert {event["source"] for event in bus.published} == {"task_manager"}
    assert first[-1] == {
        "event_type": "task/completed",
        "source": "task_manager",
        "task_id": info.task_id,
        "name": "largest",
        "category": "core",
        "priority": "normal",
        "plugin_id": None,
        "status": "completed",
        "progress": {"percent": 0.0, "message": ""},
        "trace_id": info.trace_id,
        "started_at": info.started_at,
        "completed_at": info.completed_at,
        "duration": info.duration_seconds,
    }


async def test_the_settings_that_are_there_are_taken_and_others_default() -> None:
    foreign = Config(max_concurrent_tasks=5, unknown_to_us="ignored")
    async with manager(foreign) as tasks:
        config = tasks.status()["config"]
        assert config == {"max_concurrent_tasks": 5, "keep_completed_tasks": 10_000, "default_timeout": 300.0}
    async with manager() as tasks:
        assert tasks.status()["config"]["max_concurrent_tasks"] == 100


@pytest.mark.parametrize(
    ("key", "value"),
    [("tasks", {"max_concurrent_tasks": 2, "other": 1}), ("tasks.max_concurrent_tasks", 2)],
    ids=["the whole table", "one value"],
)
async def test_a_changed_limit_has_its_effect_at_run_time(key: str, value: object) -> None:
    config, gate = Config(max_concurrent_tasks=1), Gate()
    async with manager(config) as tasks:
        for number in range(3):
            await tasks.submit_task(gate, number)
        await turns()
        assert gate.arrived == [0]
        await config.tell(key, value)
        await turns()
        assert gate.arrived == [0, 1]
        assert tasks.status()["config"]["max_concurrent_tasks"] == 2


async def test_one_changed_value_leaves_the_others() -> None:
    config = Config(max_concurrent_tasks=5, keep_completed_tasks=7, category_limits={"io": 2})
    async with manager(config) as tasks:
        await config.tell("tasks.max_concurrent_tasks", 6)
        await config.tell("tasks.category_limits.user", 1)
        assert tasks.status()["config"] == {
            "max_concurrent_tasks": 6,
            "keep_completed_tasks": 7,
            "default_timeout": 300.0,
        }
        gate = Gate()
        for number in range(3):
            await tasks.submit_task(gate, ("io", number), category="io")
            await tasks.submit_task(gate, ("user", number), category="user")
        await turns()
        assert sorted(gate.arrived) == [("io", 0), ("io", 1), ("user", 0)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tasks.max_concurrent_tasks", 0),
        ("tasks.max_concurrent_tasks", "many"),
        ("tasks.max_concurrent_tasks.x", 1),
        ("tasks.ageing_seconds", float("nan")),
        ("tasks.category_limits.nobody", 1),
        ("tasks", {"max_pending": -1}),
        ("tasks", 7),
    ],
)
async def test_a_bad_value_is_refused_by_name_and_changes_nothing(key: str, value: object) -> None:
    config = Config(max_concurrent_tasks=5)
    async with manager(config) as tasks:
        before = tasks.status()["config"]
        with pytest.raises(SettingsError, match="tasks") as caught:
            await config.tell(key, value)
        assert caught.value.key.startswith(key.rpartition(".")[0])
        assert tasks.status()["config"] == before
        assert await tasks.run(asyncio.sleep, 0, "works") == "works"


async def test_a_key_that_is_not_ours_is_ignored() -> None:
    config = Config()
    async with manager(config) as tasks:
        await config.tell("tasks.colour", "blue")
        assert await tasks.run(asyncio.sleep, 0, "works") == "works"


async def test_each_kind_of_work_takes_the_way_that_the_concurrency_manager_has_for_it() -> None:
    @task(engine="main")
    def draw() -> None: ...

    @task(engine="io")
    def fetch() -> None: ...

    threads = MoreThreads()
    async with manager(threads=threads) as tasks:
        for func, category in [
            (int, "core"),
            (int, "io"),
            (int, "ui"),
            (draw, "core"),
            (fetch, "user"),
        ]:
            info = await tasks.wait_for_task(await tasks.submit_task(func, category=category))
            assert (info.status, info.engine) == (TaskStatus.COMPLETED, "external")
    assert threads.taken == ["thread", "io", "main", "main", "io"]


async def test_a_foreign_thread_sees_the_task_that_it_runs() -> None:
    def work(progress_reporter: Callable[..., None]) -> str:
        progress_reporter(50, "half")
        return current_task().name

    async with manager() as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(work, name="mine"))
        assert (info.result, info.progress.percent) == ("mine", 50)


async def test_a_foreign_thread_that_nobody_can_stop_is_abandoned_after_the_grace() -> None:
    with ThreadGate() as gate:
        async with manager(Config(cancel_grace_seconds=0.05)) as tasks:
            task_id = await tasks.submit_task(gate)
            await gate.holds(1)
            assert await tasks.cancel_task(task_id)
            info = await tasks.wait_for_task(task_id)
            assert (info.status, info.abandoned) == (TaskStatus.CANCELLED, True)
            gate.open()
            await until(lambda: not tasks.status()["slots"]["external"]["abandoned"])


async def test_a_concurrency_manager_that_fails_fails_the_task() -> None:
    class Broken:
        async def run_in_thread(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            raise SystemExit("no more threads")

    async with manager(threads=Broken()) as tasks:
        info = await tasks.wait_for_task(await tasks.submit_task(int))
        assert (info.status, info.error_type) == (TaskStatus.FAILED, "SystemExit")
        assert await tasks.run(asyncio.sleep, 0, "works") == "works"


async def test_a_standard_library_logger_gets_one_readable_line_per_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ValueError("on purpose")

    with caplog.at_level(logging.INFO, logger="test.task_manager"):
        async with manager() as tasks:
            await tasks.wait_for_task(await tasks.submit_task(asyncio.sleep, 0, name="fine"))
            await tasks.wait_for_task(await tasks.submit_task(fail, name="broken"))
    lines = [record for record in caplog.records if record.message.startswith(names.LOG_FINISHED)]
    assert [(line.levelname, line.name) for line in lines] == [
        ("INFO", "test.task_manager"),
        ("WARNING", "test.task_manager"),
    ]
    assert "task_name='fine'" in lines[0].message
    assert "status='completed'" in lines[0].message
    assert "error_type='ValueError' error='on purpose'" in lines[1].message
