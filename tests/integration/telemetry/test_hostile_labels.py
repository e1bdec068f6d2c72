"""F16: whatever names tasks, errors and requests have, the number of series stays under its cap."""

import asyncio
from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse

from qorzen_obs import TaskStatus
from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.cells import CappedCounter
from qorzen_obs.telemetry.metrics import LABEL_CAP
from qorzen_obs.testing import open_test_manager
from tests.services.ops_plane import managing, serving
from tests.support import metric, settings, until

TASKS = 2_000
HOSTILE = ('"} 1\n# EOF\n', "a\\b", "\u202eevil", "x" * 190, '{le="+Inf"}', "\x1b[31m", "名前")


async def test_f16_hostile_names_and_error_types_are_folded_into_other_and_counted() -> None:
    async def fail(number: int | None) -> None:
        if number is not None:
            raise type(f"{HOSTILE[number % len(HOSTILE)]}{number}", (Exception,), {})(number)

    async with open_test_manager(settings(max_pending=TASKS)) as tasks:
        await tasks.run(fail, None)  # with the first task of its kind its histograms begin
        before = sum(len(family.samples) for family in tasks.registry.collect())
        ids = [
            await tasks.submit_task(fail, number, name=f"task {number}", plugin_id=f"plugin {number}")
            for number in range(TASKS)
        ]
        await asyncio.gather(*map(tasks.wait_for_task, ids))
        families = {family.name: family.samples for family in tasks.registry.collect()}
        errors = [s for s in families[names.TASK_ERRORS.name] if s.name.endswith("_total")]
        assert sum(len(samples) for samples in families.values()) <= before + LABEL_CAP + 1
        assert sum(sample.value for sample in errors) == TASKS
        assert len(errors) == LABEL_CAP + 1
        folded = metric(tasks.registry, f"{names.TASK_ERRORS.name}_total", error_type="_other")
        assert folded == TASKS - LABEL_CAP
        assert metric(tasks.registry, f"{names.LABEL_OVERFLOW.name}_total", label="error_type") == folded
        text: bytes = generate_latest(tasks.registry)  # type: ignore[no-untyped-call]  # theirs
        assert b"task 1" not in text
        assert b"plugin 1" not in text
        shown = {family.name for family in parse(text.decode())}  # type: ignore[no-untyped-call]  # theirs
        assert names.TASK_ERRORS.name in shown, "what is hostile is escaped, and ends no exposition"


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_f16_a_label_that_is_not_of_its_set_is_refused_at_submit(hostile: str) -> None:
    async with open_test_manager() as tasks:
        for field in ("category", "priority"):
            options: dict[str, Any] = {field: hostile}
            with pytest.raises(InvalidTaskError, match=field):
                await tasks.submit_task(asyncio.sleep, 0, **options)
        assert tasks.status()["tasks"]["by_status"][TaskStatus.COMPLETED.value] == 0
        assert metric(tasks.registry, f"{names.TASKS_SUBMITTED.name}_total") == 0


async def test_f16_hostile_paths_and_methods_share_their_series() -> None:
    async with managing() as (tasks, _):
        seen = tasks.looks.metrics.on_request
        async with (
            serving(tasks, on_request=seen) as plane,
            aiohttp.ClientSession(plane.url) as session,
        ):
            for number in range(300):
                async with session.request(f"M{number}", f"/{number}/{{le}}?{number}") as answer:
                    assert answer.status in (400, 404, 405)
        series = {
            tuple(sorted(sample.labels.items()))
            for family in tasks.registry.collect()
            if family.name == names.HTTP_DURATION.name
            for sample in family.samples
            if sample.name.endswith("_count")
        }
        assert len(series) <= 2


def test_f16_a_million_values_are_at_most_the_cap_and_none_is_lost() -> None:
    counter = CappedCounter(LABEL_CAP)
    for number in range(1_000_000):
        counter.add(("core",), f"{number}")
    read = counter.read()
    assert len(read) == LABEL_CAP + 1
    assert sum(n for _, n in read) == 1_000_000
    assert counter.overflowed == 1_000_000 - LABEL_CAP


async def test_f16_hostile_names_of_functions_and_definitions_are_escaped_bounded_and_counted() -> None:
    async with open_test_manager(settings(max_pending=TASKS)) as tasks:
        for number in range(300):

            async def job() -> None: ...

            job.__name__ = job.__qualname__ = f"{HOSTILE[number % len(HOSTILE)]}{number}"
            await tasks.submit_task(job, name="its own name")
        name = f"{names.DEFINITION_TASKS.name}_total"
        await until(lambda: metric(tasks.registry, name) == 300)
        assert metric(tasks.registry, name, definition="_other") == 200
        assert metric(tasks.registry, f"{names.LABEL_OVERFLOW.name}_total", label="definition") == 200
        text: bytes = generate_latest(tasks.registry)  # type: ignore[no-untyped-call]  # theirs
        assert b"its own name" not in text
        (family,) = (
            family
            for family in parse(text.decode())  # type: ignore[no-untyped-call]  # theirs
            if family.name == names.DEFINITION_TASKS.name
        )
        assert len({sample.labels["definition"] for sample in family.samples}) == 101
