"""The tasks known by name: `serve` collects the definitions of its modules in a TaskRegistry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from qorzen_obs.callables import traits_of
from qorzen_obs.definition import TaskDefinition, is_defined
from qorzen_obs.errors import InvalidTaskError


class TaskRegistry:
    """The tasks known by name, which clients may submit over HTTP. Iteration gives name, callable and definition."""

    def __init__(self) -> None:
        self._tasks: dict[str, Callable[..., Any]] = {}

    def __iter__(self) -> Iterator[tuple[str, Callable[..., Any], TaskDefinition]]:
        for name, func in sorted(self._tasks.items()):
            yield name, func, traits_of(func).definition

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, func: Callable[..., Any]) -> None:
        """Add one callable under its definition's name.

        Raises:
            InvalidTaskError: another callable has the name.
        """
        name = traits_of(func).name
        if self._tasks.setdefault(name, func) is not func:
            raise InvalidTaskError("name", f"two tasks are named {name!r}; give one another @task(name=…)")

    def add_module(self, module: ModuleType) -> int:
        """Add the callables that `module` marks with @task; return their number.

        Raises:
            InvalidTaskError: two of them, or one of them and an earlier callable, have the same name.
        """
        # One callable may have several names.
        defined = dict.fromkeys(value for value in vars(module).values() if is_defined(value))
        for func in defined:
            self.add(func)
        return len(defined)
