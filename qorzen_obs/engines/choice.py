"""Chooses which of a manager's engines runs a callable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qorzen_obs.callables import CallableTraits
from qorzen_obs.engines.traits import EngineTraits, by_kind
from qorzen_obs.tasks import TaskCategory


class EngineChoice:
    """Gives each callable the engine that its definition names, else the default of its category.

    Raises:
        LookupError: no engine is the default for the callables of a category.
    """

    def __init__(self, engines: Iterable[EngineTraits]) -> None:
        self._by_kind = by_kind(engines)
        self.for_async = self._defaults(is_async=True)  #: by category, if the definition names no engine
        self.for_sync = self._defaults(is_async=False)  #: as above

    def engine_of(self, category: TaskCategory, func: CallableTraits) -> EngineTraits:
        """Return the engine for a callable.

        If the named engine does not exist, as under a foreign concurrency manager, the default of CORE replaces it.
        """
        defaults = self.for_async if func.is_async else self.for_sync
        wanted = func.definition.engine
        if wanted is None:
            return defaults[category]
        return self._by_kind.get(wanted, defaults[TaskCategory.CORE])

    def of_kind(self, kind: str) -> EngineTraits:
        """Return the engine of this name; if it does not exist, the default of CORE for synchronous callables."""
        return self._by_kind.get(kind, self.for_sync[TaskCategory.CORE])

    def _defaults(self, *, is_async: bool) -> Mapping[TaskCategory, EngineTraits]:
        found: dict[TaskCategory, EngineTraits] = {}
        for engine in self._by_kind.values():
            if engine.runs(is_async=is_async):
                for category in engine.default_for:
                    found.setdefault(category, engine)
        missing = [category.value for category in TaskCategory if category not in found]
        if missing:
            kind = "async" if is_async else "synchronous"
            raise LookupError(f"no engine runs {kind} callables of the categories {', '.join(missing)}")
        return found
