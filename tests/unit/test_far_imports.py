"""Functions are called once a module is there, and no import of the user's fails or is disturbed by it."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qorzen_obs.engines.processes import far_imports
from qorzen_obs.engines.processes.far_imports import when_imported
from tests.services.program import write_files


@pytest.fixture(autouse=True)
def _undone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield
    far_imports._WATCH.calls.clear()
    sys.meta_path.remove(far_imports._WATCH)
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def modules(tmp_path: Path) -> Callable[..., None]:
    def write(**sources: str) -> None:
        write_files(tmp_path, {f"{name}.py": source for name, source in sources.items()})
        importlib.invalidate_caches()

    return write


def test_it_is_called_once_after_the_module_has_run(modules: Callable[..., None]) -> None:
    modules(far_a="VALUE = 1")
    seen: list[int] = []
    when_imported("far_a", lambda: seen.append(sys.modules["far_a"].VALUE))
    assert seen == []
    import far_a  # type: ignore[import-not-found]  # noqa: F401, PLC0415 - the test has written it

    importlib.import_module("far_a")
    assert seen == [1]
    when_imported("far_a", lambda: seen.append(2))
    assert seen == [1, 2], "it is there already"


def test_what_imports_the_module_that_is_being_imported_is_called_again_at_the_end(
    modules: Callable[..., None],
) -> None:
    modules(
        far_outer="import far_inner\nLATE = 1",
        far_inner="",
        far_wanted="from far_outer import LATE",
    )
    seen: list[int] = []

    def call() -> None:
        seen.append(importlib.import_module("far_wanted").LATE)

    when_imported("far_inner", call)
    importlib.import_module("far_outer")
    assert seen == [1]


def test_what_raises_for_ever_fails_no_import(modules: Callable[..., None]) -> None:
    modules(far_a="", far_b="", far_c="VALUE = 3")
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise ImportError

    when_imported("far_a", call)
    for name in ("far_a", "far_b", "far_c"):
        importlib.import_module(name)
    assert sys.modules["far_c"].VALUE == 3
    assert len(calls) > 1


def test_looking_for_a_module_is_not_importing_it(modules: Callable[..., None]) -> None:
    modules(far_a="")
    seen: list[int] = []
    when_imported("far_a", lambda: seen.append(1))
    assert importlib.util.find_spec("far_a") is not None
    assert seen == []
    importlib.import_module("far_a")
    assert seen == [1]


def test_an_import_that_fails_raises_what_it_raises(modules: Callable[..., None]) -> None:
    modules(far_a="raise ValueError('mine')")
    when_imported("far_a", lambda: None)
    with pytest.raises(ValueError, match="mine"):
        importlib.import_module("far_a")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("far_not_there")
