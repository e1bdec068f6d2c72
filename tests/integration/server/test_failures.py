"""GET /api/failures: what failed, by definition and error type."""

from __future__ import annotations

import asyncio
from datetime import datetime

import aiohttp

from qorzen_obs import task
from qorzen_obs.clock import rfc_3339
from qorzen_obs.tasks import TaskCategory
from tests.services.ops_plane import get_json, managing, serving


@task(name="import")
async def load(error: BaseException | None = None) -> None:
    if error is not None:
        raise error


async def save(error: BaseException) -> None:
    raise error


async def test_failures_are_grouped_by_definition_and_error_type(session: aiohttp.ClientSession) -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        ids = [
            await manager.submit_task(load, ValueError("first"), name="import of a"),
            await manager.submit_task(load, ValueError("last"), name="import of b"),
            await manager.submit_task(load),
            await manager.submit_task(load, KeyError("x")),
            await manager.submit_task(save, ValueError("x" * 1000), category="io"),
        ]
        infos = [await manager.wait_for_task(task_id) for task_id in ids]
        found = await get_json(session, f"{plane.url}/api/failures")
        assert [(one["definition"], one["error_type"], one["count"]) for one in found["items"]] == [
            ("save", "ValueError", 1),
            ("import", "KeyError", 1),
            ("import", "ValueError", 2),
        ]
        assert (found["groups"], found["count"], found["failed_total"]) == (3, 4, 4)
        group = found["items"][2]
        assert group["example"] == {"task_id": ids[1], "name": "import of b", "error": "last"}
        assert (group["rerun"], group["rerunnable"]) == (0, 2)
        first, last = (infos[index].completed_at for index in (0, 1))
        assert first is not None
        assert last is not None
        assert (group["first_at"], group["last_at"]) == (rfc_3339(first), rfc_3339(last))
        assert found["kept_since"] == group["first_at"]
        assert len(found["items"][0]["example"]["error"]) == 500, "long texts are cut"

        again = await manager.rerun(ids[0])
        await manager.wait_for_task(again)
        groups = (await get_json(session, f"{plane.url}/api/failures", definition="import"))["items"]
        assert [one["definition"] for one in groups] == ["import", "import"]
        assert groups[0]["example"]["task_id"] == again, "it failed in its turn"
        assert (groups[0]["count"], groups[0]["rerun"], groups[0]["rerunnable"]) == (3, 1, 2)


async def test_failures_are_narrowed_by_category_and_period_and_bounded(
    session: aiohttp.ClientSession,
) -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        url = f"{plane.url}/api/failures"
        nothing = await get_json(session, url)
        assert (nothing["items"], nothing["failed_total"], nothing["kept_since"]) == ([], 0, None)
        for number, category in enumerate((TaskCategory.IO, TaskCategory.IO, TaskCategory.CORE)):
            await manager.wait_for_task(
                await manager.submit_task(save, type(f"Error{number}", (Exception,), {})(), category=category)
            )
        only = await get_json(session, url, category="io")
        assert [one["error_type"].rpartition(".")[2] for one in only["items"]] == ["Error1", "Error0"]
        one = await get_json(session, url, limit="1")
        assert (len(one["items"]), one["groups"], one["count"]) == (1, 3, 3)
        middle = only["items"][0]["last_at"]
        later = await get_json(session, url, ended_after=middle)
        assert {each["error_type"].rpartition(".")[2] for each in later["items"]} == {"Error1", "Error2"}
        earlier = await get_json(session, url, ended_before=middle)
        assert [each["error_type"].rpartition(".")[2] for each in earlier["items"]] == ["Error0"]
        assert datetime.fromisoformat(later["kept_since"]) < datetime.fromisoformat(middle)
        for wrong in ({"category": "x"}, {"limit": "0"}, {"name": "x"}, {"ended_after": "yesterday"}):
            await get_json(session, url, 422, **wrong)


async def test_what_is_not_kept_any_more_still_counts_in_the_total(session: aiohttp.ClientSession) -> None:
    async with (
        managing(keep_completed_tasks=2, keep_arguments=False) as (manager, _),
        serving(manager) as plane,
    ):
        for _ in range(5):
            await manager.wait_for_task(await manager.submit_task(save, OSError()))
        await asyncio.sleep(0)
        found = await get_json(session, f"{plane.url}/api/failures")
        (group,) = found["items"]
        assert (group["count"], found["count"], found["failed_total"]) == (2, 2, 5)
        assert group["rerunnable"] == 0, "without arguments none can be run again"
