"""Looking at objects that are not ours."""

import asyncio
import functools
from collections.abc import Coroutine
from enum import IntEnum
from typing import Any

import pytest

from qorzen_obs import foreign
from tests import hostile
from tests.hostile import ERROR_HOOKS, RAISED, VALUE_HOOKS


class Proxy:
    """As a lazy proxy without an object behind it."""

    @property  # type: ignore[misc]  # on purpose
    def __class__(self) -> Any:
        raise RuntimeError("unbound")


def test_what_an_object_is_a_does_not_depend_on_what_it_says() -> None:
    class Liar:
        __class__ = dict  # type: ignore[assignment]  # on purpose

    assert not foreign.is_a(Liar(), dict)
    assert not foreign.is_a(Proxy(), (str, int))
    assert not foreign.is_a(Proxy(), Coroutine)
    assert foreign.is_a(True, int)


def test_scalars_are_those_of_python_itself() -> None:
    class Number(int):
        pass

    assert all(map(foreign.is_scalar, (None, True, 1, 2.5)))
    assert not any(map(foreign.is_scalar, (Number(1), "1", b"", ())))


def test_numbers_come_out_as_what_they_are_derived_from() -> None:
    class Seconds(float):
        def __float__(self) -> float:
            raise SystemExit

    class Level(IntEnum):
        HIGH = 3

    assert type(foreign.number(Seconds(1.5))) is float
    assert type(foreign.number(Level.HIGH)) is int
    assert [foreign.number(value) for value in (1, 2.5, True, "1", None)] == [1, 2.5, None, None, None]


def test_texts_come_out_as_str_or_say_what_went_wrong() -> None:
    class Text(str):
        __slots__ = ()

        def __len__(self) -> int:
            raise SystemExit

    class Broken:
        def __str__(self) -> str:
            raise KeyboardInterrupt

        __repr__ = __str__

    class Derived:
        def __str__(self) -> str:
            return Text("derived")

    assert type(foreign.text(Text("text"))) is str
    assert type(foreign.text(Derived())) is str
    assert foreign.text(Broken()) == "<its message cannot be shown: KeyboardInterrupt>"
    assert foreign.shown(Broken()) == "<cannot be shown: KeyboardInterrupt>"
    assert foreign.described(ValueError("why")) == "ValueError: why"
    assert foreign.described(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("name", "module", "expected"),
    [
        ("ValueError", "builtins", "ValueError"),
        ("A.<locals>.B", "app.tasks", "app.tasks.A.<locals>.B"),
        ("two\nlines", "app", "app.two\\nlines"),
        ("turned\u202e", "a\x1bpp", "a\\x1bpp.turned\\u202e"),
        ("", "app", "app.?"),
        ("Lost", 7, "Lost"),
        ("x" * 1_000, "app", "app." + "x" * 496),
    ],
)
def test_names_of_classes_are_short_and_mislead_nobody(name: str, module: Any, expected: str) -> None:
    made = type("Kind", (Exception,), {"__module__": module})
    made.__qualname__ = name
    assert foreign.full_name(made) == expected


def test_names_of_callables_are_found_inside_of_partials() -> None:
    inside = functools.partial(functools.partial(hostile.throw, "frame"), KeyError)
    assert foreign.full_name_of(foreign.inside_partial(inside)) == "tests.hostile.throw"
    assert foreign.full_name_of(Proxy()) == "tests.unit.test_foreign.Proxy"


def test_the_same_method_is_the_same_whatever_it_is_compared_with() -> None:
    class Callback:
        def __eq__(self, other: object) -> bool:
            raise SystemExit

        __hash__ = object.__hash__

        def call(self) -> None: ...

    one, other, seen = Callback(), Callback(), [1]
    assert foreign.same(one, one)
    assert foreign.same(one.call, one.call)
    assert foreign.same(seen.append, seen.append)
    assert not foreign.same(one, other)
    assert not foreign.same(one.call, other.call)
    assert not foreign.same(one.call, one)
    assert not foreign.same(seen.append, [1].append)


def test_a_traceback_that_python_cannot_format_still_shows_the_frames() -> None:
    class Odd(Exception):
        __notes__ = property(lambda _: 1 / 0)

    def fail() -> None:
        raise Odd("why")

    with pytest.raises(Odd) as caught:
        fail()
    text = foreign.formatted(caught.value, foreign.traceback_of(caught.value))
    assert text.splitlines()[0] == "Traceback (most recent call last):"
    assert "fail\n" in text  # from Python 3.13 on it can, and shows the names without what they are in
    assert ".Odd: why\n" in text


def test_all_that_a_failure_leads_to_is_found_once() -> None:
    first, second = ValueError("first"), KeyError("second")
    group = ExceptionGroup("group", [first, second])
    first.__cause__, second.__context__ = second, first
    assert {id(one) for one in foreign.related(group)} == {id(group), id(first), id(second)}
    assert len(list(foreign.related(group))) == 3


@pytest.mark.parametrize("raised", [*RAISED, asyncio.InvalidStateError], ids=lambda one: one.__name__)
def test_f37_nothing_raises_whatever_is_looked_at(raised: type[BaseException]) -> None:
    for hook in VALUE_HOOKS:
        value = hostile.value(hook, raised)
        for look in (foreign.text, foreign.shown, foreign.full_name_of, foreign.number, foreign.is_scalar):
            assert type(look(value)) in {str, bool, type(None)}, (hook, look)
        assert not foreign.is_a(value, (str, int))
        assert foreign.same(value, value)
        foreign.attribute(value, "anything")
        foreign.attribute_as_it_stands(value, "anything")
    for hook in ERROR_HOOKS:
        error = hostile.error(hook, raised)
        foreign.set_cause(error, KeyError())
        foreign.set_traceback(error, None)
        assert type(foreign.cause_of(error)) is KeyError
        assert len(list(foreign.related(error))) >= 2
        assert type(foreign.formatted(error, foreign.traceback_of(error))) is str
        assert type(foreign.described(error)) is str
