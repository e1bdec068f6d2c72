"""How many tasks of one definition may run at once. Their records share this object, and the scheduler counts in it."""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakValueDictionary


class DefinitionLimit:
    """The `max_concurrent` of a definition, and the number of slots that its tasks hold."""

    __slots__ = ("__weakref__", "held", "maximum", "name")

    def __init__(self, name: str, maximum: int) -> None:
        self.name = name
        self.maximum = maximum
        self.held = 0


class DefinitionLimits:
    """The limits of the definitions in use, by name. Each exists while a task of it is live or kept."""

    def __init__(self) -> None:
        self._limits: WeakValueDictionary[str, DefinitionLimit] = WeakValueDictionary()

    def __iter__(self) -> Iterator[DefinitionLimit]:
        return iter(list(self._limits.values()))

    def of(self, name: str, maximum: int) -> DefinitionLimit:
        """Return the limit of this name, with its maximum set to this one."""
        limit = self._limits.get(name)
        if limit is None:
            limit = self._limits[name] = DefinitionLimit(name, maximum)
        limit.maximum = maximum
        return limit
