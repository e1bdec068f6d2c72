"""Where a callable has parameters that are named as our options are: nothing that is given is taken for the other."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from qorzen_obs import TaskManager, TaskStatus, task, with_options
from qorzen_obs.arguments import SUBMIT_OPTIONS
from qorzen_obs.callables import BoundCall
from qorzen_obs.core.concurrency_manager import ConcurrencyManager
from qorzen_obs.core.from_thread import FromThread
from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.options import TaskOptions
from qorzen_obs.testing import open_test_manager

#: A value for each option that is not the one it has when nothing is given.
GIVEN: dict[str, Any] = {
    "name": "given",
    "category": "io",
    "plugin_id": "given",
    "priority": "high",
    "metadata": {"given": True},
    "timeout": 120,
    "cancellable": False,
}

Submit = Callable[..., Awaitable[Any]]


def in_thread(call: Callable[..., Any]) -> Submit:
    async def submit(*args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(call, *args, **kwargs)

    return submit


def ways_in(tasks: TaskManager) -> dict[str, Submit]:
    return {
        "submit_task": tasks.submit_task,
        "run": tasks.run,
        "from_thread.submit": in_thread(tasks.from_thread.submit),
        "from_thread.run": in_thread(tasks.from_thread.run),
    }


def with_parameter(option: str) -> dict[str, Callable[..., Any]]:
    """Callables of every kind that have a parameter of this name and give it back."""
    names: dict[str, Any] = {}
    exec(
        f"""
def plain(rows, {option}="own"): return {option}
def by_name(rows, *, {option}="own"): return {option}
async def coroutine(rows, {option}="own"): return {option}
class Object:
    def method(self, rows, {option}="own"): return {option}
    def __call__(self, rows, {option}="own"): return {option}
    @classmethod
    def of_class(cls, rows, {option}="own"): return {option}
    @staticmethod
    def static(rows, {option}="own"): return {option}
class Made:
    def __init__(self, rows, {option}="own"): pass
