"""What is computed of a function is computed once for its code and name."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from qorzen_obs import code_cache as module
from qorzen_obs.code_cache import code_cache


def make() -> Callable[[], None]:
    def inner() -> None: ...

    return inner


def counting(**options: bool) -> tuple[Callable[[Any], str], list[Any]]:
    computed: list[Any] = []

    def name_of(func: Any) -> str:
        """Return its name."""
        computed.append(func)
        return str(getattr(func, "__qualname__", "?"))

    return code_cache(name_of, **options), computed


def test_closures_of_one_code_are_computed_once() -> None:
    cache, computed = counting()
    assert cache(make()) == cache(make()) == make().__qualname__
    assert len(computed) == 1


def test_a_function_that_was_renamed_is_computed_again() -> None:
    cache, _ = counting()
    one, other = make(), make()
    other.__qualname__ = "other"
    assert (cache(one), cache(other)) == (one.__qualname__, "other")
    assert cache(one) == one.__qualname__


def test_what_has_attributes_is_remembered_only_where_they_do_not_count() -> None:
    marked = make()
    marked.mark = True  # type: ignore[attr-defined]
    for with_attributes, times in ((False, 2), (True, 1)):
        cache, computed = counting(with_attributes=with_attributes)
        assert cache(marked) == cache(marked)
        assert len(computed) == times


@pytest.mark.parametrize("other", [functools.partial(make), len, object(), int])
def test_what_is_no_python_function_is_computed_each_time(other: Any) -> None:
    cache, computed = counting()
    assert cache(other) == cache(other)
    assert len(computed) == 2


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 3)
    cache, computed = counting()
    codes = []
    for number in range(10):
        namespace: dict[str, Any] = {}
        exec(f"def f{number}(): pass", namespace)
        func = namespace.pop(f"f{number}")
        assert cache(func) == f"f{number}"
        codes.append(weakref.ref(func.__code__))
        computed.clear()
        del func
    assert sum(code() is not None for code in codes) <= 3


def test_it_shows_the_name_and_docstring_of_what_it_remembers() -> None:
    cache, _ = counting()
    assert cache.__doc__ == "Return its name."
    assert cache.__name__ == "name_of"
