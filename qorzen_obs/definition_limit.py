"""How many tasks of one definition may run at once: their records share it, and the scheduler counts in it."""

from __future__ import annotations


class DefinitionLimit:
    """The `max_concurrent` of a definition, and how many slots its tasks hold."""

    __slots__ = ("__weakref__", "held", "maximum", "name")

    def __init__(self, name: str, maximum: int) -> None:
        self.name = name
        self.maximum = maximum
        self.held = 0