""",
        names,
    )
    plain, made = names["plain"], names["Object"]()

    @functools.wraps(plain)
    def decorated(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)

    return {
        "function": plain,
        "keyword-only": names["by_name"],
        "coroutine function": names["coroutine"],
        "method": made.method,
        "classmethod": made.of_class,
        "staticmethod": made.static,
        "object": made,
        "class": names["Made"],
        "decorated": decorated,
        "defined": task(timeout=5)(names["plain"]),
        "partial": functools.partial(plain),
        "with_options": with_options(plain, delay=0),
    }


def test_the_options_are_those_of_submit_task() -> None:
    parameters = inspect.signature(TaskManager.submit_task).parameters.values()
    assert {one.name for one in parameters if one.kind is one.KEYWORD_ONLY} == SUBMIT_OPTIONS == GIVEN.keys()


@pytest.mark.parametrize("option", sorted(SUBMIT_OPTIONS))
async def test_an_option_that_the_callable_has_a_parameter_for_is_refused(option: str) -> None:
    async with open_test_manager() as tasks:
        for way, submit in ways_in(tasks).items():
            for kind, func in with_parameter(option).items():
                with pytest.raises(InvalidTaskError) as caught:
                    await submit(func, [1], **{option: GIVEN[option]})
                assert caught.value.argument == option, (way, kind)
                for advice in (f"functools.partial(…, {option}=…)", f"with_options(…, {option}=…)"):
                    assert advice in str(caught.value), (way, kind)
        with pytest.raises(InvalidTaskError, match=r"functools\.partial"):
            await tasks.submit_async_task(
                with_parameter(option)["coroutine function"], [1], **{option: GIVEN[option]}
            )
        assert tasks.status()["tasks"]["total"] == 0


@pytest.mark.parametrize("option", sorted(SUBMIT_OPTIONS))
async def test_a_partial_gives_the_callable_its_argument_and_frees_the_option(option: str) -> None:
    async with open_test_manager() as tasks:
        for kind, func in with_parameter(option).items():
            if kind == "class":
                continue  # it returns no argument
            bound = functools.partial(func, [1], **{option: "bound"})
            assert await tasks.run(bound, **{option: GIVEN[option]}) == "bound", kind
            assert await tasks.run(func, [1]) == "own", kind


async def test_the_other_options_may_be_given() -> None:
    def export(rows: list[int], timeout: float = 30) -> float:
        return timeout

    async with open_test_manager() as tasks:
        assert await tasks.run(export, [1], name="given", priority="high", cancellable=False) == 30
        task_id = await tasks.submit_task(with_options(export, timeout=120), [1])
        info = await tasks.wait_for_task(task_id)
        assert (info.result, info.timeout_seconds) == (30, 120)


async def test_what_cannot_take_it_by_name_is_no_reason_to_refuse() -> None:
    def by_position(name: str, /) -> str:
        return name

    def all_of_them(*name: str, **timeout: str) -> tuple[object, ...]:
        return name, timeout

    async with open_test_manager() as tasks:
        assert await tasks.run(by_position, "own", name="given") == "own"
        assert await tasks.run(all_of_them, "own", name="given", timeout=120) == (("own",), {})
        assert await tasks.run(max, 2, 3, name="given", timeout=120) == 3


async def test_a_bound_call_leaves_every_option_to_the_manager() -> None:
    for option, value in GIVEN.items():
        async with open_test_manager() as tasks:
            assert (
                await tasks.run(BoundCall(with_parameter(option)["function"], [1]), **{option: value})
                == "own"
            )


async def test_a_task_of_such_a_callable_is_run_again() -> None:
    def fail(name: str = "own") -> None:
        raise ValueError(name)

    async with open_test_manager() as tasks:
        task_id = await tasks.submit_task(with_options(fail, name="given"))
        await tasks.wait_for_task(task_id)
        again = await tasks.wait_for_task(await tasks.rerun(task_id))
        assert (again.name, again.error) == ("given", "own")


async def test_func_and_self_are_names_like_any_other() -> None:
    def sync(self: int, func: int) -> tuple[int, int]:
        return self, func

    async def coroutine(self: int, func: int) -> tuple[int, int]:
        return self, func

    async with open_test_manager() as tasks:
        for submit in (tasks.run, in_thread(tasks.from_thread.run)):
            assert await submit(sync, self=1, func=2) == (1, 2)
        away = in_thread(tasks.from_thread.submit)
        for submit in (tasks.submit_task, tasks.submit_async_task, away):
            info = await tasks.wait_for_task(await submit(coroutine, self=1, func=2))
            assert info.result == (1, 2)


async def test_a_foreign_manager_takes_no_argument_of_a_task_for_its_own() -> None:
    class Foreign:
        """Has parameters of its own where it is given a callable."""

        async def run_in_thread(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return func(*args, **kwargs)

    def work(self: int, func: int) -> tuple[int, int]:
        return self, func

    async with open_test_manager(concurrency=Foreign()) as tasks:
        assert await tasks.run(work, self=1, func=2) == (1, 2)


async def test_the_concurrency_manager_takes_no_argument_of_a_call_for_its_own() -> None:
    def work(self: int, func: int) -> tuple[int, int]:
        return self, func

    assert await ConcurrencyManager().run_in_thread(work, self=1, func=2) == (1, 2)
    assert await ConcurrencyManager().run_io_task(work, self=1, func=2) == (1, 2)


def test_no_way_into_the_manager_takes_func_or_self_by_name() -> None:
    """Wherever the arguments of a callable stand among our own."""
    owners = (TaskManager, FromThread, ConcurrencyManager)
    for owner in owners:
        for name, method in inspect.getmembers(owner, inspect.isfunction):
            parameters = inspect.signature(method).parameters.values()
            if name.startswith("_") or all(one.kind is not one.VAR_KEYWORD for one in parameters):
                continue
            by_name = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
            assert by_name == [], f"{owner.__name__}.{name}"


# ---------------------------------------------------------------------- the parameter progress_reporter


def reporting(value: int, progress_reporter: Any = None, **more: Any) -> str:
    progress_reporter(50, "half")
    return "reported"


class Reporting:
    def method(self, value: int, progress_reporter: Any = None) -> str:
        return reporting(value, progress_reporter)

    def __call__(self, value: int, *, progress_reporter: Any = None) -> str:
        return reporting(value, progress_reporter)


async def reporting_later(value: int, progress_reporter: Any = None) -> str:
    return reporting(value, progress_reporter)


@pytest.mark.parametrize(
    "func",
    [
        reporting,
        reporting_later,
        Reporting().method,
        functools.partial(reporting),
        functools.partial(Reporting()),
    ],
    ids=["function", "coroutine function", "method", "partial", "object"],
)
async def test_a_progress_reporter_that_is_given_is_the_one_that_is_used(func: Callable[..., Any]) -> None:
    reports: list[float] = []

    def own(percent: float, message: str) -> None:
        reports.append(percent)

    async with open_test_manager() as tasks:
        given = [
            tasks.submit_task(func, 1, progress_reporter=own),
            tasks.submit_task(functools.partial(func, progress_reporter=own), 1),
        ]
        for submitted in given:
            info = await tasks.wait_for_task(await submitted)
            assert (info.result, info.progress.percent, info.error) == ("reported", 0, None)
        assert reports == [50, 50]
        info = await tasks.wait_for_task(await tasks.submit_task(func, 1))
        assert (info.result, info.progress.percent) == ("reported", 50)


async def test_a_progress_reporter_may_be_given_by_position() -> None:
    reports: list[float] = []

    def own(percent: float, message: str) -> None:
        reports.append(percent)

    async with open_test_manager() as tasks:
        for func in (reporting, reporting_later, Reporting().method):
            assert await tasks.run(func, 1, own) == "reported"
            assert await tasks.run(functools.partial(func, 1), own) == "reported"
            assert await tasks.run(functools.partial(func, 1, own)) == "reported"
        assert reports == [50] * 9


async def test_a_parameter_that_takes_no_reporter_by_name_gets_none() -> None:
    def by_position(progress_reporter: str = "none", /) -> str:
        return progress_reporter

    def all_of_them(**progress_reporter: str) -> dict[str, str]:
        return progress_reporter

    async with open_test_manager() as tasks:
        assert await tasks.run(by_position) == "none"
        assert await tasks.run(functools.partial(all_of_them)) == {}
        info = await tasks.wait_for_task(await tasks.submit_task(by_position, "mine"))
        assert (info.status, info.result) == (TaskStatus.COMPLETED, "mine")


# ---------------------------------------------------------------- options of a definition


def lean(rows: int) -> int:
    return rows


def takes_anything(rows: int, **more: Any) -> Any:
    return more


def takes_delay(rows: int, delay: Any = None) -> Any:
    return {"delay": delay}


@pytest.mark.parametrize("option", sorted(TaskOptions.__annotations__.keys() - SUBMIT_OPTIONS))
async def test_an_option_of_a_definition_is_refused_with_the_way_to_give_it(option: str) -> None:
    async with open_test_manager() as tasks:
        for submit in ways_in(tasks).values():
            for func in (lean, functools.partial(lean), task(name="lean")(lean)):
                with pytest.raises(InvalidTaskError, match=rf"with_options\(lean, {option}=…\)") as refused:
                    await submit(func, 1, **{option: 1})
                assert refused.value.argument == option
        assert tasks.status()["tasks"]["total"] == 0


async def test_a_callable_that_takes_an_argument_of_that_name_gets_it() -> None:
    async with open_test_manager() as tasks:
        assert await tasks.run(takes_anything, 1, retry=2, delay=3) == {"retry": 2, "delay": 3}
        assert await tasks.run(takes_delay, 1, delay=3) == {"delay": 3}
        run: Any = tasks.run  # a type checker would refuse these
        with pytest.raises(TypeError, match="keyword"):  # no signature says that it takes none
            await run(max, 1, 2, retry=3)
        with pytest.raises(InvalidTaskError, match="retry"):
            await run(takes_delay, 1, delay=3, retry=2)
