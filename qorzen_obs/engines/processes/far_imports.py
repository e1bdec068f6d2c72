"""Calls functions once a module is there, in a worker process, where importing it for their sake would cost too much.

A user's import never fails for it. A function may import what the user's import is in the middle of; it fails then,
and is called again when the outermost import has run.
"""

from __future__ import annotations

import importlib.abc
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def when_imported(name: str, call: Callable[[], None]) -> None:
    """Call `call` when the module has been imported, at once if it is. Until it does not raise, it is called again."""
    if _WATCH not in sys.meta_path:
        sys.meta_path.insert(0, _WATCH)
    _WATCH.calls.setdefault(name, []).append(call)
    if name in sys.modules:
        _WATCH.call(name)


def catch_up() -> None:
    """Call again what has raised."""
    _WATCH.catch_up()


class _Watch(importlib.abc.MetaPathFinder):
    """Finds nothing itself, and wraps the loaders that the other finders return."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Callable[[], None]]] = {}  # of those that are to be called yet
        self._depths: Counter[int] = Counter()  # how many imports each thread is in

    def catch_up(self) -> None:
        for name in [name for name in self.calls if name in sys.modules]:
            self.call(name)

    def call(self, name: str) -> None:
        for call in self.calls.pop(name, []):
            try:
                call()
            except Exception:  # noqa: BLE001  # the user's import must not fail for it
                self.calls.setdefault(name, []).append(call)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not self.calls or (self._depths[threading.get_ident()] and name not in self.calls):
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                self._wrap(name, spec.loader)
                return spec
        return None

    def _wrap(self, name: str, loader: Any) -> None:
        execute = getattr(loader, "exec_module", None)
        if execute is None or isinstance(loader, type):  # a builtin or frozen module: it imports nothing
            return

        def execute_then_call(module: ModuleType) -> None:
            thread = threading.get_ident()
            self._depths[thread] += 1
            try:
                execute(module)
            finally:
                self._depths[thread] -= 1
            self.call(name)
            if not self._depths[thread]:
                del self._depths[thread]
                self.catch_up()

        try:
            loader.exec_module = execute_then_call
        except AttributeError:
            return  # a loader of the user's with slots: `catch_up` finds the module before the next call


_WATCH = _Watch()
