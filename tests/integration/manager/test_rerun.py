"""A failed or cancelled task can be run again as it was submitted, while it is kept."""

import asyncio
import gc
import math
import weakref
from typing import Any

import pytest
from opentelemetry.trace import format_span_id

from qorzen_obs import TaskCategory, TaskInfo, TaskManager, TaskPriority, TaskStatus, task
from qorzen_obs.core.config_manager import ConfigManager
from qorzen_obs.errors import (
    TaskManagerClosedError,
    TaskNotFoundError,
    TaskNotRerunnableError,
    TaskQueueFullError,
)
from qorzen_obs.telemetry import names
from qorzen_obs.testing import CapturedLogs, open_test_manager
from tests.support import Gate, Spans, ThreadGate, settings, until


class Flaky:
    """Fails until it is fixed, and keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.fixed = False

    async def __call__(self, *args: Any, **kwargs: Any) -> str:
        self.calls.append((args, kwargs))
        if not self.fixed:
            raise OSError("not there")
        return "value"


async def failed(tasks: TaskManager, func: Any, *args: Any, **options: Any) -> TaskInfo:
    info = await tasks.wait_for_task(await tasks.submit_task(func, *args, **options))
    assert info.status is TaskStatus.FAILED
    return info


async def test_a_failed_task_runs_again_with_all_that_it_was_submitted_with() -> None:
    work = Flaky()
    async with open_test_manager() as tasks:
        first = await failed(
            tasks,
            work,
            1,
            name="fetch",
            category="io",
            priority="high",
            plugin_id="p",
            metadata={"a": [1]},
            timeout=7,
            cancellable=False,
            path="x",
        )
        work.fixed = True
        again = await tasks.wait_for_task(await tasks.rerun(first.task_id))
        assert (again.status, again.result) == (TaskStatus.COMPLETED, "value")
        assert work.calls == [((1,), {"path": "x"})] * 2
        assert again.task_id != first.task_id
        assert (again.rerun_of, first.rerun_of, again.attempt) == (first.task_id, None, 1)
        for same in (
            "name",
            "category",
            "priority",
            "plugin_id",
            "metadata",
            "timeout_seconds",
            "cancellable",
        ):
            assert getattr(again, same) == getattr(first, same), same
        assert tasks.find(first.task_id) == first, "the first one stays as it ended"


async def test_a_cancelled_task_runs_again_whether_it_had_started_or_not() -> None:
    gate = Gate()
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        ids = [await tasks.submit_task(gate, number) for number in range(2)]
        await gate.holds(1)
        for task_id in reversed(ids):
            await tasks.cancel_task(task_id)
        await tasks.wait_for_task(ids[0])
        gate.open()
        results = [(await tasks.wait_for_task(await tasks.rerun(task_id))).result for task_id in ids]
        assert results == [0, 1]


async def test_a_rerun_that_fails_can_be_run_again_and_names_the_one_before_it() -> None:
    async with open_test_manager() as tasks:
        first = await failed(tasks, Flaky())
        second = await tasks.wait_for_task(await tasks.rerun(first.task_id))
        third = await tasks.wait_for_task(await tasks.rerun(second.task_id))
        assert (second.status, second.rerun_of) == (TaskStatus.FAILED, first.task_id)
        assert (third.status, third.rerun_of) == (TaskStatus.FAILED, second.task_id)


async def test_what_was_said_on_submitting_goes_before_the_definition_as_it_did_the_first_time() -> None:
    @task(category="io", priority="high", timeout=5)
    async def defined() -> None:
        raise OSError

    async with open_test_manager() as tasks:
        first = await failed(tasks, defined, category="core", priority="normal", timeout=math.inf)
        again = await tasks.wait_for_task(await tasks.rerun(first.task_id))
        assert (again.category, again.priority) == (TaskCategory.CORE, TaskPriority.NORMAL)
        assert again.timeout_seconds is None


async def test_a_task_that_completed_or_has_not_ended_is_not_run_again() -> None:
    gate = Gate()
    async with open_test_manager(settings(max_concurrent_tasks=1)) as tasks:
        completed = await tasks.submit_task(asyncio.sleep, 0)
        await tasks.wait_for_task(completed)
        running, pending = await tasks.submit_task(gate), await tasks.submit_task(gate)
        for task_id, reason in (
            (completed, "it completed"),
            (running, "it is running"),
            (pending, "it is pending"),
        ):
            with pytest.raises(TaskNotRerunnableError, match=reason) as refused:
                await tasks.rerun(task_id)
            assert refused.value.task_id == task_id
        with pytest.raises(TaskNotFoundError):
            await tasks.rerun("f" * 32)
        assert tasks.status()["tasks"]["total"] == 3


async def test_a_task_whose_code_would_not_stop_is_not_run_again_before_that_has_ended() -> None:
    with ThreadGate() as gate:
        async with open_test_manager(settings(cancel_grace_seconds=0.01)) as tasks:
            task_id = await tasks.submit_task(gate, "value", category="io")
            await gate.holds(1)
            await tasks.cancel_task(task_id)
            assert (await tasks.wait_for_task(task_id)).abandoned
            with pytest.raises(TaskNotRerunnableError, match="still runs"):
                await tasks.rerun(task_id)
            gate.open()
            await until(lambda: not any(tasks.looks.abandoned_by_category().values()))
            again = await tasks.wait_for_task(await tasks.rerun(task_id))
            assert again.result == "value"


async def test_a_task_that_retention_has_dropped_is_not_run_again() -> None:
    async with open_test_manager(settings(keep_completed_tasks=1)) as tasks:
        first = await failed(tasks, Flaky())
        await failed(tasks, Flaky())
        with pytest.raises(TaskNotRerunnableError, match=r"only its outline is kept.*keep_completed_tasks"):
            await tasks.rerun(first.task_id)


class Data:
    """Something whose end can be seen."""


async def test_arguments_live_as_long_as_the_failed_task_is_kept_and_no_longer() -> None:
    data = Data()
    seen = weakref.ref(data)
    async with open_test_manager(settings(keep_completed_tasks=1)) as tasks:
        await failed(tasks, Flaky(), data)
        del data
        gc.collect()
        assert seen() is not None
        await failed(tasks, Flaky())
        gc.collect()
        assert seen() is None


@pytest.mark.parametrize("keep", [False, True])
async def test_a_completed_task_lets_go_of_its_arguments_whatever_is_set(keep: bool) -> None:
    data = Data()
    seen = weakref.ref(data)
    work = Flaky()
    work.fixed = True
    async with open_test_manager(settings(keep_arguments=keep)) as tasks:
        await tasks.wait_for_task(await tasks.submit_task(work, data))
        work.calls.clear()
        del data
        gc.collect()
        assert seen() is None


async def test_without_kept_arguments_nothing_is_run_again() -> None:
    async with open_test_manager(settings(keep_arguments=False)) as tasks:
        data = Data()
        seen = weakref.ref(data)
        work = Flaky()
        first = await failed(tasks, work, data)
        work.calls.clear()
        del data
        gc.collect()
        assert seen() is None
        with pytest.raises(TaskNotRerunnableError, match=r"not kept, see tasks\.keep_arguments"):
            await tasks.rerun(first.task_id)


async def test_turning_it_off_lets_go_of_what_was_kept() -> None:
    config = ConfigManager(settings())
    async with open_test_manager(config=config) as tasks:
        data = Data()
        seen = weakref.ref(data)
        work = Flaky()
        first = await failed(tasks, work, data)
        work.calls.clear()
        del data
        await config.set("tasks.keep_arguments", False)
        gc.collect()
        assert seen() is None
        assert tasks.find(first.task_id) == first
        with pytest.raises(TaskNotRerunnableError, match="not kept"):
            await tasks.rerun(first.task_id)


async def test_a_rerun_is_a_submission_that_can_be_refused() -> None:
    async with open_test_manager(settings(max_concurrent_tasks=1, max_pending=1)) as tasks:
        first = await failed(tasks, Flaky())
        for _ in range(2):
            await tasks.submit_task(Gate())
        with pytest.raises(TaskQueueFullError):
            await tasks.rerun(first.task_id)
        await tasks.shutdown(grace_seconds=0)
        with pytest.raises(TaskManagerClosedError):
            await tasks.rerun(first.task_id)


async def test_the_span_of_a_rerun_links_to_the_failed_one_and_belongs_to_its_caller() -> None:
    spans = Spans()
    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        first = await failed(tasks, Flaky(), name="first")
        (failed_span,) = spans.all()
        with spans.tracer.start_as_current_span("caller") as caller:
            again = await tasks.wait_for_task(await tasks.rerun(first.task_id))
        span = spans.all()[-2]
        assert (span.name, again.span_id) == ("run Flaky", format_span_id(span.context.span_id))
        assert [link.context.span_id for link in span.links] == [failed_span.context.span_id]
        assert span.context.trace_id == caller.get_span_context().trace_id
        assert failed_span.context.trace_id != span.context.trace_id
        assert span.attributes is not None
        assert span.attributes[names.TASK_RERUN_OF] == first.task_id


async def test_a_rerun_of_what_never_started_has_no_link() -> None:
    spans = Spans()
    async with open_test_manager(tracer_provider=spans.provider) as tasks:
        await tasks.pause("core")
        task_id = await tasks.submit_task(asyncio.sleep, 0, name="job")
        await tasks.cancel_task(task_id)
        await tasks.resume("core")
        again = await tasks.wait_for_task(await tasks.rerun(task_id))
        assert again.rerun_of == task_id
        assert not spans.one("run job").links


async def test_the_line_of_a_rerun_says_what_it_runs_again() -> None:
    logs = CapturedLogs()
    async with open_test_manager(logs=logs) as tasks:
        first = await failed(tasks, Flaky())
        await tasks.wait_for_task(await tasks.rerun(first.task_id))
        lines = logs.of(names.LOG_FINISHED)
        assert [line.get("rerun_of") for line in lines] == [None, first.task_id]


async def test_other_threads_run_tasks_again_too() -> None:
    work = Flaky()
    async with open_test_manager() as tasks:
        first = await failed(tasks, work)
        work.fixed = True
        again = await asyncio.to_thread(tasks.from_thread.rerun, first.task_id)
        assert (await tasks.wait_for_task(again)).result == "value"
