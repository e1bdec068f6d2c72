"""How many tasks may run at once: in all, by category, by engine and by definition. All limits apply together.

Limits change at run time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qorzen_obs.definition_limit import DefinitionLimit
from qorzen_obs.tasks import TaskCategory


class Limits:
    """Slots held against slots allowed. Lowering a limit below the slots held interrupts nothing; it drains."""

    def __init__(
        self,
        total: int,
        *,
        categories: Mapping[TaskCategory, int] | None = None,
        engines: Mapping[str, int] | None = None,
    ) -> None:
        self.total = total
        self.categories = dict(categories or {})
        self.engines = dict(engines or {})
        self.held = 0
        self.taken = 0  #: slots, ever
        # Dictionaries, since looking into a Counter is slower in CPython.
        self.held_by_category: dict[TaskCategory, int] = dict.fromkeys(TaskCategory, 0)
        self.held_by_engine: dict[str, int] = {}

    @property
    def full(self) -> bool:
        """Whether no task of any kind may start."""
        return self.held >= self.total

    def admits(self, category: TaskCategory, engine: str, own: DefinitionLimit | None = None) -> bool:
        """Return whether one more task of this kind may hold a slot."""
        if self.held >= self.total or (own is not None and own.held >= own.maximum):
            return False
        limit = self.categories.get(category)
        if limit is not None and self.held_by_category[category] >= limit:
            return False
        limit = self.engines.get(engine)
        return limit is None or self.held_by_engine.get(engine, 0) < limit

    def blocking(self, category: TaskCategory, engine: str, own: DefinitionLimit | None) -> str | None:
        """Return the name of the first limit that keeps a task of this kind from starting; None when none does."""
        if self.held >= self.total:
            return "tasks.max_concurrent_tasks"
        limit = self.categories.get(category)
        if limit is not None and self.held_by_category[category] >= limit:
            return f"tasks.category_limits.{category.value}"
        limit = self.engines.get(engine)
        if limit is not None and self.held_by_engine.get(engine, 0) >= limit:
            return f"the slots of engine {engine}"
        if own is not None and own.held >= own.maximum:
            return f"max_concurrent of {own.name}"
        return None

    def try_take(self, category: TaskCategory, engine: str, own: DefinitionLimit | None = None) -> bool:
        """Hold one more slot if the limits admit it, and return whether they do."""
        if self.held >= self.total:
            return False
        if (own is not None or self.categories or engine in self.engines) and not self.admits(
            category, engine, own
        ):
            return False
        if own is not None:  # as `take`, without a call
            own.held += 1
        self.held += 1
        self.taken += 1
        self.held_by_category[category] += 1
        if engine not in self.held_by_engine:
            self.held_by_engine[engine] = 0
        self.held_by_engine[engine] += 1
        return True

    def take(self, category: TaskCategory, engine: str, own: DefinitionLimit | None = None) -> None:
        """Hold one more slot."""
        if own is not None:
            own.held += 1
        self.held += 1
        self.taken += 1
        self.held_by_category[category] += 1
        self.held_by_engine[engine] = self.held_by_engine.get(engine, 0) + 1

    def release_all(self, definitions: Iterable[DefinitionLimit]) -> None:
        """Release all slots, also those of the limits of `definitions`."""
        for own in definitions:
            own.held = 0
        self.held = 0
        self.held_by_category = dict.fromkeys(TaskCategory, 0)
        self.held_by_engine.clear()

    def give_back(self, category: TaskCategory, engine: str, own: DefinitionLimit | None = None) -> None:
        """Release one slot."""
        if own is not None:
            own.held -= 1
        self.held -= 1
        self.held_by_category[category] -= 1
        self.held_by_engine[engine] -= 1
