"""What the rest of the package may know about an engine: one value for each.

This is vocabulary and imports no engine. So `@task(engine=…)` can check a name, and the time ledger and the records
can name phases and guarantees, without the code that runs callables. `Engine.traits` gives an engine's value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from qorzen_obs.tasks import CancelGuarantee, EngineKind, TaskCategory


class Place(Enum):
    """Where an engine runs callables."""

    LOOP = "loop"  #: on the thread of the work loop
    THREAD = "thread"  #: on another thread of this process
    PROCESS = "process"  #: in another process


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTraits:
    """One engine, as code outside `engines/` knows it."""

    kind: str  #: its name in `@task(engine=…)`, labels, attributes and docs
    place: Place
    cancel_guarantee: CancelGuarantee  #: what it guarantees on this system
    use_phase: str  #: the phase of the time ledger in which an attempt uses the loop or a processor
    wait_phase: str  #: the phase in which the attempt runs and uses neither
    #: the time of an attempt outside its call is the phase `transfer`
    measures_transfer: bool = False
    use_is_live: bool = False  #: a meter knows the present use without a probe
    runs_sync: bool = False
    runs_async: bool = False
    #: categories whose callables it runs when no engine is named
    default_for: frozenset[TaskCategory] = frozenset()
    choosable: bool = True  #: `@task(engine=…)` accepts it
    #: It calls `Attempt.begin` just before the code begins, and `Attempt.suspended` when the code first waits, since
    #: no deadline can be met earlier. For other engines the manager does both at the start.
    reports_steps: bool = False
    holds_loop: bool = False  #: a call blocks the work loop, so an overrun is found only after it has ended

    def runs(self, *, is_async: bool) -> bool:
        """Return whether it runs this kind of callable."""
        return self.runs_async if is_async else self.runs_sync


_EVERY_CATEGORY: Final = frozenset(TaskCategory)

LOOP: Final = EngineTraits(
    kind=EngineKind.LOOP.value,
    place=Place.LOOP,
    cancel_guarantee=CancelGuarantee.PROMPT,
    use_phase="loop",
    wait_phase="await",
    use_is_live=True,
    runs_async=True,
    default_for=_EVERY_CATEGORY,
    reports_steps=True,
)
IO: Final = EngineTraits(
    kind=EngineKind.IO.value,
    place=Place.THREAD,
    cancel_guarantee=CancelGuarantee.COOPERATIVE,
    use_phase="thread_cpu",
    wait_phase="thread_wait",
    runs_sync=True,
    default_for=frozenset({TaskCategory.IO}),
)
THREAD: Final = replace(
    IO,
    kind=EngineKind.THREAD.value,
    default_for=_EVERY_CATEGORY - {TaskCategory.IO, TaskCategory.UI},
)
PROCESS: Final = EngineTraits(
    kind=EngineKind.PROCESS.value,
    place=Place.PROCESS,
    cancel_guarantee=CancelGuarantee.KILL,
    use_phase="process_cpu",
    wait_phase="process_wait",
    measures_transfer=True,
    runs_sync=True,
    runs_async=True,
)
MAIN: Final = EngineTraits(
    kind=EngineKind.MAIN.value,
    place=Place.LOOP,
    cancel_guarantee=CancelGuarantee.NONE,
    use_phase="loop",
    wait_phase="await",
    use_is_live=True,
    runs_sync=True,
    default_for=frozenset({TaskCategory.UI}),
    holds_loop=True,
)
EXTERNAL: Final = EngineTraits(
    kind=EngineKind.EXTERNAL.value,
    place=Place.THREAD,
    cancel_guarantee=CancelGuarantee.NONE,
    use_phase="loop",
    wait_phase="await",
    runs_sync=True,
    default_for=_EVERY_CATEGORY,
    choosable=False,
)


def by_kind(engines: Iterable[EngineTraits]) -> dict[str, EngineTraits]:
    """Return `engines` by their kind."""
    return {engine.kind: engine for engine in engines}


#: The engines of this package. Add a new one here, and `@task(engine=…)` accepts its name.
ENGINES: Final = by_kind([LOOP, IO, THREAD, PROCESS, MAIN, EXTERNAL])


def runs_in_process(kind: str) -> bool:
    """Return whether the engine of this name runs callables in another process; False for an unknown name."""
    return kind in ENGINES and ENGINES[kind].place is Place.PROCESS
