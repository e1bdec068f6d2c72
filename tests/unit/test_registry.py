"""Definitions: what @task puts on a callable, what the manager learns of one, and the table of names."""

import functools
import math
from types import ModuleType
from typing import Any

import pytest

from qorzen_obs.arguments import check_name, check_timeout, parse_category, parse_priority
from qorzen_obs.callables import traits_of
from qorzen_obs.definition import NO_DEFINITION
from qorzen_obs.errors import InvalidTaskError
from qorzen_obs.options import task
from qorzen_obs.registry import TaskRegistry
from qorzen_obs.tasks import EngineKind, EngineName, TaskCategory, TaskPriority


@task
def bare(a: int) -> int:
    return a


@task(
    name="reports.build",
    category="io",
    priority="high",
    timeout=5,
    engine="thread",
    new_trace=True,
    at_start=True,
)
def build(progress_reporter: object = None) -> str:
    return "built"


@task(name="reports.send")
async def send() -> None: ...


class Callables:
    def method(self) -> None: ...

    @task(name="callables.defined")
    def defined(self) -> None: ...

    async def async_method(self) -> None: ...

    @staticmethod
    async def static() -> None: ...

    def __call__(self, progress_reporter: object) -> None: ...


class AsyncCallable:
    async def __call__(self) -> None: ...


def test_a_marked_callable_stays_what_it_was() -> None:
    assert bare(3) == 3
    assert bare.__name__ == "bare"
    assert build() == "built"


def test_a_definition_holds_what_was_given_and_leaves_the_rest_open() -> None:
    definition = traits_of(build).definition
    assert (definition.name, definition.category, definition.priority, definition.timeout) == (
        "reports.build",
        TaskCategory.IO,
        TaskPriority.HIGH,
        5.0,
    )
    assert (definition.engine, definition.new_trace, definition.at_start) == (EngineKind.THREAD, True, True)
    assert traits_of(bare).definition == NO_DEFINITION


@pytest.mark.parametrize(
    ("func", "name", "is_async", "wants_progress"),
    [
        (bare, "bare", False, False),
        (build, "reports.build", False, True),
        (send, "reports.send", True, False),
        (functools.partial(build), "reports.build", False, True),
        (functools.partial(functools.partial(send)), "reports.send", True, False),
        (Callables().method, "Callables.method", False, False),
        (Callables().defined, "callables.defined", False, False),
        (Callables().async_method, "Callables.async_method", True, False),
        (Callables.static, "Callables.static", True, False),
        (functools.partial(vars(Callables)["static"]), "Callables.static", True, False),
        (Callables(), "Callables", False, True),
        (Callables, "Callables", False, False),
        (AsyncCallable(), "AsyncCallable", True, False),
        (functools.partial(AsyncCallable()), "AsyncCallable", True, False),
        (print, "print", False, False),
        (dict, "dict", False, False),
        ("a".join, "str.join", False, False),
    ],
)
def test_what_the_manager_learns_of_a_callable(
    func: Any, name: str, is_async: bool, wants_progress: bool
) -> None:
    traits = traits_of(func)
    gets_reporter = traits.reporter_place is not None
    assert (traits.name, traits.is_async, gets_reporter) == (name, is_async, wants_progress)


@pytest.mark.parametrize(
    ("engine", "is_async", "right"),
    [
        ("loop", False, "'io', 'thread', 'process' or 'main'"),
        ("io", True, "'loop' or 'process'"),
        ("thread", True, "'loop' or 'process'"),
        ("main", True, "'loop' or 'process'"),
    ],
)
def test_an_engine_that_cannot_run_the_callable_is_refused_where_it_is_written(
    engine: EngineName, is_async: bool, right: str
) -> None:
    async def async_function() -> None: ...

    def function() -> None: ...

    with pytest.raises(InvalidTaskError, match=right):
        task(engine=engine)(async_function if is_async else function)


def test_an_engine_that_nobody_can_choose_is_refused() -> None:
    for engine in ("external", "processes", ""):
        with pytest.raises(InvalidTaskError, match="use one of loop, io, thread, process, main"):
            task(engine=engine)  # type: ignore[call-overload]  # a type checker refuses it too


def test_the_table_of_names_is_sorted_and_holds_each_name_once() -> None:
    registry = TaskRegistry()
    for func in (send, build, build):
        registry.add(func)
    assert [(name, func) for name, func, _ in registry] == [
        ("reports.build", build),
        ("reports.send", send),
    ]
    assert len(registry) == 2

    @task(name="reports.build")
    def other() -> None: ...

    with pytest.raises(InvalidTaskError, match=r"two tasks are named 'reports\.build'"):
        registry.add(other)
    assert len(registry) == 2


def test_a_module_gives_what_it_marks_and_nothing_else() -> None:
    module = ModuleType("jobs")
    vars(module).update(build=build, again=build, bare=bare, plain=print, number=7)
    registry = TaskRegistry()
    assert registry.add_module(module) == 2
    assert [name for name, _, _ in registry] == ["bare", "reports.build"]


@pytest.mark.parametrize("value", list(TaskPriority))
def test_a_priority_is_given_as_itself_by_number_or_by_name(value: TaskPriority) -> None:
    for way in (value, int(value), float(value), value.label, value.label.upper(), str(int(value))):
        assert parse_priority(way) is value  # type: ignore[arg-type]  # a float that is a whole number will do


@pytest.mark.parametrize("value", ["", "urgent", 1, -50, True, False, None, [], math.nan])
def test_an_unknown_priority_is_refused_with_the_known_ones(value: Any) -> None:
    with pytest.raises(InvalidTaskError, match=r"low \(0\), normal \(50\), high \(100\), critical \(200\)"):
        parse_priority(value)


@pytest.mark.parametrize("value", list(TaskCategory))
def test_a_category_is_given_as_itself_or_by_value(value: TaskCategory) -> None:
    assert parse_category(value) is parse_category(value.value) is value


@pytest.mark.parametrize("value", ["", "CORE", 1, None, {}])
def test_an_unknown_category_is_refused_with_the_known_ones(value: Any) -> None:
    with pytest.raises(InvalidTaskError, match="core, plugin, ui, io, background, user"):
        parse_category(value)


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), (1, 1.0), (0.001, 0.001), (math.inf, math.inf), (10**400, math.inf)]
)
def test_a_timeout_is_positive_seconds_or_nothing(value: object, expected: float | None) -> None:
    assert check_timeout(value) == expected


@pytest.mark.parametrize("value", ["a", "a" * 200, "größe 日本", "x.y-z [1]"])
def test_a_name_is_printable(value: str) -> None:
    assert check_name("name", value) == value


def test_a_long_bad_name_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidTaskError) as caught:
        check_name("name", "n" * 100_000)
    assert len(str(caught.value)) < 120
