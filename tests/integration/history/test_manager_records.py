"""A manager with a durable history: what happens to its tasks is stored, and found by the next one."""

import asyncio
from pathlib import Path

import pytest

from qorzen_obs import Retry, task
from qorzen_obs.app import open_task_manager
from qorzen_obs.core.task_manager import TaskManager
from qorzen_obs.errors import HistoryInUseError
from qorzen_obs.history.base import StoredTasks, TaskQuery
from qorzen_obs.settings import HistorySettings, Settings
from qorzen_obs.tasks import EventKind, TaskInfo, TaskStatus
from tests.integration.history.managers import Recording, recorded_manager, stored_service


async def add(one: int, other: int) -> int:
    return one + other


async def fail() -> None:
    raise ValueError("no luck")


def stored(tasks: TaskManager) -> StoredTasks:
    assert tasks.looks.stored is not None
    return tasks.looks.stored


async def found(tasks: TaskManager, task_id: str) -> TaskInfo:
    """What is stored of a task."""
    info = await asyncio.to_thread(stored(tasks).find, task_id)
    assert info is not None
    return info


async def test_a_task_is_found_by_the_next_manager_on_the_file_as_the_first_one_showed_it(
    tmp_path: Path,
) -> None:
    file = tmp_path / "history.sqlite"
    async with stored_service(file) as first:
        task_id = await first.tasks.submit_task(add, 1, 2, metadata={"order": 7})
        ended = await first.tasks.wait_for_task(task_id)
    async with stored_service(file) as second:
        again = await found(second.tasks, task_id)
        assert second.tasks.looks.losses == ()
        assert second.tasks.find(task_id) is None, "it is not a task of this manager"
    assert again == ended.replace(result=None)
    assert again.instance == first.tasks.looks.event_ring.instance


async def test_each_attempt_of_a_task_is_stored(tmp_path: Path) -> None:
    file, calls = tmp_path / "history.sqlite", list[None]()

    @task(retry=Retry(max_attempts=3, backoff=lambda *_: 0.001))
    async def lucky_at_last() -> None:
        calls.append(None)
        if len(calls) < 3:
            raise OSError("busy")

    async with stored_service(file) as first:
        task_id = await first.tasks.submit_task(lucky_at_last)
        live = await first.tasks.wait_for_task(task_id)
    async with stored_service(file) as second:
        again = await found(second.tasks, task_id)
    assert again.attempts == live.attempts
    assert [one.number for one in again.attempts] == [1, 2, 3]
    assert [one.error_type for one in again.attempts] == ["OSError", "OSError", None]
    moments = [moment for one in again.attempts for moment in (one.started_at, one.ended_at or 0.0)]
    assert moments == pytest.approx(sorted(moments), abs=0.01)


async def test_a_failure_keeps_its_traceback_and_its_log(tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite"
    async with stored_service(file) as first:
        with pytest.raises(ValueError, match="no luck"):
            await first.tasks.run(fail)
    async with stored_service(file) as second:
        (failed,) = await asyncio.to_thread(
            stored(second.tasks).select, TaskQuery(statuses=frozenset({TaskStatus.FAILED})), limit=5
        )
        lines = await asyncio.to_thread(stored(second.tasks).logs, failed.task_id)
    assert failed.error == "no luck"
    assert failed.traceback is not None
    assert "in fail" in failed.traceback
    assert [line["event"] for line in lines] == ["task.finished"]


async def test_a_committed_task_is_on_disk_when_its_submission_returns(tmp_path: Path) -> None:
    async with stored_service(tmp_path / "history.sqlite", accept="committed") as service:
        task_id = await service.tasks.submit_task(asyncio.sleep, 3600)
        assert (await found(service.tasks, task_id)).task_id == task_id


async def test_status_and_metrics_show_the_history(tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite"
    async with stored_service(file) as service:
        status = service.tasks.status()["history"]
        assert (status["kind"], status["path"], status["durable"]) == ("sqlite", str(file), True)
        value = service.tasks.registry.get_sample_value
        assert value("qorzen_history_durable") == 1
        assert value("qorzen_tasks_lost_total", {"category": "core"}) == 0
        assert service.parts.history is not None
        assert service.tasks.looks.settings_in_force()["history"] == service.settings.history


async def test_without_a_durable_history_status_says_memory_and_no_metric_is_of_one() -> None:
    async with open_task_manager(Settings()) as tasks:
        assert tasks.status()["history"] == {"kind": "memory"}
        assert tasks.looks.stored is None
        assert tasks.registry.get_sample_value("qorzen_history_durable") is None


async def test_a_second_manager_on_a_file_is_refused_with_the_name_of_the_holder(tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite"
    async with stored_service(file):
        with pytest.raises(HistoryInUseError, match=r"history\.sqlite: in use by"):
            async with open_task_manager(Settings(history=HistorySettings(url=f"sqlite:{file}"))):
                pass
    async with stored_service(file) as later:
        assert later.tasks.initialized


async def test_a_recorder_gets_submissions_starts_progress_retries_and_ends() -> None:
    recorder = Recording()

    @task(retry=Retry(max_attempts=2, backoff=lambda *_: 0.001))
    async def unlucky() -> None:
        raise OSError

    async with recorded_manager(recorder) as tasks:
        task_id = await tasks.submit_task(unlucky)
        await tasks.wait_for_task(task_id)
    assert [kind for kind, of in recorder.events if of == task_id] == [
        EventKind.SUBMITTED,
        EventKind.STARTED,
        EventKind.RETRYING,
        EventKind.STARTED,
    ]
    assert recorder.ends == [(EventKind.RETRYING, task_id), (EventKind.FAILED, task_id)]
