"""Calls functions in a worker process once a module is imported, since importing it for them would cost too much.

A user's import never fails because of this. A function may need a module that the user is still importing; it then
fails, and is called again when the outermost import is done.
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
    """Call `call` once the module is imported, now if it is already. It is called again until it does not raise."""
    if _WATCH not in sys.meta_path:
        sys.meta_path.insert(0, _WATCH)
    _WATCH.calls.setdefault(name, []).append(call)
    if name in sys.modules:
        _WATCH.call(name)


def catch_up() -> None:
    """Call again the functions that raised."""
    _WATCH.catch_up()


class _Watch(importlib.abc.MetaPathFinder):
    """Finds no module itself, and wraps the loaders of the modules that others find."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Callable[[], None]]] = {}  # modules whose functions are still to be called
        self._depths: Counter[int] = Counter()  # depth of imports, by thread

    def catch_up(self) -> None:
        for name in [name for name in self.calls if name in sys.modules]:
            self.call(name)

    def call(self, name: str) -> None:
        for call in self.calls.pop(name, []):
            try:
                call()
            except Exception:  # noqa: BLE001  # the user's import must not fail because of it
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
            return  # a user's loader with slots: `catch_up` finds the module before the next call


_WATCH = _Watch()
